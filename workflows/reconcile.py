"""The scheduled workflow that compares rows, workflows and databases, repairs or reports, and purges."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.exceptions import ActivityError, is_cancelled_exception
from temporalio.workflow import ActivityConfig

with workflow.unsafe.imports_passed_through():
    from activities.backup_cleaning import BackupCleaning
    from activities.databases import DatabaseActivities
    from activities.housekeeping import Housekeeping
    from activities.reconcile import ReconcileActivities
    from activities.sweep import SweepPage
    from activities.versions import VersionActivities
    from ods.registry.instances.jobs import InstanceJob
    from ods.registry.instances.versions import VersionPurge
    from ods.tenants.drift.findings import Drift
    from workflows import options
    from workflows.scheduled_requests import dispatch_refreshes

_PAGE_SIZE = 100

_Argument = TypeVar("_Argument")


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
        workflow.set_current_details(_in_words(report.drifts))
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
    return await _tried(VersionActivities.purge_version, purge, options.clean_up(purge.policy, summary))


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


def _in_words(drifts: list[Drift]) -> str:
    if not drifts:
        return "Registry and server agree."
    return "\n".join(f"* **{drift.kind}** {drift.subject}: {drift.explanation}" for drift in drifts)
