"""TCP ports on 127.0.0.1."""

import socket
from collections.abc import Mapping
from dataclasses import dataclass

from cli.errors import CommandError

_HOST = "127.0.0.1"
_ANY = 0


@dataclass(frozen=True)
class Ports:
    """The TCP ports of a stack; without one for PostgreSQL, a free one is chosen and kept."""

    api: int
    temporal: int
    temporal_ui: int
    postgres: int | None


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((_HOST, _ANY))
        return int(probe.getsockname()[1])


def require_free(ports: Mapping[str, int]) -> None:
    """Check that a server can listen on each of `ports`, which are keyed by the option that chooses them.

    Raises:
        CommandError: a port is taken or named twice; the message names the option to change.
    """
    chosen: dict[int, str] = {}
    for option, port in ports.items():
        if port in chosen:
            raise CommandError(f"{chosen[port]} and {option} are both {port}; give each a port of its own.")
        if _is_taken(port):
            raise CommandError(f"Port {port} is taken; choose another one with {option}.")
        chosen[port] = option


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # as servers do: closing connections do not count
        try:
            probe.bind((_HOST, port))
        except OSError:
            return True
    return False
