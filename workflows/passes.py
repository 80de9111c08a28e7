"""The scheduled workflows, which pass over the rows or databases of a tenant.

They start jobs that wait, compare registry and server, keep spares ready, request what is due, record sizes.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.common import SearchAttributeKey
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception
from temporalio.workflow import ActivityConfig

with workflow.unsafe.imports_passed_through():
    from activities.backup_cleaning import BackupCleaning
    from activities.databases import DatabaseActivities
    from activities.education_organizations import RefreshActivities
    from activities.passes import Housekeeping, ReconcileActivities, SweepActivities, SweepPage
    from activities.scheduled_requests import ScheduledReport, ScheduledRequests
    from activities.spares import SpareActivities
    from ods.recovery.compare.findings import Drift
    from ods.registry.instances.jobs import ExecutionPolicy, InstanceJob
    from ods.registry.instances.versions import VersionPurge
    from workflows import options

_PAGE_SIZE = 100
_PAGES_PER_RUN = 50
"""The history of a run of a sweep holds this many pages; the sweep goes on in a new run."""
_SCHEDULED_AT = SearchAttributeKey.for_datetime("TemporalScheduledStartTime")
"""What Temporal gives a workflow that a schedule starts: the time that it was to be started at."""

_Argument = TypeVar("_Argument")


@dataclass(frozen=True)
class SweepProgress:
    """How far a sweep is: rows dispatched, the last id that was read, and starts that were refused."""

    dispatched: int = 0
    last_id: int = 0
    refused: int = 0

    def __str__(self) -> str:
        """The progress in words, for the Temporal Web UI."""
        dispatched = f"{self.dispatched} waiting rows dispatched so far."
        if not self.refused:
            return dispatched
        return f"{dispatched} Temporal refused {self.refused}, which the results of the activities name."


@workflow.defn
class PendingSweep:
    """Start the workflow of every row in `Pending` and `Pending_Delete`, page by page, and refreshes."""

    @workflow.run
    async def run(self, progress: SweepProgress = SweepProgress()) -> int:
        """Sweep once, from `progress` on; returns how many rows were dispatched."""
        pages = 0
        while True:
            page = await workflow.execute_activity_method(
                SweepActivities.dispatch_page,
                SweepPage(after=progress.last_id, size=_PAGE_SIZE),
                **options.sweep_page(f"Rows after id {progress.last_id}"),
            )
            if page.last_id is None:
                await dispatch_refreshes()
                return progress.dispatched
            progress = SweepProgress(
                dispatched=progress.dispatched + page.dispatched,
                last_id=page.last_id,
                refused=progress.refused + len(page.refused),
            )
            workflow.set_current_details(str(progress))
            pages += 1
            if pages == _PAGES_PER_RUN:
                workflow.continue_as_new(progress, initial_versioning_behavior=options.NEXT_RUN)


@dataclass(frozen=True)
class ReconcileProgress:
    """How far a pass is: jobs restarted, and the last id of the running rows that were compared."""

    restarted: int = 0
    last_id: int = 0


@workflow.defn
class Reconcile:
    """Restart jobs that no workflow works on, undo what failed jobs have left, report drift, and purge."""

    @workflow.run
    async def run(self, progress: ReconcileProgress = ReconcileProgress()) -> str:
        """Reconcile once, from `progress` on; returns what was done and found, in words."""
        restarted = await self._restart_stuck_jobs(progress)
        await dispatch_refreshes()
        await workflow.execute_activity_method(
            Housekeeping.remove_old_answers, **options.pass_step("Remove answers of yesterday")
        )
        removed = await self._remove_leftovers() + await _removed_snapshots()
        report = await workflow.execute_activity_method(
            ReconcileActivities.report_drift, **options.pass_step("Compare registry and server")
        )
        workflow.set_current_details(_drifts_in_words(report.drifts))
        done = f"{restarted} jobs restarted, {removed} leftovers removed, {report.count} contradictions"
        return f"{done}, {await _purged_due()}{await _cleaned_backups()}."

    async def _restart_stuck_jobs(self, done: ReconcileProgress) -> int:
        while True:
            page = await workflow.execute_activity_method(
                ReconcileActivities.find_stuck,
                SweepPage(after=done.last_id, size=_PAGE_SIZE),
                **options.sweep_page(f"Running rows after id {done.last_id}"),
            )
            restarted = done.restarted + sum([await _restarted(job) for job in page.jobs])
            if page.last_id is None:
                return restarted
            done = replace(done, restarted=restarted, last_id=page.last_id)
            if workflow.info().is_continue_as_new_suggested():
                workflow.continue_as_new(done, initial_versioning_behavior=options.NEXT_RUN)

    async def _remove_leftovers(self) -> int:
        removed, after, summary = 0, None, "Find what failed jobs have left"
        while True:
            leftovers = await workflow.execute_activity_method(
                ReconcileActivities.find_leftovers, after, **options.pass_step(summary)
            )
            removed += sum([await _removed(job) for job in leftovers.jobs])
            if not leftovers.more:
                return removed
            after, summary = leftovers.jobs[-1].instance_id, "Find more of it"


async def _purged_due() -> str:
    """Purge the instances and versions in the trash that are due; returns how many, in words."""
    purges = await workflow.execute_activity_method(
        ReconcileActivities.purge_due, **options.pass_step("Purge what is due in the trash")
    )
    due = await workflow.execute_activity_method(
        ReconcileActivities.claim_due_versions, **options.pass_step("Find versions that are due")
    )
    requested = purges.requested + sum([await _purged(purge) for purge in due.purges])
    withheld = purges.withheld or due.withheld
    return f"{requested} purges" if withheld is None else f"no purges because of {withheld}"


async def _cleaned_backups() -> str:
    """Remove what is left of backups; returns what was done, in words, if there is something to say."""
    try:
        report = await workflow.execute_activity_method(
            BackupCleaning.clean_backups, **options.cleaning("Remove what is left of backups")
        )
    except ActivityError:
        return ", backups not cleaned: server or registry is away"
    if report.obstacle is not None:
        return f", backups not cleaned: {report.obstacle.rstrip('.')}"
    counts = (
        (report.removed, "backups removed"),
        (report.recorded, "lost backups recorded"),
        (report.missing, "recorded backups gone"),
        (report.elsewhere, "not in this store"),
        (report.unknown, "backups of unknown instances"),
    )
    left = "" if report.left is None else f", not all of backups cleaned: {report.left.rstrip('.')}"
    return "".join(f", {number} {what}" for number, what in counts if number) + left


async def _restarted(job: InstanceJob) -> bool:
    try:
        return await workflow.execute_activity_method(
            ReconcileActivities.restart, job, **options.pass_step(f"Restart {job.job_id}")
        )
    except ActivityError as error:
        if is_cancelled_exception(error):
            raise
        return False  # another session has locked its row, or the registry is away: the next pass tries again


async def _purged(purge: VersionPurge) -> bool:
    summary = f"Drop {purge.database}, which {purge.name} had before a reset"
    return await _tried(DatabaseActivities.purge_version, purge, options.clean_up(purge.policy, summary))


async def _removed(job: InstanceJob) -> bool:
    summary = f"Undo what a failed job has made of {job.database}"
    return await _tried(DatabaseActivities.compensate, job, options.clean_up(job.policy, summary))


async def _tried(
    step: Callable[[Any, _Argument], Awaitable[object]], argument: _Argument, config: ActivityConfig
) -> bool:
    """Whether the step is done; if not, the next pass tries again, unless a client has retried the job."""
    try:
        await workflow.execute_activity_method(step, argument, **config)
    except ActivityError:
        return False
    return True


async def _removed_snapshots() -> int:
    try:
        return await workflow.execute_activity_method(
            Housekeeping.remove_snapshots, **options.snapshot_removal("Drop snapshots that are due")
        )
    except ActivityError:
        return 0  # what else there is to do comes first; the next pass tries again


def _drifts_in_words(drifts: list[Drift]) -> str:
    if not drifts:
        return "Registry and server agree."
    return "\n".join(f"* **{drift.kind}** {drift.subject}: {drift.explanation}" for drift in drifts)


@workflow.defn
class RefillSpares:
    """Remove spares that are stale, unfinished or too many, then make missing ones, one at a time."""

    @workflow.run
    async def run(self, policy: ExecutionPolicy) -> str:
        """Refill once; returns what was done, in words."""
        pruned = await workflow.execute_activity_method(
            SpareActivities.prune_spares, **options.refill(policy, "Remove spares that are of no use")
        )
        made, faults = 0, dict[str, str]()
        for order in pruned.missing:
            if order.template in faults:
                continue  # the next pass will try again: this one must not hold up the other templates
            try:
                await workflow.execute_activity_method(
                    SpareActivities.replenish_spare, order, **options.refill(policy, f"Copy {order.template}")
                )
                made += 1
            except ActivityError as error:
                cause = error.cause
                unfinished = "No worker could finish it in time."
                faults[order.template] = cause.message if isinstance(cause, ApplicationError) else unfinished
            workflow.set_current_details(_spares_in_words(made, len(pruned.missing), faults))
        return f"{pruned.removed} removed, {made} of {len(pruned.missing)} missing spares made."


def _spares_in_words(made: int, missing: int, faults: dict[str, str]) -> str:
    lines = [f"* **{template}**: {fault}" for template, fault in faults.items()]
    return "\n".join([f"{made} of {missing} missing spares made.", *lines])


@workflow.defn
class ScheduledBackups:
    """Request a backup of each instance that has changed since its last one."""

    @workflow.run
    async def run(self) -> str:
        """Request them; returns what was done, in words."""
        due_at = _due_at()
        report = await workflow.execute_activity_method(
            ScheduledRequests.request_scheduled_backups,
            due_at,
            **options.until_done(f"Request backups due at {due_at:%Y-%m-%d %H:%M} UTC", timedelta(days=1)),
        )
        return f"{_requests_in_words(report)}, {report.unchanged} unchanged."


@workflow.defn
class ScheduledSnapshots:
    """Request a snapshot of each instance."""

    @workflow.run
    async def run(self) -> str:
        """Request them; returns what was done, in words."""
        due_at = _due_at()
        report = await workflow.execute_activity_method(
            ScheduledRequests.request_scheduled_snapshots,
            due_at,
            **options.until_done(f"Request snapshots due at {due_at:%Y-%m-%d %H:%M} UTC", timedelta(days=1)),
        )
        return f"{_requests_in_words(report)}."


@workflow.defn
class ScheduledRefresh:
    """Request a refresh of all education organizations, unless one runs; another workflow carries it out."""

    @workflow.run
    async def run(self) -> None:
        """Request it."""
        await workflow.execute_activity_method(
            RefreshActivities.request_refresh, **options.sweep_page("Request a refresh")
        )


@workflow.defn
class RecordSizes:
    """Record today's sizes of the databases of instances."""

    @workflow.run
    async def run(self) -> str:
        """Record them, but not after today is over; returns what was done, in words."""
        recorded = await workflow.execute_activity_method(
            Housekeeping.record_sizes,
            **options.until_done("Record the sizes of the databases", timedelta(hours=12)),
        )
        return f"{recorded} sizes recorded."


async def dispatch_refreshes() -> None:
    """As a step of another pass, start refreshes that wait, or whose workflow was lost."""
    await workflow.execute_activity_method(
        RefreshActivities.dispatch_refreshes, **options.sweep_page("Refreshes without a workflow")
    )


def _due_at() -> datetime:
    """The time of the schedule for which the workflow was started."""
    info = workflow.info()
    return info.typed_search_attributes.get(_SCHEDULED_AT) or info.start_time


def _requests_in_words(report: ScheduledReport) -> str:
    return f"{report.requested} requested, {report.refused} refused"
