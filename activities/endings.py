"""The end of a job whose work is done: what the registry records of each operation, said once.

The step on the server tries to record it, which saves the workflow a step. If it cannot, the last step of the
workflow does, or says why not.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import assert_never

from temporalio.exceptions import ApplicationError

from activities.errors import JobCancelledError
from ods.databases.errors import DatabaseFaultError
from ods.databases.left_names import record_left
from ods.databases.server import leave_to_job
from ods.model.operations import InstanceStatus, Operation
from ods.observability.metrics.job_phases import measured_job, phase
from ods.registry.instances.jobs import InstanceJob
from ods.registry.rights.missing import MissingRightsError
from ods.registry.storage.errors import (
    CancelledDropError,
    ContextTakenError,
    DerivativeTakenError,
    InstallationNotConfirmedError,
    NameTakenError,
)
from ods.tenants.job_owners import owner_of
from ods.tenants.tenant import Tenant


@dataclass(frozen=True)
class Outcome:
    """What a step on the server has done.

    Attributes:
        is_recorded: whether the end of the job is recorded as well.
        had_database: whether there was a database to drop or to keep; None if that is not known any more.
        template_generation: of a database that was made, if it is known; likewise its size.
    """

    is_recorded: bool = False
    had_database: bool | None = None
    template_generation: int | None = None
    size_bytes: int | None = None


@dataclass(frozen=True)
class JobEnd:
    """A job that is done, and what its step on the server has done."""

    job: InstanceJob
    outcome: Outcome


class Endings:
    """Records the ends of one tenant's jobs, each in one guarded transaction that is safe to repeat."""

    def __init__(self, tenant: Tenant) -> None:
        self._tenant = tenant

    async def record(self, end: JobEnd) -> bool:
        """Record the end, and lead the ODS/API accordingly; false if the instance has another job by now.

        That of a backup is recorded with what it has stored (`StatusActivities.finish_backup`).

        Raises:
            ApplicationError: the registry refuses it.
        """
        with end_of(end.job):
            return await self._record(end)

    async def _record(self, end: JobEnd) -> bool:
        job = replace(end.job, template_generation=end.outcome.template_generation)
        jobs, encrypted = self._tenant.jobs, self._tenant.connection_strings.encrypted
        match job.operation:
            case Operation.CREATE:
                writing = jobs.finish_create(job, encrypted(job.database))
            case Operation.RENAME:
                writing = jobs.finish_rename(job, encrypted(job.final_database))
            case Operation.UNDELETE:
                writing = jobs.finish_undelete(job, encrypted(job.final_database))
            case Operation.DELETE | Operation.DETACH:
                writing = jobs.finish_delete(job, is_lost=end.outcome.had_database is False)
            case Operation.PURGE:
                writing = jobs.finish_purge(job, dropped=end.outcome.had_database)
            case Operation.RESET:
                writing = jobs.finish_replacement(job)
            case Operation.SNAPSHOT:
                writing = self._tenant.snapshots.finish(job)
            case Operation.BACKUP:
                raise TypeError("The end of a backup is recorded with what is stored.")
            case unknown:
                assert_never(unknown)
        return await writing

    async def is_recorded(self, job: InstanceJob) -> bool:
        """Whether an earlier try of a step has recorded the end of the job."""
        match job.operation:
            case Operation.CREATE:
                return await self._tenant.jobs.holds(job, InstanceStatus.COMPLETED)
            case Operation.RESET:
                return await self._tenant.jobs.is_replaced(job)
            case Operation.SNAPSHOT:
                return await self._tenant.snapshots.store.is_done(job)
            case _:
                return await self._tenant.jobs.is_done(job)

    async def tell_database(self, job: InstanceJob) -> None:
        """Write on a renamed database that the registry has its new name, if the server answers in time.

        Otherwise `find_leftovers` of the reconcile pass does it; until then the old name is reserved.
        """
        jobs = self._tenant.jobs
        with suppress(DatabaseFaultError, InstallationNotConfirmedError, TimeoutError):
            async with asyncio.timeout(job.policy.heartbeat_timeout / 2):
                await jobs.installation.require_confirmed()
                fence = self._tenant.server.fenced(owner_of(job), before_waiting=leave_to_job)
                async with fence as session:
                    if await jobs.holds(job, InstanceStatus.COMPLETED):  # and no other rename since
                        await record_left(session, owner_of(job), job.final_database)


@contextmanager
def end_of(job: InstanceJob) -> Iterator[None]:
    """Let a job fail with its reason if the registry refuses its end: an operator must act, then retry it.

    Raises:
        ApplicationError: a name, a context or a derivative belongs to another instance by now, or the
            service's role lacks a right.
    """
    try:
        with measured_job(job.kind.name), phase("record"):
            yield
    except (NameTakenError, ContextTakenError, DerivativeTakenError, MissingRightsError) as error:
        kind = type(error).__name__.removesuffix("Error")
        raise ApplicationError(str(error), type=kind, non_retryable=True) from None
    except CancelledDropError:
        raise JobCancelledError from None
