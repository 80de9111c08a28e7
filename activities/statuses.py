"""Activities that write the status of an instance and its job."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager, suppress
from functools import partial
from typing import TypeAlias, assert_never

import asyncpg
from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.errors import JobCancelledError, SupersededError, as_application_error
from ods.databases.dropping import drop_obstacle
from ods.databases.errors import DatabaseFaultError
from ods.databases.left_names import record_left
from ods.databases.ownership import KnownOwner
from ods.databases.server import Server, leave_to_job
from ods.databases.trash import let_go_obstacle
from ods.observability.metrics.job_phases import measured_job, phase
from ods.registry.backups.stored import FinishedBackup, RecordedBackup
from ods.registry.connection_strings.ods_connection_strings import OdsConnectionStrings
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.jobs import BeginResult, InstanceJob, JobFailure, JobWait
from ods.registry.instances.status import FAIL, InstanceStatus, Operation
from ods.registry.rights.missing import MissingRightsError
from ods.registry.storage.errors import (
    CancelledDropError,
    ContextTakenError,
    InstallationNotConfirmedError,
    NameTakenError,
)
from ods.settings.settings import VerifyPolicy
from ods.tenants.cancelled_drops import reason_of
from ods.tenants.job_owners import owner_of

_BACKUP_FIRST = (
    "A backup is to be made before a database is dropped (ODS_FINAL_BACKUP), which was not known when this"
    " was requested. Nothing was dropped. Request it again."
)
_SERVER_SECONDS = 2
"""How long the first step of a delete waits for the ODS server."""

_LATE_SESSION = "300ms"
"""How long the session of a step that was given up may go on: all of it is within a try to record that."""

_Obstacle: TypeAlias = Callable[[asyncpg.Connection, KnownOwner, list[str]], Awaitable[str | None]]


class StatusActivities:
    """The first and the last step of every job: each is one guarded transaction and safe to repeat.

    Args:
        jobs: the jobs of instances, in the registry.
        connection_strings: encrypts what the ODS/API shall connect with.
        server: asked before a delete begins whether its database may be dropped.
        verify: which backups are to be verified without a request.
        final_backup: whether a backup is made before a database is dropped.
    """

    def __init__(
        self,
        jobs: JobStore,
        connection_strings: OdsConnectionStrings,
        server: Server,
        verify: VerifyPolicy = VerifyPolicy.NEVER,
        *,
        final_backup: bool = False,
    ) -> None:
        self._final_backup = final_backup
        self._verify = verify
        self._jobs = jobs
        self._connection_strings = connection_strings
        self._server = server

    @activity.defn
    async def begin(self, job: InstanceJob) -> BeginResult:
        """Move the instance to `InProgress` for this attempt, or record why a delete is refused."""
        with as_application_error():
            return await self._jobs.begin(job, self._missing_backup(job) or await self._refusal(job))

    @activity.defn
    async def is_due(self, job: InstanceJob) -> bool:
        """Whether the instance waits for this attempt of the job."""
        return await self._jobs.is_due(job)

    @activity.defn
    async def finish_create(self, job: InstanceJob) -> bool:
        """Record `Completed` and route the ODS/API to the new database."""
        with _end_of(job):
            return await self._jobs.finish_create(job, self._connection_strings.encrypted(job.database))

    @activity.defn
    async def finish_rename(self, job: InstanceJob) -> bool:
        """Record `Completed` under the new names and route the ODS/API to the renamed database."""
        with _end_of(job):
            connection_string = self._connection_strings.encrypted(job.final_database)
            recorded = await self._jobs.finish_rename(job, connection_string)
        return recorded and await self._left(job)

    @activity.defn
    async def finish_delete(self, job: InstanceJob) -> bool:
        """Record `Deleted`."""
        with _end_of(job):
            return await self._jobs.finish_delete(job)

    @activity.defn
    async def finish_undelete(self, job: InstanceJob) -> bool:
        """Record `Completed`, and route the ODS/API to the database that was in the trash."""
        with _end_of(job):
            connection_string = self._connection_strings.encrypted(job.final_database)
            recorded = await self._jobs.finish_undelete(job, connection_string)
        return recorded and await self._left(job)

    async def _left(self, job: InstanceJob) -> bool:
        """Write on the database that the registry has its new name, if the server answers in time.

        A pass does it otherwise (`ReconcileActivities.find_leftovers`); until then the old name is reserved.
        """
        with suppress(DatabaseFaultError, InstallationNotConfirmedError, TimeoutError):
            async with asyncio.timeout(job.policy.heartbeat_timeout / 2):
                await self._jobs.installation.require_confirmed()
                async with self._server.fenced(owner_of(job), before_waiting=leave_to_job) as session:
                    if await self._jobs.holds(job, InstanceStatus.COMPLETED):  # and no other rename since
                        await record_left(session, owner_of(job), job.final_database)
        return True

    @activity.defn
    async def finish_purge(self, job: InstanceJob) -> bool:
        """Record that the database was dropped from the trash."""
        with _end_of(job):
            return await self._jobs.finish_purge(job)

    @activity.defn
    async def finish_backup(self, finished: FinishedBackup) -> RecordedBackup:
        """Record a backup that is stored."""
        with _end_of(finished.job):
            return await self._jobs.finish_backup(finished.job, finished.stored, self._verify)

    @activity.defn
    async def finish_replacement(self, job: InstanceJob) -> bool:
        """Record that another database is the instance's from now on."""
        with _end_of(job):
            return await self._jobs.finish_replacement(job)

    @activity.defn
    async def fail(self, failure: JobFailure) -> bool:
        """Record `Error` or `Delete_Failed`, with the reason; of a purge that was cancelled, `Deleted`.

        The client of a drop that was cancelled too late reads so at once.

        That of a delete or purge is recorded behind the fence, if the server answers in time: a worker that
        was suspended in the middle of it drops nothing after clients have read that it has failed.
        """
        job, reason = failure.job, failure.reason
        async with AsyncExitStack() as fence:
            if FAIL[job.operation].target is InstanceStatus.DELETE_FAILED:
                with suppress(DatabaseFaultError, SupersededError, TimeoutError):
                    async with asyncio.timeout(job.policy.heartbeat_timeout / 2):
                        session = await fence.enter_async_context(self._fence_of_given_up(job))
                        if failure.cancelled:
                            reason = await reason_of(session, job) or reason
            return await self._jobs.fail(job, reason, outage=failure.outage, cancelled=failure.cancelled)

    def _fence_of_given_up(self, job: InstanceJob) -> AbstractAsyncContextManager[asyncpg.Connection]:
        """The fence of an instance whose job has given up: another session that holds it is ended soon.

        Not if the instance has moved on to another job or attempt, whose session that may be.
        """

        async def require_job() -> None:
            if not await self._jobs.holds(job, InstanceStatus.IN_PROGRESS):
                raise SupersededError

        return self._server.locked(job.mark, require_job, _LATE_SESSION)

    @activity.defn
    async def record_wait(self, wait: JobWait) -> None:
        """Record what a running job waits for."""
        await self._jobs.record_wait(wait)

    def _missing_backup(self, job: InstanceJob) -> str | None:
        """Why a job must not begin that would drop a database without the backup that the settings want."""
        drops = job.operation in {Operation.DELETE, Operation.PURGE} and job.published
        return _BACKUP_FIRST if drops and self._final_backup else None

    async def _refusal(self, job: InstanceJob) -> str | None:
        """Why a job must not begin: a delete would end the routing to a database that it may not touch.

        Raises:
            DatabaseFaultError: the server is away, so that this cannot be known yet.
        """
        match job.operation:
            # An undelete routes only to what is out of the trash, and a purge ends no routing.
            case (
                Operation.CREATE
                | Operation.COPY
                | Operation.RESTORE
                | Operation.RENAME
                | Operation.UNDELETE
                | Operation.PURGE
                | Operation.PURGE_AFTER_BACKUP
                | Operation.BACKUP
            ):
                return None
            case Operation.SNAPSHOT:
                return None
            # The ODS/API goes on using the database until another one is there.
            case Operation.RESET | Operation.REPLACE | Operation.UNDO_RESET:
                return None
            case Operation.DELETE:
                obstacle = partial(drop_obstacle, dropped_by=job.number)
                return await self._obstacle(job, obstacle) if job.published else None
            case Operation.TRASH:
                return await self._obstacle(job, drop_obstacle) if job.published else None
            case Operation.DETACH:
                return await self._obstacle(job, let_go_obstacle) if job.published else None
            case _:
                assert_never(job.operation)

    async def _obstacle(self, job: InstanceJob, obstacle: _Obstacle) -> str | None:
        """Why the delete may not touch the instance's database, if the server says so in time."""
        owner = owner_of(job).knowing(await self._jobs.known_requests(job))
        try:
            async with asyncio.timeout(_SERVER_SECONDS), self._server.session() as session:
                return await obstacle(session, owner, job.databases)
        except TimeoutError:
            raise DatabaseFaultError(
                "The PostgreSQL server of the ODS databases does not answer.", outage=True
            ) from None


@contextmanager
def _end_of(job: InstanceJob) -> Iterator[None]:
    """Let a job fail with its reason if the registry refuses its end: an operator must act, then retry it.

    Raises:
        ApplicationError: the name or a context belongs to another instance by now, or the service's role
            lacks a right.
    """
    try:
        with measured_job(job.operation), phase("record"):
            yield
    except NameTakenError as error:
        raise ApplicationError(str(error), type="NameTaken", non_retryable=True) from None
    except ContextTakenError as error:
        raise ApplicationError(str(error), type="ContextTaken", non_retryable=True) from None
    except MissingRightsError as error:
        raise ApplicationError(str(error), type="MissingRights", non_retryable=True) from None
    except CancelledDropError:
        raise JobCancelledError from None
