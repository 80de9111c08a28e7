"""Where each millisecond of a create goes: from the POST until a client that polls sees it done."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import asyncpg
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client as Temporal

from benchmarks.bare import bare_server, strategy_for
from benchmarks.bench import Bench
from benchmarks.load import Client
from benchmarks.measurement import Findings, Measurement
from benchmarks.subprocesses import run_in_process
from ods.embedded.data_folder import StackFile

_JOB = "SELECT createdat, finishedat FROM adminapi.jobstatuses WHERE jobid = $1"
_INSTANCE = "SELECT odsinstanceid FROM adminapi.dbinstances WHERE id = $1"

_ENDS = {
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED: "start of the workflow",
    EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED: "delivery of a workflow task",
    EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED: "workflow task",
    EventType.EVENT_TYPE_ACTIVITY_TASK_STARTED: "delivery of an activity",
    EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED: "activity",
}
"""The step that has ended when an event of the history is written."""

_COMMITTED, _WORKING, _SEEN = "POST until the row is written", "provision until Completed", "seen by a client"


@dataclass(frozen=True)
class Moment:
    """The end of a step, in seconds since 1970."""

    what: str
    at: float


def run(bench: Bench) -> Findings:
    """Create instances from the small template, without spares, and split their times by their histories."""
    rounds = bench.pick(30, quick=2)
    with bench.stacks.cloning(bench.small, bench.many_tables, ODS_SPARES="0") as stack:
        bare, creates = run_in_process(_measure, stack, bench, rounds)
    clone = Measurement("bare clone", bare)
    # A worker that was slow to answer has a step more in its history than others.
    steps = {what: [create.get(what, 0.0) for create in creates] for what in max(creates, key=len)}
    total = Measurement("POST to Completed", [sum(create.values()) for create in creates], bare=clone)
    parts = [Measurement(what, values, bare=clone) for what, values in steps.items()]
    return Findings([clone, total, *parts])


async def _measure(
    stack: StackFile, bench: Bench, rounds: int
) -> tuple[list[float], list[Mapping[str, float]]]:
    temporal = await Temporal.connect(stack["temporal"]["address"], namespace=stack["temporal"]["namespace"])
    registry = await asyncpg.connect(stack["postgres"]["admin_dsn"])
    bare, creates = [], []
    async with Client(stack) as client, bare_server(stack["postgres"]["master_dsn"]) as server:
        for number in range(rounds + 1):
            bare.append(await server.create_after_flush(bench.small, strategy_for(bench.small)))
            await server.flush()
            creates.append(await _create_in_parts(client, registry, temporal, f"Profile {number}"))
    await registry.close()
    return bare[1:], creates[1:]


async def _create_in_parts(
    client: Client, registry: asyncpg.Connection, temporal: Temporal, name: str
) -> Mapping[str, float]:
    """Milliseconds of each part of one create, in the order of the parts."""
    started = time.time()
    created = await client.create(name)
    seen = started + created.completed / 1000
    ods_instance = await registry.fetchval(_INSTANCE, created.instance)
    (row,) = await registry.fetch(_JOB, f"CreateInstanceJob-{ods_instance}-1")
    history = await temporal.get_workflow_handle(str(ods_instance)).fetch_history()
    moments = [
        Moment(_COMMITTED, _seconds(row["createdat"])),
        *_until(_seconds(row["finishedat"]), history.events),
        Moment(_WORKING, _seconds(row["finishedat"])),
        Moment(_SEEN, seen),
    ]
    return _durations(started, moments)


def _until(end: float, events: Sequence[HistoryEvent]) -> Iterator[Moment]:
    """The steps of the history before `end`: no client waits for what the workflow does afterwards."""
    for event in events:
        at = event.event_time.ToDatetime().replace(tzinfo=UTC).timestamp()
        if event.event_type in _ENDS and at < end:
            yield Moment(_ENDS[event.event_type], at)


def _durations(started: float, moments: list[Moment]) -> Mapping[str, float]:
    """Milliseconds between each moment and the one before it; parts of the same name are numbered."""
    durations: dict[str, float] = {}
    for before, moment in zip([Moment("", started), *moments], moments, strict=False):
        number = sum(what.partition(" (")[0] == moment.what for what in durations) + 1
        durations[f"{moment.what} ({number})"] = 1000 * (moment.at - before.at)
    return durations


def _seconds(moment: datetime) -> float:
    """Seconds since 1970 of a timestamp of the registry, which is in UTC without a zone."""
    return moment.replace(tzinfo=UTC).timestamp()
