"""The stack's processes: signals to them, their relatives, and holding them still for a while."""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal; a process that has ended already needs none."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def is_alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    return _status(pid)[0] != "Z"


def parent(pid: int) -> int:
    """The process that started this one; 0 if this one has ended."""
    return int(_status(pid)[1])


def children(pid: int) -> Sequence[int]:
    """The processes that this one has started and that live."""
    every = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [child for child in every if _status(child)[1] == str(pid)]


@contextmanager
def frozen(pids: Sequence[int]) -> Iterator[None]:
    """The processes with these ids do nothing while the body runs."""
    try:
        for pid in pids:
            send(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in pids:
            send(pid, signal.SIGCONT)


def _status(pid: int) -> tuple[str, str]:
    """State and parent of a process; what has ended is like a zombie."""
    try:
        state, ppid = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return "Z", "0"
    return state, ppid
