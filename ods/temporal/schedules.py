"""The Temporal Schedules: sweep, reconcile, refill of spares, refreshes, backups, snapshots and sizes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

from temporalio.api.common.v1 import Payload
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleDescription,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleUpdate,
    ScheduleUpdateInput,
)
from temporalio.converter import DataConverter
from temporalio.service import RPCError, RPCStatusCode

from ods.registry.instances.jobs import INSTALLATION, ExecutionPolicy, tenant_id
from ods.settings.settings import DEFAULT_TENANT, Settings
from ods.temporal.codec import UnreadablePayloadError
from workflows.passes import (
    PendingSweep,
    Reconcile,
    RecordSizes,
    RefillSpares,
    ScheduledBackups,
    ScheduledRefresh,
    ScheduledSnapshots,
)

PENDING_SWEEP = "pending-sweep"
RECONCILE = "reconcile"
SPARE_REFILL = "spare-refill"
EDUCATION_ORGANIZATIONS = "education-organizations"
BACKUPS = "scheduled-backups"
SNAPSHOTS = "scheduled-snapshots"
SIZES = "database-sizes"
_NAMES = (RECONCILE, PENDING_SWEEP, SPARE_REFILL, EDUCATION_ORGANIZATIONS, BACKUPS, SNAPSHOTS, SIZES)

_AT_TIMES: Mapping[str, type] = {BACKUPS: ScheduledBackups, SNAPSHOTS: ScheduledSnapshots}
_ONCE_A_DAY = "15 1 * * *"
"""Well after midnight UTC: what is recorded then is of the day that the registry's clock tells."""
_MAKE_UP_FOR = timedelta(days=1)
"""How late what is due at a time of the day is still begun, if Temporal was away then."""

_LONGEST_PASS = timedelta(days=7)
"""Long enough for one that waits for workers or makes large spares. The next one waits for its end, so that
one that hangs must end by itself."""


class ForeignScheduleError(Exception):
    """A schedule belongs to another installation, or product, that uses the same namespace."""


@dataclass(frozen=True)
class _Pass:
    name: str
    workflow_type: str
    spec: ScheduleSpec
    policy: SchedulePolicy
    arguments: Sequence[object] = ()
    at_start: bool = True

    @classmethod
    def every(
        cls,
        name: str,
        workflow_type: str,
        seconds: float,
        arguments: Sequence[object] = (),
        *,
        at_start: bool = True,
    ) -> Self:
        """A pass that comes by at intervals."""
        interval = timedelta(seconds=seconds)
        return cls(
            name,
            workflow_type,
            ScheduleSpec(intervals=[ScheduleIntervalSpec(every=interval)]),
            SchedulePolicy(
                overlap=ScheduleOverlapPolicy.SKIP,
                # After an outage one pass is enough; the default would catch up on a year of them.
                catchup_window=2 * interval,
            ),
            arguments,
            at_start,
        )

    @classmethod
    def at(cls, name: str, workflow_type: str, cron: str) -> Self:
        """A pass at certain times; the next one waits for the end of the one before."""
        policy = SchedulePolicy(overlap=ScheduleOverlapPolicy.BUFFER_ONE, catchup_window=_MAKE_UP_FOR)
        return cls(name, workflow_type, ScheduleSpec(cron_expressions=[cron]), policy, at_start=False)


def schedule_id(tenant: str, name: str) -> str:
    """Id of the schedule of a tenant's pass: `pending-sweep`, or `tenant1:pending-sweep`."""
    return tenant_id(tenant, name)


async def ensure(client: Client, settings: Settings, installation: str, tenant: str = DEFAULT_TENANT) -> None:
    """Create, update or remove a tenant's schedules by its settings.

    Each pass that comes by at intervals is triggered once, but the refresh.

    Raises:
        ForeignScheduleError: one of them was made by another installation; it was left as it is.
        temporalio.service.RPCError: Temporal cannot be reached, or refuses.
    """
    passes = [
        _Pass.every(PENDING_SWEEP, PendingSweep.__name__, settings.sweep_interval),
        # A worker that starts again and again shall not read all ODS databases each time.
        _Pass.every(
            EDUCATION_ORGANIZATIONS, ScheduledRefresh.__name__, settings.refresh_interval, at_start=False
        ),
        _Pass.at(SIZES, RecordSizes.__name__, _ONCE_A_DAY),
    ]
    # The same pass removes spares that are no longer wanted.
    if settings.spares or await _describe_or_none(client, schedule_id(tenant, SPARE_REFILL)):
        policy = ExecutionPolicy.from_settings(settings)
        interval = settings.reconcile_interval
        passes.append(_Pass.every(SPARE_REFILL, RefillSpares.__name__, interval, (policy,)))
    for name, cron in crons(settings).items():
        if cron:
            passes.append(_Pass.at(name, _AT_TIMES[name].__name__, cron))
        else:
            await _remove(client, schedule_id(tenant, name), installation)
    # Last: by it `are_missing` judges whether all are there.
    passes.append(_Pass.every(RECONCILE, Reconcile.__name__, settings.reconcile_interval))
    for one in passes:
        await _ensure(client, schedule_id(tenant, one.name), one, settings.registry_queue, installation)
        if one.at_start:
            await trigger(client, tenant, one.name)


def crons(settings: Settings) -> Mapping[str, str | None]:
    """When each pass comes by that has certain times, by its name; empty or None: never."""
    return {BACKUPS: settings.backup_cron, SNAPSHOTS: settings.snapshot_cron}


