"""Showing how far something is that takes long: a bar on a terminal, lines elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from ods.cli.output import OUT, say
from ods.embedded.errors import CommandError

Show = Callable[[int | None], None]
"""Takes how much is done; None while that is not known."""

_PERCENT = 100
_LINE_PERCENT = 10
"""Where there is no terminal, there is a line for each such step; for each number, if things are counted."""


@contextmanager
def progress_bar(title: str, total: int | None = None) -> Iterator[Show]:
    """Show how far something is.

    Args:
        title: what it is.
        total: how many things are to be done, which are counted; None: it is told in percent.
    """
    if not OUT.is_terminal:
        yield _line_printer(title, total)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=OUT) as bar:
        task = bar.add_task(title, total=_PERCENT if total is None else total)

        def show(done: int | None) -> None:
            if done is not None:
                bar.update(task, completed=done)

        yield show


@contextmanager
def goes_on(what: str, see: str, end: str | None = None) -> Iterator[None]:
    """Ctrl-C ends the command, and says that what it waits for goes on.

    Args:
        what: that.
        see: the command that shows how far it is.
        end: the command that ends it, if there is one.

    Raises:
        CommandError: Ctrl-C was pressed.
    """
    try:
        yield
    except KeyboardInterrupt:
        ending = f"; end it with `{end}`" if end else ""
        raise CommandError(f"{what} goes on. See it with `{see}`{ending}.") from None


def _line_printer(title: str, total: int | None) -> Show:
    step, unit = (_LINE_PERCENT, "%") if total is None else (1, f"of {total}")
    told = -step

    def show(done: int | None) -> None:
        nonlocal told
        if done is not None and done >= told + step:
            told = done - done % step
            say(f"{title}: {done} {unit}")

    return show
