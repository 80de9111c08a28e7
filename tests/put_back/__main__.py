"""`python -m tests.put_back`: play the histories of the matrix, and tell what became of rows of clients."""

import argparse
import asyncio
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from tests.put_back.histories import (
    DONE,
    Later,
    NoSuchBoundaryError,
    Player,
    PutBack,
    Story,
    stories,
)
from tests.put_back.judgement import WRONG, Verdict, Word
from tests.put_back.operations import OPERATIONS
from tests.put_back.sample import SAMPLE
from tests.put_back.scene import RefusedError
from tests.put_back.site import site_in
from tests.put_back.table import Expected, Row
from tests.servers import server_folder

_CONSOLE = Console(soft_wrap=True)
_POLL_SECONDS = 0.2
_INTERRUPTED = 130


def main() -> int:
    """Run; returns the exit code: 1 if something is not as expected, or could not be played."""
    options = _options()
    with server_folder() as folder:
        try:
            run = asyncio.run(_run(options, folder))
        except asyncio.CancelledError:
            return _INTERRUPTED
    return run.conclude()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.put_back", description=__doc__)
    parser.add_argument("--operations", nargs="+", default=list(OPERATIONS), choices=list(OPERATIONS))
    parser.add_argument(
        "--boundaries", nargs="+", metavar="BOUNDARY", help=f"such as 'before 2' and {DONE}; by default, all"
    )
    parser.add_argument("--later", nargs="+", type=Later, default=list(Later))
    parser.add_argument("--put-back", nargs="+", type=PutBack, default=list(PutBack))
    parser.add_argument("--sample", action="store_true", help="only the rows that CI plays")
    parser.add_argument("--missing", action="store_true", help="only what is not in the table yet")
    parser.add_argument("--sites", type=int, default=2, help="how many sites are at work beside each other")
    parser.add_argument("--write", action="store_true", help="write what is found into the table")
    parser.add_argument(
        "--unconfirmed",
        action="store_true",
        help="the operator does not confirm a registry that was put back; nothing of it is written",
    )
    parser.add_argument("--verbose", action="store_true", help="tell all that was found of each put-back")
    options = parser.parse_args()
    if options.unconfirmed and options.write:
        parser.error("the table is about registries that were confirmed")
    return options


class _Run:
    """What is to be played, and what was found."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.expected = Expected.read()
        self.found: dict[Row, Verdict] = {}
        self.failed: list[str] = []
        self.uncounted = deque(() if options.sample else options.operations)
        self.counting = 0
        self.wanted = deque(story for story in SAMPLE if options.sample and self.put_backs(story))

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to be played."""
        return not (self.wanted or self.uncounted or self.counting)

    def put_backs(self, story: Story) -> Sequence[PutBack]:
        """Those that are wanted of a story."""
        if self.options.sample:
            offered: Sequence[PutBack] = SAMPLE.get(story, ())
        else:
            offered = story.put_backs
        if story.operation not in self.options.operations:
            return ()
        if story.boundary not in (self.options.boundaries or [story.boundary]):
            return ()
        if story.later not in self.options.later:
            return ()
        return [
            put_back
            for put_back in offered
            if put_back in self.options.put_back
            and not (self.options.missing and (story, put_back) in self.expected.words)
        ]

    def note(self, story: Story, put_back: PutBack, verdict: Verdict) -> None:
        """Tell what was found, and write it if that is wanted."""
        known = self.expected.words.get((story, put_back))
        self.found[story, put_back] = verdict
        more = f" (expected: {known})" if known not in {None, verdict.word} else ""
        _say(f"{story} | {put_back} | {verdict.word}{more}")
        if self.options.verbose or verdict.word in WRONG:
            for words in verdict.words:
                _say(f"    {words}")
        if self.options.write:
            self.expected.add({(story, put_back): verdict.word})
            self.expected.write()

    def conclude(self) -> int:
        """Tell the counts; returns the exit code."""
        counts = Counter(verdict.word for verdict in self.found.values())
        _say(", ".join(f"{counts[word]} {word}" for word in Word if counts[word]) or "nothing was played")
        for words in self.failed:
            _say(f"NOT PLAYED {words}")
        known = self.expected.words
        different = [row for row, it in self.found.items() if known.get(row) is not it.word]
        return 1 if different or self.failed else 0


async def _run(options: argparse.Namespace, folder: Path) -> _Run:
    run = _Run(options)
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):  # otherwise API and workers would stay
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    async with asyncio.TaskGroup() as tasks:
        for site in range(options.sites):
            place = folder / str(site)
            place.mkdir(mode=0o711)
            tasks.create_task(_work(run, place))
    return run


async def _work(run: _Run, folder: Path) -> None:
    async with site_in(folder) as site:
        player = Player(site, confirms=not run.options.unconfirmed)
        while not run.is_done:
            if run.wanted:
                await _play(run, player, run.wanted.popleft())
            elif run.uncounted:
                await _count(run, player, run.uncounted.popleft())
            else:
                await asyncio.sleep(_POLL_SECONDS)


async def _count(run: _Run, player: Player, operation: str) -> None:
    """Find out how many steps an operation has, and add its stories to what is to be played."""
    run.counting += 1
    try:
        steps = await player.count_steps(operation)
    except (RefusedError, TimeoutError) as error:
        run.failed.append(f"{operation}: {type(error).__name__} {error}")
    else:
        _say(f"{operation} has {steps} steps")
        run.wanted.extend(story for story in stories(operation, steps) if run.put_backs(story))
    finally:
        run.counting -= 1


async def _play(run: _Run, player: Player, story: Story) -> None:
    started = time.monotonic()
    try:
        played = await player.play(story)
        _say(f"{story} was played in {time.monotonic() - started:.1f} s")
        for put_back in run.put_backs(story):
            started = time.monotonic()
            verdict = await player.put_back(played, put_back)
            run.note(story, put_back, verdict)
            _say(f"    in {time.monotonic() - started:.1f} s")
        await player.forget(played)
    except (NoSuchBoundaryError, RefusedError, TimeoutError) as error:
        run.failed.append(f"{story}: {type(error).__name__} {error}")


def _say(line: str) -> None:
    _CONSOLE.print(f"{time.strftime('%H:%M:%S')} {line}", markup=False, highlight=False)


if __name__ == "__main__":
    sys.exit(main())
