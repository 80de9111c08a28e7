"""The activity that starts the workflows of one page of waiting rows."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from temporalio import activity
from temporalio.service import RPCError, RPCStatusCode

from ods.registry.instances.job_store import JobStore
from ods.registry.instances.jobs import InstanceJob

_STARTS_AT_ONCE = 10
"""Enough to keep Temporal busy, and few beside the starts that requests cause."""
_REFUSALS = {RPCStatusCode.INVALID_ARGUMENT, RPCStatusCode.FAILED_PRECONDITION, RPCStatusCode.ABORTED}
"""Statuses of Temporal that are about one job; any other would be the same for the next job."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SweepPage:
    """Up to `size` waiting rows with ids above `after`."""

    after: int
    size: int


@dataclass(frozen=True)
class SweepResult:
    """What became of a page; `last_id` is None if it was empty. The next sweep tries the `refused` again."""

    dispatched: int
    last_id: int | None
    refused: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class SweepActivities:
    """Starts the workflows of waiting rows."""

    job_store: JobStore
    start: Callable[[InstanceJob], Awaitable[None]]
    begin_pass: Callable[[], Awaitable[object]]
    adopt: Callable[[], Awaitable[None]]

    @activity.defn
    async def dispatch_page(self, page: SweepPage) -> SweepResult:
        """Start the workflows of one page of rows in `Pending` and `Pending_Delete`.

        The first page also follows what an Admin API has changed, and adopts the rows that it has added.
        """
        if page.after == 0:
            await self.begin_pass()
            await self.job_store.follow_admin_api()
            await self.adopt()
        jobs = await self.job_store.waiting_jobs(page.after, page.size)
        slots = asyncio.Semaphore(_STARTS_AT_ONCE)
        try:
            async with asyncio.TaskGroup() as group:
                starts = [group.create_task(self._dispatched(job, slots)) for job in jobs]
        except ExceptionGroup as faults:
            raise faults.exceptions[0] from None
        refused = [job.job_id for job, start in zip(jobs, starts, strict=True) if not start.result()]
        return SweepResult(len(jobs) - len(refused), jobs[-1].instance_id if jobs else None, refused)

    async def _dispatched(self, job: InstanceJob, slots: asyncio.Semaphore) -> bool:
        async with slots:
            try:
                return await accepted(self.start(job), job.job_id)
            finally:
                activity.heartbeat(job.instance_id)


async def accepted(start: Awaitable[None], job: str) -> bool:
    """Whether Temporal accepts the start of `job`; if it refuses this one, others may still be accepted."""
    try:
        await start
    except RPCError as error:
        if error.status not in _REFUSALS:
            raise
        _logger.warning("%s waits for the next sweep: %s", job, error.status.name)
        return False
    return True
