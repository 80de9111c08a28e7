"""`python -m benchmarks`: what the service takes beyond bare PostgreSQL and frameworks, and its limits."""

import argparse
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks import machine, plots, report
from benchmarks.bench import Bench
from benchmarks.measurement import Findings
from benchmarks.report import Section
from benchmarks.sections import (
    attacks,
    backup,
    beside_backup,
    burst,
    console,
    copies,
    create,
    life,
    lists,
    metrics_cost,
    open_pages,
    operations,
    overload,
    posts,
    profile,
    reset,
    restart,
    scrape,
    spare_race,
    spares,
    strategies,
    sweep,
    template_load,
    traces,
)
from benchmarks.stacks import Stacks
from ods.cli.output import say

_RESULTS = Path(__file__).parent / "results"
# Sections that delete many instances come late: files that are removed make new ones slower for a while.
_RUNS: Mapping[str, Callable[[Bench], Findings]] = {
    "lists": lists.run,
    "sweep": sweep.run,
    "restart": restart.run,
    "profile": profile.run,
    "scrape": scrape.run,
    "posts": posts.run,
    "console": console.run,
    "open_pages": open_pages.run,
    "overload": overload.run,
    "attacks": attacks.run,
    "create": create.run,
    "metrics_cost": metrics_cost.run,
    "burst": burst.run,
    "life": life.run,
    "create_large": create.run_large,
    "strategies": strategies.run,
    "reset": reset.run,
    "template_load": template_load.run,
    "backup": backup.run,
    "beside_backup": beside_backup.run,
    "copies": copies.run,
    "operations": operations.run,
    "spares": spares.run,
    "spare_race": spare_race.run,
    "traces": traces.run,
}


def main() -> int:
    """Run the sections; returns the exit code."""
    options = _options()
    options.results.mkdir(parents=True, exist_ok=True)
    stacks = Stacks(options.data_dir)
    bench = Bench(options.quick, stacks)
    facts = machine.describe()
    sections: list[Section] = []
    try:
        for name in options.only:
            sections.append(_section(name, bench))
            # After each section, so that nothing is lost if a later one hangs.
            facts |= stacks.servers
            report.write(options.results / "bench.json", facts, sections, quick=options.quick)
            plots.draw(options.results, sections[-1])
    finally:
        stacks.remove()
    report.show(facts, sections)
    say(f"All values and the plots are in {options.results}.")
    return 0 if report.is_good(sections, quick=options.quick) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--only", type=_names, default=list(_RUNS), metavar="NAME,...", help=f"of {', '.join(_RUNS)}"
    )
    parser.add_argument(
        "--quick", action="store_true", help="check that it runs; the figures mean nothing and are not judged"
    )
    parser.add_argument("--data-dir", help="folder for the databases; by default that of temporary files")
    parser.add_argument("--results", type=Path, default=_RESULTS, help="folder for JSON and plots")
    return parser.parse_args()


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in _RUNS]:
        raise argparse.ArgumentTypeError(
            f"no section is called {', '.join(unknown)}; there are {', '.join(_RUNS)}"
        )
    return names


def _section(name: str, bench: Bench) -> Section:
    say(f"Section {name} ...")
    run, started = _RUNS[name], time.monotonic()
    findings = None
    try:
        findings = run(bench)
    except Exception:  # noqa: BLE001 - the other sections still run
        traceback.print_exc()
    title = (sys.modules[run.__module__].__doc__ or name).partition(":")[0].rstrip(".")
    return Section(name, title, time.monotonic() - started, findings)


if __name__ == "__main__":
    sys.exit(main())
