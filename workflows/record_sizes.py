"""The scheduled workflow that records once a day how large the databases of instances are."""

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.sizes import SizeActivities
    from workflows import options


@workflow.defn
class RecordSizes:
    """Record the sizes of today."""

    @workflow.run
    async def run(self) -> str:
        """Record them; returns what was done, in words."""
        recorded = await workflow.execute_activity_method(
            SizeActivities.record_sizes, **options.daily_record("Record the sizes of the databases")
        )
        return f"{recorded} sizes recorded."
