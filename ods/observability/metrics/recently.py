"""An answer that is asked for once for all that want it meanwhile or shortly after: probes cost little."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic

_FRESH_SECONDS = 2.0


class Recently:
    """What is in the way, as it was found at most two seconds ago.

    Args:
        find: finds it; each reason is a sentence for the operator.
    """

    def __init__(self, find: Callable[[], Awaitable[Sequence[str]]]) -> None:
        self._find = find
        self._finding: asyncio.Task[Sequence[str]] | None = None
        self._fresh_until = 0.0

    async def found(self) -> Sequence[str]:
        """The reasons; none if nothing is in the way."""
        if self._finding is None or (self._finding.done() and monotonic() >= self._fresh_until):
            self._finding = asyncio.create_task(self._ask())
        return await asyncio.shield(self._finding)  # others wait for it as well

    async def close(self) -> None:
        """End what is still being found."""
        if self._finding is not None:
            self._finding.cancel()
            await asyncio.gather(self._finding, return_exceptions=True)

    async def _ask(self) -> Sequence[str]:
        reasons = await self._find()
        self._fresh_until = monotonic() + _FRESH_SECONDS
        return reasons
