"""The scheduled workflow that keeps the pool of spare databases full."""

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities.spares import SpareActivities
    from ods.databases.spare_pool import SpareOrder
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
            fault = await _fault_of_making(order, policy)
            if fault is None:
                made += 1
            else:
                faults[order.template] = fault
            workflow.set_current_details(_in_words(made, len(pruned.missing), faults))
        return f"{pruned.removed} removed, {made} of {len(pruned.missing)} missing spares made."


async def _fault_of_making(order: SpareOrder, policy: ExecutionPolicy) -> str | None:
    """Make one spare; returns why it could not be made."""
    try:
        await workflow.execute_activity_method(
            SpareActivities.replenish_spare, order, **options.refill(policy, f"Copy {order.template}")
        )
    except ActivityError as error:
        if isinstance(error.cause, ApplicationError):
            return error.cause.message
        return "No worker could finish it in time."
    return None


def _in_words(made: int, missing: int, faults: dict[str, str]) -> str:
    lines = [f"* **{template}**: {fault}" for template, fault in faults.items()]
    return "\n".join([f"{made} of {missing} missing spares made.", *lines])
