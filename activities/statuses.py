"""Activities that write the status of an instance and its job."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from functools import partial
from typing import TypeAlias
from uuid import UUID

import asyncpg
from temporalio import activity

from activities.backup_verification import Verdict
from activities.endings import Endings, JobEnd, end_of
from activities.errors import SupersededError, step
from ods.databases.adoption import let_go_obstacle
from ods.databases.dropping import drop_obstacle
from ods.databases.errors import DatabaseFaultError
from ods.databases.ownership import KnownOwner
from ods.model.operations import InstanceStatus, Operation
from ods.registry.backups.stored import FinishedBackup, RecordedBackup
from ods.registry.instances.jobs import BeginResult, InstanceJob, JobFailure, JobWait
from ods.tenants.cancelling import reason_of
from ods.tenants.job_owners import owner_of
from ods.tenants.tenant import Tenant

_BACKUP_FIRST = (
    "A backup is to be made before a database is dropped (ODS_FINAL_BACKUP), which was not known when this"
    " was requested. Nothing was dropped. Request it again."
)
_SERVER_SECONDS = 2
"""How long the first step of a delete waits for the ODS server."""

_LATE_SESSION = "300ms"
"""How long the session of a step that was given up may go on, within the try to record the failure."""

_Obstacle: TypeAlias = Callable[[asyncpg.Connection, KnownOwner, list[str]], Awaitable[str | None]]


class StatusActivities:
    """The first and the last step of every job of a tenant: each is one guarded transaction."""

    def __init__(self, tenant: Tenant) -> None:
        self._tenant = tenant
        self._jobs = tenant.jobs
        self._endings = Endings(tenant)

    @step
    async def begin(self, job: InstanceJob) -> BeginResult:
        """Move the instance to `InProgress` for this attempt, or record why a delete is refused."""
        return await self._jobs.begin(job, self._missing_backup(job) or await self._refusal(job))

    @activity.defn
    async def is_due(self, job: InstanceJob) -> bool:
        """Whether the instance waits for this attempt of the job."""
        return await self._jobs.is_due(job)

    @activity.defn
    async def next_attempt(self, job: InstanceJob) -> InstanceJob | None:
        """The attempt after this one, which has failed; None if the instance has another job by now."""
        return await self._jobs.next_attempt(job)

    @activity.defn
    async def finish(self, end: JobEnd) -> bool:
        """Record the end of a job that is done; false if the instance has another job by now."""
        recorded = await self._endings.record(end)
        if recorded and end.job.operation in {Operation.RENAME, Operation.UNDELETE}:
            await self._endings.tell_database(end.job)
        return recorded

    @activity.defn
    async def finish_backup(self, finished: FinishedBackup) -> RecordedBackup:
        """Record a backup that is stored."""
        with end_of(finished.job):
            verify = self._tenant.settings.backup_verify
            return await self._jobs.finish_backup(finished.job, finished.stored, verify)

    @activity.defn
    async def fail(self, failure: JobFailure) -> bool:
        """Record `Error` or `Delete_Failed`, with the reason; of a purge that was cancelled, `Deleted`.

        A client whose drop was cancelled too late reads that at once.

        That of a delete or purge is recorded behind the fence, if the server answers in time: then a
        suspended worker drops nothing after clients have read that the job has failed.
        """
        job, reason = failure.job, failure.reason
        async with AsyncExitStack() as fence:
            if job.rules.fail.target is InstanceStatus.DELETE_FAILED:
                with suppress(DatabaseFaultError, SupersededError, TimeoutError):
                    async with asyncio.timeout(job.policy.heartbeat_timeout / 2):
                        session = await fence.enter_async_context(self._fence_of_given_up(job))
                        if failure.cancelled:
                            reason = await reason_of(session, job) or reason
            return await self._jobs.fail(job, reason, outage=failure.outage, cancelled=failure.cancelled)

    def _fence_of_given_up(self, job: InstanceJob) -> AbstractAsyncContextManager[asyncpg.Connection]:
        """The fence of an instance whose job has given up; another session that holds it is ended soon.

        Not if the instance has moved on to another job or attempt: that session may be theirs.
        """

        async def require_job() -> None:
            if not await self._jobs.holds(job, InstanceStatus.IN_PROGRESS):
                raise SupersededError

        return self._tenant.server.locked(job.mark, require_job, _LATE_SESSION)

    @activity.defn
    async def record_wait(self, wait: JobWait) -> None:
        """Record what a running job waits for."""
        await self._jobs.record_wait(wait)

    @step
    async def request_purge_after(self, trashed: InstanceJob) -> InstanceJob | None:
        """Record the purge that is to follow a delete, which is done; None if none is to follow any more."""
        return await self._tenant.instances.request_purge_after(trashed)

    @step
    async def call_off_purge(self, purge: InstanceJob) -> None:
        """Cancel the purge that was to follow a delete, as an operator has cancelled the workflow of that."""
        job = await self._tenant.queries.job(purge.job_id)
        if job is not None:
            await self._tenant.cancellations.cancel_waiting(job)

    @step
    async def finish_verification(self, verdict: Verdict) -> None:
        """Record how a verification has ended."""
        await self._tenant.backups.finish_verification(UUID(verdict.backup_id), verdict.error)

    def _missing_backup(self, job: InstanceJob) -> str | None:
        """Why the job must not begin: it would drop a database without the backup that the settings want."""
        drops = job.rules.drops and not job.backup_first
        return _BACKUP_FIRST if drops and job.published and self._tenant.settings.final_backup else None

    async def _refusal(self, job: InstanceJob) -> str | None:
        """Why the job must not begin: it would end the routing to a database that it may not touch."""
        rules = job.rules
        # An undelete routes to what is out of the trash, and a purge ends no routing. The ODS/API goes on
        # using what a reset replaces until another one is there.
        if not (rules.ends_use and rules.is_live and job.published):
            return None
        if rules.releases:
            return await self._obstacle(job, let_go_obstacle)
        return await self._obstacle(job, partial(drop_obstacle, drops=rules.drops))

    async def _obstacle(self, job: InstanceJob, obstacle: _Obstacle) -> str | None:
        """Why the delete may not touch the instance's database, if the server says so in time."""
        known = await self._jobs.known_revisions(job)
        owner = owner_of(job).knowing(known, job.request, job.attempt, is_running=True)
        try:
            async with asyncio.timeout(_SERVER_SECONDS), self._tenant.server.session() as session:
                return await obstacle(session, owner, job.databases)
        except TimeoutError:
            raise DatabaseFaultError(
                "The PostgreSQL server of the ODS databases does not answer.", outage=True
            ) from None
