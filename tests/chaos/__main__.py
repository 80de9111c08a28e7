"""`python -m tests.chaos`: a storm over an embedded stack of its own, and what is true afterwards."""

import argparse
import asyncio
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cli.data_folder import DataFolder
from settings import Settings
from tests.chaos.campaign import Outcome, Plan, campaign
from tests.chaos.faults import percentile, plan, seeded
from tests.embedded.conftest import port_options, running

_CONSOLE = Console(soft_wrap=True)
# More often than by default, so that faults strike sweeps and reconciliations as well.
_INTERVALS = {"ODS_SWEEP_INTERVAL": "20", "ODS_RECONCILE_INTERVAL": "30"}


def main() -> int:
    """Run; returns the exit code."""
    options = _options()
    for name, value in _INTERVALS.items():
        os.environ.setdefault(name, value)
    folder = Path(tempfile.mkdtemp(prefix="ods-chaos-"))
    _CONSOLE.print(f"Seed {options.seed}; the stack is in {folder}.")
    outcome = asyncio.run(_run(options, folder))
    _show(outcome)
    if outcome.good:
        _remove(folder)
        return 0
    _CONSOLE.print(f"\nThe data and logs are kept in {folder}. To repeat:\n  {_command(options)}")
    return 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10_000))
    parser.add_argument("--operations", type=int, default=300, help="what the clients do, all together")
    parser.add_argument("--minutes", type=float, default=10, help="how long they take for it")
    parser.add_argument(
        "--fault-every", type=float, default=3, metavar="SECONDS", help="pause between faults"
    )
    return parser.parse_args()


def _command(options: argparse.Namespace) -> str:
    words = {f"--{name.replace('_', '-')}": value for name, value in vars(options).items()}
    return f"make chaos ARGS='{' '.join(f'{name} {value}' for name, value in words.items())}'"


async def _run(options: argparse.Namespace, folder: Path) -> Outcome:
    heartbeat_timeout = float(
        os.environ.get("ODS_HEARTBEAT_TIMEOUT", Settings.model_fields["heartbeat_timeout"].default)
    )
    faults = plan(seeded(options.seed), heartbeat_timeout)
    storm = Plan(options.seed, options.operations, 60 * options.minutes, options.fault_every, faults)
    async with running(DataFolder(folder), port_options(), folder / "up.log"):
        return await campaign(folder, storm, heartbeat_timeout, _report)


def _report(line: str) -> None:
    _CONSOLE.print(f"{time.strftime('%H:%M:%S')} {line}", markup=False, highlight=False)


def _show(outcome: Outcome) -> None:
    _print("Operations", ("operation", "answer", "count"), _counted(outcome.ledger.operations))
    struck = [fault for it in outcome.recoveries for fault in (it.fault, it.second) if fault]
    faults = Counter((str(fault.victim), str(fault.blow)) for fault in struck)
    _print("Faults", ("victim", "signal", "count"), _counted(faults))
    _print("Recoveries (s)", ("fault", "measured", "median", "p95", "limit"), _recoveries(outcome))
    _print("Jobs in Error", ("reason", "count"), ((word, str(n)) for word, n in outcome.errors.items()))
    unknown = sum(request.job is None for request in outcome.ledger.requests)
    _CONSOLE.print(f"{len(outcome.ledger.requests) - unknown} requests accepted, {unknown} unanswered.")
    for violation in outcome.violations:
        _CONSOLE.print(f"VIOLATION {violation.kind}: {violation.words}", markup=False)
    for oddity in outcome.ledger.oddities:
        _CONSOLE.print(f"ODD {oddity}", markup=False)
    for missed in outcome.missed():
        _CONSOLE.print(f"LIMIT MISSED {missed}", markup=False)
    _CONSOLE.print(f"{len(outcome.violations)} violations.")


def _counted(counts: Counter[tuple[str, str]]) -> Iterator[tuple[str, ...]]:
    yield from ((*key, str(count)) for key, count in sorted(counts.items()))
    yield "all", "", str(counts.total())


def _recoveries(outcome: Outcome) -> Iterator[tuple[str, ...]]:
    for (victim, blow), seconds in sorted(outcome.measured().items()):
        limit = outcome.limit(victim, blow)
        yield (
            f"{victim} {blow}",
            str(len(seconds)),
            *(f"{percentile(seconds, share):.2f}" for share in (0.5, 0.95)),
            "" if limit is None else f"{limit:.0f}",
        )


def _print(title: str, columns: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> None:
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    _CONSOLE.print(table)


def _remove(folder: Path) -> None:
    # PostgreSQL's files may lie outside of the folder.
    shutil.rmtree((folder / "postgres").resolve(), ignore_errors=True)
    shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
