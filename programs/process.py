"""Child processes: starting and stopping them, and ending them if this process dies."""

import asyncio
import ctypes
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1


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
    with log.open("ab") as output:
        return await asyncio.create_subprocess_exec(
            *command.arguments,
            stdin=DEVNULL if stdin is None else stdin,
            stdout=output if stdout is None else stdout,
            stderr=output if stderr is None else stderr,
            cwd="/",  # the account may not be allowed into ours
            env=dict(command.environment),
            start_new_session=True,
            preexec_fn=_preparation(command),
            **identity(command.account),
        )


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


def lower_priority(pid: int, niceness: int) -> None:
    """Have a process that `start` has started yield to others, with all its threads.

    Args:
        pid: of the process, which leads a session of its own.
        niceness: as of `nice`, from 0 to 19, beyond that of this process.
    """
    with suppress(OSError):  # it has ended
        os.setpriority(os.PRIO_PGRP, pid, os.getpriority(os.PRIO_PROCESS, 0) + niceness)
    # With autogroups, the kernel divides processor time among sessions: niceness counts within one only.
    with suppress(OSError):
        session = os.open(f"/proc/{pid}/autogroup", os.O_WRONLY)
        os.write(session, b"%d" % niceness)
        os.close(session)


def _preparation(command: Command) -> Callable[[], None]:
    """A function that the forked child runs before it executes `command`."""
    parent = os.getpid()
    # Loaded here: loading a library in a forked child may deadlock.
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def prepare() -> None:
        if command.niceness:
            lower_priority(os.getpid(), command.niceness)
        if libc is not None:
            # Python calls this after it has changed the user; the change would undo the request.
            libc.prctl(_PR_SET_PDEATHSIG, command.death_signal)
            if os.getppid() != parent:
                os._exit(1)

    return prepare
