"""The scheduled pass over rows that wait for their workflow."""

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.sweep import SweepActivities, SweepPage
    from workflows import options

_PAGE_SIZE = 100


@workflow.defn
class PendingSweep:
    """Start the workflow of every row in `Pending` and `Pending_Delete`, page by page."""

    @workflow.run
    async def run(self) -> int:
        """Sweep once; returns how many rows were dispatched."""
        dispatched, last_id = 0, 0
        while True:
            page = await workflow.execute_activity_method(
                SweepActivities.dispatch_page,
                SweepPage(after=last_id, size=_PAGE_SIZE),
                **options.sweep_page(f"Rows after id {last_id}"),
            )
            dispatched += page.dispatched
            workflow.set_current_details(f"{dispatched} waiting rows dispatched so far.")
            if page.last_id is None:
                return dispatched
            last_id = page.last_id
