"""The scheduled workflow that starts the workflows of waiting rows."""

from dataclasses import dataclass

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.sweep import SweepActivities, SweepPage
    from workflows import options
    from workflows.scheduled_requests import dispatch_refreshes

_PAGE_SIZE = 100
_PAGES_PER_RUN = 50
"""A run's history holds this many pages; the sweep goes on in a new run."""


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
