"""Activities of passes: jobs to start, leftovers, drift, what is due in the trash, sizes."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import assert_never

from temporalio import activity
from temporalio.service import RPCError, RPCStatusCode

from activities.errors import step
from activities.following import heartbeats
from ods.databases.errors import DatabaseFaultError
from ods.databases.inspection import listing
from ods.databases.inspection.listing import Database
from ods.databases.server import Server
from ods.model.operations import InstanceStatus, Undo
from ods.model.revisions import Role
from ods.recovery.compare.findings import Drift, is_suspect
from ods.registry.idempotency_keys import IdempotencyKeys
from ods.registry.instances.cancelling import JobCancellations
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.jobs import InstanceJob
from ods.registry.instances.store import InstanceStore
from ods.registry.instances.versions import VersionPurge, VersionStore
from ods.tenants.cancelling import CancelledDrops, after_cancel, cancel_behind_fence
from ods.tenants.tenant import Tenant
from ods.tenants.usage import record_sizes

_STARTS_AT_ONCE = 10
"""Enough to keep Temporal busy, and few beside the starts that requests cause."""
_REFUSALS = {RPCStatusCode.INVALID_ARGUMENT, RPCStatusCode.FAILED_PRECONDITION, RPCStatusCode.ABORTED}
"""Statuses of Temporal that are about one job; any other would be the same for the next job."""
_MAX_RESULTS = 200
"""Jobs or drifts in one result: these fit a history easily."""
_MAX_BYTES = 500_000
"""Of the jobs in one list: Temporal refuses a result above 2 MiB, and would do so in each later pass."""
_PURGES_A_PASS = 20
"""Databases that one pass drops from the trash: a mistake in the registry is noticed before all are gone."""
_QUERIES_AT_ONCE = 10
"""Workflows that Temporal is asked about at once."""

_logger = logging.getLogger(__name__)

_IN_DOUBT = "a registry that may have been restored"
"""Why nothing is purged, as the result of the pass says it."""


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


@dataclass(frozen=True)
class DriftReport:
    """Contradictions between registry and server: the first of them, and how many there are."""

    drifts: list[Drift]
    count: int


@dataclass(frozen=True)
class StuckPage:
    """Jobs that no workflow works on, and the last id of the page; None if that was empty."""

    jobs: list[InstanceJob]
    last_id: int | None


@dataclass(frozen=True)
class Leftovers:
    """Ended jobs that have left databases on the server, by id; `more` if there are others after them."""

    jobs: list[InstanceJob]
    more: bool


@dataclass(frozen=True)
class PurgeReport:
    """How many purges were requested; and why none was, although some are due."""

    requested: int
    withheld: str | None = None


@dataclass(frozen=True)
class VersionsDue:
    """The versions that are to be dropped; and why there are none, although some are due."""

    purges: list[VersionPurge]
    withheld: str | None = None


@dataclass(frozen=True)
class ReconcileActivities:
    """Finds jobs that no workflow works on, what failed jobs have left on the server, and drift."""

    begin_pass: Callable[[], Awaitable[bool]]
    job_store: JobStore
    server: Server
    detect: Callable[[], Awaitable[list[Drift]]]
    # Whether a workflow works on a job: one that awaits a decision does not.
    is_at_work: Callable[[InstanceJob], Awaitable[bool]]
    start: Callable[[InstanceJob], Awaitable[None]]
    remove_template_leftovers: Callable[[], Awaitable[object]]
    instances: InstanceStore
    versions: VersionStore
    cancellations: JobCancellations
    # Why no backup can be made before purges; None if none is to be made.
    backup_obstacle: Callable[[], Awaitable[str | None]] | None = None

    @step
    async def find_stuck(self, page: SweepPage) -> StuckPage:
        """The jobs of a page of rows in `InProgress` that no workflow works on.

        Their workflow is gone, or waits for a decision after a failure that a restored registry does not
        know. The first page also has the failed deletes that are tried again without a person, as many as
        fit.
        """
        if page.after == 0:
            await self.begin_pass()
        jobs = await self.job_store.running_jobs(page.after, page.size)
        unfinished: Sequence[InstanceJob] = []
        if page.after == 0:
            with suppress(DatabaseFaultError):  # none can be finished while the server is away
                unfinished = await self.job_store.unfinished_deletes(await self._half_dropped())
        slots = asyncio.Semaphore(_QUERIES_AT_ONCE)
        is_stuck = await asyncio.gather(*(self._is_stuck(job, slots) for job in jobs))
        stuck = [job for job, is_it in zip(jobs, is_stuck, strict=True) if is_it]
        found = _fitting(stuck)
        last = jobs[-1:] if len(found) == len(stuck) else found[-1:]
        return StuckPage([*_fitting(unfinished), *found], last[0].instance_id if last else None)

    async def _is_stuck(self, job: InstanceJob, slots: asyncio.Semaphore) -> bool:
        """Whether no workflow works on a job that the registry still has under way.

        Temporal is asked first: a job that ends takes itself out of `InProgress` before its workflow closes.
        A delete that has failed since the page was read would be done all the same otherwise.
        """
        async with slots:
            activity.heartbeat(job.instance_id)
            if await self.is_at_work(job):
                return False
        return await self.job_store.holds(job, InstanceStatus.IN_PROGRESS)

    async def _half_dropped(self) -> Mapping[str, str]:
        """The marks of the databases that a DROP has begun to remove, by their names.

        Not if the instance has another database in use: an operator has handed that over, or restored it.
        """
        found = await self._databases()
        in_use = {
            one.mark for one in found if not one.invalid and one.owner and one.owner.role is Role.CURRENT
        }
        half_dropped = (one for one in found if one.invalid and not one.staging and one.mark not in in_use)
        return {one.name: one.mark for one in half_dropped if one.mark}

    @step
    async def restart(self, job: InstanceJob) -> bool:
        """Put a stuck job back to waiting and start it; true if Temporal has taken it.

        False if the instance has moved on, or Temporal refuses the job, which waits for the next sweep then.
        A job that a client has cancelled is ended, and not done again: its workflow was lost before it could
        end it. So is a failed delete that a client has called off. While the server is away, both wait for
        the next pass.
        """
        is_cancelled = partial(self.cancellations.is_cancelled, job)
        if await is_cancelled():
            cancel = partial(self.cancellations.cancel_lost, job)
            follow = partial(CancelledDrops(self.job_store).follow, job=after_cancel(job))
            await cancel_behind_fence(self.server, job.mark, is_cancelled, cancel, follow)
            return False
        is_running = await self.job_store.holds(job, InstanceStatus.IN_PROGRESS)
        due = await self.job_store.release(job, {} if is_running else await self._half_dropped())
        return due is not None and await accepted(self.start(due), due.job_id)

    @step
    async def find_leftovers(self, after: int | None = None) -> Leftovers:
        """Ended jobs, of instances with ids above `after`, that have left something on the server.

        That is what a failed job did not undo, a staging database without a job, a database in the trash that
        a job has left open, or a comment that does not say yet that a rename was recorded. With the first
        page, what loads of templates have left is removed as well.
        """
        if after is None:
            await self.remove_template_leftovers()
        found = await self._databases()
        marks = {one.mark for one in found if one.mark is not None}
        staged = {one.mark for one in found if one.mark is not None and _is_private(one)}
        failed = [job for job in await self.job_store.failed_jobs(marks) if _is_left(job, found)]
        failed += await self.job_store.jobs_to_undo()
        staging = await self.job_store.ended_jobs(staged)
        left = {job.instance_id: job for job in [*failed, *staging] if job.instance_id > (after or 0)}
        page = _fitting([left[number] for number in sorted(left)[:_MAX_RESULTS]])
        return Leftovers(page, more=len(left) > len(page))

    async def _databases(self) -> list[Database]:
        async with self.server.session() as session:
            return await listing.databases(session)

    @step
    async def report_drift(self) -> DriftReport:
        """Compare registry and server."""
        found = await self.detect()
        return DriftReport(found[:_MAX_RESULTS], len(found))

    @step
    async def claim_due_versions(self) -> VersionsDue:
        """Claim databases from before resets whose time is over, under the rules of `purge_due`."""
        if not await self.versions.is_purge_due():
            return VersionsDue([])
        if (suspicion := is_suspect(await self.detect())) is not None:
            return VersionsDue([], f"{suspicion.kind} {suspicion.subject}")
        if await self.begin_pass():
            return VersionsDue([], _IN_DOUBT)
        return VersionsDue(await self.versions.claim_due(_PURGES_A_PASS))

    @step
    async def purge_due(self) -> PurgeReport:
        """Request and start the purges that are due, up to `_PURGES_A_PASS`, the oldest first.

        None while the registry may be of yesterday or a copy: what it has in the trash may have been
        undeleted since. None while clocks differ, or the backup before each purge cannot be made. An instance
        whose own database is lost waits for the operator while another one of it is there: that may be all
        that is left.
        """
        if not await self.instances.is_purge_due():
            return PurgeReport(0)
        if (suspicion := is_suspect(await self.detect())) is not None:
            _logger.warning("Purges are due, but none is done: %s: %s", suspicion.kind, suspicion.explanation)
            return PurgeReport(0, f"{suspicion.kind} {suspicion.subject}")
        if self.backup_obstacle and (obstacle := await self.backup_obstacle()) is not None:
            _logger.warning("Purges are due, but none is done: %s", obstacle)
            return PurgeReport(0, f"the backup before them: {obstacle}")
        usable = [one for one in await self._databases() if not one.invalid]
        if await self.begin_pass():  # this may be long after `find_stuck`
            return PurgeReport(0, _IN_DOUBT)
        names = [one.name for one in usable]
        marks = {one.owner.mark for one in usable if one.owner and one.owner.role is not Role.STAGING}
        requested = await self.instances.request_due_purges(_PURGES_A_PASS, names, marks)
        for purge in requested:  # one that is not started waits for the next sweep
            await accepted(self.start(purge.job), purge.job.job_id)
        return PurgeReport(len(requested))


class Housekeeping:
    """Keeps what one tenant has small, and the history of its sizes."""

    def __init__(self, tenant: Tenant) -> None:
        self._tenant = tenant

    @step
    async def remove_snapshots(self) -> int:
        """Drop snapshots that are due and that no session uses; returns how many."""
        async with heartbeats():
            return await self._tenant.snapshots.remove_due()

    @step
    async def record_sizes(self) -> int:
        """Record today's sizes; returns of how many databases."""
        async with heartbeats():
            return await record_sizes(self._tenant)

    @step
    async def remove_old_answers(self) -> None:
        """Remove the answers that no repeated request gets any more, some at a time."""
        keys = IdempotencyKeys(self._tenant.engine)
        while await keys.prune():
            pass


