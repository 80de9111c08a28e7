"""The sweep of many pending rows: how fast their workflows start, and in how much memory."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import asyncpg
from temporalio.client import Client

from benchmarks import registry_worker
from benchmarks.bench import Bench
from benchmarks.measurement import Chart, Findings, Measurement, at_least, at_most
from benchmarks.processes import resident_megabytes
from benchmarks.registry_worker import TASK_QUEUE
from benchmarks.subprocesses import run_in_process
from ods.embedded.data_folder import StackFile
from ods.embedded.polling import wait_until
from workflows.passes import PendingSweep

_RATE_LIMIT = 100
_MEMORY_LIMIT_MB = 60
_WARM_UP_ROWS = 10
_BARE_STARTS_AT_ONCE = 10
_SAMPLE_SECONDS = 0.25
_BEGIN_SECONDS = 120
"""How long to wait for the first steps of the workflows, and until Temporal lists all of them."""

_QUEUE = f"{TASK_QUEUE}-registry"
INSERT_ROWS = """
WITH instances AS (
    INSERT INTO adminapi.dbinstances
        (name, odsinstanceid, status, databasetemplate, databasename, operation, jobnumber, lastmodifieddate)
    SELECT format('%s %s', $2::text, row),
           nextval(pg_get_serial_sequence('dbo.odsinstances', 'odsinstanceid')),
           'Pending', 'Minimal', format('EdFi_Ods_%s_%s_Minimal', $2::text, row), 'Create', 1, now()
    FROM generate_series(1, $1::int) AS row
    RETURNING id, odsinstanceid
)
INSERT INTO adminapi.jobstatuses (jobid, status, createdat, dbinstanceid, operation, databasetemplate)
SELECT format('CreateInstanceJob-%s-1', odsinstanceid), 'Pending', now(), id, 'Create', 'Minimal'
FROM instances
"""
_BEGUN = "SELECT count(*) FROM adminapi.dbinstances WHERE status <> 'Pending'"


@dataclass
class Sweep:
    """One sweep: its seconds, and samples of seconds, rows begun and megabytes of the worker."""

    seconds: float = 0
    started: list[float] = field(default_factory=list)
    executions: Counter[str] = field(default_factory=Counter)
    megabytes_before: float = 0
    samples: list[tuple[float, int, float]] = field(default_factory=list)


def run(bench: Bench) -> Findings:
    """Dispatch rows that were inserted with SQL, while no worker creates databases."""
    rows, bare_starts = bench.pick((10_000, 2000), quick=(200, 50))
    settings = {"ODS_TRIGGER": "scheduled", "ODS_RECONCILE_INTERVAL": "86400", "ODS_SPARES": "0"}
    with bench.stacks.fresh(**settings) as (folder, stack):
        bare = run_in_process(_start_bare, stack, bare_starts)
        with registry_worker.running(folder, stack) as pid:
            sweep = run_in_process(_sweep, stack, pid, rows)
    return _findings(rows, sweep, bare)


async def _start_bare(stack: StackFile, starts: int) -> list[float]:
    """The moments at which a bare client had started each of so many workflows, which no worker runs."""
    temporal = await connected(stack)
    moments, numbers = [], iter(range(starts))

    async def start_next() -> None:
        for number in numbers:
            await temporal.start_workflow("Bare", id=f"bare-{number}", task_queue="bench-unserved")
            moments.append(time.time())

    await asyncio.gather(*(start_next() for _ in range(_BARE_STARTS_AT_ONCE)))
    return moments


async def _sweep(stack: StackFile, pid: int, rows: int) -> Sweep:
    temporal = await connected(stack)
    registry = await asyncpg.connect(stack["postgres"]["admin_dsn"])
    try:
        await registry.execute(INSERT_ROWS, _WARM_UP_ROWS, "Warming")
        await _dispatch(temporal, "bench-warm-up")
        await until_begun(registry, _WARM_UP_ROWS)
        await registry.execute(INSERT_ROWS, rows, "Swept")
        await registry.execute("VACUUM (ANALYZE) adminapi.dbinstances, adminapi.jobstatuses")
        sweep = Sweep(megabytes_before=resident_megabytes(pid))
        sampler = asyncio.create_task(_sample(pid, stack, sweep))
        sweep.seconds = await _dispatch(temporal, "bench-sweep")
        with suppress(TimeoutError):  # the first steps count for the memory, not for the dispatch
            await until_begun(registry, _WARM_UP_ROWS + rows)
        sampler.cancel()
        await _count(temporal, sweep, _WARM_UP_ROWS + rows)
        return sweep
    finally:
        await registry.close()


async def connected(stack: StackFile) -> Client:
    """A client of the Temporal server of the stack."""
    return await Client.connect(stack["temporal"]["address"], namespace=stack["temporal"]["namespace"])


async def _dispatch(temporal: Client, workflow_id: str) -> float:
    """Seconds of one sweep."""
    started = time.perf_counter()
    await temporal.execute_workflow(PendingSweep.run, id=workflow_id, task_queue=_QUEUE)
    return time.perf_counter() - started


async def until_begun(registry: asyncpg.Connection, rows: int) -> None:
    """Wait until so many jobs have begun.

    Raises:
        TimeoutError: they have not for minutes.
    """

    async def have_begun() -> bool:
        return bool(await registry.fetchval(_BEGUN) >= rows)

    await wait_until(have_begun, _BEGIN_SECONDS)


async def _sample(pid: int, stack: StackFile, sweep: Sweep) -> None:
    registry = await asyncpg.connect(stack["postgres"]["admin_dsn"])
    started = time.perf_counter()
    try:
        while True:
            begun = await registry.fetchval(_BEGUN) - _WARM_UP_ROWS
            sweep.samples.append((time.perf_counter() - started, begun, resident_megabytes(pid)))
            await asyncio.sleep(_SAMPLE_SECONDS)
    finally:
        await registry.close()


async def _count(temporal: Client, sweep: Sweep, rows: int) -> None:
    """Count the executions that Temporal lists, by id; wait for its visibility store first."""
    query = f"TaskQueue = '{_QUEUE}' AND WorkflowType = 'CreateInstance'"

    async def are_all_known() -> bool:
        return (await temporal.count_workflows(query)).count >= rows

    with suppress(TimeoutError):
        await wait_until(are_all_known, _BEGIN_SECONDS)
    async for execution in temporal.list_workflows(query, page_size=1000):
        sweep.executions[execution.id] += 1
        sweep.started.append(execution.start_time.timestamp())


def _findings(rows: int, sweep: Sweep, bare_moments: Sequence[float]) -> Findings:
    bare = Measurement(
        f"bare client, {_BARE_STARTS_AT_ONCE} starts at once", _each_second(bare_moments), "starts/s"
    )
    started = Measurement("sweep", _each_second(sorted(sweep.started)[_WARM_UP_ROWS:]), "starts/s", bare)
    added = [megabytes - sweep.megabytes_before for _, _, megabytes in sweep.samples]
    memory = Measurement("memory that the worker takes in addition", added, "MB")
    twice = sum(count > 1 for count in sweep.executions.values())
    limits = [
        at_least(f"workflows started a second, over {rows:,} rows", rows / sweep.seconds, _RATE_LIMIT),
        at_most("additional memory, highest", max(added), _MEMORY_LIMIT_MB, "MB"),
        at_least("rows started", len(sweep.executions) - _WARM_UP_ROWS, rows),
        at_most("rows started twice", twice, 0, ""),
    ]
    last, begun, _ = sweep.samples[-1]
    note = f"{rows:,} rows were dispatched in {sweep.seconds:.1f} s; {begun:,} had begun after {last:.1f} s."
    return Findings([bare, started, memory], limits, [note], _charts(sweep))


def _charts(sweep: Sweep) -> Sequence[Chart]:
    rows = [(second, begun) for second, begun, _ in sweep.samples]
    memory = [(second, megabytes) for second, _, megabytes in sweep.samples]
    return [
        Chart("Rows whose workflow has begun", "seconds", "rows", {"begun": rows}),
        Chart("Memory of the worker", "seconds", "MB", {"resident": memory}),
    ]


def _each_second(moments: Sequence[float]) -> list[float]:
    """How many moments each second holds; the last second, which is not complete, does not count."""
    counts = Counter(int(moment - moments[0]) for moment in moments)
    return [float(counts[second]) for second in range(max(counts))] or [float(len(moments))]
