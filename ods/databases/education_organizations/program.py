"""The program that reads the education organizations of ODS databases, each in a process of its own.

Other people have written what such a database or its server sends, perhaps to do harm. The process that reads
it has nothing but the address, little memory and little time. This program forks it, so that the imports are
paid for once.

The worker starts the program with a socket as standard input, and sends it one end of another socket for each
database: on that, the request is a line of JSON, and the answer a text of JSON.
"""

import asyncio
import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from ods.databases.education_organizations.reading import (
    Address,
    UnreadableError,
    education_organizations,
    reading,
)
from ods.registry.connection_strings.allowed_hosts import AllowedHosts

SECONDS = 30
"""How long a process may take; the module `reading` has a shorter limit for each step."""
_BYTES = 128 * 1024 * 1024
"""Of memory: the interpreter, and several times the most organizations that are read."""
_FULL = 112 * 1024
"""Kibibytes of memory at which a process ends; at its limit, the driver would go on and drop what arrives."""
_LOOK_SECONDS = 0.1
"""Of processor time, after which the process compares its memory with that."""
_PROCESSOR_SECONDS = 2
"""Reading the most organizations takes a fraction of it."""


class _PinnedLoop(asyncio.SelectorEventLoop):
    """Connects only to the `pinned` addresses of each host and port, and looks nothing up.

    So a name cannot lead elsewhere once its addresses were judged. TLS still checks the name.
    """

    def __init__(self, pinned: Mapping[tuple[str, int], Sequence[str]]) -> None:
        super().__init__()
        self._pinned = pinned

    async def create_connection(  # type: ignore[override]
        self,
        protocol_factory: Any,  # noqa: ANN401 - the base class's
        host: str,
        port: int,
        **arguments: Any,  # noqa: ANN401 - the base class's
    ) -> tuple[Any, Any]:
        """As of any loop; the host's addresses are tried in turn."""
        *others, last = self._pinned[host, port]
        for address in others:
            with suppress(OSError):
                return await super().create_connection(protocol_factory, address, port, **arguments)
        return await super().create_connection(protocol_factory, last, port, **arguments)


def main() -> None:
    """Fork a process for each socket that the worker sends, until the worker closes its own."""
    control = socket.socket(fileno=0)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no status is waited for
    while (received := socket.recv_fds(control, 1, 1))[1]:
        (descriptor,) = received[1]
        with suppress(OSError):  # there are too many processes: the worker reads that there is no answer
            if os.fork() == 0:
                try:
                    control.close()
                    _serve(socket.socket(fileno=descriptor))
                finally:
                    os._exit(0)
        os.close(descriptor)


def answer(request: Mapping[str, Any], connection: socket.socket | None = None) -> Mapping[str, Any]:
    """What was read, or why it could not be.

    Args:
        request: `address` as of `Address`; `allowed`, which servers it may lead to, or None if the address
            names the installation's own.
        connection: of the worker, at whose end the process ends.
    """
    address, allowed = Address(**request["address"]), request["allowed"]
    try:
        pinned = None if allowed is None else _resolved(address.servers, AllowedHosts(allowed))
        loop_factory = None if pinned is None else partial(_PinnedLoop, pinned)
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            return {"organizations": runner.run(_organizations(address, connection))}
    except UnreadableError as error:
        return {"fault": str(error)}


def _serve(connection: socket.socket) -> None:
    """Answer the worker's request, within the limits."""
    with suppress(OSError):  # Linux: if memory is short, it is this process that ends, and not the worker
        Path("/proc/self/oom_score_adj").write_text("1000")
    resource.setrlimit(resource.RLIMIT_DATA, (_BYTES, _BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (_PROCESSOR_SECONDS, _PROCESSOR_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # its memory has a password
    signal.signal(signal.SIGPROF, _end_when_full)
    signal.setitimer(signal.ITIMER_PROF, _LOOK_SECONDS, _LOOK_SECONDS)
    signal.alarm(SECONDS)
    with connection, connection.makefile("rb") as stream:
        request = json.loads(stream.readline())
        connection.sendall(json.dumps(answer(request, connection), ensure_ascii=False).encode())


def _end_when_full(*_: object) -> None:
    if sys.platform == "linux" and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > _FULL:
        os._exit(1)  # other systems count otherwise


async def _organizations(address: Address, connection: socket.socket | None) -> list[list[object]]:
    if connection is not None:  # the worker sends no more: it has given up, or was killed
        asyncio.get_running_loop().add_reader(connection, os._exit, 1)
    async with reading(address) as session:
        return [list(row) for row in await education_organizations(session)]


def _resolved(
    servers: Sequence[tuple[str, int]], allowed: AllowedHosts
) -> Mapping[tuple[str, int], Sequence[str]]:
    addresses = {}
    for host, port in servers:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise UnreadableError("the name of the server is not known") from None
        addresses[host, port] = [str(one[4][0]) for one in found]
        if not all(allowed.allow_address(one, port) for one in addresses[host, port]):
            raise UnreadableError(
                "ODS_ALLOWED_ODS_HOSTS names it, but not the address that it leads to, which is not public"
            )
    return addresses


if __name__ == "__main__":
    main()
