"""The scheduled pass over rows that wait for their workflow."""

from dataclasses import dataclass, replace

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.sweep import SweepActivities, SweepPage
    from workflows import options
    from workflows.scheduled_refresh import dispatch_refreshes

_PAGE_SIZE = 100
_PAGES_PER_RUN = 50
"""A run's history holds this many pages; the sweep goes on in a new run."""


@dataclass(frozen=True)
class Swept:
    """How far a sweep is: rows dispatched, and the last of their ids."""

    dispatched: int = 0
    last_id: int = 0


@workflow.defn
class PendingSweep:
    """Start the workflow of every row in `Pending` and `Pending_Delete`, page by page, and refreshes."""

    @workflow.run
    async def run(self, swept: Swept = Swept()) -> int:
        """Sweep once, from `swept` on; returns how many rows were dispatched."""
        pages = 0
        while True:
            page = await workflow.execute_activity_method(
                SweepActivities.dispatch_page,
                SweepPage(after=swept.last_id, size=_PAGE_SIZE),
                **options.sweep_page(f"Rows after id {swept.last_id}"),
            )
            if page.last_id is None:
                await dispatch_refreshes()
                return swept.dispatched
            swept = replace(swept, dispatched=swept.dispatched + page.dispatched, last_id=page.last_id)
            workflow.set_current_details(f"{swept.dispatched} waiting rows dispatched so far.")
            pages += 1
            if pages == _PAGES_PER_RUN:
                workflow.continue_as_new(swept)
