"""TCP ports on 127.0.0.1."""

import random
import socket
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from itertools import islice

from ods.embedded.errors import CommandError

_HOST = "127.0.0.1"
_NO_CLIENTS = range(20_000, 32_768)
"""Below the ports that Linux, macOS and Windows give to clients at each connection, unless set otherwise."""


@dataclass(frozen=True)
class Ports:
    """The TCP ports of a stack; without one for PostgreSQL, a free one is chosen and kept."""

    api: int
    temporal: int
    temporal_ui: int
    postgres: int | None


def free_port(besides: Collection[int] = ()) -> int:
    """A port on which no process listens, and none of `besides`."""
    return free_ports(1, besides)[0]


def free_ports(number: int, besides: Collection[int] = ()) -> list[int]:
    """So many different ports on which no process listens, and none of `besides`.

    The kernel gives them to no client: a server that starts again finds its port free. For a minute, this
    gives them to no other caller.
    """
    tried = random.sample(_NO_CLIENTS, len(_NO_CLIENTS))
    return list(islice((port for port in tried if port not in besides and _is_reserved(port)), number))


def _is_reserved(port: int) -> bool:
    """Leave a connection in TIME_WAIT, if the port is free: servers may listen there (SO_REUSEADDR)."""
    with socket.socket() as probe:
        try:
            probe.bind((_HOST, port))
        except OSError:
            return False
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.listen()
        with socket.create_connection(probe.getsockname()):
            accepted, _ = probe.accept()
            accepted.close()  # first: the side that closes first is the one that waits
    return True


def require_free(ports: Mapping[str, int]) -> None:
    """Check that a server can listen on each of `ports`, which are keyed by the option that chooses them.

    Raises:
        CommandError: a port is taken or named twice; the message names the option to change.
    """
    chosen: dict[int, str] = {}
    for option, port in ports.items():
        if port in chosen:
            raise CommandError(f"{chosen[port]} and {option} are both {port}; give each a port of its own.")
        if is_taken(port):
            raise CommandError(f"Port {port} is taken; choose another one with {option}.")
        chosen[port] = option


def without_taken(ports: Ports, usual: Ports) -> Ports:
    """`ports`, with free ones instead of default ports that are taken.

    Args:
        ports: where a stack shall listen.
        usual: the defaults: a port that differs was chosen by the user, and stays.
    """
    given = {name: port for name, port in vars(ports).items() if port is not None}
    occupied = [name for name, port in given.items() if port == vars(usual)[name] and is_taken(port)]
    free = free_ports(len(occupied), besides=given.values())
    return replace(ports, **dict(zip(occupied, free, strict=True)))


def is_taken(port: int) -> bool:
    """Whether a process listens on `port`, or the port may not be used."""
    with socket.socket() as probe:
        probe.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # as servers do: connections that are closing do not count
        try:
            probe.bind((_HOST, port))
        except OSError:
            return True
    return False
