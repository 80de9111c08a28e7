"""Many open pages of the console: what they add to requests and to what the registry does."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import asyncpg

from benchmarks.bare import bare_server
from benchmarks.bench import Bench
from benchmarks.console_pages import Browsers
from benchmarks.load import Client, steadily
from benchmarks.measurement import Findings, Measurement, at_most
from benchmarks.subprocesses import run_in_process
from ods.embedded.data_folder import StackFile
from ods.embedded.polling import wait_until

_PATHS = ("/console/instances", "/console/jobs")
"""What the pages show, in turn: what changes most while jobs are under way."""
_POSTS_PER_SECOND = 10
"""About as many as creates end, so that the jobs under way do not run out."""
_MOST = 1.2
_TIMEOUT_SECONDS = 300
_POLL_SECONDS = 0.25
_UNCOUNTED_SECONDS = 12
"""Until PostgreSQL has counted what the opening of the pages takes: it does so within ten seconds."""

_IS_IDLE = "SELECT NOT EXISTS (SELECT FROM adminapi.jobstatuses WHERE finishedat IS NULL)"
_TRANSACTIONS = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
_CHANGE = """
UPDATE adminapi.dbinstances SET lastmodifieddate = now() AT TIME ZONE 'utc'
WHERE id = (SELECT min(id) FROM adminapi.dbinstances)
"""


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        pages: how many are open.
        rounds: with pages, and as many without.
        jobs: under way when the POSTs that are timed begin.
        posts: that are timed in each round.
        seconds: in which transactions are counted.
    """

    pages: int
    rounds: int
    jobs: int
    posts: int
    seconds: int


@dataclass
class Found:
    """Milliseconds of POSTs, and transactions of the registry in each second, by the number of open pages."""

    posts: Mapping[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    transactions: Mapping[int, list[float]] = field(default_factory=lambda: defaultdict(list))


def run(bench: Bench) -> Findings:
    """Send POSTs with and without open pages, in turn; then count transactions with one page and with all."""
    plan = bench.pick(Plan(100, 4, 50, 200, 15), quick=Plan(4, 1, 4, 4, 2))
    with bench.stacks.fresh(ODS_RECONCILE_INTERVAL="86400", ODS_SPARES="0", ODS_CONSOLE_SESSIONS="1000") as (
        _,
        stack,
    ):
        found = run_in_process(_measure, stack, plan)
    return _findings(found, plan)


async def _measure(stack: StackFile, plan: Plan) -> Found:
    found = Found()
    registry = await asyncpg.connect(stack["postgres"]["admin_dsn"])
    try:
        async with (
            Browsers.signed_in(stack, plan.pages) as browsers,
            bare_server(stack["postgres"]["master_dsn"]) as server,
        ):
            for number in range(plan.rounds):
                for pages in (0, plan.pages):
                    await server.flush()
                    async with browsers.open(_paths(pages)):
                        found.posts[pages] += await _posts(stack, plan, f"{number} {pages}")
                    await _until_idle(registry)
            for _ in range(plan.rounds):
                for pages in (1, plan.pages):
                    async with browsers.open(_paths(pages)):
                        found.transactions[pages] += await _transactions(registry, plan.seconds)
    finally:
        await registry.close()
    return found


def _paths(pages: int) -> list[str]:
    return [_PATHS[number % len(_PATHS)] for number in range(pages)]


async def _posts(stack: StackFile, plan: Plan, name: str) -> list[float]:
    """Milliseconds of each POST, sent by another process than the one that reads the pages."""
    return await asyncio.to_thread(run_in_process, _post, stack, plan, name)


async def _post(stack: StackFile, plan: Plan, name: str) -> list[float]:
    async with Client(stack) as client:
        await asyncio.gather(*(client.request(f"Under way {name} {number}") for number in range(plan.jobs)))
        return await steadily(
            lambda number: client.request(f"Timed {name} {number}"), plan.posts, _POSTS_PER_SECOND
        )


async def _until_idle(registry: asyncpg.Connection) -> None:
    async def is_idle() -> bool:
        return bool(await registry.fetchval(_IS_IDLE))

    await wait_until(is_idle, _TIMEOUT_SECONDS, _POLL_SECONDS)


async def _transactions(registry: asyncpg.Connection, seconds: int) -> list[float]:
    """Transactions in each of so many seconds; an instance changes in each."""
    counts = []
    for _ in range(_UNCOUNTED_SECONDS + seconds):
        before = await registry.fetchval(_TRANSACTIONS)
        await registry.execute(_CHANGE)
        await asyncio.sleep(1)
        counts.append(await registry.fetchval(_TRANSACTIONS) - before)
    return counts[_UNCOUNTED_SECONDS:]


def _findings(found: Found, plan: Plan) -> Findings:
    alone = Measurement(f"POST to 202, {plan.jobs} jobs under way, no open page", found.posts[0])
    beside = Measurement(f"the same, {plan.pages} open pages", found.posts[plan.pages], bare=alone)
    one = Measurement("the registry, 1 open page", found.transactions[1], "transactions/s")
    all_of_them = Measurement(
        f"the registry, {plan.pages} open pages", found.transactions[plan.pages], "transactions/s", bare=one
    )
    return Findings(
        [alone, beside, one, all_of_them],
        [
            at_most(f"POST to 202, p95: {plan.pages} open pages / none", beside.p95 / alone.p95, _MOST, "x"),
            at_most(f"transactions: {plan.pages} open pages / one", all_of_them.ratio or 0, _MOST, "x"),
        ],
    )
