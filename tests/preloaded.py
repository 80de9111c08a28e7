"""Programs of the product in processes of their own, forked from a process that has imported all of it.

    process = await preloaded.start("worker", env=environment)
    run = preloaded.run("ods.cli", "instance", "list", env=environment)

A program that is started afresh spends a second of processor time on its imports; forked, some milliseconds.
The rest is the same: its own arguments, environment, output, signals and exit code. What a program does when
it really is started afresh is tested in `tests/embedded` (`ods up`) and `tests/deployment`.
"""

import asyncio
import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO, Any, NamedTuple

_ROOT = Path(__file__).parents[1]
_MODULES = (
    *("api.app", "api.http.server_protocol", "uvicorn.main", "uvicorn.lifespan.on"),
    *("ods.cli.main", "ods.embedded.registry", "ods.temporal.client", "worker", "tests.faults.spare_worker"),
    "tests.workflows.next_version",
)
"""What the programs import, sooner or later."""
_LONGEST_REQUEST = 1 << 20


class Process:
    """A running program; as much of `asyncio.subprocess.Process` as tests need."""

    def __init__(self, pid: int, end: asyncio.StreamReader, connection: asyncio.StreamWriter) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._connection = connection
        self._ended = asyncio.create_task(self._end(end))

    async def _end(self, end: asyncio.StreamReader) -> None:
        self.returncode = int(await end.readline())
        self._connection.close()

    async def wait(self) -> int:
        """Wait until the program has ended; returns its exit code, or minus the signal that ended it."""
        await asyncio.shield(self._ended)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal.

        Raises:
            ProcessLookupError: it has ended.
        """
        if self.returncode is not None:
            raise ProcessLookupError
        os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


async def start(
    module: str,
    *arguments: str,
    env: Mapping[str, str],
    stdout: IO[Any] | None = None,
    stderr: IO[Any] | None = None,
) -> Process:
    """`python -m module *arguments` with exactly the variables of `env`; output goes to ours by default."""
    connection = _request(module, arguments, env, stdout, stderr)
    reader, writer = await asyncio.open_unix_connection(sock=connection)
    return Process(int(await reader.readline()), reader, writer)


def run(
    module: str, *arguments: str, env: Mapping[str, str], seconds: float = 100
) -> subprocess.CompletedProcess[str]:
    """The same, run to its end.

    Raises:
        TimeoutError: it ran for longer than `seconds`, and was killed.
    """
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        with _request(module, arguments, env, stdout, stderr) as connection, connection.makefile() as answers:
            connection.settimeout(seconds)
            pid = int(answers.readline())
            try:
                returncode = int(answers.readline())
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                raise
        stdout.seek(0)
        stderr.seek(0)
        return subprocess.CompletedProcess((module, *arguments), returncode, stdout.read(), stderr.read())


def _request(
    module: str,
    arguments: tuple[str, ...],
    env: Mapping[str, str],
    stdout: IO[Any] | None,
    stderr: IO[Any] | None,
) -> socket.socket:
    """A connection on which the program's process id comes, and at its end its exit code."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(_address())
    request = _Request(module, arguments, dict(env), str(Path.cwd()))
    outputs = [stdout.fileno() if stdout else 1, stderr.fileno() if stderr else 2]
    socket.send_fds(connection, [json.dumps(request).encode() + b"\n"], outputs)
    return connection


@cache
def _address() -> str:
    """Where the process listens that forks itself; it is started now, and ends with this one."""
    folder = tempfile.TemporaryDirectory(prefix="ods-preloaded-")
    address = str(Path(folder.name) / "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        parent = subprocess.Popen(  # noqa: S603 - ourselves
            [sys.executable, "-m", "tests.preloaded", str(listener.fileno())],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )

    def end() -> None:
        assert parent.stdin is not None
        parent.stdin.close()
        parent.wait()
        folder.cleanup()

    atexit.register(end)
    return address


class _Request(NamedTuple):
    module: str
    arguments: tuple[str, ...]
    env: dict[str, str]
    folder: str


def _requested(listener: socket.socket) -> _Request | None:
    """What this process, a fork by now, is to run; None in the first process, when its parent has ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the watchers' exit codes mean nothing
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in ready:
            return None
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            return _forked(connection)
        connection.close()


def _forked(connection: socket.socket) -> _Request:
    """Fork once more: the parent watches the child and tells its client of it, the child goes on."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    received, outputs, _, _ = socket.recv_fds(connection, _LONGEST_REQUEST, 2)
    while not received.endswith(b"\n"):
        received += connection.recv(_LONGEST_REQUEST)
    if (child := os.fork()) != 0:
        with suppress(BrokenPipeError):  # the client is gone
            connection.sendall(b"%d\n" % child)
            _, status = os.waitpid(child, 0)
            connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
        os._exit(0)
    connection.close()
    with Path(os.devnull).open() as nothing:
        os.dup2(nothing.fileno(), 0)
    for number, output in enumerate(outputs, start=1):
        os.dup2(output, number)
        os.close(output)
    return _Request(*json.loads(received))


def _main() -> None:
    for module in _MODULES:
        importlib.import_module(module)
    gc.freeze()  # so that forks share the pages
    with socket.socket(fileno=int(sys.argv[1])) as listener:
        request = _requested(listener)
    if request is not None:
        os.chdir(request.folder)
        os.environ.clear()
        os.environ.update(request.env)
        sys.argv = [request.module, *request.arguments]
        runpy.run_module(request.module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main()
