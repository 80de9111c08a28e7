"""Servers that a client has named in a connection string: which are connected to, and what they can do."""

import asyncio
import os
import socket
import ssl
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from temporalio.testing import ActivityEnvironment

from activities.education_organizations import EducationOrganizationActivities, PageRead, PageToRead
from ods.databases.education_organizations.program import answer
from ods.embedded.polling import wait_until
from ods.embedded.ports import free_port
from ods.embedded.postgres import EmbeddedPostgres
from ods.registry.connection_strings.ods_connection_strings import OdsConnectionStrings
from ods.registry.education_organizations.refreshes import Scope
from ods.registry.education_organizations.store import EducationOrganizations
from ods.tenants.tenant import Tenant
from tests.false_postgres import FalsePostgres, Lie
from tests.ods import ROWS, add_ods_instance, connection_string, ods_database, organizations
from tests.postgres.test_education_organizations import NOT_ALLOWED
from tests.secret_search import as_secret

_MEGABYTE = 2**20
_NAME = "ods.example.org"
_PASSWORD = as_secret("secret-of-a-foreign-server")
_FAULT = (
    "it cannot be read from its server, which is not one of this installation's servers"
    " (the log of the worker says why)"
)


def _activities(tenant: Tenant, allowed: str | None = None) -> EducationOrganizationActivities:
    """The activities of a worker with such an ODS_ALLOWED_ODS_HOSTS."""
    settings = tenant.settings.model_copy(update={"allowed_ods_hosts": allowed})
    strings = OdsConnectionStrings.from_settings(settings)
    return EducationOrganizationActivities(
        EducationOrganizations(tenant.reading_engine, strings), strings, at_once=32
    )


async def _read(activities: EducationOrganizationActivities) -> PageRead:
    return await ActivityEnvironment().run(activities.read_page, PageToRead(Scope(None), 0, 50))


def _string(host: str, port: int, more: str = "") -> str:
    return f"host={host};port={port};database=any;username=a;password={_PASSWORD}{more}"


def _reasons(page: PageRead) -> list[str]:
    return [fault.partition("): ")[2] for fault in page.faults]


def _processes() -> list[str]:
    """The processes that read databases."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"ods.databases.education_organizations.program" in file.read_bytes():
                status = (file.parent / "status").read_text()
                found += [file.parent.name] if f"\nPPid:\t{os.getpid()}\n" in status else []
        except OSError:  # it has ended
            continue
    return found


@asynccontextmanager
async def _growth() -> AsyncIterator[list[int]]:
    """By how many bytes of memory this process grows at most while the body runs, known in the end."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    grown, before = [0], resident()

    async def watch() -> None:
        while True:
            grown[0] = max(grown[0], resident() - before)
            await asyncio.sleep(0.005)

    watching = asyncio.create_task(watch())
    try:
        yield grown
    finally:
        watching.cancel()


async def test_worker_does_not_grow_and_reads_the_others_when_false_servers_send_without_end(
    tenant: Tenant, rows: asyncpg.Connection, postgres: EmbeddedPostgres
) -> None:
    async with AsyncExitStack() as stack:
        for lie in (Lie.ROWS, Lie.ROW, Lie.MANY):
            server = await stack.enter_async_context(FalsePostgres(lie).serving())
            await add_ods_instance(rows, "False", _string("127.0.0.1", server.port))
        database = await stack.enter_async_context(ods_database(postgres))
        good = await add_ods_instance(rows, "North", connection_string(postgres.port, database))
        async with _growth() as grown:
            page = await _read(_activities(tenant, "127.0.0.1"))
    assert (page.read, _reasons(page)) == (1, [_FAULT] * 3)
    assert await organizations(rows, good) == ROWS
    assert grown[0] < 16 * _MEGABYTE


_SPELLINGS = (
    *("127.0.0.1", "localhost", "LOCALHOST.", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "[::]"),
    *(
        "[::1]",
        "::1",
        "[::ffff:127.0.0.1]",
        "::ffff:7f00:1",
        "[::1%lo]",
        "/run/postgresql",
        "@socket",
        "%2Frun",
    ),
    *("127.0.0.1:{own},127.0.0.1", "127.0.0.1,127.0.0.1:{own}", "169.254.169.254", "10.0.0.1"),
)


