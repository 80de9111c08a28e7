"""Cancelling an attempt at a job in the registry while no other session works on its instance's databases."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

import asyncpg

from ods.databases.errors import DatabaseFaultError
from ods.databases.server import Server
from ods.registry.instances.jobs import InstanceJob


class _MovedOnError(Exception):
    """The instance is no longer at the attempt that was to be cancelled."""


async def cancel_behind_fence(
    server: Server,
    mark: str,
    is_current: Callable[[], Awaitable[bool]],
    cancel: Callable[[], Awaitable[bool]],
    follow: Callable[[asyncpg.Connection], Awaitable[None]] | None = None,
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
        follow: records what it had done by then, on a fenced session; not while the server is away.

    Raises:
        DatabaseFaultError: the server cannot be reached, or the other session cannot be ended; nothing was
            cancelled.
    """

    async def require_current() -> None:
        if not await is_current():
            raise _MovedOnError

    try:
        async with server.locked(mark, require_current) as session:
            is_cancelled = await cancel()
            if is_cancelled and follow is not None:
                with suppress(DatabaseFaultError):
                    await follow(session)
            return is_cancelled
    except _MovedOnError:
        return False


def after_cancel(lost: InstanceJob) -> InstanceJob:
    """The attempt at which an instance is once one was cancelled that no workflow worked on any more."""
    return replace(lost, attempt=lost.attempt + 1)
