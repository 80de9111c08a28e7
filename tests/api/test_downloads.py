"""Downloads of backups: how many there are at once, and what those cost whose clients take nothing."""

import asyncio
import fcntl
import socket
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from ods.backups.layout import dump_of, manifest_of
from ods.backups.manifest import FORMAT_VERSION, BackupKind, Figures, Manifest
from ods.cli.client import AdminApi
from ods.embedded.errors import CommandError
from ods.embedded.polling import wait_until
from ods.registry.clients.administration import ClientAdministration, NewClient
from ods.registry.clients.credentials import ClientScope, new_secret
from ods.registry.clients.secret_hashes import SecretHasher
from ods.registry.storage.engine import create_registry_engine
from ods.settings.settings import DEFAULT_TENANT, Settings
from tests.api.server import Server, serving
from tests.api.service import bearer, tokens
from tests.servers import session

CLIENTS = 200
MEBIBYTE = 1024 * 1024
DUMP = bytes(8 * MEBIBYTE)
OTHER_CLIENT = "INSERT INTO adminapi.applications (clientid, generation) VALUES ('another-client', NULL)"
BACKUP = """
INSERT INTO adminapi.backups
    (id, instanceid, odsinstanceid, mark, installation, name, kind, jobid, template, createdat, details,
     storedid, location, sizebytes, databasesizebytes, sha256, manifestsha256, postgresversion, encrypted,
     takenat, finishedat)
VALUES ($1, 1, 1, $2, $3, 'Grand Bend', 'requested', '', 'Minimal', timezone('utc', now()), '{}',
        $1, '', $4, 1, $5, $6, '18.1', false, timezone('utc', now()), timezone('utc', now()))
"""


@pytest.fixture
async def backup(registry_dsn: str, tmp_path: Path) -> UUID:
    """A backup that is stored below `tmp_path`."""
    now, digest = datetime.now(UTC), sha256(DUMP).hexdigest()
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        backup_id=uuid4(),
        tenant=DEFAULT_TENANT,
        ods_instance_id=1,
        mark=uuid4(),
        name="Grand Bend",
        kind=BackupKind.REQUESTED,
        template="Minimal",
        postgres_version="18.1",
        dump_version="18.1",
        size_bytes=len(DUMP),
        database_size_bytes=1,
        sha256=digest,
        created_at=now,
        finished_at=now,
        encrypted=False,
        recipients=[],
        details={},
        figures=Figures({}, {}),
    )
    dump = tmp_path / dump_of(manifest.key, encrypted=False)
    dump.parent.mkdir(parents=True)
    dump.write_bytes(DUMP)
    content = manifest.to_json()
    (tmp_path / manifest_of(manifest.key)).write_bytes(content)
    values = (uuid4(), len(DUMP), digest, sha256(content).hexdigest())
    async with session(registry_dsn) as registry:
        await registry.execute(BACKUP, manifest.backup_id, manifest.mark, *values)
        await registry.execute(OTHER_CLIENT)
    return manifest.backup_id


@asynccontextmanager
async def unread(server: Server, backup: UUID, count: int) -> AsyncIterator[list[socket.socket]]:
    """So many clients that have asked for the dump, and read nothing; all are sent as much as they can be."""
    (field,) = bearer(server.settings).items()
    request = f"GET /v2/backups/{backup}/dump HTTP/1.1\r\nHost: api\r\n{field[0]}: {field[1]}\r\n\r\n"
    with ExitStack() as opened:
        clients = [opened.enter_context(socket.socket()) for _ in range(count)]
        for client in clients:
            client.connect(("127.0.0.1", server.port))
            client.sendall(request.encode())
        before: list[int] = []

        async def are_stuck() -> bool:
            nonlocal before
            earlier, before = before, [arrived(client) for client in clients]
            return before == earlier and 0 not in before

        await wait_until(are_stuck, 30, interval=0.3)
        yield clients


def arrived(client: socket.socket) -> int:
    """How many bytes wait for the client."""
    found = fcntl.ioctl(client, termios.FIONREAD, bytes(4))
    return int.from_bytes(found, sys.byteorder)


def status(client: socket.socket) -> int:
    """How its request was answered."""
    return int(client.recv(1000).split()[1])


def asking(server: Server, client: str = "a-client") -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {tokens(server.settings).issue(client)}"}
    return httpx.AsyncClient(base_url=server.url, headers=headers, trust_env=False)


async def test_little_memory_is_taken_and_others_are_served_when_200_clients_read_nothing(
    settings: Settings, backup: UUID, tmp_path: Path
) -> None:
    variables = {"ODS_BACKUP_URL": tmp_path.as_uri(), "ODS_DOWNLOADS": "0"}
    async with serving(settings, **variables) as server, asking(server) as api:
        assert len((await api.get(f"/v2/backups/{backup}/dump")).content) == len(DUMP)
        before = server.memory()
        async with unread(server, backup, CLIENTS) as clients:
            for _ in range(10):
                assert (await api.get(f"/v2/backups/{backup}", timeout=1)).status_code == 200
            assert server.memory() - before < 50 * MEBIBYTE
            assert {status(client) for client in clients} == {200}


