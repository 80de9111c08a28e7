"""The scheduled workflows that request backups, snapshots and refreshes, and that record sizes."""

from datetime import datetime, timedelta

from temporalio import workflow
from temporalio.common import SearchAttributeKey

with workflow.unsafe.imports_passed_through():
    from activities.education_organizations import RefreshActivities
    from activities.housekeeping import Housekeeping
    from activities.scheduled_requests import ScheduledReport, ScheduledRequests
    from workflows import options

_SCHEDULED_AT = SearchAttributeKey.for_datetime("TemporalScheduledStartTime")
"""What Temporal gives a workflow that a schedule starts: the time that it was to be started at."""


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
        return f"{_in_words(report)}, {report.unchanged} unchanged."


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
        return f"{_in_words(report)}."


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


def _in_words(report: ScheduledReport) -> str:
    return f"{report.requested} requested, {report.refused} refused"
