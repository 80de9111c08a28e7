"""A worker that starts again: how soon all jobs that wait for it have gone on, beside busy processes."""

import multiprocessing
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess

import asyncpg
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client

from benchmarks import registry_worker
from benchmarks.bench import Bench
from benchmarks.measurement import Findings, Measurement
from benchmarks.sections.sweep import INSERT_ROWS, connected, until_begun
from benchmarks.subprocesses import run_in_process
from ods.embedded.data_folder import DataFolder, StackFile

_TASKS = (8, 16, 100)
"""Workflow tasks that a worker has under way at most; 100 is the default of Temporal's SDK."""
_BUSY = 4
"""Processes that compute meanwhile."""


@dataclass(frozen=True)
class Restart:
    """How long it took until the last job had begun, and how many workflow tasks had timed out until then."""

    seconds: float
    timed_out: int


def run(bench: Bench) -> Findings:
    """Start jobs while no worker runs them, then the worker."""
    rows, rounds = bench.pick((300, 3), quick=(20, 1))
    settings = {"ODS_TRIGGER": "scheduled", "ODS_RECONCILE_INTERVAL": "86400", "ODS_SPARES": "0"}
    restarts: dict[int, list[Restart]] = {tasks: [] for tasks in _TASKS}
    with bench.stacks.fresh(**settings) as (folder, stack):
        for number in range(rounds):
            for tasks in _TASKS:
                restarts[tasks].append(_restart(folder, stack, rows, tasks, f"Round {number} {tasks}"))
    return _findings(rows, restarts)


def _restart(folder: DataFolder, stack: StackFile, rows: int, tasks: int, prefix: str) -> Restart:
    run_in_process(_insert, stack, rows, prefix)
    registry_worker.start_jobs(folder, stack)
    busy = [_computing() for _ in range(_BUSY)]
    try:
        with registry_worker.running(folder, stack, tasks):
            return run_in_process(_measure, stack, prefix)
    finally:
        for process in busy:
            process.kill()
            process.join()


def _computing() -> BaseProcess:
    process = multiprocessing.get_context("spawn").Process(target=_compute)
    process.start()
    return process


def _compute() -> None:
    while True:
        pass


async def _insert(stack: StackFile, rows: int, prefix: str) -> None:
    registry = await asyncpg.connect(stack["postgres"]["admin_dsn"])
    try:
        await registry.execute(INSERT_ROWS, rows, prefix)
    finally:
        await registry.close()


async def _measure(stack: StackFile, prefix: str) -> Restart:
    started = time.perf_counter()
    registry = await asyncpg.connect(stack["postgres"]["admin_dsn"])
    try:
        await until_begun(registry, await registry.fetchval("SELECT count(*) FROM adminapi.dbinstances"))
        seconds = time.perf_counter() - started
        its = "SELECT odsinstanceid FROM adminapi.dbinstances WHERE name LIKE $1"
        ids = [str(row["odsinstanceid"]) for row in await registry.fetch(its, f"{prefix} %")]
    finally:
        await registry.close()
    temporal = await connected(stack)
    return Restart(seconds, sum([await _timed_out(temporal, workflow_id) for workflow_id in ids]))


async def _timed_out(temporal: Client, workflow_id: str) -> int:
    """How many workflow tasks of the workflow had timed out."""
    events = temporal.get_workflow_handle(workflow_id).fetch_history_events()
    return [event.event_type async for event in events].count(EventType.EVENT_TYPE_WORKFLOW_TASK_TIMED_OUT)


def _findings(rows: int, restarts: Mapping[int, Sequence[Restart]]) -> Findings:
    unbounded = Measurement(_name(_TASKS[-1]), [one.seconds for one in restarts[_TASKS[-1]]], "s")
    bounded = [
        Measurement(_name(tasks), [one.seconds for one in restarts[tasks]], "s", unbounded)
        for tasks in _TASKS[:-1]
    ]
    notes = [
        f"{rows} jobs, {tasks} workflow tasks at once: {[one.timed_out for one in found]} timed out."
        for tasks, found in restarts.items()
    ]
    return Findings([unbounded, *bounded], notes=notes)


def _name(tasks: int) -> str:
    return f"until all have begun, {tasks} workflow tasks at once"
