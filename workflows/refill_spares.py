"""The scheduled workflow that keeps the pool of spare databases full."""

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities.spares import SpareActivities
    from ods.registry.instances.jobs import ExecutionPolicy
    from workflows import options


@workflow.defn
class RefillSpares:
    """Remove spares that are stale, unfinished or too many, then make missing ones, one at a time."""

    @workflow.run
    async def run(self, policy: ExecutionPolicy) -> str:
        """Refill once; returns what was done, in words."""
        pruned = await workflow.execute_activity_method(
            SpareActivities.prune_spares, **options.refill(policy, "Remove spares that are of no use")
        )
        made, faults = 0, dict[str, str]()
        for order in pruned.missing:
            if order.template in faults:
                continue  # the next pass will try again: this one must not hold up the other templates
            try:
                await workflow.execute_activity_method(
                    SpareActivities.replenish_spare, order, **options.refill(policy, f"Copy {order.template}")
                )
                made += 1
            except ActivityError as error:
                cause = error.cause
                unfinished = "No worker could finish it in time."
                faults[order.template] = cause.message if isinstance(cause, ApplicationError) else unfinished
            workflow.set_current_details(_in_words(made, len(pruned.missing), faults))
        return f"{pruned.removed} removed, {made} of {len(pruned.missing)} missing spares made."


def _in_words(made: int, missing: int, faults: dict[str, str]) -> str:
    lines = [f"* **{template}**: {fault}" for template, fault in faults.items()]
    return "\n".join([f"{made} of {missing} missing spares made.", *lines])
