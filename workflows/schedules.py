"""The Temporal Schedules: sweep, reconcile pass, refill of spares, refresh of education organizations."""

from collections.abc import Sequence
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
from temporalio.service import RPCError, RPCStatusCode

from instances.jobs import ExecutionPolicy, tenant_id
from settings import DEFAULT_TENANT, Settings
from workflows.pending_sweep import PendingSweep
from workflows.reconcile import Reconcile
from workflows.refill_spares import RefillSpares
from workflows.scheduled_refresh import ScheduledRefresh

PENDING_SWEEP = "pending-sweep"
RECONCILE = "reconcile"
SPARE_REFILL = "spare-refill"
EDUCATION_ORGANIZATIONS = "education-organizations"


@dataclass(frozen=True)
class _Pass:
    name: str
    workflow_type: str
    interval: timedelta
    arguments: Sequence[object] = ()
    at_start: bool = True


def schedule_id(tenant: str, name: str) -> str:
    """Id of the schedule of a tenant's pass: `pending-sweep`, or `tenant1:pending-sweep`."""
    return tenant_id(tenant, name)


async def ensure(client: Client, settings: Settings, tenant: str = DEFAULT_TENANT) -> None:
    """Create a tenant's schedules, or make them what its settings say now, and let what is cheap run once.

    Raises:
        temporalio.service.RPCError: Temporal cannot be reached, or refuses.
    """
    reconciling = timedelta(seconds=settings.reconcile_interval)
    passes = [
        _Pass(PENDING_SWEEP, PendingSweep.__name__, timedelta(seconds=settings.sweep_interval)),
        _Pass(RECONCILE, Reconcile.__name__, reconciling),
        # A worker that starts again and again shall not read all ODS databases each time.
        _Pass(
            EDUCATION_ORGANIZATIONS,
            ScheduledRefresh.__name__,
            timedelta(seconds=settings.refresh_interval),
            at_start=False,
        ),
    ]
    # The same pass removes spares that are no longer wanted.
    if settings.spares or await _exists(client, schedule_id(tenant, SPARE_REFILL)):
        policy = ExecutionPolicy.from_settings(settings)
        passes.append(_Pass(SPARE_REFILL, RefillSpares.__name__, reconciling, (policy,)))
    for one in passes:
        await _ensure(client, schedule_id(tenant, one.name), one, settings.registry_queue)
        if one.at_start:
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
        action=ScheduleActionStartWorkflow(
            wanted.workflow_type, args=wanted.arguments, id=identifier, task_queue=task_queue
        ),
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


async def _exists(client: Client, identifier: str) -> bool:
    try:
        await client.get_schedule_handle(identifier).describe()
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return False
        raise
    return True


def _updated(current: ScheduleUpdateInput, wanted: Schedule) -> ScheduleUpdate | None:
    wanted.state = current.description.schedule.state  # whoever paused it, meant it
    return ScheduleUpdate(schedule=wanted)