def _fitting(jobs: Sequence[InstanceJob]) -> list[InstanceJob]:
    """The first jobs, as many as fit one result; at least one if there is any, so that a pass gets on."""
    converter = activity.payload_converter()
    sizes = accumulate(converter.to_payload(job).ByteSize() for job in jobs)
    return [*jobs[:1], *(job for job, size in list(zip(jobs, sizes, strict=True))[1:] if size <= _MAX_BYTES)]


def _is_private(database: Database) -> bool:
    """Whether only a job at work may leave it so: being made, exchanged, renamed, or open in the trash."""
    is_leaving = database.owner is not None and any(one.since is None for one in database.owner.left)
    return database.staging or database.reset or database.opened_by is not None or is_leaving


def _is_left(job: InstanceJob, found: Collection[Database]) -> bool:
    """Whether a failed job has left a database as `Rules.undo` does not want it: its name, or closed."""
    named = {one.name: one for one in found if one.mark == job.mark}
    match job.rules.undo:
        case Undo.REMOVE_STAGING:  # the instance follows a database that was published
            return job.database in named
        case Undo.RENAME_BACK:
            return job.database not in named
        case Undo.OPEN_AGAIN:
            its = named.get(job.database)
            return its is not None and not (its.open or its.invalid)
        case Undo.BACK_TO_TRASH:
            return job.final_database in named
        # Rows show replacements and snapshots that are left, and comments what is open in the trash.
        case Undo.REMOVE_SNAPSHOT | Undo.END_REPLACEMENT | Undo.END_BACKUP | Undo.CLOSE_TRASH:
            return False
        case unknown:
            assert_never(unknown)
