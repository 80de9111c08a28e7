"""The scheduled request to read all education organizations, and the start of any that waits."""

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.refreshes import RefreshActivities
    from workflows import options


@workflow.defn
class ScheduledRefresh:
    """Request a refresh, as a client would, unless one is under way; a workflow of its own carries it out."""

    @workflow.run
    async def run(self) -> None:
        """Request it."""
        await workflow.execute_activity_method(
            RefreshActivities.request_refresh, **options.sweep_page("Request a refresh")
        )


async def dispatch_refreshes() -> None:
    """In a pass: start refreshes that wait, or have lost their workflow."""
    if workflow.patched("refreshes"):  # passes of which the beginning is older know nothing of them
        await workflow.execute_activity_method(
            RefreshActivities.dispatch_refreshes, **options.sweep_page("Refreshes that nobody works on")
        )
