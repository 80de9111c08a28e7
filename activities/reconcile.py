"""Repairs of what nobody works on any more, as activities."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from temporalio import activity

from activities.databases import faults_reported
from activities.drift import Drift, DriftDetector
from activities.sweep import SweepPage, accepted
from databases import inspection
from databases.server import Server
from instances.jobs import InstanceJob
from instances.registry import Registry
from instances.status import Operation

_AT_ONCE = 200
"""So much fits a history easily; the next pass sees the rest."""


@dataclass(frozen=True)
class DriftReport:
    """What registry and server contradict each other in: the first of them, and how many there are."""

    drifts: list[Drift]
    count: int


@dataclass(frozen=True)
class StuckPage:
    """Jobs that nobody carries out, and the last id of the page; None if it was empty."""

    jobs: list[InstanceJob]
    last_id: int | None


@dataclass(frozen=True)
class Leftovers:
    """Failed jobs whose clean-up failed as well."""

    jobs: list[InstanceJob]


class ReconcileActivities:
    """Finds jobs that nobody carries out, databases that failed jobs left as they must not be, and drift.

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
    async def find_stuck(self, page: SweepPage) -> StuckPage:
        """Those jobs of a page of rows in `InProgress` whose workflow is open no longer."""
        jobs = await self._registry.running_jobs(page.after, page.size)
        stuck = []
        for job in jobs:
            activity.heartbeat(job.instance_id)
            # In this order: a workflow that ends in good order leaves `InProgress` before it closes.
            if not await self._is_open(job):
                stuck.append(job)
        return StuckPage(stuck, jobs[-1].instance_id if jobs else None)

    @activity.defn
    async def restart(self, job: InstanceJob) -> bool:
        """Put a stuck job back to waiting and start it; false if the instance had moved on.

        Also if Temporal refuses this job: it waits for the next sweep then.
        """
        due = await self._registry.release(job)
        return due is not None and await accepted(self._start(due), due.job_id)

    @activity.defn
    async def find_leftovers(self) -> Leftovers:
        """Failed jobs that were not undone: creates with a database, renames whose database was renamed."""
        with faults_reported():
            async with self._server.session() as session:
                found = await inspection.databases(session)
        marks = [database.mark for database in found if database.mark is not None]
        named = {(database.mark, database.name) for database in found}
        left = [
            job
            for job in await self._registry.failed_jobs(marks)
            if job.operation is not Operation.RENAME or (job.mark, job.database) not in named
        ]
        return Leftovers(left[:_AT_ONCE])

    @activity.defn
    async def report_drift(self) -> DriftReport:
        """Compare registry and server."""
        with faults_reported():
            found = await self._drift.detect()
        return DriftReport(found[:_AT_ONCE], len(found))
