"""The Temporal Schedules: the sweep of waiting rows, and the reconcile pass."""

from dataclasses import dataclass
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

from instances.jobs import tenant_id
from settings import DEFAULT_TENANT, Settings
from workflows.pending_sweep import PendingSweep
from workflows.reconcile import Reconcile

PENDING_SWEEP = "pending-sweep"
RECONCILE = "reconcile"


@dataclass(frozen=True)
class _Pass:
    name: str
    workflow_type: str
    interval: timedelta


def schedule_id(tenant: str, name: str) -> str:
    """Id of the schedule of a tenant's pass: `pending-sweep`, or `tenant1:pending-sweep`."""
    return tenant_id(tenant, name)


async def ensure(client: Client, settings: Settings, tenant: str = DEFAULT_TENANT) -> None:
    """Create a tenant's schedules, or make them what its settings say now, and let each run once.

    Raises:
        temporalio.service.RPCError: Temporal cannot be reached, or refuses.
    """
    for one in (
        _Pass(PENDING_SWEEP, PendingSweep.__name__, timedelta(seconds=settings.sweep_interval)),
        _Pass(RECONCILE, Reconcile.__name__, timedelta(seconds=settings.reconcile_interval)),
    ):
        await _ensure(client, schedule_id(tenant, one.name), one, settings.registry_queue)
        await trigger(client, tenant, one.name)


async def trigger(client: Client, tenant: str, name: str) -> None:
    """Run the tenant's pass now, or right after the one that is running.

    Raises:
        temporalio.service.RPCError: Temporal cannot be reached, or there is no such schedule yet.
    """
    handle = client.get_schedule_handle(schedule_id(tenant, name))
    await handle.trigger(overlap=ScheduleOverlapPolicy.BUFFER_ONE)


async def _ensure(client: Client, identifier: str, wanted: _Pass, task_queue: str) -> None:
    schedule = Schedule(
        action=ScheduleActionStartWorkflow(wanted.workflow_type, id=identifier, task_queue=task_queue),
        spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=wanted.interval)]),
        policy=SchedulePolicy(
            overlap=ScheduleOverlapPolicy.SKIP,
            # After an outage one pass is enough; the default would catch up on a year of them.
            catchup_window=2 * wanted.interval,
        ),
    )
    try:
        await client.create_schedule(identifier, schedule)
    except ScheduleAlreadyRunningError:
        handle = client.get_schedule_handle(identifier)
        await handle.update(lambda current: _updated(current, schedule))


def _updated(current: ScheduleUpdateInput, wanted: Schedule) -> ScheduleUpdate | None:
    wanted.state = current.description.schedule.state  # whoever paused it, meant it
    return ScheduleUpdate(schedule=wanted)
