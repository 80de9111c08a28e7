"""Work that drops a database: it can be cancelled until the DROP begins, and is done to its end then."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

_Result = TypeVar("_Result")


class DroppingToTheEnd:
    """Keeps a cancellation away from a DROP that has begun, and from what records it.

    PostgreSQL cannot take a DROP back: one that is cancelled in its middle leaves a database that can only be
    dropped, while the client would read that its job was cancelled.

    Args:
        require_due: raises if nothing is to be dropped any more.
    """

    def __init__(self, require_due: Callable[[], Awaitable[object]]) -> None:
        self._require_due = require_due
        self._has_begun = False
        self._is_cancelled = False

    async def run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Do the work, which awaits `before_drop` right before each try at the DROP.

        Raises:
            asyncio.CancelledError: this was cancelled before the DROP, or after a try that dropped nothing.
        """
        task = asyncio.ensure_future(work)
        while True:
            try:
                return await asyncio.shield(task)
            except asyncio.CancelledError:
                if task.cancelled():
                    raise
                self._is_cancelled = True
                if not self._has_begun:
                    task.cancel()

    async def before_drop(self) -> None:
        """Begin a try at the DROP, unless the work was cancelled or nothing is to be dropped any more.

        Raises:
            asyncio.CancelledError: the work was cancelled.
        """
        self._has_begun = False
        if self._is_cancelled:
            raise asyncio.CancelledError
        await self._require_due()
        self._has_begun = True
