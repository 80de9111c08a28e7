"""A program pauses while steps of jobs go first, and always goes on."""

import asyncio
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ods.embedded.polling import wait_until
from ods.programs import precedence
from ods.programs.precedence import Precedence

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="programs pause on Linux only")

_STOPPED = "T"
"""As in the proc file system (proc_pid_stat(5))."""
_SECONDS = 10


@pytest.fixture
async def program() -> AsyncIterator[Process]:
    """A program that runs for longer than a test."""
    running = await asyncio.create_subprocess_exec("sleep", "600")
    yield running
    running.kill()
    await running.wait()


def is_paused(program: Process) -> bool:
    return Path(f"/proc/{program.pid}/stat").read_text().rpartition(")")[2].split()[0] == _STOPPED


async def until_paused(program: Process, *, paused: bool = True) -> None:
    async def is_so() -> bool:
        return is_paused(program) == paused

    await wait_until(is_so, _SECONDS, 0.01)


async def test_program_pauses_until_the_last_of_the_steps_has_ended(program: Process) -> None:
    first = Precedence()
    with first.pausing(program):
        with first.step():
            with first.step():
                await until_paused(program)
            assert is_paused(program)
        await until_paused(program, paused=False)


async def test_program_goes_on_when_a_step_takes_long(
    program: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precedence, "_LONGEST_SECONDS", 0.2)
    first = Precedence()
    with first.pausing(program), first.step():
        await until_paused(program)
        await until_paused(program, paused=False)


async def test_program_is_not_paused_again_at_once_when_steps_follow_each_other(
    program: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precedence, "_LEAST_SHARE", 1000)
    first = Precedence()
    with first.pausing(program):
        with first.step():
            await until_paused(program)
        await until_paused(program, paused=False)
        with first.step():
            assert not is_paused(program)


async def test_program_is_paused_again_when_it_has_run_for_its_share(
    program: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precedence, "_LEAST_SHARE", 0)
    first = Precedence()
    with first.pausing(program):
        for _ in range(2):
            with first.step():
                await until_paused(program)
            await until_paused(program, paused=False)


async def test_program_pauses_when_it_begins_after_the_step(program: Process) -> None:
    first = Precedence()
    with first.step():
        with first.pausing(program):
            await until_paused(program)
        await until_paused(program, paused=False)


async def test_nothing_happens_when_the_program_has_ended() -> None:
    first = Precedence()
    program = await asyncio.create_subprocess_exec("true")
    with first.pausing(program):
        await program.wait()
        with first.step():
            pass
