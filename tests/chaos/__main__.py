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
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ods.embedded.data_folder import DataFolder
from ods.settings.settings import Settings
from tests.chaos.campaign import Outcome, Plan, campaign
from tests.chaos.faults import ALONE, ON_A_PAIR, OUTAGE_SECONDS, Hand, percentile, plan, seeded
from tests.chaos.pair import serving_on_pair
from tests.chaos.violations import Kind
from tests.embedded.conftest import port_options, running

_CONSOLE = Console(soft_wrap=True)
# More often than by default, so that faults strike sweeps and reconciliations as well.
_INTERVALS = {"ODS_SWEEP_INTERVAL": "20", "ODS_RECONCILE_INTERVAL": "30"}
_SHARE_OF_OVERTIME = 0.5
"""So much longer than it was told does a campaign last at most, when faults hold the clients up."""


@dataclass(frozen=True)
class Run:
    """One campaign of those that were asked for."""

    seed: int
    busy: int


def main() -> int:
    """Run; returns the exit code."""
    options = _options()
    for name, value in _INTERVALS.items():
        os.environ.setdefault(name, value)
    runs = [Run(options.seed + number, busy) for busy in options.busy for number in range(options.seeds)]
    lines = []
    for run in runs:
        started = time.monotonic()
        outcome = _carry_out(options, run)
        lines.append((outcome.good, f"{_summary(run, outcome)} ({time.monotonic() - started:.0f} s)"))
    for _, line in lines:
        _CONSOLE.print(line, markup=False, highlight=False)
    return 0 if all(good for good, _ in lines) else 1


def _carry_out(options: argparse.Namespace, run: Run) -> Outcome:
    folder = Path(tempfile.mkdtemp(prefix="ods-chaos-"))
    _CONSOLE.print(f"Seed {run.seed}, {run.busy} busy processes beside it; the stack is in {folder}.")
    outcome = asyncio.run(_run(options, run, folder))
    _show(outcome)
    if outcome.good:
        _remove(folder)
    else:
        command = _command(options, run)
        _CONSOLE.print(f"\nThe data and logs are kept in {folder}. To repeat:\n  {command}")
    return outcome


def _summary(run: Run, outcome: Outcome) -> str:
    ledger = outcome.ledger
    counts = {
        "operations": ledger.operations.total(),
        "faults": len(outcome.faults),
        "violations": len(outcome.violations),
        "odd": len(ledger.oddities),
        "limits missed": len(outcome.missed()),
    }
    told = ", ".join(f"{count} {what}" for what, count in counts.items())
    return f"seed {run.seed}, {run.busy} busy: {told}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10_000))
    parser.add_argument("--seeds", type=int, default=1, help="how many campaigns, with seeds in a row")
    parser.add_argument("--operations", type=int, default=300, help="what the clients do, all together")
    parser.add_argument("--minutes", type=float, default=10, help="how long they take for it")
    parser.add_argument(
        "--fault-every", type=float, default=3, metavar="SECONDS", help="pause between faults"
    )
    parser.add_argument(
        "--hands",
        type=Hand,
        nargs="+",
        default=list(ALONE),
        metavar="HAND",
        help=f"which faults there are: {', '.join(Hand)}; by default all but switchovers, which need a stack"
        f" on two servers and go with {', '.join(ON_A_PAIR[1:])}",
    )
    parser.add_argument(
        "--outage", type=float, default=OUTAGE_SECONDS, metavar="SECONDS", help="how long a server is away"
    )
    parser.add_argument(
        "--busy",
        type=int,
        nargs="+",
        default=[0],
        metavar="PROCESSES",
        help="processes beside the stack that compute all the time; several numbers: every seed with each",
    )
    options = parser.parse_args()
    if Hand.SWITCHOVERS in options.hands and not set(options.hands) <= set(ON_A_PAIR):
        parser.error(f"beside switchovers there can only be: {', '.join(ON_A_PAIR[1:])}")
    return options


def _command(options: argparse.Namespace, run: Run) -> str:
    words = vars(options) | {"seed": run.seed, "seeds": 1, "busy": [run.busy]}
    told = [f"--{name.replace('_', '-')} {_words(value)}" for name, value in words.items()]
    return f"make chaos ARGS='{' '.join(told)}'"


def _words(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


async def _run(options: argparse.Namespace, run: Run, folder: Path) -> Outcome:
    heartbeat_timeout = float(
        os.environ.get("ODS_HEARTBEAT_TIMEOUT", Settings.model_fields["heartbeat_timeout"].default)
    )
    storm = Plan(
        seed=run.seed,
        operations=options.operations,
        seconds=60 * options.minutes,
        overtime=60 * options.minutes * _SHARE_OF_OVERTIME,
        fault_every=options.fault_every,
        faults=plan(seeded(run.seed), heartbeat_timeout, options.hands, options.outage),
        outage=options.outage,
        busy=run.busy,
    )
    if Hand.SWITCHOVERS in options.hands:
        async with serving_on_pair(DataFolder(folder)) as pair:
            return await campaign(folder, storm, heartbeat_timeout, _report, pair)
    async with running(DataFolder(folder), port_options(), folder / "up.log"):
        return await campaign(folder, storm, heartbeat_timeout, _report)


def _report(line: str) -> None:
    _CONSOLE.print(f"{time.strftime('%H:%M:%S')} {line}", markup=False, highlight=False)


def _show(outcome: Outcome) -> None:
    _print("Operations", ("operation", "answer", "count"), _counted(outcome.ledger.operations))
    faults = Counter((str(fault.victim), str(fault.blow)) for fault in outcome.faults)
    _print("Faults", ("victim", "what", "count"), _counted(faults))
    _print("Recoveries (s)", ("fault", "measured", "median", "p95", "limit"), _recoveries(outcome))
    _print("Jobs in Error", ("reason", "count"), ((word, str(n)) for word, n in outcome.errors.items()))
    unknown = sum(request.job is None for request in outcome.ledger.requests)
    _CONSOLE.print(f"{len(outcome.ledger.requests) - unknown} requests accepted, {unknown} unanswered.")
    for violation in outcome.violations:
        _CONSOLE.print(f"VIOLATION {violation.kind}: {violation.words}", markup=False)
    for oddity, count in Counter(outcome.ledger.oddities).items():
        _CONSOLE.print(f"ODD {oddity}{f' ({count} times)' if count > 1 else ''}", markup=False)
    for missed in outcome.missed():
        _CONSOLE.print(f"LIMIT MISSED {missed}", markup=False)
    kinds = Counter(violation.kind for violation in outcome.violations)
    _CONSOLE.print(f"{kinds.total()} violations{': ' if kinds else ''}{_told(kinds)}.", markup=False)


def _told(kinds: Counter[Kind]) -> str:
    return ", ".join(f"{count} x {kind}" for kind, count in kinds.most_common())


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
