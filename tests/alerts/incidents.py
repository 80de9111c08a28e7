"""The incidents of `docs/operations/incidents.md`, each played on a real site by the commands there."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

from tests.alerts.faults import create, created, filled, reached
from tests.alerts.rules import ROOT
from tests.alerts.runbook import USAGE
from tests.alerts.site import Site

PAGE = ROOT / "docs" / "operations" / "incidents.md"
_SECONDS = 60
_PAUSE_SECONDS = 0.5
_DEPLOYMENT = ("--deployment-name", "ods", "--build-id")

Reaches = Callable[[str, str], Awaitable[None]]
"""Waits until an alert has a state, where Prometheus runs."""


@dataclass(frozen=True)
class Incident:
    """One incident of the page.

    Attributes:
        heading: its heading.
        alerts: what the operator sees.
        fault: makes it.
    """

    heading: str
    alerts: Sequence[str]
    fault: Callable[[Site], AbstractAsyncContextManager[Sequence[str]]]


async def play(
    site: Site, incident: Incident, reaches: Reaches, report: Callable[[str], None] = print
) -> None:
    """Make the fault, and run the commands of the page until it is over.

    Raises:
        AssertionError: a command failed, or an alert did not fire or stayed.
        TimeoutError: it is not over after a minute.
    """
    examined, *done, over = blocks(incident.heading)
    async with incident.fault(site) as usable:
        for alert in incident.alerts:
            await reaches(alert, "firing")
        looked = await site.shell(examined)
        report(looked.text)
        assert looked.code not in USAGE, looked.text
        for block in done:
            printed = await site.shell(f"set -e\n{block}")
            report(printed.text)
            assert printed.code == 0, f"{block}\n{printed.text}"
        async with asyncio.timeout(_SECONDS):
            while (ended := await site.shell(f"set -e\n{over}")).code or _goes_on(ended.text):
                await asyncio.sleep(_PAUSE_SECONDS)
        report(ended.text)
        for name in usable:
            await reached(site, name, "Completed")
        for alert in incident.alerts:
            await reaches(alert, "inactive")


def _goes_on(printed: str) -> bool:
    """Whether a job waits or runs, by a list of jobs."""
    return any(status in printed for status in ("Pending", "InProgress"))


def blocks(heading: str) -> list[str]:
    """The commands of an incident: what is looked at, what is done, and how it shows that it is over."""
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    return re.findall(r"^```sh\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)


@asynccontextmanager
async def _registry_of_yesterday(site: Site) -> AsyncIterator[Sequence[str]]:
    await created(site, "Alpha")
    beta = await created(site, "Beta")
    dumped = await site.shell('pg_dump --format custom --file registry.dump "$SERVER/EdFi_Admin"')
    assert dumped.code == 0, dumped.text
    await created(site, "Gamma")
    await site.ods("instance", "rename", beta, "Beta Two", "--wait")
    restored = await site.shell(
        'pg_restore --clean --if-exists --single-transaction --dbname "$SERVER/EdFi_Admin" registry.dump'
    )
    assert restored.code == 0, restored.text
    yield ("Alpha", "Beta Two", "Gamma")


@asynccontextmanager
async def _disk_full(site: Site) -> AsyncIterator[Sequence[str]]:
    last = await created(site, "Last year")
    await site.on_ods_server(
        "CREATE TABLE bulk AS SELECT repeat(md5(id::text), 30) FROM generate_series(1, 400000) AS id",
        "EdFi_Ods_Last_year_Minimal",
    )
    await site.ods("instance", "delete", last, "--wait")
    await site.on_ods_server("CHECKPOINT")  # keeps room for the log
    with filled(site, leaving=2_000_000):
        names = [f"New year {number}" for number in range(1, 4)]
        for name in names:  # the first may get the spare, which is there already
            await create(site, name)
        yield names


@asynccontextmanager
async def _worker_with_a_bug(site: Site) -> AsyncIterator[Sequence[str]]:
    await site.down("worker")
    site.worker.variables["ODS_WORKER_DEPLOYMENT_VERSION"] = "1.4.0"
    await site.up("worker")
    await _set(site, "set-current-version", *_DEPLOYMENT, "1.4.0")
    await created(site, "Before")
    buggy = site.worker.beside("tests.alerts.large_worker", ODS_WORKER_DEPLOYMENT_VERSION="1.5.0")
    await site.start_beside(buggy)
    await _set(site, "set-ramping-version", *_DEPLOYMENT, "1.5.0", "--percentage", "100")
    await create(site, "Meanwhile")
    yield ("Before", "Meanwhile")


async def _set(site: Site, *words: str) -> None:
    """Tell Temporal about versions; it refuses until a worker of the version has polled each queue."""
    async with asyncio.timeout(_SECONDS):
        while (await site.shell(f"temporal worker deployment {' '.join(words)} --yes")).code:
            await asyncio.sleep(_PAUSE_SECONDS)


REGISTRY = Incident("The registry of yesterday", ["OdsRegistrySuspect"], _registry_of_yesterday)
DISK = Incident("The disk is full in August", ["OdsDiskNearlyFull", "OdsWaitingForOutage"], _disk_full)
WORKER = Incident("A worker with a bug", ["OdsMessageTooLarge"], _worker_with_a_bug)
ALL = (REGISTRY, DISK, WORKER)
