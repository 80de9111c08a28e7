"""One page of a sweep, as an activity."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from temporalio import activity

from instances.jobs import InstanceJob
from instances.registry import Registry

_STARTS_AT_ONCE = 10
"""Enough to keep Temporal busy, and few beside the requests of people."""


@dataclass(frozen=True)
class SweepPage:
    """Up to `size` waiting rows with ids above `after`."""

    after: int
    size: int


@dataclass(frozen=True)
class SweptPage:
    """How many waiting rows were dispatched, and the last of their ids; None on an empty page."""

    dispatched: int
    last_id: int | None


class SweepActivities:
    """Starts the workflows of waiting rows.

    Args:
        registry: where the rows are.
        start: starts the workflow of a job, or hands the job to the workflow that is open under its id.
    """

    def __init__(self, registry: Registry, start: Callable[[InstanceJob], Awaitable[None]]) -> None:
        self._registry = registry
        self._start = start

    @activity.defn
    async def dispatch_page(self, page: SweepPage) -> SweptPage:
        """Start the workflows of one page of rows in `Pending` and `Pending_Delete`."""
        jobs = await self._registry.waiting_jobs(page.after, page.size)
        slots = asyncio.Semaphore(_STARTS_AT_ONCE)

        async def start(job: InstanceJob) -> None:
            async with slots:
                await self._start(job)
            activity.heartbeat(job.instance_id)

        await asyncio.gather(*map(start, jobs))
        return SweptPage(len(jobs), jobs[-1].instance_id if jobs else None)
