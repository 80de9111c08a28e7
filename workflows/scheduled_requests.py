"""The scheduled workflows that request backups and snapshots of all instances."""

from datetime import datetime

from temporalio import workflow
from temporalio.common import SearchAttributeKey

with workflow.unsafe.imports_passed_through():
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
            **options.scheduled_requests(f"Request backups due at {due_at:%Y-%m-%d %H:%M} UTC"),
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
            **options.scheduled_requests(f"Request snapshots due at {due_at:%Y-%m-%d %H:%M} UTC"),
        )
        return f"{_in_words(report)}."


def _due_at() -> datetime:
    """The time of the schedule for which the workflow was started."""
    info = workflow.info()
    return info.typed_search_attributes.get(_SCHEDULED_AT) or info.start_time


def _in_words(report: ScheduledReport) -> str:
    return f"{report.requested} requested, {report.refused} refused"
