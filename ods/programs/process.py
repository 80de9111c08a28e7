"""Child processes: starting and stopping them, and ending them if this process dies."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_WRAPPER = str(Path(__file__).with_name("wrapper.py"))
_WRAPPER_POLL_SECONDS = 0.01
"""It takes about three times as long to become the program."""


@dataclass(frozen=True)
class Account:
    """The operating-system user a process runs as."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True)
class Command:
    """A program to run as a child process.

    Attributes:
        name: for logs and messages.
        arguments: the program and its arguments.
        environment: its whole environment.
        account: the user it runs as; None for the user of this process.
        stop_signal: asks it to end.
        stop_deadline: seconds until it is killed if it has not ended.
        death_signal: sent to it by the kernel if this process dies (Linux only).
        niceness: as of `nice`, from 0 to 19.
    """

    name: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    account: Account | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    stop_deadline: float = 10
    death_signal: signal.Signals = signal.SIGKILL
    niceness: int = 0


async def start(
    command: Command,
    log: Path,
    *,
    stdin: int | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
) -> Process:
    """Run `command` in a session of its own.

    Args:
        command: what is run.
        log: the file that its output and errors are appended to, unless they go elsewhere.
        stdin: as of `subprocess`; without it, the command reads nothing.
        stdout: as of `subprocess`.
        stderr: as of `subprocess`.
    """
    account = (str(command.account.uid), str(command.account.gid)) if command.account else ("", "")
    numbers = map(str, (os.getpid(), int(command.death_signal), command.niceness))
    with log.open("ab") as output:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", _WRAPPER, *numbers, *account, *command.arguments),
            stdin=DEVNULL if stdin is None else stdin,
            stdout=output if stdout is None else stdout,
            stderr=output if stderr is None else stderr,
            cwd="/",  # the account may not be allowed into ours
            env=dict(command.environment),
            start_new_session=True,
        )


async def until_program_runs(process: Process) -> None:
    """Wait until `process` is the program, or has ended, and is no more the wrapper.

    The kernel may not end the wrapper yet if this process dies: it must not be paused, or it would stay.
    """
    while process.returncode is None and _may_be_wrapper(process.pid):  # noqa: ASYNC110 - another process, which sets no event
        await asyncio.sleep(_WRAPPER_POLL_SECONDS)


def _may_be_wrapper(pid: int) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # the system has no such files
        return False
    return not words or os.fsencode(_WRAPPER) in words.split(b"\0")  # empty while it becomes a program


async def stop(process: Process, command: Command) -> None:
    """Ask `process` to end; if it has not by the deadline, kill it with its descendants."""
    with suppress(ProcessLookupError):
        process.send_signal(command.stop_signal)
    try:
        await asyncio.wait_for(process.wait(), command.stop_deadline)
    except TimeoutError:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def identity(account: Account | None) -> dict[str, Any]:
    """The arguments that make `subprocess` run a command as `account`."""
    return {"user": account.uid, "group": account.gid, "extra_groups": []} if account else {}
