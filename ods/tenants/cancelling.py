"""Cancelling an attempt at a job behind its fence, and what becomes of one that was cancelled too late."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import asyncpg

from ods.databases.errors import DatabaseFaultError
from ods.databases.lookup import find
from ods.databases.server import Server
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.jobs import InstanceJob
from ods.tenants.job_owners import owner_of


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

    A worker that was suspended in an earlier attempt may hold the fence, and would drop the database when it
    goes on: its session is ended first. If it cannot be ended, nothing is cancelled.

    `is_current` says whether the instance is at the attempt, before that session is ended. `cancel` records
    the cancellation, unless the instance has moved on. `follow` records on the fenced session what the
    attempt had done by then; not while the server is away.
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
    """The attempt at which the instance is once one that no workflow worked on was cancelled."""
    return replace(lost, attempt=lost.attempt + 1)


RETRY_DROPS = "A retry drops it, too."
"""What becomes of a version if a drop is retried that was called off."""


@dataclass(frozen=True)
class _Left:
    """What is left of an instance whose own database is gone, or half dropped."""

    database: str
    is_half_dropped: bool
    versions: tuple[str, ...]


class CancelledDrops:
    """Records what a client has to know of a cancelled delete or purge whose DROP had begun."""

    def __init__(self, jobs: JobStore) -> None:
        self._jobs = jobs

    async def follow(self, session: asyncpg.Connection, job: InstanceJob) -> None:
        """Record it, if the job is one that drops, and has begun to; the attempt is recorded as cancelled.

        A purge of which nothing is left is done. The next pass drops what is half dropped. If a version is
        left, only the failure is explained: the client may have cancelled the job for it, and a job that is
        done has its versions dropped.
        """
        left = await _left_by(session, job)
        if left is None:
            return
        if not job.rules.is_live and not (left.versions or left.is_half_dropped):
            await self._jobs.follow_drop(job)
        else:
            await self._jobs.explain_failure(job, _reason(job, left))


async def reason_of(session: asyncpg.Connection, job: InstanceJob) -> str | None:
    """What the client reads who has cancelled the job; None if the job has not begun to drop anything."""
    left = await _left_by(session, job)
    return None if left is None else _reason(job, left)


def _reason(job: InstanceJob, left: _Left) -> str:
    state = "half dropped" if left.is_half_dropped else "gone"
    words = f"The job was cancelled, but by then the database '{left.database}' was {state}"
    if not left.versions:
        then = "A pass drops the rest." if left.is_half_dropped else "A retry records that."
        return f"{words}: it cannot come back. {then}"
    words += f". Another one of the instance is kept: {', '.join(left.versions)}."
    if not job.rules.is_live:
        return f"{words} `ods drift` tells how it comes back. A purge of the instance drops it, too."
    half_dropped = left.database if left.is_half_dropped else None
    return f"{words} {way_back_of_live(half_dropped)} {RETRY_DROPS}"


def way_back_of_live(half_dropped: str | None, version: str = "NAME") -> str:
    """How an instance comes back whose delete has failed, and of which only a version is left."""
    drop = "" if half_dropped is None else f'DROP DATABASE "{half_dropped}"; '
    return f"To bring it back: {drop}`ods recover --apply --choose {version}`."


async def _left_by(session: asyncpg.Connection, job: InstanceJob) -> _Left | None:
    """What is left of the job's instance; None if its own database can be used, or the job drops none."""
    if not job.rules.drops or (job.rules.is_live and not job.published):
        return None
    owner, database = owner_of(job), job.database if job.rules.is_live else job.trash_database
    found = await find(session, owner, database)
    own = {name for name, row in found.items() if name == database or owner.owns(row.comment)}
    if not all(found[name].is_invalid for name in own):
        return None
    versions = sorted(name for name in found.keys() - own if found[name].is_of(owner))
    return _Left(min(own, default=database), bool(own), tuple(versions))