async def test_no_connection_is_made_when_the_server_is_none_of_ours(
    tenant: Tenant,
    rows: asyncpg.Connection,
    postgres: EmbeddedPostgres,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with FalsePostgres(Lie.HONEST).serving() as server:
        monkeypatch.setenv("PGHOST", "127.0.0.1")
        monkeypatch.setenv("PGPORT", str(server.port))
        for host in _SPELLINGS:
            await add_ods_instance(rows, host, _string(host.format(own=postgres.port), server.port))
        page = await _read(_activities(tenant, "*.example.org, 127.0.0.1:1"))
    assert _reasons(page) == [NOT_ALLOWED] * len(_SPELLINGS)
    assert server.connections == 0


async def test_one_message_is_told_when_an_allowed_server_cannot_be_read_for_whatever_reason(
    tenant: Tenant, rows: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    async with AsyncExitStack() as stack:
        lies = (Lie.SILENT, Lie.HTTP, Lie.LOGIN, Lie.CODE)
        servers = [await stack.enter_async_context(FalsePostgres(lie).serving()) for lie in lies]
        for port in (free_port(), *(server.port for server in servers)):
            await add_ods_instance(rows, "False", _string("127.0.0.1", port))
        await add_ods_instance(rows, "Unknown", _string("nowhere.invalid", 5432))
        page = await _read(_activities(tenant, "127.0.0.1, nowhere.invalid"))
    assert all(server.connections for server in servers)
    assert _reasons(page) == [_FAULT] * 6
    logged = [one.getMessage().partition(": ")[2] for one in caplog.records if "ODS instance" in one.msg]
    assert sorted(logged) == [
        "the answer of the server was not understood",
        "the database did not answer in time",
        "the name of the server is not known",
        "the server cannot be reached",
        "the server cannot be reached",
        "the server refused the login",
    ]


async def test_allowed_server_is_read_when_it_answers(tenant: Tenant, rows: asyncpg.Connection) -> None:
    async with FalsePostgres(Lie.HONEST).serving() as server:
        added = await add_ods_instance(rows, "Foreign", _string("127.0.0.1", server.port))
        page = await _read(_activities(tenant, f"[::1], 127.0.0.0/8:{server.port}"))
    assert page.faults == []
    assert await organizations(rows, added) == [(1, "A false school", None, "edfi.School", None)]


async def test_process_ends_when_the_refresh_is_cancelled(tenant: Tenant, rows: asyncpg.Connection) -> None:
    async with FalsePostgres(Lie.SILENT).serving() as server:
        await add_ods_instance(rows, "Silent", _string("127.0.0.1", server.port))
        reading = asyncio.create_task(_read(_activities(tenant, "127.0.0.1")))
        await wait_until(lambda: _true(server.connections), 20)
        (program,) = _processes()
        environment, niceness = _environment(program), _niceness(program)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await wait_until(lambda: _true(not server.open), 5)
    assert _processes() == []
    assert {one.partition("=")[0] for one in environment.split("\0") if one} <= {
        *("PYTHONPATH", "HOME", "PGSSLROOTCERT", "PGSSLCRL", "PGSSLCERT", "PGSSLKEY", "LC_CTYPE")
    }
    assert set(niceness) == {10}  # all that the server can have it do, a job can do first


def _niceness(program: str) -> list[int]:
    """Of the process beyond this one's; of its session, if the kernel divides processor time among these."""
    found = [os.getpriority(os.PRIO_PROCESS, int(program)) - os.getpriority(os.PRIO_PROCESS, 0)]
    session = Path(f"/proc/{program}/autogroup")
    return found + ([int(session.read_text().split()[-1])] if session.exists() else [])


def _environment(program: str) -> str:
    return Path(f"/proc/{program}/environ").read_text()


async def _true(value: object) -> bool:
    return bool(value)


class _Resolver:
    """What names lead to, one look-up after the other."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self._answers: Iterator[Sequence[str]] = iter(answers)

    def __call__(self, host: str, port: int, **_: object) -> list[Any]:
        assert host == _NAME
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in next(self._answers)]


def _request(port: int, allowed: str, ssl_mode: str | None = None) -> dict[str, Any]:
    address = {"servers": [[_NAME, port]], "database": "any", "user": "a", "password": _PASSWORD}
    return {"address": {**address, "ssl_mode": ssl_mode}, "allowed": allowed}


async def test_name_is_looked_up_once_when_its_server_is_connected_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with FalsePostgres(Lie.HONEST).serving() as server:
        # The second one would be another server, and a third look-up fails.
        monkeypatch.setattr(socket, "getaddrinfo", _Resolver(["127.0.0.2", "127.0.0.1"]))
        found = await asyncio.to_thread(answer, _request(server.port, f"{_NAME}, 127.0.0.0/8"))
    assert found == {"organizations": [[1, "A false school", None, "edfi.School", None]]}


@pytest.mark.parametrize(
    "addresses",
    [["127.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["::ffff:127.0.0.1"], ["169.254.169.254"], ["fe80::1%lo"]],
)
async def test_no_connection_is_made_when_an_allowed_name_leads_to_a_private_address(
    monkeypatch: pytest.MonkeyPatch, addresses: list[str]
) -> None:
    async with FalsePostgres(Lie.HONEST).serving() as server:
        monkeypatch.setattr(socket, "getaddrinfo", _Resolver(addresses))
        found = await asyncio.to_thread(answer, _request(server.port, _NAME))
    assert "fault" in found
    assert server.connections == 0


@pytest.mark.parametrize(("name", "key"), [(_NAME, "organizations"), ("other.example.org", "fault")])
async def test_certificate_is_checked_for_the_name_when_the_connection_is_made_to_its_address(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, key: str
) -> None:
    certificate, key_file = tmp_path / "certificate.pem", tmp_path / "certificate.key"
    made = ("openssl", "req", "-x509", "-nodes", "-newkey", "rsa:2048", "-subj", f"/CN={name}")
    files = ("-keyout", str(key_file), "-out", str(certificate))
    options = ("-days", "2", "-addext", f"subjectAltName=DNS:{name}")
    assert await (await asyncio.create_subprocess_exec(*made, *files, *options, stderr=DEVNULL)).wait() == 0
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key_file)
    monkeypatch.setenv("PGSSLROOTCERT", str(certificate))
    async with FalsePostgres(Lie.HONEST, context).serving() as server:
        monkeypatch.setattr(socket, "getaddrinfo", _Resolver(["127.0.0.1"]))
        request = _request(server.port, f"{_NAME}, 127.0.0.1", "VerifyFull")
        assert key in await asyncio.to_thread(answer, request)
