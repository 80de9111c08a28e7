"""The scheduled workflow that requests a refresh of all education organizations."""

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.education_organizations import RefreshActivities
    from workflows import options


@workflow.defn
class ScheduledRefresh:
    """Request a refresh, as a client would, unless one is running; another workflow carries it out."""

    @workflow.run
    async def run(self) -> None:
        """Request it."""
        await workflow.execute_activity_method(
            RefreshActivities.request_refresh, **options.sweep_page("Request a refresh")
        )


async def dispatch_refreshes() -> None:
    """As a step of another pass, start refreshes that wait, or whose workflow was lost."""
    await workflow.execute_activity_method(
        RefreshActivities.dispatch_refreshes, **options.sweep_page("Refreshes without a workflow")
    )
