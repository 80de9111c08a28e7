"""Cancelling an attempt at a job in the registry while no other session works on its instance's databases."""

from collections.abc import Awaitable, Callable

from databases.server import Server


class _MovedOnError(Exception):
    """The instance is no longer at the attempt that was to be cancelled."""


async def cancel_behind_fence(
    server: Server,
    mark: str,
    is_current: Callable[[], Awaitable[bool]],
    cancel: Callable[[], Awaitable[bool]],
) -> bool:
    """Cancel an attempt past its workflow, behind the fence of its instance; false if it has moved on.

    A worker that was suspended in an earlier attempt may hold the fence, and would drop the database when
    it goes on: its session is ended first.

    Args:
        server: the server of the instance's databases.
        mark: the instance's mark.
        is_current: whether the instance is at the attempt, before another session that holds the fence is
            ended.
        cancel: records that it was cancelled; false if it has moved on.

    Raises:
        DatabaseFaultError: the server cannot be reached, or the other session cannot be ended; nothing was
            cancelled.
    """

    async def require_current() -> None:
        if not await is_current():
            raise _MovedOnError

    try:
        async with server.locked(mark, require_current):
            return await cancel()
    except _MovedOnError:
        return False
