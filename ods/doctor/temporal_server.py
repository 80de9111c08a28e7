"""Temporal: whether it can be reached, what its namespace has, and whether passes run and workers poll."""

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from ods.doctor.checks import Check, run_all
from ods.doctor.findings import Finding, fault, ok, warning
from ods.settings.settings import AnySettings, InvalidSettingsError, Settings
from ods.temporal import client, liveness, namespace, schedules
from ods.temporal.calls import answer_within

_SECONDS = 4.0
"""Seconds after which Temporal counts as away."""
_START = "python -m worker, with the settings of the service"
_SUBJECT = "temporal"


async def examine_temporal(settings: AnySettings) -> Sequence[Finding]:
    """Everything that the service needs of Temporal, for all tenants."""
    try:
        temporal = await client.connect(settings, lazy=True)
        address = temporal.service_client.config.target_host
        await answer_within(temporal.service_client.check_health(), _SECONDS)
    except InvalidSettingsError as error:
        return [fault(_SUBJECT, str(error), "correct the variable")]
    except (RPCError, RuntimeError, ValueError, TimeoutError):
        words = f"{address} cannot be reached"
        remedy = (
            f"temporal operator cluster health --address {address}; start it, or correct TEMPORAL_ADDRESS"
        )
        return [fault(_SUBJECT, words, remedy)]
    found = [ok(_SUBJECT, f"{address} answers"), await _namespace(temporal)]
    if found[-1].remedy is not None:
        return found
    return found + await run_all(
        [
            Check(f"{_SUBJECT}: search attributes", lambda: _search_attributes(temporal)),
            Check(f"{_SUBJECT}: schedules", lambda: _schedules(temporal, settings)),
            Check(f"{_SUBJECT}: task queues", lambda: _task_queues(temporal, settings)),
        ]
    )


async def _namespace(temporal: Client) -> Finding:
    subject, name = f"{_SUBJECT}: namespace", temporal.namespace
    try:
        await temporal.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=name))
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            return warning(subject, f"{name} cannot be described ({error.status.name})")
        remedy = f"temporal operator namespace create --namespace {name}"
        return fault(subject, f"{name} does not exist", f"{remedy}; or correct TEMPORAL_NAMESPACE")
    return ok(subject, f"{name} is there")


async def _search_attributes(temporal: Client) -> Sequence[Finding]:
    subject = f"{_SUBJECT}: search attributes"
    try:
        missing = await namespace.missing_search_attributes(temporal)
    except RPCError as error:
        return [warning(subject, f"They cannot be listed ({error.status.name})")]
    if not missing:
        return [ok(subject, f"All {len(namespace.SEARCH_ATTRIBUTE_TYPES)} are there")]
    words = f"Missing: {', '.join(missing)}; no workflow can be started"
    return [fault(subject, words, " ".join(_creation(temporal.namespace, missing)))]


def _creation(name: str, missing: Mapping[str, IndexedValueType.ValueType]) -> Iterator[str]:
    """The command that adds search attributes."""
    yield f"temporal operator search-attribute create --namespace {name}"
    for attribute, kind in missing.items():
        word = IndexedValueType.Name(kind).removeprefix("INDEXED_VALUE_TYPE_").capitalize()
        yield f"--name {attribute} --type {word}"


async def _schedules(temporal: Client, settings: AnySettings) -> Sequence[Finding]:
    runs = await schedules.last_runs(temporal)
    at_times = [
        _schedule_at_times(temporal, identifier, runs.get(identifier), cron)
        for tenant, own in settings.tenants.items()
        for name, cron in schedules.crons(own).items()
        for identifier in [schedules.schedule_id(tenant, name)]
        if cron
    ]
    return at_times + [
        _schedule(temporal, identifier, runs.get(identifier), interval)
        for tenant, own in settings.tenants.items()
        for name, interval in liveness.pass_intervals(own).items()
        for identifier in [schedules.schedule_id(tenant, name)]
    ]


def _schedule_at_times(
    temporal: Client, identifier: str, run: schedules.LastRun | None, cron: str
) -> Finding:
    subject = f"{_SUBJECT}: schedule {identifier}"
    if run is None:
        return warning(subject, "It is not there yet: a worker makes it when it starts", _START)
    if run.is_paused:
        command = f"temporal schedule toggle --namespace {temporal.namespace} --schedule-id {identifier}"
        return fault(subject, "It is paused: nothing is requested", f"{command} --unpause --reason mended")
    last = "has not run yet" if run.at is None else f"last ran at {run.at:%Y-%m-%d %H:%M:%S} UTC"
    return ok(subject, f"It runs at {cron}, and {last}")


def _schedule(
    temporal: Client, identifier: str, run: schedules.LastRun | None, interval: timedelta
) -> Finding:
    subject = f"{_SUBJECT}: schedule {identifier}"
    command = f"temporal schedule {{}} --namespace {temporal.namespace} --schedule-id {identifier}"
    trigger = command.format("trigger")
    if run is None:
        return warning(subject, "It is not there yet: a worker makes it when it starts", _START)
    if run.is_paused:
        words = "It is paused: what it would start or mend is left as it is"
        return fault(subject, words, f"{command.format('toggle')} --unpause --reason mended")
    if run.at is None:
        return warning(subject, "It has not run yet", trigger)
    if (age := liveness.lateness(run.at, interval)) is not None:
        return fault(subject, f"It last ran {age.total_seconds():.0f} s ago, which is too long", trigger)
    return ok(subject, f"It last ran at {run.at:%Y-%m-%d %H:%M:%S} UTC")


async def _task_queues(temporal: Client, settings: AnySettings) -> Sequence[Finding]:
    found: list[Finding] = []
    builds: set[str] = set()
    for own in settings.tenants.values():
        found += [finding async for finding in _queues_of(temporal, own, builds)]
    if len(builds) > 1:
        words = f"Workers of {len(builds)} builds poll: {', '.join(sorted(builds))}"
        found.append(warning(f"{_SUBJECT}: workers", words, "restart those of the earlier version"))
    return found


async def _queues_of(temporal: Client, settings: Settings, builds: set[str]) -> AsyncIterator[Finding]:
    """Who polls each queue of a tenant; adds the builds of workers without a version to `builds`."""
    for queue, kinds in liveness.task_queues(settings).items():
        subject = f"{_SUBJECT}: task queue {queue}"
        polling = [await liveness.pollers(temporal, queue, kind) for kind in kinds]
        workers = {poller.identity: poller for pollers in polling for poller in pollers}
        builds |= {poller.build for poller in workers.values() if poller.version is None}
        if not all(polling):
            yield fault(subject, "No worker polls it: jobs wait", _START)
        elif not all(any(poller.gets_tasks for poller in pollers) for pollers in polling):
            yield _without_tasks(temporal, settings, subject, workers.values())
        else:
            yield ok(subject, f"Polled by {', '.join(sorted(workers))}")


def _without_tasks(
    temporal: Client, settings: Settings, subject: str, workers: Iterable[liveness.Poller]
) -> Finding:
    """Workers poll, but none of a version that Temporal gives tasks to."""
    polling = sorted({poller.version for poller in workers if poller.version})
    names = ", ".join(polling) or "none"
    version = f"--build-id {polling[-1]}" if polling else "--unversioned"
    return fault(
        subject,
        f"Temporal gives tasks to a version that no worker has: jobs wait; versions that poll: {names}",
        f"temporal worker deployment set-current-version --namespace {temporal.namespace}"
        f" --deployment-name {settings.task_queue} {version} --yes; or start workers of the right version",
    )
