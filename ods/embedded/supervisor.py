"""Keeps child processes running: restarts those that end, and stops all of them in reverse order."""

import asyncio
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Self

from ods.embedded.errors import CommandError
from ods.embedded.polling import wait_until
from ods.programs import process
from ods.programs.process import Command

_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 3.0
"""Shorter than the heartbeat timeout, after which Temporal notices that a worker has died."""
_STEADY_SECONDS = 30
"""After a child has run this long, it is restarted as quickly as at first."""
_MAX_DEATHS_AT_START = 3
"""If a child ends so often before the stack serves, the start has failed."""
_START_SECONDS = 60


class Supervisor:
    """Runs children for the time of an `async with` block.

    Args:
        logs: folder of the children's output, `<name>.log`.
        restarted: called with a child's name when it was restarted and so has another process id.
    """

    def __init__(self, logs: Path, restarted: Callable[[str], None]) -> None:
        self._logs = logs
        self._restarted = restarted
        self._children: list[_Child] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for child in reversed(self._children):
            await child.stop()

    @property
    def pids(self) -> Mapping[str, int]:
        """The current process id of each child, by its name."""
        return {child.command.name: child.pid for child in self._children}

    async def start(self, command: Command) -> None:
        """Run `command` as a child until the block ends."""
        child = _Child(command, self._logs / f"{command.name}.log", self._restarted)
        await child.spawn()
        self._children.append(child)

    async def wait_until(
        self, condition: Callable[[], Awaitable[bool]], what: str, seconds: float = _START_SECONDS
    ) -> None:
        """Wait until `condition` holds.

        Args:
            condition: asked again and again.
            what: the condition in words, for the error.
            seconds: for how long.

        Raises:
            CommandError: it has not held within that time, or a child dies again and again.
        """

        async def holds() -> bool:
            for child in self._children:
                child.check()
            return await condition()

        try:
            await wait_until(holds, seconds)
        except TimeoutError:
            raise CommandError(
                f"There was no {what} within {seconds} seconds; the logs are in {self._logs}."
            ) from None


class _Child:
    """One child, and the task that restarts it."""

    def __init__(self, command: Command, log: Path, restarted: Callable[[str], None]) -> None:
        self.command = command
        self._log = log
        self._restarted = restarted
        self._deaths = 0
        self._process: Process
        self._restarting: asyncio.Task[None]

    @property
    def pid(self) -> int:
        return self._process.pid

    async def spawn(self) -> None:
        self._process = await process.start(self.command, self._log)
        self._restarting = asyncio.create_task(self._restart_when_ended())

    async def stop(self) -> None:
        self._restarting.cancel()
        with suppress(asyncio.CancelledError):
            await self._restarting
        await process.stop(self._process, self.command)

    def check(self) -> None:
        if self._deaths >= _MAX_DEATHS_AT_START:
            *_, last_line = ["nothing", *self._log.read_text(errors="replace").splitlines()]
            raise CommandError(
                f"{self.command.name} ends as soon as it is started; the end of {self._log}: {last_line}"
            )

    async def _restart_when_ended(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while True:
            started = monotonic()
            await self._process.wait()
            self._deaths += 1
            if monotonic() - started > _STEADY_SECONDS:
                pause = _FIRST_PAUSE_SECONDS
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
            await self._restart()

    async def _restart(self) -> None:
        # Short of memory or of processes, this round fails and the next one tries again.
        with suppress(OSError):
            self._process = await process.start(self.command, self._log)
            self._restarted(self.command.name)
