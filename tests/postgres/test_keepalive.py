"""Within a minute, a session notices that its server has lost its power, and a server that its client has."""

import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from ods.databases.server import Server

_KEEPALIVE = 2
"""The kind of the timer in /proc/net/tcp that runs while nothing is sent (Linux, `tcp(5)`)."""
_ESTABLISHED = 1
_PROBED_AFTER_SECONDS = 30
_TICKS_PER_SECOND = 100

Open = Callable[[Server], AbstractAsyncContextManager[asyncpg.Connection]]
SESSIONS: dict[str, Open] = {
    "kept": lambda server: server.session(),
    "locked": lambda server: server.locked("a key"),
    "of its own": lambda server: server.connected("postgres"),
}


def _timer(port: int) -> tuple[int, int]:
    """The kind of the timer of the connection from this local port, and the ticks it has left."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, _, state, _, timer, *_ = line.split()
        if int(local.partition(":")[2], 16) == port and int(state, 16) == _ESTABLISHED:
            kind, _, ticks = timer.partition(":")
            return int(kind, 16), int(ticks, 16)
    raise LookupError(port)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems show no timers")
@pytest.mark.parametrize("kind", SESSIONS)
async def test_server_is_probed_when_it_is_silent(server: Server, kind: str) -> None:
    async with SESSIONS[kind](server) as session:
        port = await session.fetchval("SELECT inet_client_port()")
        timer, ticks = _timer(port)
    assert timer == _KEEPALIVE
    assert ticks <= _PROBED_AFTER_SECONDS * _TICKS_PER_SECOND


@pytest.mark.skipif(sys.platform != "linux", reason="other systems show no timers")
async def test_registry_is_probed_when_it_is_silent(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        timer, ticks = _timer(await connection.scalar(text("SELECT inet_client_port()")) or 0)
    assert timer == _KEEPALIVE
    assert ticks <= _PROBED_AFTER_SECONDS * _TICKS_PER_SECOND


_PROBES = [("tcp_keepalives_idle", "30"), ("tcp_keepalives_interval", "10"), ("tcp_keepalives_count", "3")]


async def test_server_probes_the_client_too_when_it_runs_ddl(server: Server) -> None:
    async with server.session() as session:
        assert [(name, await session.fetchval(f"SHOW {name}")) for name, _ in _PROBES] == _PROBES


async def test_registry_probes_the_client_too(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        assert [(name, await connection.scalar(text(f"SHOW {name}"))) for name, _ in _PROBES] == _PROBES
