"""What metrics cost: creates and POSTs with and without them, in turn."""

import asyncio
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field

import httpx

from benchmarks import services
from benchmarks.bare import bare_server
from benchmarks.bench import Bench
from benchmarks.load import Client
from benchmarks.measurement import Findings, Measurement, at_most
from benchmarks.subprocesses import run_in_process
from ods.embedded.data_folder import StackFile
from ods.embedded.ports import free_ports

_OFF, _ON = "off", "on"
_LIMIT = 1.03
_WARM_UP = 5
_SCRAPE_SECONDS = 5
"""How often the processes with metrics are scraped meanwhile: three times as often as Prometheus does."""


@dataclass
class Rounds:
    """Milliseconds of each create, to the 202 and to `Completed`."""

    accepted: list[float] = field(default_factory=list)
    completed: list[float] = field(default_factory=list)


def run(bench: Bench) -> Findings:
    """Create instances by turns, with an API and a worker that have metrics, and with two that have none."""
    rounds = bench.pick(300, quick=2)
    with bench.stacks.fresh(ODS_SPARES="0") as (folder, stack), ExitStack() as running:
        registries = asyncio.run(services.make_registries(stack, [_OFF, _ON]))
        off, on, api_metrics, worker_metrics = free_ports(4)
        addresses = {}
        for name, port, metrics in ((_OFF, off, None), (_ON, on, api_metrics)):
            variables = services.settings(folder, stack, {name: registries[name]}, ODS_TASK_QUEUE=name)
            own = {} if metrics is None else {"ODS_METRICS_PORT": str(metrics)}
            running.enter_context(services.worker(folder, worker_metrics if metrics else None, variables))
            addresses[name] = running.enter_context(services.api(folder, port, variables | own))
        found = run_in_process(_measure, stack, addresses, [api_metrics, worker_metrics], rounds)
    measurements, limits = [], []
    for what in ("accepted", "completed"):
        said = {"accepted": "POST to 202", "completed": "POST to Completed"}[what]
        without = Measurement(f"{said}, without metrics", getattr(found[_OFF], what))
        having = Measurement(f"{said}, with metrics", getattr(found[_ON], what), bare=without)
        measurements += [without, having]
        limits.append(at_most(f"{having.name}, against without", having.ratio or 0, _LIMIT, "x"))
    return Findings(measurements, limits)


async def _measure(
    stack: StackFile, addresses: dict[str, str], metrics: list[int], rounds: int
) -> dict[str, Rounds]:
    found = {name: Rounds() for name in addresses}
    async with AsyncExitStack() as open_clients:
        for name, address in addresses.items():
            await services.register(stack, name, address)
        clients = {
            name: await open_clients.enter_async_context(Client.of_tenant(stack, name, address))
            for name, address in addresses.items()
        }
        server = await open_clients.enter_async_context(bare_server(stack["postgres"]["master_dsn"]))
        scraping = asyncio.create_task(_scrape_on(metrics))
        for number in range(-_WARM_UP, rounds):
            for name in sorted(clients, reverse=bool(number % 2)):
                await server.flush()
                created = await clients[name].create(f"{name} {number + _WARM_UP}")
                if number >= 0:
                    found[name].accepted.append(created.accepted)
                    found[name].completed.append(created.completed)
                await clients[name].delete(created.instance)
        scraping.cancel()
    return found


async def _scrape_on(ports: list[int]) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        while True:
            for port in ports:
                await client.get(f"http://127.0.0.1:{port}/metrics")
            await asyncio.sleep(_SCRAPE_SECONDS)
