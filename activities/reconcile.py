"""Repairs of what nobody works on any more, as activities."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from temporalio import activity

from activities.databases import faults_reported
from activities.drift import Drift, DriftDetector
from activities.sweep import SweepPage, SweptPage
from databases import inspection
from databases.server import Server
from instances.jobs import InstanceJob
from instances.registry import Registry


@dataclass(frozen=True)
class DriftReport:
    """What registry and server contradict each other in."""

    drifts: list[Drift]


@dataclass(frozen=True)
class Leftovers:
    """Failed creates whose clean-up failed as well."""

    jobs: list[InstanceJob]


class ReconcileActivities:
    """Finds jobs that nobody carries out, databases that failed creates left, and drift.

    Args:
        registry: the rows.
        server: the databases.
        drift: compares the two.
        is_open: whether the workflow of a job's instance is open.
        start: starts the workflow of a job.
    """

    def __init__(
        self,
        registry: Registry,
        server: Server,
        drift: DriftDetector,
        is_open: Callable[[InstanceJob], Awaitable[bool]],
        start: Callable[[InstanceJob], Awaitable[None]],
    ) -> None:
        self._registry = registry
        self._server = server
        self._drift = drift
        self._is_open = is_open
        self._start = start

    @activity.defn
    async def restart_page(self, page: SweepPage) -> SweptPage:
        """Start those rows of a page in `InProgress` whose workflow is open no longer."""
        jobs = await self._registry.running_jobs(page.after, page.size)
        restarted = 0
        for job in jobs:
            activity.heartbeat(job.instance_id)
            # In this order: a workflow that ends in good order leaves `InProgress` before it closes.
            if await self._is_open(job):
                continue
            if due := await self._registry.release(job):
                await self._start(due)
                restarted += 1
        return SweptPage(restarted, jobs[-1].instance_id if jobs else None)

    @activity.defn
    async def find_leftovers(self) -> Leftovers:
        """Creates in `Error` with a database that carries their instance's mark."""
        with faults_reported():
            async with self._server.connected() as session:
                found = await inspection.databases(session)
        marks = [database.mark for database in found if database.mark is not None]
        return Leftovers(list(await self._registry.failed_creates(marks)))

    @activity.defn
    async def report_drift(self) -> DriftReport:
        """Compare registry and server."""
        with faults_reported():
            return DriftReport(await self._drift.detect())
