"""Creating and dropping databases, as activities: fenced, checked against the registry, heartbeating."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial

import asyncpg
from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.heartbeats import heartbeats
from activities.tenant import Tenant
from activities.turns import Turns
from databases import provisioning, renaming
from databases.errors import DatabaseFaultError
from databases.ownership import Owner
from databases.provisioning import CloneRequest, TemplateSizes
from instances.jobs import InstanceJob
from instances.status import InstanceStatus, Operation
from logs import fault_name

_FINISH_SECONDS = 2

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Provisioned:
    """The new database, its size in bytes, and whether the job was recorded as done as well."""

    database: str
    size_bytes: int | None
    finished: bool = False


class DatabaseActivities:
    """The middle step of every job, on the server that holds the ODS databases.

    It records the outcome as well, if that can be done at once, which saves the workflow a step. Otherwise
    the workflow's own last step does it, or finds out why it cannot be done.

    Args:
        tenant: whose databases these are.
        turns: bounds how many of them are worked on at once. Proof and outcome come after one's turn.
        refill: requests that spares are refilled, after one was taken; without it, none are taken.
    """

    def __init__(self, tenant: Tenant, turns: Turns, refill: Callable[[], None] | None = None) -> None:
        self._tenant = tenant
        self._turns = turns
        self._refill = refill
        self._template_sizes = TemplateSizes()

    @activity.defn
    async def provision(self, job: InstanceJob) -> Provisioned:
        """Clone the template or take a spare, publish it under its name, and prove that it answers."""
        if await self._was_finished(job, InstanceStatus.COMPLETED):
            return Provisioned(job.database, size_bytes=None, finished=True)
        async with heartbeats():
            with faults_reported():
                request = await self._request(job)
                async with self._fenced(job, InstanceStatus.IN_PROGRESS) as session:
                    made = await provisioning.provision(session, request, self._template_sizes)
                if not made.claimed:
                    await provisioning.verify(self._tenant.server, job.database)
            connection_string = self._tenant.connection_strings.encrypted(job.database)
            finished = await _recorded(self._tenant.registry.finish_create(job, connection_string))
        if self._refill and made.claimed:
            self._refill()  # only now: until then, somebody waits
        return Provisioned(job.database, made.size_bytes, finished)

    @activity.defn
    async def drop(self, job: InstanceJob) -> bool:
        """Drop the instance's database together with the sessions on it; true if `Deleted` was recorded."""
        if await self._was_finished(job, InstanceStatus.DELETED):
            return True
        await self._drop(job, InstanceStatus.IN_PROGRESS)
        return await _recorded(self._tenant.registry.finish_delete(job))

    @activity.defn
    async def rename(self, job: InstanceJob) -> None:
        """Give the instance's database its new name; the sessions on it are ended."""
        await self._rename(job, InstanceStatus.IN_PROGRESS, job.final_database)

    @activity.defn
    async def discard(self, job: InstanceJob) -> None:
        """Undo what a failed job has done: drop what was created, or rename back what was renamed."""
        if job.operation is Operation.RENAME:
            await self._rename(job, InstanceStatus.ERROR, job.database)
        else:
            await self._drop(job, InstanceStatus.ERROR)

    async def _rename(self, job: InstanceJob, state: InstanceStatus, database: str) -> None:
        async with heartbeats():
            with faults_reported():
                async with self._fenced(job, state) as session:
                    await renaming.rename(self._tenant.server, session, owner_of(job), database)

    async def _request(self, job: InstanceJob) -> CloneRequest:
        return CloneRequest(
            owner_of(job),
            self._tenant.settings.template_databases[job.template],
            job.database,
            self._tenant.settings.clone_strategy,
            await self._tenant.registry.installation() if self._refill else None,
        )

    async def _drop(self, job: InstanceJob, state: InstanceStatus) -> None:
        async with heartbeats():
            with faults_reported():
                async with self._fenced(job, state) as session:
                    owner = owner_of(job)
                    # A failed rename that could not be undone has left it another name.
                    for name in await renaming.own_names(session, owner):
                        await provisioning.drop(session, owner, name, published=True)
                    await provisioning.drop(session, owner, job.database, published=job.published)

    async def _was_finished(self, job: InstanceJob, state: InstanceStatus) -> bool:
        """Whether the try before this one recorded the outcome, and Temporal did not hear of it."""
        return activity.info().attempt > 1 and await self._tenant.registry.holds(job, state)

    @asynccontextmanager
    async def _fenced(self, job: InstanceJob, state: InstanceStatus) -> AsyncIterator[asyncpg.Connection]:
        """The fence, when it is this job's turn, if the registry says that the job is still at it.

        Asked while the fence is held: from then on, whoever works on the instance's databases must first end
        this session. Also asked before somebody else's fence is waited for, so that a late attempt seldom
        disturbs anybody.
        """
        still_due = partial(self._require, job, state)
        fence = self._tenant.server.fenced(owner_of(job), before_waiting=still_due)
        async with self._turns.taken(), fence as session:
            await still_due()
            yield session

    async def _require(self, job: InstanceJob, state: InstanceStatus) -> None:
        if not await self._tenant.registry.holds(job, state):
            raise ApplicationError(
                "The instance has moved on to another job or attempt.", type="Superseded", non_retryable=True
            )


async def _recorded(write: Awaitable[bool]) -> bool:
    try:
        return await asyncio.wait_for(write, _FINISH_SECONDS)
    except Exception as error:  # noqa: BLE001 - whatever it is, the workflow's last step meets it again
        _logger.info("The outcome is left to the workflow's last step: %s", fault_name(error))
        return False


def owner_of(job: InstanceJob) -> Owner:
    """Whose databases the job works on."""
    return Owner(job.tenant, job.ods_instance_id, job.job_id, job.mark)


@contextmanager
def faults_reported() -> Iterator[None]:
    """Tell Temporal a fault's reason, and whether trying again can help."""
    try:
        yield
    except DatabaseFaultError as fault:
        raise ApplicationError(
            fault.reason, type=type(fault).__name__, non_retryable=not fault.retryable
        ) from None
