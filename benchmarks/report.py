"""The report: tables and a JSON file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.measurement import Findings, Limit, Measurement

_WIDTH = 140
"""Wide enough for every line, on a terminal or in a file."""
_NO_DECIMALS_FROM = 100


@dataclass(frozen=True)
class Section:
    """A section that has run; `findings` is None if it raised."""

    name: str
    title: str
    seconds: float
    findings: Findings | None


def show(machine: Mapping[str, str], sections: Sequence[Section]) -> None:
    """Print the machine, the measurements, and whether the limits were kept."""
    console = Console(width=_WIDTH, highlight=False, markup=False)
    for name, value in machine.items():
        console.print(f"{name}: {value}")
    console.print(_figures(sections))
    console.print(_limits(sections))
    for section in sections:
        for note in section.findings.notes if section.findings else ():
            console.print(f"{section.name}: {note}")
        if section.findings is None:
            console.print(f"{section.name}: BROKEN, see above")


def write(path: Path, machine: Mapping[str, str], sections: Sequence[Section], *, quick: bool) -> None:
    """Write the same for programs, with every single value."""
    content = {"machine": machine, "quick": quick, "sections": [_section(section) for section in sections]}
    path.write_text(json.dumps(content, indent=2) + "\n")


def is_good(sections: Sequence[Section], *, quick: bool) -> bool:
    """Whether every section ran to its end and, unless the run was a quick one, kept its limits."""
    found = [section.findings for section in sections if section.findings]
    kept = quick or all(limit.kept for findings in found for limit in findings.limits)
    return kept and len(found) == len(sections)


def _figures(sections: Sequence[Section]) -> Table:
    table = Table(title="Figures; the ratio is that of the median to the bare cost's", title_justify="left")
    table.add_column("figure")
    for heading in ("count", "median", "p95", "p99", "unit", "ratio"):
        table.add_column(heading, justify="right")
    for section in sections:
        table.add_section()
        table.add_row(f"{section.name} ({section.seconds:.0f} s)", style="bold")
        for it in section.findings.measurements if section.findings else ():
            numbers = (_number(value) for value in (it.median, it.p95, it.p99))
            table.add_row(it.name, str(len(it.values)), *numbers, it.unit, _ratio(it))
    return table


def _limits(sections: Sequence[Section]) -> Table:
    table = Table("limit", title="Limits", title_justify="left")
    for heading in ("measured", "allowed", "kept"):
        table.add_column(heading, justify="right")
    for section in sections:
        table.add_section()
        for limit in section.findings.limits if section.findings else ():
            table.add_row(
                f"{section.name}: {limit.subject}",
                f"{_number(limit.value)} {limit.unit}".strip(),
                f"{'>=' if limit.is_least else '<='} {_number(limit.bound)} {limit.unit}".strip(),
                "pass" if limit.kept else "FAIL",
                style="" if limit.kept else "bold red",
            )
    return table


def _ratio(measurement: Measurement) -> str:
    return "" if measurement.ratio is None else f"{measurement.ratio:.2f}"


def _number(value: float) -> str:
    """Three significant digits, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= _NO_DECIMALS_FROM or value == int(value) else f"{value:.3g}"


def _section(section: Section) -> dict[str, Any]:
    findings = section.findings or Findings(())
    return {
        "name": section.name,
        "title": section.title,
        "seconds": round(section.seconds, 1),
        "broken": section.findings is None,
        "measurements": [_measurement(it) for it in findings.measurements],
        "limits": [_limit(it) for it in findings.limits],
        "notes": list(findings.notes),
    }


def _measurement(it: Measurement) -> dict[str, Any]:
    return {
        "name": it.name,
        "unit": it.unit,
        "median": it.median,
        "p95": it.p95,
        "p99": it.p99,
        "bare": it.bare.name if it.bare else None,
        "ratio": it.ratio,
        "values": list(it.values),
    }


def _limit(it: Limit) -> dict[str, Any]:
    return {
        "subject": it.subject,
        "value": it.value,
        "at least" if it.is_least else "at most": it.bound,
        "unit": it.unit,
        "kept": it.kept,
    }