async def test_downloads_are_refused_when_as_many_are_under_way_as_may_be(
    settings: Settings, backup: UUID, tmp_path: Path
) -> None:
    path = f"/v2/backups/{backup}/dump"
    variables = {"ODS_BACKUP_URL": tmp_path.as_uri(), "ODS_DOWNLOADS": "3"}
    async with (
        serving(settings, **variables) as server,
        asking(server) as api,
        asking(server, "another-client") as another,
    ):
        async with unread(server, backup, 2), another.stream("GET", path) as third:
            assert third.status_code == 200
            of_client, of_process = await api.get(path), await another.get(path)
            assert (of_client.status_code, of_client.headers["Retry-After"]) == (429, "30")
            assert (of_process.status_code, of_process.headers["Retry-After"]) == (503, "30")
            assert (await api.get(f"/v2/backups/{backup}")).status_code == 200
            await third.aclose()
            await wait_until(lambda: is_served(another, path), 5)
        await wait_until(lambda: is_served(api, path), 5)


async def test_download_is_audited_when_it_begins_and_when_it_ends(
    settings: Settings, backup: UUID, tmp_path: Path
) -> None:
    path = f"/v2/backups/{backup}/dump"
    async with serving(settings, ODS_BACKUP_URL=tmp_path.as_uri()) as server, asking(server) as api:
        answer = await api.get(path)
        assert answer.headers["Content-Disposition"] == f'attachment; filename="{backup}.dump"'
        begun, ended = await begun_and_ended(api, path)
        assert (begun["title"], begun["sentBytes"]) == ("The download begins", None)
        assert (ended["title"], ended["sentBytes"]) == ("The download is complete", len(DUMP))


async def test_bytes_are_audited_when_the_client_breaks_the_download_off(
    settings: Settings, backup: UUID, tmp_path: Path
) -> None:
    path = f"/v2/backups/{backup}/dump"
    async with serving(settings, ODS_BACKUP_URL=tmp_path.as_uri()) as server, asking(server) as api:
        async with unread(server, backup, 1):
            (begun,) = await audited(api, path)
            assert begun["title"] == "The download begins"

        _, ended = await begun_and_ended(api, path)
        assert ended["title"] == "The download was broken off"
        assert MEBIBYTE / 64 < ended["sentBytes"] < len(DUMP)
        assert (ended["client"], ended["instanceId"], ended["status"]) == ("a-client", 1, 200)


async def test_command_fetches_a_backup_when_its_client_may_read_and_download_it(
    settings: Settings, backup: UUID, tmp_path: Path
) -> None:
    secret, engine = new_secret(), create_registry_engine(settings.admin_dsn.get_secret_value())
    new = NewClient("archive", "Archive", ClientScope.READ_ONLY)
    clients = ClientAdministration(engine, "operator@host", shared=False)
    await clients.add(new, SecretHasher().hash(secret))

    def fetched() -> bytes:
        with AdminApi(server.url, "archive", secret) as api, api.dump(str(backup)) as chunks:
            return b"".join(chunks)

    async with serving(settings, ODS_BACKUP_URL=tmp_path.as_uri()) as server:
        with pytest.raises(CommandError, match=r"archive may have none of these scopes: .*backup_download"):
            await asyncio.to_thread(fetched)
        await clients.change("archive", backup_download=True)
        assert await asyncio.to_thread(fetched) == DUMP
    await engine.dispose()


async def test_nothing_is_sent_when_the_trail_does_not_take_the_beginning_of_a_download(
    settings: Settings, backup: UUID, tmp_path: Path, registry_dsn: str
) -> None:
    change = "ALTER TABLE adminapi.audit {} CONSTRAINT no_downloads"
    async with serving(settings, ODS_BACKUP_URL=tmp_path.as_uri()) as server, asking(server) as api:
        async with session(registry_dsn) as registry:
            await registry.execute(change.format("ADD") + " CHECK (title NOT LIKE 'The download%') NOT VALID")
            try:
                answer = await api.get(f"/v2/backups/{backup}/dump")
            finally:
                await registry.execute(change.format("DROP"))
        assert (answer.status_code, answer.headers["Content-Type"]) == (500, "application/problem+json")


async def audited(api: httpx.AsyncClient, path: str) -> list[dict[str, Any]]:
    """The entries of the path, the oldest first."""
    return [one for one in reversed((await api.get("/v2/audit")).json()) if one["path"] == path]


async def begun_and_ended(api: httpx.AsyncClient, path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both entries of a download. The client may have the last byte before the second is written."""

    async def has_ended() -> bool:
        return len(await audited(api, path)) > 1

    await wait_until(has_ended, 5)
    begun, ended = await audited(api, path)
    return begun, ended


async def is_served(api: httpx.AsyncClient, path: str) -> bool:
    return (await api.get(path)).status_code == 200
