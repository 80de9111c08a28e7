"""Activities that request the backups and snapshots of a schedule, a few at a time."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import exc
from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.errors import is_locked, is_outage, step
from activities.following import heartbeats
from activities.passes import accepted
from ods.backups.readiness import require_programs, require_restores
from ods.observability.logs import fault_name
from ods.registry.backups.rows import without_zone
from ods.registry.backups.scheduled import ScheduledBackups
from ods.registry.instances.jobs import InstanceJob
from ods.registry.instances.store import Requested
from ods.registry.snapshots.store import ScheduledSnapshots
from ods.registry.storage.errors import InstanceNotFoundError, RefusedError
from ods.tenants.backup_store import is_unchanged
from ods.tenants.known_store import require_backups
from ods.tenants.tenant import Tenant

_POLL_SECONDS = 1
"""How often it is asked whether another job can be requested."""
_PAUSE_SECONDS = 10
_BUSY_SECONDS = 3600
"""How long instances are waited for that refuse, such as those with other jobs."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScheduledReport:
    """What was done at a time of a schedule."""

    requested: int = 0
    unchanged: int = 0
    refused: int = 0


@dataclass
class _Pass:
    """A pass over the instances of which something is due."""

    scheduled: ScheduledBackups | ScheduledSnapshots
    due_at: datetime
    limit: int  # at most so many of its jobs are under way at once
    start: Callable[[InstanceJob], Awaitable[None]]
    request: Callable[[int, datetime], Awaitable[Requested | None]]
    # Whether an instance needs none, which is recorded then.
    is_needless: Callable[[int], Awaitable[bool]] | None = None
    report: ScheduledReport = ScheduledReport()

    async def run(self) -> ScheduledReport:
        """Request all that is due; instances that refuse are asked again for a while."""
        for job in await self.scheduled.under_way():  # an earlier try may have died before it started one
            await accepted(self.start(job), job.job_id)
        refused = await self._serve(await self.scheduled.due(self.due_at))
        ends = asyncio.get_running_loop().time() + _BUSY_SECONDS
        while refused and asyncio.get_running_loop().time() < ends:
            _require_going_on()
            await asyncio.sleep(_PAUSE_SECONDS)
            refused = await self._serve(refused)
        return replace(self.report, refused=self.report.refused + len(refused))

    async def _serve(self, instances: Sequence[int]) -> Sequence[int]:
        """Request what is due of these instances; returns those to ask again, which refuse or are locked.

        Another fault would be the same again; it keeps no other instance from being served.
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
        if self.is_needless is not None and await self.is_needless(instance_id):
            self.report = replace(self.report, unchanged=self.report.unchanged + 1)
            return
        while len(await self.scheduled.under_way()) >= self.limit:
            _require_going_on()
            await asyncio.sleep(_POLL_SECONDS)
        with suppress(InstanceNotFoundError):
            requested = await self.request(instance_id, self.due_at)
            if requested is not None:
                await accepted(self.start(requested.job), requested.job.job_id)
                self.report = replace(self.report, requested=self.report.requested + 1)


@dataclass(frozen=True)
class ScheduledRequests:
    """Requests what is due of one tenant's instances.

    Each activity ends when all is requested, and may be repeated: nothing is requested twice for a time of
    the schedule. It leaves one place of a worker to other requests, if the worker has several.
    """

    tenant: Tenant
    start: Callable[[InstanceJob], Awaitable[None]]

    @step
    async def request_scheduled_backups(self, due_at: datetime) -> ScheduledReport:
        """Request a backup of each instance that has changed since its last one."""
        tenant, at, scheduled = self.tenant, without_zone(due_at), self.tenant.scheduled_backups

        async def is_needless(instance_id: int) -> bool:
            last = await scheduled.last_complete(instance_id)
            if last is None or not await is_unchanged(tenant, last):
                return False
            return await scheduled.record_unchanged(instance_id, last.backup.id, at)

        limit = max(1, tenant.settings.backup_concurrency - 1)
        request = tenant.instances.request_scheduled_backup
        running = _Pass(scheduled, at, limit, self.start, request, is_needless)
        async with heartbeats(lambda: [running.report]):
            await require_backups(tenant)
            return await running.run()

    @step
    async def request_scheduled_snapshots(self, due_at: datetime) -> ScheduledReport:
        """Request a snapshot of each instance."""
        tenant, limit = self.tenant, max(1, self.tenant.settings.ddl_concurrency - 1)
        request = tenant.instances.request_scheduled_snapshot
        running = _Pass(tenant.scheduled_snapshots, without_zone(due_at), limit, self.start, request)
        async with heartbeats(lambda: [running.report]):
            require_restores(tenant.server)
            await require_programs(tenant.server)
            return await running.run()


def _require_going_on() -> None:
    """Fail if the worker stops: another one takes over at once."""
    if activity.is_worker_shutdown():
        raise ApplicationError("The worker stops; another one goes on.", type="WorkerStops")
