"""What becomes of a job that was cancelled too late, when PostgreSQL had begun to remove its database."""

from dataclasses import dataclass
from typing import assert_never

import asyncpg

from ods.databases.lookup import find, is_invalid, shares_instance
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.jobs import InstanceJob
from ods.registry.instances.status import PURGES, Operation
from ods.tenants.job_owners import owner_of, trash_database

RETRY_DROPS = "A retry drops it, too."
"""What becomes of a version if a drop is retried that was called off."""


@dataclass(frozen=True)
class _Left:
    """What is left of an instance whose own database is gone, or half dropped.

    Attributes:
        database: what the registry calls its own.
        is_half_dropped: whether a DROP has begun to remove that, and has not ended.
        versions: the names of the databases that it had before resets.
    """

    database: str
    is_half_dropped: bool
    versions: tuple[str, ...]

    @property
    def in_words(self) -> str:
        """What the client reads of it."""
        state = "half dropped" if self.is_half_dropped else "gone"
        words = f"The job was cancelled, but by then the database '{self.database}' was {state}"
        if self.versions:
            return f"{words}. Another one of the instance is kept: {', '.join(self.versions)}."
        then = "A pass drops the rest." if self.is_half_dropped else "A retry records that."
        return f"{words}: it cannot come back. {then}"


class CancelledDrops:
    """Records what a client has to know of a cancelled delete or purge whose DROP had begun.

    Args:
        jobs: the jobs of the tenant's instances.
    """

    def __init__(self, jobs: JobStore) -> None:
        self._jobs = jobs

    async def follow(self, session: asyncpg.Connection, job: InstanceJob) -> None:
        """Record it, if the job is one that drops, and has begun to.

        A purge of which nothing is left is done: its DROP was faster. What is half dropped, the next pass
        drops to its end. But a version waits for the client, who may have cancelled the job for it: what is
        recorded as done has its versions dropped.

        Args:
            session: a fenced session.
            job: the job, at the attempt that is recorded as cancelled.

        Raises:
            DatabaseFaultError: the server is away, …
        """
        left = await _left_by(session, job)
        if left is None:
            return
        if job.operation in PURGES and not (left.versions or left.is_half_dropped):
            await self._jobs.follow_drop(job)
        else:
            await self._jobs.explain_failure(job, _reason(job, left))


async def reason_of(session: asyncpg.Connection, job: InstanceJob) -> str | None:
    """What the client reads who has cancelled the job; None if it has not begun to drop anything.

    Args:
        session: a fenced session.
        job: the job.

    Raises:
        DatabaseFaultError: the server is away, …
    """
    left = await _left_by(session, job)
    return None if left is None else _reason(job, left)


def _reason(job: InstanceJob, left: _Left) -> str:
    if not left.versions:
        return left.in_words
    if job.operation in PURGES:
        return f"{left.in_words} `ods drift` tells how it comes back. A purge of the instance drops it, too."
    half_dropped = job.database if left.is_half_dropped else None
    return f"{left.in_words} {way_back_of_live(job.instance_id, half_dropped)} {RETRY_DROPS}"


def way_back_of_live(instance_id: int, half_dropped: str | None, version: str = "NAME") -> str:
    """How an instance comes back whose delete has failed, and of which only a version is left.

    Args:
        instance_id: the instance.
        half_dropped: its own database, if a DROP has begun to remove that.
        version: the database that it had before a reset.
    """
    drop = "" if half_dropped is None else f'DROP DATABASE "{half_dropped}"; '
    adopt, delete, undelete = (
        f"ods instance {verb} {instance_id}" for verb in ("adopt", "delete", "undelete")
    )
    return (
        f"Where ODS_TRASH_DAYS is not 0, these bring it back: {drop}`{adopt} --database {version}`;"
        f" `{delete}`; `{undelete}`."
    )


async def _left_by(session: asyncpg.Connection, job: InstanceJob) -> _Left | None:
    """What is left of the job's instance; None if the job does not drop, or has not begun to."""
    match job.operation:
        case Operation.DELETE:
            return await _what_is_left(session, job, job.database) if job.published else None
        case Operation.PURGE | Operation.PURGE_AFTER_BACKUP:
            return await _what_is_left(session, job, trash_database(job))
        case (
            Operation.CREATE
            | Operation.COPY
            | Operation.RESTORE
            | Operation.RENAME
            | Operation.TRASH
            | Operation.DETACH
            | Operation.UNDELETE
            | Operation.BACKUP
            | Operation.SNAPSHOT
            | Operation.RESET
            | Operation.REPLACE
            | Operation.UNDO_RESET
        ):
            return None
        case _:
            assert_never(job.operation)


async def _what_is_left(session: asyncpg.Connection, job: InstanceJob, database: str) -> _Left | None:
    """What is left of the job's instance; None if its own database can be used."""
    owner = owner_of(job)
    found = await find(session, owner, database)
    own = {name for name, row in found.items() if name == database or owner.owns(row["comment"])}
    if not all(is_invalid(found[name]) for name in own):
        return None
    versions = sorted(name for name in found.keys() - own if shares_instance(found[name], owner))
    return _Left(database, bool(own), tuple(versions))
