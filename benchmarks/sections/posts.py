"""POSTs at a steady rate while clones run."""

import asyncio
from collections.abc import Awaitable, Callable

import httpx

from benchmarks.bare import bare_server
from benchmarks.bare_api import bare_api
from benchmarks.bench import Bench
from benchmarks.load import Client, steadily
from benchmarks.measurement import Findings, Measurement, at_most
from benchmarks.subprocesses import run_in_process
from ods.embedded.data_folder import StackFile
from ods.settings.settings import Settings

_PER_SECOND = 50
_WARM_UP = 1
"""Seconds that do not count: connections are being opened."""
_LIMIT_MS = 100

_BARE_CLONES = Settings.model_fields["ddl_concurrency"].default
"""Bare clones at once: as many as the service makes by default."""
_TEMPLATE = Settings.model_fields["minimal_template"].default


def run(bench: Bench) -> Findings:
    """Send the bare API requests beside bare clones, then the service: it clones what it is asked for."""
    seconds = bench.pick(10, quick=1)
    with bench.stacks.fresh(ODS_SPARES="0") as (_, stack):
        # The bare API first: the service's clones go on for a while after the last POST.
        with bare_api(stack["postgres"]["admin_dsn"]) as url:
            bare_took = run_in_process(_post_bare, stack, url, seconds)
        took = run_in_process(_post, stack, seconds)
    bare = Measurement("bare POST to 202, beside bare clones", bare_took)
    posts = Measurement(f"POST to 202, {_PER_SECOND} a second, beside clones", took, bare=bare)
    return Findings([bare, posts], [at_most(posts.name + ", p99", posts.p99, _LIMIT_MS)])


async def _post(stack: StackFile, seconds: int) -> list[float]:
    await _flush(stack)
    async with Client(stack) as client:
        return await _times(lambda number: client.request(f"Posted {number}"), seconds)


async def _post_bare(stack: StackFile, url: str, seconds: int) -> list[float]:
    body = {"name": "Posted", "databaseTemplate": "Minimal"}
    over = asyncio.Event()
    await _flush(stack)
    async with httpx.AsyncClient(trust_env=False) as client, asyncio.TaskGroup() as beside:
        for _ in range(_BARE_CLONES):
            beside.create_task(_clone_on(stack, over))
        took = await _times(lambda _: client.post(url, json=body), seconds)
        over.set()
    return took


async def _flush(stack: StackFile) -> None:
    """Have what the start of the stack or bare clones have left written before anything is timed."""
    async with bare_server(stack["postgres"]["master_dsn"]) as server:
        await server.flush()


async def _times(send: Callable[[int], Awaitable[object]], seconds: int) -> list[float]:
    """Milliseconds of each request, without those of the warm-up."""
    took = await steadily(send, (_WARM_UP + seconds) * _PER_SECOND, _PER_SECOND)
    return took[_WARM_UP * _PER_SECOND :]


async def _clone_on(stack: StackFile, over: asyncio.Event) -> None:
    async with bare_server(stack["postgres"]["master_dsn"]) as server:
        while not over.is_set():
            await server.create(_TEMPLATE)
