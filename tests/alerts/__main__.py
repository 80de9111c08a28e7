"""`python -m tests.alerts`: each alert fires for real, and is gone after what its runbook says to do.

Then the incidents of `docs/operations/incidents.md` are played from the alert to the end, each on a site
of its own.

Needs the rights of root, for a file system that can be full, and Debian's packages prometheus,
prometheus-node-exporter and prometheus-blackbox-exporter.
"""

import argparse
import asyncio
import re
import shutil
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from ods.embedded.polling import wait_until
from ods.embedded.ports import free_ports
from tests.alerts import disk, incidents, rules, runbook, site
from tests.alerts.faults import PROVOCATIONS, Provocation
from tests.alerts.incidents import Incident
from tests.alerts.prometheus import program
from tests.alerts.site import Site
from tests.servers import server_folder

_CONSOLE = Console(soft_wrap=True)
_PROGRAMS = ("prometheus", "prometheus-node-exporter", "prometheus-blackbox-exporter")
_LONGEST_FOR = 3600
_MORE_SECONDS = 120
"""What an alert may take beyond its rule's times: the fault, and the service's own intervals."""


@dataclass
class Result:
    """What became of one alert.

    Attributes:
        summary: what the operator read.
        firing: seconds from the fault until it fired; None if it did not.
        gone: seconds from its end until the alert was gone; None if it stayed.
        mistakes: what is wrong with its runbook.
    """

    provocation: Provocation
    summary: str = ""
    firing: float | None = None
    gone: float | None = None
    mistakes: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether it fired, is gone, and its page is right."""
        return self.firing is not None and self.gone is not None and not self.mistakes


def main() -> int:
    """Run; returns the exit code."""
    options = _options()
    if missing := [name for name in _PROGRAMS if shutil.which(name) is None]:
        sys.exit(f"Missing: apt-get install {' '.join(missing)}")
    chosen = [one for one in PROVOCATIONS if one.alert in options.alerts]
    results = asyncio.run(_run(options.factor, chosen)) if chosen else []
    if results:
        _show(results)
    played = [asyncio.run(_played(options.factor, one)) for one in incidents.ALL if options.incidents]
    return 0 if all(result.good for result in results) and all(played) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.alerts", description=__doc__)
    known = [one.alert for one in PROVOCATIONS]
    parser.add_argument("--factor", type=float, default=10, help="by which rules and intervals are shorter")
    parser.add_argument(
        "--incidents", action="store_true", help="the incidents, and only alerts that are named"
    )
    parser.add_argument("alerts", nargs="*", metavar="ALERT", help="by default all of them")
    options = parser.parse_args()
    if unknown := set(options.alerts) - set(known):
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    if not options.alerts and not options.incidents:
        options.alerts, options.incidents = known, True
    return options


@asynccontextmanager
async def _running(factor: float) -> AsyncIterator[Site]:
    with server_folder() as folder, disk.mounted(folder / "ods"):
        async with site.running(folder, factor) as found, _watched(found, folder):
            yield found


async def _run(factor: float, chosen: list[Provocation]) -> list[Result]:
    async with _running(factor) as found:
        return [await _provoked(found, one) for one in chosen]


async def _played(factor: float, incident: Incident) -> bool:
    """Play an incident on a site of its own; whether it was over in the end, and its alerts gone."""
    _report(incident.heading)
    async with _running(factor) as found:

        async def reaches(alert: str, state: str) -> None:
            await _reaches(found, alert, state)
            _report(f"  {alert} {state} {'; '.join(await found.prometheus.summaries(alert))}")

        try:
            await incidents.play(found, incident, reaches, _report)
        except (TimeoutError, AssertionError) as error:
            _report(f"  {type(error).__name__} {error}")
            return False
    _report("  over")
    return True


@asynccontextmanager
async def _watched(found: Site, folder: Path) -> AsyncIterator[None]:
    """Prometheus with its exporters, as docs/operations/monitoring.md has them."""
    node, blackbox = (f"127.0.0.1:{port}" for port in free_ports(2))
    of_server = (
        f"^{re.escape(str(folder / 'ods'))}$"  # by default the exporter is silent about what is below /dev
    )
    modules = folder / "blackbox.yml"
    tls = {"prober": "tcp", "tcp": {"tls": True, "tls_config": {"insecure_skip_verify": True}}}
    modules.write_text(yaml.safe_dump({"modules": {"tls": tls}}))
    found.prometheus.watch("ods-postgres-node", [node])
    found.prometheus.watch("ods-tls", [f"localhost:{found.proxy.port}"])
    through_blackbox = {
        "metrics_path": "/probe",
        "params": {"module": ["tls"]},
        "relabel_configs": [
            {"source_labels": ["__address__"], "target_label": "__param_target"},
            {"source_labels": ["__param_target"], "target_label": "instance"},
            {"target_label": "__address__", "replacement": blackbox},
        ],
    }
    plain = ("ods-api", "ods-worker", "ods-temporal", "ods-postgres-node")
    jobs = {**{name: {} for name in plain}, "ods-tls": through_blackbox}
    async with (
        program(
            "node",
            (
                _PROGRAMS[1],
                f"--web.listen-address={node}",
                f"--collector.filesystem.mount-points-include={of_server}",
            ),
            folder / "logs" / "node.log",
        ),
        program(
            "blackbox",
            # By default it gives up half a second before the scrape, which lasts little longer here.
            (
                *(_PROGRAMS[2], f"--web.listen-address={blackbox}"),
                *(f"--config.file={modules}", "--timeout-offset=0"),
            ),
            folder / "logs" / "blackbox.log",
        ),
        found.prometheus.running(jobs),
    ):
        yield


async def _provoked(found: Site, one: Provocation) -> Result:
    result = Result(one)
    _report(f"{one.alert}: {one.what}")
    try:
        await found.up()
        await found.healthy()
        await _reaches(found, one.alert, "inactive")
        await _play(found, result)
    except Exception as error:  # noqa: BLE001 - the next alert is tried all the same
        result.mistakes.append(f"{type(error).__name__} {error}")
    _report(f"{one.alert}: firing {_seconds(result.firing)}, gone {_seconds(result.gone)} {result.summary}")
    for mistake in result.mistakes:
        _report(f"  {mistake}")
    return result


async def _play(found: Site, result: Result) -> None:
    """Make the fault, look, mend it, do what the page says, and wait until the alert is gone."""
    alert, began = result.provocation.alert, time.monotonic()
    async with result.provocation.fault(found) as case:
        await _reaches(found, alert, "firing")
        result.firing = time.monotonic() - began
        result.summary = "; ".join(await found.prometheus.summaries(alert))
        result.mistakes += await runbook.look_at(found, alert, case)
        if case.mends:
            result.mistakes += await runbook.do(found, alert, case)
            ended = time.monotonic()
    if not case.mends:
        ended = time.monotonic()
        result.mistakes += await runbook.do(found, alert, case)
    await _reaches(found, alert, "inactive")
    result.gone = time.monotonic() - ended
    await found.healthy()


async def _reaches(found: Site, alert: str, state: str) -> None:
    async def is_reached() -> bool:
        return await found.prometheus.state(alert) == state

    try:
        await wait_until(is_reached, 2 * _LONGEST_FOR / found.factor + _MORE_SECONDS, interval=0.2)
    except TimeoutError:
        raise AssertionError(f"{alert} is not {state}") from None


def _report(line: str) -> None:
    _CONSOLE.print(f"{time.strftime('%H:%M:%S')} {line}", markup=False, highlight=False)


def _show(results: list[Result]) -> None:
    table = Table("alert", "fault", "firing after", "gone after", "runbook")
    for result in results:
        right = "right" if not result.mistakes else f"{len(result.mistakes)} mistakes"
        fault = result.provocation.what
        table.add_row(result.provocation.alert, fault, _seconds(result.firing), _seconds(result.gone), right)
    _CONSOLE.print(table)
    missing = set(rules.alerts()) - {one.alert for one in PROVOCATIONS}
    _CONSOLE.print(f"Not provoked: {', '.join(sorted(missing)) or 'none'}.")


def _seconds(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.0f} s"


if __name__ == "__main__":
    sys.exit(main())
