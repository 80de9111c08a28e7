"""What the commands print: with live progress on a terminal, plain lines elsewhere."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.text import Text

from ods.registry.storage.rules import printable

OUT = Console(markup=False, highlight=False)  # names and messages may hold what Rich would read as markup

Progress = Callable[[str, str], None]
"""Takes the phase, and a detail that changes during a phase."""


def say(text: str) -> None:
    """Print `text` without buffering: another program may read the output while the command runs."""
    OUT.print(text, soft_wrap=True)
    OUT.file.flush()


def fail(text: str) -> None:
    """Print `text` as an error."""
    print(f"Error: {text}", file=sys.stderr, flush=True)  # noqa: T201 - needs nothing of Rich


def show_json(value: object) -> None:
    """Print `value` as JSON."""
    OUT.print_json(data=value)


def show_members(members: Mapping[str, Any]) -> None:
    """Print the members of an object, one in each line."""
    _show_columns([(name, str(value)) for name, value in _flat(members)])


def show_list(rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str]) -> None:
    """Print one line for each row; `columns` are the members to print, with their headings."""
    _show_columns(
        [tuple(columns.values()), *(tuple(_cell(row[name]) for name in columns) for row in rows)],
    )


def show_ids(rows: Iterable[Mapping[str, Any]]) -> None:
    """Print the id of each row in a line."""
    for row in rows:
        say(str(row["id"]))


def utc(time: datetime | None) -> str | None:
    """A time in UTC, without a zone, as the API writes it; to the second."""
    return None if time is None else f"{time.isoformat(timespec='seconds')}Z"


@contextmanager
def progress() -> Iterator[Progress]:
    """Show progress: live on a terminal, elsewhere one line for each phase."""
    if not OUT.is_terminal:
        yield line_printer()
        return
    with OUT.status("") as status:
        yield lambda phase, detail: status.update(Text(f"{phase} {detail}"))


def line_printer() -> Progress:
    """Prints each phase that is another one than the last in a line."""
    last = ""

    def show(phase: str, _: str) -> None:
        nonlocal last
        if phase != last:
            say(phase)
        last = phase

    return show


def _show_columns(lines: Sequence[Sequence[str]]) -> None:
    lines = [[printable(cell) for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        say("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _cell(value: object) -> str:
    return "" if value is None else str(value)


def _flat(members: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in members.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}.{inner}", part) for inner, part in _flat(value))
        elif value is not None:
            yield name, value
