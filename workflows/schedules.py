"""The Temporal Schedule that sweeps waiting rows."""

from datetime import timedelta

from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleUpdate,
    ScheduleUpdateInput,
)

from workflows.pending_sweep import PendingSweep

PENDING_SWEEP = "pending-sweep"


async def ensure_pending_sweep(client: Client, task_queue: str, interval: timedelta) -> None:
    """Create the schedule `pending-sweep`, or make it what the settings say now, and sweep once.

    Raises:
        temporalio.service.RPCError: Temporal cannot be reached, or refuses.
    """
    schedule = Schedule(
        action=ScheduleActionStartWorkflow(PendingSweep.run, id=PENDING_SWEEP, task_queue=task_queue),
        spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=interval)]),
        policy=SchedulePolicy(
            overlap=ScheduleOverlapPolicy.SKIP,
            # After an outage one sweep is enough; the default would catch up on a year of them.
            catchup_window=2 * interval,
        ),
    )
    try:
        await client.create_schedule(PENDING_SWEEP, schedule)
    except ScheduleAlreadyRunningError:
        await client.get_schedule_handle(PENDING_SWEEP).update(lambda current: _updated(current, schedule))
    await trigger_pending_sweep(client)


async def trigger_pending_sweep(client: Client) -> None:
    """Sweep now, or right after the sweep that is running.

    Raises:
        temporalio.service.RPCError: Temporal cannot be reached, or there is no such schedule yet.
    """
    await client.get_schedule_handle(PENDING_SWEEP).trigger(overlap=ScheduleOverlapPolicy.BUFFER_ONE)


def _updated(current: ScheduleUpdateInput, wanted: Schedule) -> ScheduleUpdate | None:
    wanted.state = current.description.schedule.state  # whoever paused it, meant it
    return ScheduleUpdate(schedule=wanted)
