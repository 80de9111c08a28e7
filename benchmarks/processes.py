"""Memory and processor time of the processes of a stack."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import psutil

from ods.embedded.data_folder import StackFile

POSTGRES = "PostgreSQL"
IDLE = "no process"


def resident_megabytes(pid: int) -> float:
    """Memory that the process has resident."""
    return psutil.Process(pid).memory_info().rss / 1024 / 1024


class ProcessorTimes:
    """Milliseconds of processor time by server of the stack, and idle time, of each of several rounds."""

    def __init__(self, stack: StackFile) -> None:
        self._servers = {
            POSTGRES: stack["postgres"]["pid"],
            "Temporal": stack["temporal"]["pid"],
            "the worker": stack["worker"]["pid"],
            "the API": stack["api"]["pid"],
        }
        self.rounds: defaultdict[str, list[float]] = defaultdict(list)

    @contextmanager
    def round(self, share: int) -> Iterator[None]:
        """Record the time that is used while the body runs, divided by `share`."""
        before = self._used()
        yield
        for name, used in self._used().items():
            self.rounds[name].append((used - before[name]) / share)

    def _used(self) -> Mapping[str, float]:
        machine = psutil.cpu_times()
        used = {name: _used_by(psutil.Process(pid)) for name, pid in self._servers.items()}
        return used | {IDLE: 1000 * (machine.idle + machine.iowait)}


def _used_by(process: psutil.Process) -> float:
    """Milliseconds of a process and its children; the kernel adds those of ended ones to the parent."""
    try:
        times = process.cpu_times()
        own = times.user + times.system + times.children_user + times.children_system
        return 1000 * own + sum(map(_used_by, process.children()))
    except psutil.NoSuchProcess:  # it has just ended: its time is counted for its parent
        return 0
