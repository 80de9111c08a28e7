"""Creating and dropping databases, as activities: fenced, checked against the registry, heartbeating."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import asyncpg
from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.heartbeats import heartbeats
from databases import provisioning
from databases.errors import DatabaseFaultError
from databases.ownership import Owner
from databases.provisioning import CloneRequest
from databases.server import Server
from instances.jobs import InstanceJob
from instances.registry import Registry
from instances.status import InstanceStatus
from settings import CloneStrategy


@dataclass(frozen=True)
class Provisioned:
    """The new database; its size in bytes."""

    database: str
    size_bytes: int


class DatabaseActivities:
    """The middle step of every job, on the server that holds the ODS databases.

    Args:
        server: the server.
        registry: tells whether a job still holds its instance.
        templates: name of the database behind each template.
        strategy: how templates are copied.
        refill: requests that spares are refilled, after one was taken; without it, none are taken.
    """

    def __init__(
        self,
        server: Server,
        registry: Registry,
        templates: Mapping[str, str],
        strategy: CloneStrategy,
        refill: Callable[[], None] | None = None,
    ) -> None:
        self._server = server
        self._registry = registry
        self._templates = templates
        self._strategy = strategy
        self._refill = refill

    @activity.defn
    async def provision(self, job: InstanceJob) -> Provisioned:
        """Clone the template or take a spare, publish it under its name, and prove that it answers."""
        async with heartbeats():
            with faults_reported():
                request = await self._request(job)
                async with self._fenced(job, InstanceStatus.IN_PROGRESS) as session:
                    made = await provisioning.provision(session, request)
                if self._refill and made.claimed:
                    self._refill()
                else:
                    await provisioning.verify(self._server, job.database)
        return Provisioned(job.database, made.size_bytes)

    @activity.defn
    async def drop(self, job: InstanceJob) -> None:
        """Drop the instance's database together with the sessions on it."""
        await self._drop(job, InstanceStatus.IN_PROGRESS)

    @activity.defn
    async def discard(self, job: InstanceJob) -> None:
        """Drop what a failed create has left behind."""
        await self._drop(job, InstanceStatus.ERROR)

    async def _request(self, job: InstanceJob) -> CloneRequest:
        return CloneRequest(
            owner_of(job),
            self._templates[job.template],
            job.database,
            self._strategy,
            await self._registry.installation() if self._refill else None,
        )

    async def _drop(self, job: InstanceJob, state: InstanceStatus) -> None:
        async with heartbeats():
            with faults_reported():
                async with self._fenced(job, state) as session:
                    await provisioning.drop(session, owner_of(job), job.database, published=job.published)

    @asynccontextmanager
    async def _fenced(self, job: InstanceJob, state: InstanceStatus) -> AsyncIterator[asyncpg.Connection]:
        """The fence, if the registry says that the job is still at it.

        Asked once before the fence is taken, so that a late attempt seldom disturbs anybody, and once while
        it is held: from then on, whoever works on the instance's databases must first end this session.
        """
        await self._require(job, state)
        async with self._server.fenced(owner_of(job)) as session:
            await self._require(job, state)
            yield session

    async def _require(self, job: InstanceJob, state: InstanceStatus) -> None:
        if not await self._registry.holds(job, state):
            raise ApplicationError(
                "The instance has moved on to another job or attempt.", type="Superseded", non_retryable=True
            )


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
