"""Showing how far something is that takes long: a bar on a terminal, lines elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from cli.output import OUT, say
from embedded.errors import CommandError

Show = Callable[[int | None], None]
"""Takes how many percent are done; None while that is not known."""

_LINE_PERCENT = 10
"""Where there is no terminal, there is a line for each such step."""


@contextmanager
def progress_bar(title: str) -> Iterator[Show]:
    """Show how far `title` is."""
    if not OUT.is_terminal:
        yield _line_printer(title)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=OUT) as bar:
        task = bar.add_task(title, total=100)

        def show(percent: int | None) -> None:
            if percent is not None:
                bar.update(task, completed=percent)

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


def _line_printer(title: str) -> Show:
    told = -_LINE_PERCENT

    def show(percent: int | None) -> None:
        nonlocal told
        if percent is not None and percent >= told + _LINE_PERCENT:
            told = percent - percent % _LINE_PERCENT
            say(f"{title}: {percent} %")

    return show
