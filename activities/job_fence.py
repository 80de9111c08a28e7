"""The fence of an instance, as activities hold it, and what the registry says of the job meanwhile."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import asyncpg

from activities.concurrency import ConcurrencyLimit
from activities.errors import JobCancelledError, SupersededError
from activities.following import ends_wait
from ods.databases.ownership import KnownOwner, Owner
from ods.model.arguments import takes_away
from ods.model.operations import AT_REST, InstanceStatus
from ods.registry.instances.job_store import Position
from ods.registry.instances.jobs import InstanceJob
from ods.tenants.job_owners import owner_of
from ods.tenants.tenant import Tenant

_Result = TypeVar("_Result")

_WAIT_OVER_SECONDS = 5
"""A step that runs for so long has met neither a server that is away nor the lock of another session."""


class JobFence:
    """Lets one step at a time work on the databases of an instance, and only for the job that it has."""

    def __init__(self, tenant: Tenant, limit: ConcurrencyLimit) -> None:
        self._tenant = tenant
        self._limit = limit

    @asynccontextmanager
    async def under_way(self, job: InstanceJob) -> AsyncIterator[tuple[asyncpg.Connection, KnownOwner]]:
        """The fence of the job's instance, while the registry has this attempt at the job in progress.

        Also gives the instance, with the revisions that the registry knows by then.

        The registry is asked while the fence is held: another attempt must first end this session then. It is
        also asked before another session is ended for the fence, so that a late attempt does not end the
        current one.
        """
        async with self.of(owner_of(job), before_waiting=partial(self.require_due, job)) as session:
            position = await self.require_due(job)
            ending = ends_wait(self._tenant.jobs, job, partial(asyncio.sleep, _WAIT_OVER_SECONDS))
            async with ending if position.waits else nullcontext():
                owner = replace(owner_of(job), name=job.name_in_comment)
                yield session, owner.knowing(position.known, job.request, job.attempt, is_running=True)

    @asynccontextmanager
    async def ended(self, job: InstanceJob) -> AsyncIterator[tuple[asyncpg.Connection, Position]]:
        """The fence of the job's instance and where that is, if the registry has the job at an end."""
        async with self.of(owner_of(job), before_waiting=partial(self._require_ended, job)) as session:
            yield session, await self._require_ended(job)

    @asynccontextmanager
    async def of(
        self, owner: Owner, before_waiting: Callable[[], Awaitable[object]]
    ) -> AsyncIterator[asyncpg.Connection]:
        """The fence of an instance, within the limit of databases worked on at once."""
        fence = self._tenant.server.fenced(owner, before_waiting=before_waiting)
        async with self._limit.slot(), fence as session:
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
