"""The console in a browser, with 10,000 instances: until a page can be used, and until it shows a change."""

import asyncio
import random
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field

import asyncpg
from playwright.async_api import Page, async_playwright

from benchmarks.bench import Bench
from benchmarks.load import Client, milliseconds_since
from benchmarks.measurement import Findings, Measurement, at_most
from benchmarks.registry_rows import insert_instances
from benchmarks.subprocesses import run_in_process
from ods.embedded.console_link import console_link_of
from ods.embedded.data_folder import StackFile
from tests.console.browser import ARGUMENTS, chromium

_LIST_MS, _FILTER_MS, _INSTANCE_MS, _CHANGE_MS = 500, 300, 300, 1000
_WARM_UP = 2
"""Rounds that do not count: the browser stores the console's files, and statements are prepared."""
_WITH_DATABASE = 20
"""So many instances, those of the first page, have a database."""
_POLL_SECONDS = 0.1
_APART_SECONDS = (1.1, 2.1)
"""Between two changes: more than a page waits until it fetches an element again, at any time of the feed."""

_LABEL = "UPDATE adminapi.dbinstances SET labels = jsonb_build_object('year', (2020 + id % 10)::text)"
_RENAME = """
UPDATE adminapi.dbinstances SET name = $2, lastmodifieddate = now() AT TIME ZONE 'utc' WHERE id = $1
"""
# Scripts that are deferred have run when this event ends.
_USABLE = "() => performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"
_WATCH_FILTER = """
() => {
  window.filtered = new Promise((tell) => {
    let typed = 0;
    document.getElementById("name").addEventListener("input", () => { typed = performance.now(); });
    document.addEventListener("htmx:afterSettle", (event) => {
      if (typed && event.detail.requestConfig.elt.matches(".filters")) tell(performance.now() - typed);
    });
  });
}
"""
_SHOWS = "name => document.querySelector('main').textContent.includes(name)"


@dataclass(frozen=True)
class Visit:
    """A page that is loaded, and how long that may take."""

    name: str
    path: str
    limit_ms: float


@dataclass
class Times:
    """Milliseconds of each round."""

    visits: dict[Visit, list[float]] = field(default_factory=dict)
    typed: list[float] = field(default_factory=list)
    seen_on_instance: list[float] = field(default_factory=list)
    seen_on_list: list[float] = field(default_factory=list)


def run(bench: Bench) -> Findings:
    """Load each page in turn, and filter; then change an instance while its page, and the list, are open."""
    instances, rounds = bench.pick((10_000, 20), quick=(200, 2))
    with bench.stacks.fresh(ODS_RECONCILE_INTERVAL="86400", ODS_SPARES="0") as (_, stack):
        times = run_in_process(_measure, stack, instances, rounds)
    return _findings(times, instances)


async def _measure(stack: StackFile, instances: int, rounds: int) -> Times:
    registry = await asyncpg.connect(stack["postgres"]["admin_dsn"])
    try:
        first = await _make_instances(stack, registry, instances)
        path = await asyncio.to_thread(chromium)
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
            page = await browser.new_page(base_url=stack["api"]["url"])
            await page.goto(await _link(stack))
            times = Times({visit: [] for visit in _visits(instances, first)})
            await _load(page, times, rounds)
            await _change(page, registry, first, times, rounds)
            await browser.close()
    finally:
        await registry.close()
    return times


async def _make_instances(stack: StackFile, registry: asyncpg.Connection, instances: int) -> int:
    """Make the instances; returns the id of one that has a database."""
    async with Client(stack) as client:
        made = [await client.request(f"Grand Bend {number:02}") for number in range(_WITH_DATABASE)]
        for accepted in made:
            await client.completed(accepted.job, _POLL_SECONDS)
    await insert_instances(registry, instances - _WITH_DATABASE, one_live_of=1)
    await registry.execute(_LABEL)
    return made[0].instance


async def _link(stack: StackFile) -> str:
    return await console_link_of(stack["postgres"]["admin_dsn"], stack["api"]["url"], stack["client"]["id"])


def _visits(instances: int, first: int) -> list[Visit]:
    pages = instances // _WITH_DATABASE
    return [
        Visit("list", "/console/instances", _LIST_MS),
        Visit("list, last page", f"/console/instances?page={pages}", _LIST_MS),
        Visit("list by change", "/console/instances?sort=-changed", _LIST_MS),
        Visit("list filtered by name", f"/console/instances?name={instances // 200}", _FILTER_MS),
        Visit("list filtered by label", "/console/instances?label=year:2027", _FILTER_MS),
        Visit("list filtered by status", "/console/instances?status=Error", _FILTER_MS),
        Visit("one instance", f"/console/instances/{first}", _INSTANCE_MS),
    ]


async def _load(page: Page, times: Times, rounds: int) -> None:
    """Load each page, one after the other, so that a disturbance meets all of them."""
    for number in range(_WARM_UP + rounds):
        for visit, took in times.visits.items():
            await page.goto(visit.path)
            milliseconds = await page.evaluate(_USABLE)
            if number >= _WARM_UP:
                took.append(milliseconds)
        await page.goto("/console/instances")
        await page.evaluate(_WATCH_FILTER)
        await page.get_by_label("Name", exact=True).press("7")
        milliseconds = await page.evaluate("() => window.filtered")
        if number >= _WARM_UP:
            times.typed.append(milliseconds)


async def _change(page: Page, registry: asyncpg.Connection, instance: int, times: Times, rounds: int) -> None:
    """Change the name of an instance that an open page shows, at random times."""
    for path, took in (
        (f"/console/instances/{instance}", times.seen_on_instance),
        ("/console/instances", times.seen_on_list),
    ):
        await page.goto(path)
        for number in range(rounds):
            await asyncio.sleep(random.uniform(*_APART_SECONDS))  # noqa: S311 - no secret
            name = f"Grand Bend 00 {number} {path.count('/')}"
            took.append(await _until_seen(page, name, registry.execute(_RENAME, instance, name)))


async def _until_seen(page: Page, name: str, change: Awaitable[object]) -> float:
    """Milliseconds from before the change until the page shows the name."""
    started = time.perf_counter()
    await change
    await page.wait_for_function(_SHOWS, arg=name)
    return milliseconds_since(started)


def _findings(times: Times, instances: int) -> Findings:
    measurements, limits = [], []
    for visit, took in times.visits.items():
        measurement = Measurement(f"{visit.name}, of {instances:,} instances: until it can be used", took)
        measurements.append(measurement)
        limits.append(at_most(f"{visit.name}, median", measurement.median, visit.limit_ms))
    typed = Measurement("filter: a letter typed until the list is filtered", times.typed)
    limits.append(at_most("filter as it is typed, median", typed.median, _FILTER_MS))
    measurements.append(typed)
    for page, took in (("an instance", times.seen_on_instance), ("the list", times.seen_on_list)):
        seen = Measurement(f"a change until the page of {page} shows it", took)
        measurements.append(seen)
        limits.append(at_most(f"a change is seen on the page of {page}, at most", max(took), _CHANGE_MS))
    return Findings(measurements, limits)
