"""The health checks of the service: one function for each kind of part, listed in `checks`."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from functools import partial

import asyncpg
from sqlalchemy.exc import DBAPIError
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.client import Client

from api.http.temporal_calls import answer_of
from api.middleware.tenancy import Tenancy
from api.schemas.base import ResponseModel
from api.tenant_services import Services
from ods.databases.constants import INSUFFICIENT_PRIVILEGE
from ods.databases.errors import DatabaseFaultError
from ods.databases.rights.service_role import rights_fault
from ods.observability.logs import fault_name
from ods.registry.rights.missing import MissingRightsError, explanation
from ods.registry.storage.connecting import READ_ONLY
from ods.temporal import liveness, schedules

Faults = Mapping[str, str]
"""What is wrong with parts that answer, by their names; of parts that are well, a `Note` or nothing."""


class Note(str):
    """What is to be known of a part that is well."""

    __slots__ = ()


_logger = logging.getLogger(__name__)


class HealthStatus(StrEnum):
    """How well the service, or a part of it, is."""

    HEALTHY = "Healthy"
    DEGRADED = "Degraded"
    UNHEALTHY = "Unhealthy"


class Result(ResponseModel):
    """How one part is; `detail` says what is wrong with a part that answers, or is to be known of it."""

    name: str
    status: HealthStatus
    detail: str | None = None


@dataclass(frozen=True)
class Check:
    """A question whose answer shows how one part is, or several are.

    Args:
        names: what the parts are called.
        find: asks; what it raises means that none of them can be asked.
        otherwise: the status of a part that is not well.
        lesser: parts without which the service is degraded, whatever it is without the others.
    """

    names: Sequence[str]
    find: Callable[[], Awaitable[Faults]]
    otherwise: HealthStatus = HealthStatus.DEGRADED
    lesser: Collection[str] = ()

    async def results(self) -> list[Result]:
        """How each part is."""
        try:
            faults = await self.find()
        except Exception as error:  # noqa: BLE001 - whatever is wrong with the parts, they are not well
            _logger.warning("%s: not healthy: %s", ", ".join(self.names), fault_name(error))
            return self.unanswered()
        return [
            Result(name=name, status=self._status(name, faults.get(name)), detail=faults.get(name))
            for name in self.names
        ]

    def unanswered(self) -> list[Result]:
        """How the parts are if they cannot be asked."""
        return [Result(name=name, status=self._status(name, "")) for name in self.names]

    def _status(self, name: str, fault: str | None) -> HealthStatus:
        """The status of a part: what is wrong with it may be empty, but not None."""
        if fault is None or isinstance(fault, Note):
            return HealthStatus.HEALTHY
        return HealthStatus.DEGRADED if name in self.lesser else self.otherwise


def checks(tenants: Tenancy) -> Iterator[Check]:
    """Every check, in the order of the answer; none if there is no tenant."""
    first = next(iter(tenants), None)
    if first is None:
        return
    temporal = first.temporal
    yield from map(partial(_registry, tenants), tenants)
    yield from _servers(tenants)
    yield from map(partial(_installation, tenants), tenants)
    for services in tenants:
        yield from _backups(tenants, services)
    yield _reachable(temporal)
    for services in tenants:
        yield from _queues(temporal, services)
    yield _passes(temporal, tenants)


def _registry(tenants: Tenancy, services: Services) -> Check:
    """Without its registry, no request of a tenant can be accepted; without some rights in it, not all."""
    name, rights = (_named(part, services, tenants) for part in ("database", "rights"))

    async def find() -> Faults:
        if faults := await _refusals([name, rights], services.tenant.queries.require_tables):
            return faults
        # Not at once with the other question: it would open a second connection to each registry.
        missing = await services.tenant.rights.missing_in_registry()
        return {rights: explanation("the registry", missing)} if missing else {}

    return Check([name, rights], find, HealthStatus.UNHEALTHY, lesser=[rights])


def _servers(tenants: Tenancy) -> Iterator[Check]:
    """The servers of the ODS databases; one that several tenants share is asked once."""
    sharing: dict[str, list[Services]] = {}
    for services in tenants:
        sharing.setdefault(services.tenant.settings.master_dsn.get_secret_value(), []).append(services)
    for group in sharing.values():
        names = [_named("odsServer", services, tenants) for services in group]
        yield Check(names, partial(_refusals, names, partial(_require_server, group)))


async def _require_server(group: Sequence[Services]) -> None:
    """Check that the server of these tenants can be worked on.

    Raises:
        DatabaseFaultError: it is away, refuses, is a standby, or the service's role lacks rights there.
    """
    distinct = {services.tenant.rights.on_server: services.tenant.rights for services in group}
    async with group[0].tenant.server.session() as session:
        missing = [grant for rights in distinct.values() for grant in await rights.missing_on_server(session)]
    if missing:
        raise rights_fault(list(dict.fromkeys(missing)))


def _installation(tenants: Tenancy, services: Services) -> Check:
    """Whether anything may be changed, or the operator must confirm first which installation this is.

    It is well while drops are held back after a restore, and says until when.
    """
    name = _named("installation", services, tenants)

    async def find() -> Faults:
        obstacle = await services.tenant.installation.known_obstacle(services.tenant.server)
        if obstacle is not None:
            return {name: obstacle}
        hold = (await services.tenant.instances.installation.state()).hold
        return {} if hold is None else {name: Note(hold)}

    return Check([name], find)


def _backups(tenants: Tenancy, services: Services) -> Iterator[Check]:
    """Says that backups are stored unencrypted; the service is healthy all the same."""
    if services.tenant.settings.stores_unencrypted:
        name = _named("backups", services, tenants)

        async def find() -> Faults:
            return {name: Note("They are stored unencrypted: ODS_BACKUP_RECIPIENTS is not set.")}

        yield Check([name], find)


async def _refusals(names: Sequence[str], ask: Callable[[], Awaitable[None]]) -> Faults:
    """Ask what gives out sessions that can write, or refuses; what the refusal means."""
    try:
        await ask()
    except MissingRightsError as error:
        return dict.fromkeys(names, str(error))
    except (DBAPIError, DatabaseFaultError, asyncpg.PostgresError) as error:
        if isinstance(error, DatabaseFaultError) and error.sqlstate == INSUFFICIENT_PRIVILEGE:
            return dict.fromkeys(names, error.reason)
        cause = error.orig if isinstance(error, DBAPIError) else error
        if getattr(cause, "sqlstate", None) != READ_ONLY:
            raise
        return dict.fromkeys(names, "It is read-only, or a standby.")
    return {}


def _reachable(temporal: Client) -> Check:
    async def find() -> Faults:
        await answer_of(temporal.service_client.check_health())
        return {}

    return Check(["temporal"], find)


def _queues(temporal: Client, services: Services) -> Iterator[Check]:
    """Whether a worker polls the task queues of a tenant."""
    for queue, kinds in liveness.task_queues(services.tenant.settings).items():
        name = f"taskQueue:{queue}"
        yield Check([name], partial(_unpolled, name, temporal, queue, kinds))


async def _unpolled(
    name: str, temporal: Client, queue: str, kinds: Sequence[TaskQueueType.ValueType]
) -> Faults:
    asked = (liveness.pollers(temporal, queue, kind) for kind in kinds)
    polled = await answer_of(asyncio.gather(*asked))
    if not all(polled):
        return {name: "No worker polls it."}
    if not all(any(poller.gets_tasks for poller in pollers) for pollers in polled):
        return {name: "No worker polls it of the version that Temporal gives tasks to: see ods doctor."}
    return {}


def _passes(temporal: Client, tenants: Tenancy) -> Check:
    """Whether the passes that finish what was left have run lately, of all tenants by one question."""
    intervals = {
        schedules.schedule_id(services.tenant.name, name): interval
        for services in tenants
        for name, interval in liveness.pass_intervals(services.tenant.settings).items()
    }

    async def find() -> Faults:
        runs = await answer_of(schedules.last_runs(temporal))
        late = {name: _late(runs.get(name), interval) for name, interval in intervals.items()}
        return {f"pass:{name}": fault for name, fault in late.items() if fault}

    return Check([f"pass:{name}" for name in intervals], find)


def _late(run: schedules.LastRun | None, interval: timedelta) -> str | None:
    """What is wrong with a pass that is to run every `interval`."""
    if run is None:
        return "It has no schedule yet: a worker makes it when it starts."
    if run.at is None:
        return "It has not run yet."
    if (age := liveness.lateness(run.at, interval)) is None:
        return None
    last = f"It last ran {age.total_seconds():.0f} s ago"
    return f"{last}: its schedule is paused." if run.is_paused else f"{last}: see the schedule in Temporal."


def _named(part: str, services: Services, tenants: Tenancy) -> str:
    return f"{part}:{services.tenant.name}" if tenants.multi_tenant else part
