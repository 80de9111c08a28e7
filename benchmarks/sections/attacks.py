"""Attacks while a client creates an instance every second: what it waits for, and what the processes take.

Three kinds, each in rounds with it and without it, in turn: downloads that are never read, cookies of no
session that ask for the fragments of open pages, and ODS instances whose server sends rows of a megabyte.
"""

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from secrets import token_urlsafe
from time import sleep
from urllib.parse import urlsplit

import aiohttp
import asyncpg

from benchmarks.bare import bare_server
from benchmarks.bench import Bench
from benchmarks.load import Client, steadily
from benchmarks.measurement import Findings, Measurement, at_most
from benchmarks.processes import resident_megabytes
from benchmarks.subprocesses import run_beside, run_in_process
from ods.embedded.data_folder import StackFile
from ods.embedded.ports import free_port
from ods.programs.wrapper import lower_priority
from tests.false_postgres import FalsePostgres, Lie

_DOWNLOADS, _COOKIES, _SERVER = "unread downloads", "cookies of no session", "a false PostgreSQL"
_MOST = 1.2
"""The p95 of creates beside an attack, in that of creates without it."""
_MOST_MEGABYTES = 50
_SAMPLE_SECONDS = 0.1
_BEGUN_SECONDS = 3
"""After which an attack has begun."""
_OPEN_SECONDS = 10
"""After which a connection that does not read is opened anew, in case it was closed."""
_REFRESH_SECONDS = 0.5
_RECEIVE_BUFFER_BYTES = 4096
_CONNECTIONS = 50
_LEAST_PRIORITY = 19
_COOKIE = "ods-console"
_FILL = """
CREATE TABLE filling AS SELECT md5(random()::text) AS filled FROM generate_series(1, {rows});
GRANT SELECT ON filling TO PUBLIC
"""
_ROWS_PER_MEGABYTE = 1024 * 1024 // 32


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        rounds: of an attack, and as many without it.
        rounds_of_cookies: likewise, of the cookies.
        seconds: of each round; an instance is created in each.
        megabytes: of the instance whose backup is downloaded.
        downloads: connections that do not read.
        cookies: that are sent in all rounds together.
        sources: ODS instances on the false server.
    """

    rounds: int
    rounds_of_cookies: int
    seconds: int
    megabytes: int
    downloads: int
    cookies: int
    sources: int


@dataclass
class _Found:
    """Milliseconds of creates without an attack and beside it; megabytes by which a process grew."""

    alone: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)
    growth: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class _Target:
    """What is attacked.

    Attributes:
        stack: whose API and worker.
        backup: that is downloaded.
        token: the header `Authorization` of a client.
        port: of the false server.
        sources: the ids of the ODS instances on it.
    """

    stack: StackFile
    backup: str
    token: str
    port: int
    sources: Sequence[int]


def run(bench: Bench) -> Findings:
    """Create an instance every second, in turn alone and beside each attack."""
    full = Plan(
        rounds=3,
        rounds_of_cookies=6,  # 200 a second: each costs what any request costs
        seconds=30,
        megabytes=64,
        downloads=200,
        cookies=40_000,
        sources=4,
    )
    plan = bench.pick(full, quick=Plan(1, 1, 3, 4, 4, 100, 1))
    port = free_port()
    further = {"ODS_SPARES": "0", "ODS_ALLOWED_ODS_HOSTS": "127.0.0.1"}
    with bench.stacks.fresh(**further) as (_, stack):
        target = run_in_process(_prepare, stack, plan, port)
        found = {name: _measure(name, target, plan) for name in _ATTACKS}
    measurements = []
    limits = []
    for name, one in found.items():
        alone = Measurement(f"create every second, before {name}", one.alone)
        beside = Measurement(f"create every second, beside {name}", one.beside, bare=alone)
        measurements += [alone, beside]
        limits.append(at_most(f"{beside.name}, p95, of that without", beside.p95 / alone.p95, _MOST, "x"))
        process = "the worker" if name == _SERVER else "the API"
        limits.append(at_most(f"{process} grew beside {name}", max(one.growth), _MOST_MEGABYTES, "MB"))
    return Findings(measurements, limits)


def _measure(name: str, target: _Target, plan: Plan) -> _Found:
    found = _Found()
    pid = target.stack["worker" if name == _SERVER else "api"]["pid"]
    for number in range(plan.rounds_of_cookies if name == _COOKIES else plan.rounds):
        found.alone += run_in_process(_create, target.stack, plan.seconds, f"{number} alone {name}")
        with run_beside(_ATTACKS[name], target, plan), _growth_of(pid) as growth:
            sleep(_BEGUN_SECONDS)
            found.beside += run_in_process(_create, target.stack, plan.seconds, f"{number} beside {name}")
        found.growth.append(growth())
    return found


@contextmanager
def _growth_of(pid: int) -> Iterator[Callable[[], float]]:
    """By how many megabytes the process has grown at most while the body ran."""
    before, most, over = resident_megabytes(pid), [0.0], threading.Event()

    def watch() -> None:
        while not over.wait(_SAMPLE_SECONDS):
            most[0] = max(most[0], resident_megabytes(pid) - before)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield lambda: most[0]
    finally:
        over.set()
        watching.join()


async def _create(stack: StackFile, seconds: int, name: str) -> list[float]:
    """Milliseconds from POST to `Completed` of an instance every second."""
    async with bare_server(stack["postgres"]["master_dsn"]) as server:
        await server.flush()
    async with Client(stack) as client:
        await client.create(f"First {name}")  # opens connections
        return await steadily(lambda number: client.create(f"{number} {name}"), seconds, 1)


async def _prepare(stack: StackFile, plan: Plan, port: int) -> _Target:
    """Back up an instance with data; the ODS instances whose server is the false one."""
    async with Client(stack) as client:
        created = await client.create("Attacked")
        session = await asyncpg.connect(stack["postgres"]["master_dsn"], database=created.database)
        await session.execute(_FILL.format(rows=plan.megabytes * _ROWS_PER_MEGABYTE))
        await session.close()
        backup = await client.back_up(created.instance)
        sources = []
        for number in range(plan.sources):
            body = {
                "name": f"False {number}",
                "instanceType": "none",
                "connectionString": f"host=127.0.0.1;port={port};username=u;password=p;database=d",
            }
            answer = await client.http.post("/v2/odsInstances", json=body)
            sources.append(answer.raise_for_status().json()["id"])
        return _Target(stack, backup, client.http.headers["Authorization"], port, sources)


def _elsewhere() -> None:
    """Let this process take only what the service leaves of the processors: an attacker has others."""
    os.setsid()  # the kernel may divide processor time among sessions first
    lower_priority(os.getpid(), _LEAST_PRIORITY)


async def _leave_downloads_unread(target: _Target, plan: Plan) -> None:
    """Keep so many connections that ask for the backup and read nothing; make one anew that is closed."""
    _elsewhere()
    address = urlsplit(target.stack["api"]["url"])
    request = (
        f"GET /v2/backups/{target.backup}/dump HTTP/1.1\r\nHost: {address.netloc}\r\n"
        f"Authorization: {target.token}\r\n\r\n"
    )
    loop = asyncio.get_running_loop()

    async def stay() -> None:
        while True:
            with socket.socket() as connection:
                connection.setblocking(False)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
                with suppress(OSError):
                    await loop.sock_connect(connection, (address.hostname, address.port))
                    await loop.sock_sendall(connection, request.encode())
                await asyncio.sleep(_OPEN_SECONDS)

    with suppress(TimeoutError):
        async with asyncio.timeout(plan.seconds + _BEGUN_SECONDS):
            await asyncio.gather(*(stay() for _ in range(plan.downloads)))


async def _send_cookies(target: _Target, plan: Plan) -> None:
    """Ask for the fragments of an open page with cookies of sessions that there are not."""
    _elsewhere()
    sent = plan.cookies // plan.rounds_of_cookies
    async with aiohttp.ClientSession(
        target.stack["api"]["url"],
        connector=aiohttp.TCPConnector(limit=_CONNECTIONS),
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as http:

        async def send(_: int) -> None:
            headers = {"Console-Live": "1", "Cookie": f"{_COOKIE}={token_urlsafe()}"}
            async with http.get("/console/instances", headers=headers, allow_redirects=False) as answer:
                await answer.read()

        await steadily(send, sent, sent / (plan.seconds + _BEGUN_SECONDS))


async def _refresh_false_servers(target: _Target, plan: Plan) -> None:
    """Have the ODS instances on the false server read again and again."""
    _elsewhere()
    with suppress(TimeoutError):
        async with (
            asyncio.timeout(plan.seconds + _BEGUN_SECONDS),
            FalsePostgres(Lie.ROWS).serving(port=target.port),
            Client(target.stack) as client,
        ):
            while True:
                for source in target.sources:
                    await client.http.post(f"/v2/odsInstances/{source}/edOrgs/refresh")
                await asyncio.sleep(_REFRESH_SECONDS)


_ATTACKS = {
    _DOWNLOADS: _leave_downloads_unread,
    _COOKIES: _send_cookies,
    _SERVER: _refresh_false_servers,
}
