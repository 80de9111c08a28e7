"""A cache of the scope and generation of clients, which every request is checked against."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import monotonic

from ods.registry.clients.store import Standing

FRESH_SECONDS = 3
"""How old an entry may be. A client that was disabled is refused after that."""
_TRUSTED_SECONDS = 5
"""The same, while the registry cannot be asked."""
_REMEMBERED = 10_000


@dataclass(frozen=True)
class _Known:
    asked_at: float
    standing: Standing | None


class Standings:
    """Asks the registry for a client's standing, once for all requests of the client at a time.

    Args:
        ask: asks the registry.
        clock: seconds, from any start.
    """

    def __init__(
        self, ask: Callable[[str], Awaitable[Standing | None]], clock: Callable[[], float] = monotonic
    ) -> None:
        self._ask = ask
        self._clock = clock
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._asking: dict[str, asyncio.Task[None]] = {}

    def __len__(self) -> int:
        return len(self._known)

    async def find(self, client_id: str, since: float) -> Standing | None:
        """The client's standing at `since`, a time of the clock, or later; None if it may not have tokens.

        While the registry cannot be asked, an entry counts for five seconds; then its fault is raised.
        """
        while (known := self._known.get(client_id)) is None or known.asked_at < since:
            asking = self._refreshing(client_id)
            await asyncio.wait([asking])
            if asking.exception() is None:
                continue
            if known is None or self._clock() - known.asked_at >= _TRUSTED_SECONDS:
                await asking
            break
        return known.standing if known else None

    def _refreshing(self, client_id: str) -> asyncio.Task[None]:
        if (asking := self._asking.get(client_id)) is None:
            asking = self._asking[client_id] = asyncio.create_task(self._refresh(client_id))
            asking.add_done_callback(lambda _: self._asking.pop(client_id))
            asking.add_done_callback(hear)
        return asking

    async def _refresh(self, client_id: str) -> None:
        asked_at = self._clock()
        self._known[client_id] = _Known(asked_at, await self._ask(client_id))
        self._known.move_to_end(client_id)
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)


def hear(asking: asyncio.Task[None]) -> None:
    """Take note of a fault that no request waits for any more, or asyncio reports it."""
    if not asking.cancelled():
        asking.exception()
