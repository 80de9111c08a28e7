"""Activities that request the backups and snapshots of a schedule, a few at a time."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from sqlalchemy import exc
from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.errors import as_application_error, is_locked, is_outage
from activities.heartbeats import heartbeats
from activities.sweep import accepted
from ods.backups.readiness import require_programs, require_restores
from ods.observability.logs import fault_name
from ods.registry.backups.rows import without_zone
from ods.registry.instances.jobs import InstanceJob
from ods.registry.instances.store import Requested
from ods.registry.storage.errors import InstanceNotFoundError, RefusedError
from ods.tenants.known_store import require_backups
from ods.tenants.scheduled_backups import is_unchanged
from ods.tenants.tenant import Tenant

_POLL_SECONDS = 1
"""How often it is asked whether another job can be requested."""
_PAUSE_SECONDS = 10
_BUSY_SECONDS = 3600
"""How long instances are waited for on which other jobs work, or that refuse for another reason."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScheduledReport:
    """What was done at a time of a schedule.

    Attributes:
        requested: instances for which a job was requested.
        unchanged: those that are as they were at the last backup.
        refused: those for which none could be requested.
    """

    requested: int = 0
    unchanged: int = 0
    refused: int = 0


class _Kind(Protocol):
    """What a schedule makes of instances."""

    limit: int
    """Jobs of the schedule at once: others want places as well."""

    async def require_ready(self) -> None:
        """Check that such jobs can be done at all."""

    async def due(self, due_at: datetime) -> Sequence[int]:
        """The ids of the instances."""

    async def under_way(self) -> Sequence[InstanceJob]:
        """Jobs of the schedule that wait or run."""

    async def is_needless(self, instance_id: int, due_at: datetime) -> bool:
        """Whether an instance needs none, which is recorded then."""

    async def request(self, instance_id: int, due_at: datetime) -> Requested | None:
        """Request the job; None if it was requested before."""


class _Backups:
    def __init__(self, tenant: Tenant) -> None:
        self.limit = max(1, tenant.settings.backup_concurrency - 1)
        self._tenant = tenant
        self._scheduled = tenant.scheduled_backups

    async def require_ready(self) -> None:
        await require_backups(self._tenant)

    async def due(self, due_at: datetime) -> Sequence[int]:
        return await self._scheduled.due(due_at)

    async def under_way(self) -> Sequence[InstanceJob]:
        return await self._scheduled.under_way()

    async def is_needless(self, instance_id: int, due_at: datetime) -> bool:
        last = await self._scheduled.last_complete(instance_id)
        if last is None or not await is_unchanged(self._tenant, last):
            return False
        return await self._scheduled.record_unchanged(instance_id, last.backup.id, due_at)

    async def request(self, instance_id: int, due_at: datetime) -> Requested | None:
        return await self._tenant.instances.request_scheduled_backup(instance_id, due_at)


class _Snapshots:
    def __init__(self, tenant: Tenant) -> None:
        self.limit = max(1, tenant.settings.ddl_concurrency - 1)
        self._tenant = tenant
        self._scheduled = tenant.scheduled_snapshots

    async def require_ready(self) -> None:
        require_restores(self._tenant.server)
        await require_programs(self._tenant.server)

    async def due(self, due_at: datetime) -> Sequence[int]:
        return await self._scheduled.due(due_at)

    async def under_way(self) -> Sequence[InstanceJob]:
        return await self._scheduled.under_way()

    async def is_needless(self, instance_id: int, due_at: datetime) -> bool:  # noqa: ARG002 - as of backups
        return False

    async def request(self, instance_id: int, due_at: datetime) -> Requested | None:
        return await self._tenant.instances.request_scheduled_snapshot(instance_id, due_at)


class _Pass:
    """A pass over the instances of which something is due.

    Attributes:
        report: what was done so far.
    """

    def __init__(
        self, kind: _Kind, due_at: datetime, start: Callable[[InstanceJob], Awaitable[None]]
    ) -> None:
        self.report = ScheduledReport()
        self._kind = kind
        self._due_at = due_at
        self._start = start

    async def run(self) -> ScheduledReport:
        """Request all that is due; those that refuse are asked again for a while."""
        await self._kind.require_ready()
        for job in await self._kind.under_way():  # an earlier try may have died before it started one
            await accepted(self._start(job), job.job_id)
        refused = await self._serve(await self._kind.due(self._due_at))
        ends = asyncio.get_running_loop().time() + _BUSY_SECONDS
        while refused and asyncio.get_running_loop().time() < ends:
            _require_going_on()
            await asyncio.sleep(_PAUSE_SECONDS)
            refused = await self._serve(refused)
        return replace(self.report, refused=self.report.refused + len(refused))

    async def _serve(self, instances: Sequence[int]) -> Sequence[int]:
        """Request what is due of these instances; returns those that refuse now.

        A fault of one does not keep the others from being served; it would be the same when asked again. One
        whose row another session has locked is asked again.
        """
        refused = []
        for instance_id in instances:
            try:
                await self._serve_one(instance_id)
            except RefusedError:
                refused.append(instance_id)
            except exc.SQLAlchemyError as error:
                if is_locked(error):
                    refused.append(instance_id)
                    continue
                if is_outage(error):
                    raise
                _logger.warning("Nothing is requested of instance %s: %s", instance_id, fault_name(error))
                self.report = replace(self.report, refused=self.report.refused + 1)
        return refused

    async def _serve_one(self, instance_id: int) -> None:
        if await self._kind.is_needless(instance_id, self._due_at):
            self.report = replace(self.report, unchanged=self.report.unchanged + 1)
            return
        while len(await self._kind.under_way()) >= self._kind.limit:
            _require_going_on()
            await asyncio.sleep(_POLL_SECONDS)
        with suppress(InstanceNotFoundError):
            requested = await self._kind.request(instance_id, self._due_at)
            if requested is not None:
                await accepted(self._start(requested.job), requested.job.job_id)
                self.report = replace(self.report, requested=self.report.requested + 1)


class ScheduledRequests:
    """Requests what is due of one tenant's instances.

    Each activity ends when all is requested, and may be repeated: what was requested for a time of the
    schedule is not requested again. It leaves one place of those that a worker has to other requests, if it
    has several.

    Args:
        tenant: the tenant.
        start: starts the workflow of a job.
    """

    def __init__(self, tenant: Tenant, start: Callable[[InstanceJob], Awaitable[None]]) -> None:
        self._tenant = tenant
        self._start = start

    @activity.defn
    async def request_scheduled_backups(self, due_at: datetime) -> ScheduledReport:
        """Request a backup of each instance that has changed since its last one.

        Raises:
            ApplicationError: of type `Outage`, or of the type of the fault.
        """
        return await self._run(_Backups(self._tenant), due_at)

    @activity.defn
    async def request_scheduled_snapshots(self, due_at: datetime) -> ScheduledReport:
        """Request a snapshot of each instance.

        Raises:
            ApplicationError: of type `Outage`, or of the type of the fault.
        """
        return await self._run(_Snapshots(self._tenant), due_at)

    async def _run(self, kind: _Kind, due_at: datetime) -> ScheduledReport:
        running = _Pass(kind, without_zone(due_at), self._start)
        with as_application_error():
            async with heartbeats(lambda: [running.report]):
                return await running.run()


def _require_going_on() -> None:
    """Check that the worker goes on: another one takes over at once what waits.

    Raises:
        ApplicationError: it stops.
    """
    if activity.is_worker_shutdown():
        raise ApplicationError("The worker stops; another one goes on.", type="WorkerStops")