async def require_own(client: Client, installation: str, tenant: str) -> None:
    """Refuse to serve a tenant if another installation has made one of its schedules in the same namespace.

    Raises:
        ForeignScheduleError: another installation has, or another product.
        temporalio.service.RPCError: Temporal cannot be reached, or refuses.
    """
    for name in _NAMES:
        found = await _describe_or_none(client, schedule_id(tenant, name))
        if found is not None:
            await _require_own(found, installation)


async def are_missing(client: Client, tenant: str) -> bool:
    """Whether the namespace has lost a tenant's schedules, as when it was deleted and created again.

    Raises:
        temporalio.service.RPCError: Temporal cannot be reached, or refuses.
    """
    try:
        await client.get_schedule_handle(schedule_id(tenant, RECONCILE)).describe()
    except RPCError as error:
        match error.status:
            case RPCStatusCode.NOT_FOUND:
                return True
            case RPCStatusCode.PERMISSION_DENIED:  # what the service may not read, it cannot judge
                return False
            case _:
                raise
    return False


@dataclass(frozen=True)
class LastRun:
    """When a schedule last started its workflow.

    Attributes:
        at: the moment; None if it has not done so yet.
        is_paused: whether an operator has paused the schedule.
    """

    at: datetime | None
    is_paused: bool


async def last_runs(client: Client) -> dict[str, LastRun]:
    """The last run of every schedule of the namespace, by the schedule's id.

    Raises:
        temporalio.service.RPCError: Temporal cannot be reached, or refuses.
    """
    runs = {}
    async for listed in await client.list_schedules():
        actions = listed.info.recent_actions if listed.info else ()
        is_paused = listed.schedule.state.paused if listed.schedule else False
        runs[listed.id] = LastRun(actions[-1].started_at if actions else None, is_paused)
    return runs


async def trigger(client: Client, tenant: str, name: str) -> None:
    """Run the tenant's pass now, or right after its run that is in progress.

    Raises:
        temporalio.service.RPCError: Temporal cannot be reached, or there is no such schedule yet.
    """
    handle = client.get_schedule_handle(schedule_id(tenant, name))
    await handle.trigger(overlap=ScheduleOverlapPolicy.BUFFER_ONE)


async def _ensure(client: Client, identifier: str, wanted: _Pass, task_queue: str, installation: str) -> None:
    schedule = Schedule(
        action=ScheduleActionStartWorkflow(
            wanted.workflow_type,
            args=wanted.arguments,
            id=identifier,
            task_queue=task_queue,
            execution_timeout=_LONGEST_PASS,
            memo={INSTALLATION: _in_the_clear(installation)},
        ),
        spec=wanted.spec,
        policy=wanted.policy,
    )
    try:
        await client.create_schedule(identifier, schedule)
    except ScheduleAlreadyRunningError:
        handle = client.get_schedule_handle(identifier)
        await _require_own(await handle.describe(), installation)
        await handle.update(lambda current: _updated(current, schedule))


def _in_the_clear(installation: str) -> Payload:
    """The installation's id, which is no secret: one with another `ODS_PAYLOAD_KEY` must read whose it is."""
    return DataConverter.default.payload_converter.to_payloads([installation])[0]


async def _remove(client: Client, identifier: str, installation: str) -> None:
    """Remove a schedule that is wanted no longer, if there is one."""
    found = await _describe_or_none(client, identifier)
    if found is not None:
        await _require_own(found, installation)
        await client.get_schedule_handle(identifier).delete()


async def _require_own(found: ScheduleDescription, installation: str) -> None:
    """Refuse a schedule that another installation has made, or another product."""
    other = await _installation_of(found)
    if other is None:
        raise ForeignScheduleError(
            f"The schedule {found.id} of this Temporal namespace is another product's. It was left as it is,"
            " and nothing is started: set TEMPORAL_NAMESPACE to a namespace that this service has for itself."
        )
    if other != installation:
        raise ForeignScheduleError(
            f"The schedule {found.id} of this Temporal namespace belongs to the installation {other}, not to"
            f" {installation}. Nothing is started until each has its own: set TEMPORAL_NAMESPACE for one of"
            " them, or, if the other is gone with its workers, which would make it again, delete it"
            f" (temporal schedule delete --schedule-id {found.id})."
        )


async def _installation_of(found: ScheduleDescription) -> str | None:
    """The installation that has made the schedule, as `_ensure` says it; None if none has."""
    action = found.schedule.action
    memo = action.memo if isinstance(action, ScheduleActionStartWorkflow) else None
    written = memo.get(INSTALLATION) if memo else None
    if written is None:
        return None
    try:
        (installation,) = await found.data_converter.decode([written])
    except UnreadablePayloadError:  # `_ensure` writes it in the clear
        return None
    return str(installation)


async def _describe_or_none(client: Client, identifier: str) -> ScheduleDescription | None:
    """The schedule; None if there is none, or the service may not read it."""
    try:
        return await client.get_schedule_handle(identifier).describe()
    except RPCError as error:
        if error.status in {RPCStatusCode.NOT_FOUND, RPCStatusCode.PERMISSION_DENIED}:
            return None
        raise


def _updated(current: ScheduleUpdateInput, wanted: Schedule) -> ScheduleUpdate | None:
    wanted.state = current.description.schedule.state  # an operator may have paused it
    return ScheduleUpdate(schedule=wanted)
