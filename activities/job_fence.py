"""What lets a step work on databases: a slot of the worker, and the fence of the instance.

While a step holds the fence, the registry says whether the job is still to be done.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import asyncpg
from sqlalchemy.exc import SQLAlchemyError
from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.errors import JobCancelledError, SupersededError
from activities.following import FencedWork, Following, ends_wait, heartbeats
from ods.databases.errors import LOST
from ods.databases.ownership import Owner
from ods.model.arguments import takes_away
from ods.model.operations import AT_REST, InstanceStatus
from ods.observability.metrics.catalog import DDL_SLOTS
from ods.registry.instances.job_store import Position
from ods.registry.instances.jobs import InstanceJob
from ods.tenants.job_owners import owner_of
from ods.tenants.tenant import Tenant

_Result = TypeVar("_Result")

SLOT_MISSED = "SlotMissed"
"""Type of the error of an activity that had no slot yet when its worker was stopped."""
_WAIT_OVER_SECONDS = 5
"""A step that runs for so long has met neither a server that is away nor the lock of another session."""


class ConcurrencyLimit:
    """Slots for work on databases, given out in the order in which they were requested."""

    def __init__(self, at_once: int, tenant: str | None = None) -> None:
        self._free = asyncio.Semaphore(at_once)
        self._at_once = at_once
        self._tenant = tenant
        self._busy = self._waiting = 0
        self._show()

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Wait for a slot, and hold it while the body runs; not if the worker stops meanwhile."""
        self._count(waiting=1)
        try:
            await self._free.acquire()
        finally:
            self._count(waiting=-1)
        self._count(busy=1)
        try:
            if activity.is_worker_shutdown():
                raise ApplicationError(
                    "The worker was stopped before it could begin this step.",
                    type=SLOT_MISSED,
                    next_retry_delay=timedelta(milliseconds=1),  # nothing has failed
                )
            yield
        finally:
            self._free.release()
            self._count(busy=-1)

    def _count(self, *, busy: int = 0, waiting: int = 0) -> None:
        self._busy += busy
        self._waiting += waiting
        self._show()

    def _show(self) -> None:
        if self._tenant is not None:
            states = {"busy": self._busy, "free": self._at_once - self._busy, "waiting": self._waiting}
            for state, number in states.items():
                DDL_SLOTS.labels(state, self._tenant).set(number)


class JobFence:
    """Lets one step at a time work on the databases of an instance, and only for the job that it has."""

    def __init__(self, tenant: Tenant, limit: ConcurrencyLimit) -> None:
        self._tenant = tenant
        self._limit = limit

    @asynccontextmanager
    async def under_way(self, job: InstanceJob) -> AsyncIterator[FencedWork]:
        """The fence of the job's instance, while the registry has this attempt at the job in progress.

        The registry is asked while the fence is held: another attempt must first end this session then. It is
        also asked before another session is ended for the fence, so that a late attempt does not end the
        current one.
        """
        following = Following()
        async with self.of(owner_of(job), partial(self.require_due, job), following.details) as session:
            position = await self.require_due(job)
            ending = ends_wait(self._tenant.jobs, job, partial(asyncio.sleep, _WAIT_OVER_SECONDS))
            async with ending if position.waits else nullcontext():
                owner = replace(owner_of(job), name=job.name_in_comment)
                known = owner.knowing(position.known, job.request, job.attempt, is_running=True)
                yield FencedWork(session, known, following, partial(self._report, job, following))

    async def _report(self, job: InstanceJob, following: Following) -> None:
        with suppress(*LOST, SQLAlchemyError, asyncpg.PostgresError):  # it is told again in a second
            await self._tenant.jobs.record_progress(job, following.percent, following.eta_seconds)

    @asynccontextmanager
    async def ended(self, job: InstanceJob) -> AsyncIterator[tuple[asyncpg.Connection, Position]]:
        """The fence of the job's instance and where that is, if the registry has the job at an end."""
        async with self.of(owner_of(job), partial(self._require_ended, job)) as session:
            yield session, await self._require_ended(job)

    @asynccontextmanager
    async def of(
        self,
        owner: Owner,
        before_waiting: Callable[[], Awaitable[object]],
        details: Callable[[], Sequence[object]] = tuple,
    ) -> AsyncIterator[asyncpg.Connection]:
        """The fence of an instance, within the limit of databases worked on at once, with heartbeats."""
        fence = self._tenant.server.fenced(owner, before_waiting=before_waiting)
        async with heartbeats(details), self._limit.slot(), fence as session:
            await self._tenant.installation.require_confirmed(session)
            yield session

    async def require_due(self, job: InstanceJob) -> Position:
        """Where the instance is, which must still be the job's.

        The registry knows at once that a job is cancelled; Temporal tells it with a heartbeat only. One that
        was restored may not know it any more: then what takes data away is called off.
        """
        if takes_away(job.operation, job.arguments):
            await self._tenant.look_before_drop()
        position = await self._tenant.jobs.position(job)
        if position is None or position.status != InstanceStatus.IN_PROGRESS:
            raise SupersededError
        if position.is_cancelled:
            raise JobCancelledError
        return position

    async def _require_ended(self, job: InstanceJob) -> Position:
        position = await self._tenant.jobs.position(job)
        if position is None or position.status not in AT_REST:
            raise SupersededError
        return position


class DroppingToTheEnd:
    """Keeps a cancellation away from a DROP that has begun, and from the write that records it.

    PostgreSQL cannot take a DROP back. One that is interrupted leaves a database that can only be dropped,
    while the client would read that the job was cancelled. `require_due` raises if nothing is to be dropped
    any more.
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
        """Begin a try at the DROP, unless the work was cancelled or nothing is to be dropped any more."""
        self._has_begun = False
        if self._is_cancelled:
            raise asyncio.CancelledError
        await self._require_due()
        self._has_begun = True
