"""Steps of jobs go first: a program that takes a processor for long pauses while they run."""

import asyncio
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_AFTER_SECONDS = 0.1
"""How long a pause outlasts a step: a job has its next one by then."""
_LONGEST_SECONDS = 2.0
_LEAST_SHARE = 0.25
"""After a pause a program runs at least for this part of its length, however many jobs there are."""


class Precedence:
    """Steps of jobs that go first, and the programs that pause for them, of one process."""

    def __init__(self) -> None:
        self._steps = 0
        self._pausing: set[_Pausing] = set()

    @contextmanager
    def step(self) -> Iterator[None]:
        """A step that goes first while the body runs."""
        self._steps += 1
        if self._steps == 1:
            for program in self._pausing:
                program.begin()
        try:
            yield
        finally:
            self._steps -= 1
            if not self._steps:
                for program in self._pausing:
                    program.end()

    @contextmanager
    def pausing(self, running: Process) -> Iterator[None]:
        """A program that pauses while steps go first; when the body has ended, it goes on.

        Only on Linux: elsewhere, it would be left, paused for ever, if this process were killed.
        """
        if sys.platform != "linux":
            yield
            return
        program = _Pausing(running)
        self._pausing.add(program)
        if self._steps:
            program.begin()
        try:
            yield
        finally:
            self._pausing.remove(program)
            program.go_on()


class _Pausing:
    def __init__(self, running: Process) -> None:
        self._running = running
        self._loop = asyncio.get_running_loop()
        self._paused_at: float | None = None
        self._runs_until = 0.0
        self._going_on: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        now = self._loop.time()
        if self._paused_at is None:
            if now < self._runs_until:
                return
            self._paused_at = now
            self._send(signal.SIGSTOP)
        self._go_on_at(self._paused_at + _LONGEST_SECONDS)

    def end(self) -> None:
        if self._paused_at is not None:
            self._go_on_at(min(self._loop.time() + _AFTER_SECONDS, self._paused_at + _LONGEST_SECONDS))

    def go_on(self) -> None:
        if self._going_on is not None:
            self._going_on.cancel()
            self._going_on = None
        if self._paused_at is not None:
            now = self._loop.time()
            self._runs_until = now + _LEAST_SHARE * (now - self._paused_at)
            self._paused_at = None
            self._send(signal.SIGCONT)

    def _go_on_at(self, when: float) -> None:
        if self._going_on is not None:
            self._going_on.cancel()
        self._going_on = self._loop.call_at(when, self.go_on)

    def _send(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):  # it has ended
            self._running.send_signal(number)


PRECEDENCE = Precedence()
"""That of this process, whose workers share its processors."""
