"""The scheduled workflow that records once a day how large the databases of instances are."""

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.housekeeping import Housekeeping
    from workflows import options


@workflow.defn
class RecordSizes:
    """Record the sizes of today."""

    @workflow.run
    async def run(self) -> str:
        """Record them; returns what was done, in words."""
        recorded = await workflow.execute_activity_method(
            Housekeeping.record_sizes, **options.daily_record("Record the sizes of the databases")
        )
        return f"{recorded} sizes recorded."
