"""Four times the load that an API process can serve: what probes and reads of one instance take meanwhile.

Creates and lists of many rows are sent at a steady rate, whether those before are answered or not, to a
process that sheds load and to one that does not, in turn.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable
from contextlib import ExitStack
from http import HTTPStatus
from time import perf_counter

import asyncpg
import httpx

from benchmarks import services
from benchmarks.bench import Bench
from benchmarks.load import Client, milliseconds_since, steadily
from benchmarks.measurement import Findings, Measurement, at_most, percentile
from benchmarks.registry_rows import insert_instances
from benchmarks.subprocesses import run_beside, run_in_process
from ods.embedded.data_folder import StackFile
from ods.embedded.ports import free_ports

_OFF, _ON = "off", "on"
_UNLIMITED = {"ODS_COSTLY_REQUESTS": "0", "ODS_COSTLY_REQUESTS_PER_TENANT": "0"}
_ROWS = 2000
_LISTED = 1000
_AT_ONCE = 8
"""Requests at once while is measured how many a second can be served."""
_TIMES = 4
_OBSERVED_PER_SECOND = 10
_BEGUN_SECONDS = 3
"""After which the process that makes the load has begun."""
_MOST_CONNECTIONS = 1000
_PROBE, _READ = "probe", "one instance"
_SHARE = 0.25

_Answers = list[tuple[int, float]]
"""Status and milliseconds of each request; status 0 if there was no answer."""


def run(bench: Bench) -> Findings:
    """Find the rate that can be served; then send four times as much, with and without shedding."""
    seconds = bench.pick(20, quick=2)
    with bench.stacks.fresh(ODS_SPARES="0") as (folder, stack), ExitStack() as running:
        registries = asyncio.run(services.make_registries(stack, [_OFF, _ON]))
        addresses, instances = {}, {}
        for (name, registry), port in zip(registries.items(), free_ports(2), strict=True):
            own = services.settings(folder, stack, {name: registry}, ODS_TASK_QUEUE=name)
            own |= _UNLIMITED if name == _OFF else {}
            addresses[name] = running.enter_context(services.api(folder, port, own))
            instances[name] = asyncio.run(_prepare(stack, name, addresses[name], registry))
        rate = run_in_process(_served_per_second, stack, _ON, addresses[_ON], bench.pick(5, quick=1))
        notes = [f"{rate:.0f} costly requests a second can be served."]
        found: dict[str, dict[str, _Answers]] = {}
        for name in (_OFF, _ON):
            load = (stack, name, addresses[name], seconds + 2 * _BEGUN_SECONDS, _TIMES * rate)
            with run_beside(_overload, *load) as loading:
                found[name] = run_in_process(_observe, stack, name, addresses[name], instances[name], seconds)
                found[name]["creates and lists"] = loading.result()
    notes += [
        f"Shedding {name}, {what}: {_said(answers)}"
        for name, asked in found.items()
        for what, answers in asked.items()
    ]
    measured = {
        (name, what): Measurement(
            f"{what}, at {_TIMES} times the load, shedding {name}", [took for _, took in found[name][what]]
        )
        for what in (_PROBE, _READ)
        for name in (_OFF, _ON)
    }
    shares = [
        at_most(
            f"{what}, p95, of that without", measured[_ON, what].p95 / measured[_OFF, what].p95, _SHARE, "x"
        )
        for what in (_PROBE, _READ)
    ]
    refused = sum(status != HTTPStatus.OK for what in (_PROBE, _READ) for status, _ in found[_ON][what])
    return Findings(
        list(measured.values()), [*shares, at_most("cheap requests that were refused", refused, 0, "")], notes
    )


def _said(answers: _Answers) -> str:
    """How requests were answered, and when."""
    statuses = Counter(status for status, _ in answers)
    served = [took for status, took in answers if HTTPStatus.OK <= status < HTTPStatus.BAD_REQUEST]
    slow = f"95 % of those served within {percentile(served, 0.95):.0f} ms" if served else "none was served"
    return f"{', '.join(f'{count} times {status}' for status, count in sorted(statuses.items()))}; {slow}."


async def _prepare(stack: StackFile, tenant: str, address: str, registry: str) -> int:
    """Register a client, and insert instances; returns the id of one."""
    await services.register(stack, tenant, address)
    connection = await asyncpg.connect(registry)
    await insert_instances(connection, _ROWS, one_live_of=1)
    instance: int = await connection.fetchval("SELECT max(id) FROM adminapi.dbinstances")
    await connection.close()
    return instance


async def _costly(client: Client, number: int) -> tuple[int, float]:
    """Create an instance, or list many, by turns."""
    if number % 2:
        body = {"name": f"Overload {number}", "databaseTemplate": "Minimal"}
        return await _timed(client.http.post("/v2/dbInstances", json=body))
    return await _timed(client.http.get("/v2/dbInstances", params={"limit": _LISTED}))


async def _served_per_second(stack: StackFile, tenant: str, address: str, seconds: int) -> float:
    async with Client.of_tenant(stack, tenant, address) as client:
        until, numbers = perf_counter() + seconds, iter(range(10**6, 10**7))

        async def work() -> int:
            served = 0
            while perf_counter() < until:
                status, _ = await _costly(client, next(numbers))
                served += HTTPStatus.OK <= status < HTTPStatus.BAD_REQUEST
            return served

        return sum(await asyncio.gather(*(work() for _ in range(_AT_ONCE)))) / seconds


async def _overload(stack: StackFile, tenant: str, address: str, seconds: int, per_second: float) -> _Answers:
    answers: _Answers = []
    async with Client.of_tenant(stack, tenant, address, _MOST_CONNECTIONS) as client:

        async def send(number: int) -> None:
            answers.append(await _costly(client, number))

        await steadily(send, int(seconds * per_second), per_second)
    return answers


async def _observe(
    stack: StackFile, tenant: str, address: str, instance: int, seconds: int
) -> dict[str, _Answers]:
    """Ask for what is cheap, from when the load has begun to when it ends."""
    async with Client.of_tenant(stack, tenant, address) as client:

        async def ask(path: str) -> _Answers:
            answers: _Answers = []

            async def send(_: int) -> None:
                answers.append(await _timed(client.http.get(path)))

            await steadily(send, seconds * _OBSERVED_PER_SECOND, _OBSERVED_PER_SECOND)
            return answers

        await asyncio.sleep(_BEGUN_SECONDS)
        paths = {_PROBE: "/readyz", _READ: f"/v2/dbInstances/{instance}"}
        return dict(zip(paths, await asyncio.gather(*map(ask, paths.values())), strict=True))


async def _timed(request: Awaitable[httpx.Response]) -> tuple[int, float]:
    started = perf_counter()
    try:
        status = (await request).status_code
    except httpx.HTTPError:
        status = 0
    return status, milliseconds_since(started)
