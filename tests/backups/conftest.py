"""Databases that are backed up, empty ones, and stores."""

import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import pytest
from pydantic import JsonValue

from ods.backups.manifest import BackupKey, BackupKind, BackupRequest
from ods.backups.monitoring import Monitor
from ods.backups.snapshots import Database
from ods.backups.storage import BackupStore
from ods.databases.server import Server
from ods.embedded.postgres import EmbeddedPostgres
from tests.backups.s3_server import S3Server, s3_server
from tests.backups.stores import SHORT
from tests.dumps import filling
from tests.servers import NUMBERS, SAMPLE_TEMPLATE, product_server, service_dsn, session

# Digests cannot be compressed: the dump is as large as the table, several parts of an upload.
_ROWS = 28_000
_CONTENTS = """
CREATE TABLE public.counted (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, word text NOT NULL);
INSERT INTO public.counted (word) SELECT 'word ' || n FROM generate_series(1, 500) AS n;
CREATE SEQUENCE public.unused;
CREATE TABLE public.noted (note text);
-- Not every server of the tests has extensions.
DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_available_extensions WHERE name = 'pg_trgm') THEN
        CREATE EXTENSION pg_trgm;
    END IF;
END $$;
"""


@pytest.fixture
async def server(postgres: EmbeddedPostgres) -> AsyncIterator[Server]:
    """The server, as the product reaches it."""
    server = product_server(postgres)
    yield server
    await server.close()


@pytest.fixture(scope="session")
async def filled(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    """A database whose dump has 30 MB."""
    async with session(service_dsn(postgres, "postgres")) as maintenance:
        await maintenance.execute("CREATE DATABASE backups_filled")
        async with session(service_dsn(postgres, "backups_filled")) as inside:
            await inside.execute(filling(_ROWS))
        yield "backups_filled"
        await maintenance.execute("DROP DATABASE backups_filled WITH (FORCE)")


@pytest.fixture
def large(server: Server, filled: str) -> Database:
    """The database whose dump has 30 MB."""
    return Database(server, filled)


@pytest.fixture
async def ods(postgres: EmbeddedPostgres, server: Server) -> AsyncIterator[Database]:
    """A small ODS of the test's own, with rows, sequences and, if there is one, an extension."""
    name = f"Backed up {next(NUMBERS)}"
    async with session(service_dsn(postgres, "postgres")) as maintenance:
        await maintenance.execute(f'CREATE DATABASE "{name}" TEMPLATE "{SAMPLE_TEMPLATE}"')
        async with session(service_dsn(postgres, quote(name))) as inside:
            await inside.execute(_CONTENTS)
        yield Database(server, name)
    await _drop(postgres, name)


@pytest.fixture
async def empty(postgres: EmbeddedPostgres, server: Server) -> AsyncIterator[Database]:
    """A database with nothing in it."""
    name = f"Restored {next(NUMBERS)}"
    async with session(service_dsn(postgres, "postgres")) as maintenance:
        await maintenance.execute(f'CREATE DATABASE "{name}"')
        yield Database(server, name)
    await _drop(postgres, name)


async def _drop(postgres: EmbeddedPostgres, name: str) -> None:
    """Drop a database on which a process of the server may still work, which only a superuser may end."""
    async with session(postgres.dsn()) as superuser:
        await superuser.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture(scope="session")
async def running_s3(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[S3Server]:
    async with s3_server(tmp_path_factory.mktemp("s3") / "s3.log") as running:
        yield running


@pytest.fixture
def s3(running_s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """An S3 server, and the environment that leads to it."""
    for name, value in running_s3.environment().items():
        monkeypatch.setenv(name, value)
    return running_s3


@pytest.fixture
async def bucket(s3: S3Server) -> str:
    return await s3.make_bucket()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for backups."""
    path = tmp_path / "of backups"
    path.mkdir()
    return path


@pytest.fixture
def folder_store(folder: Path) -> BackupStore:
    return BackupStore(folder.as_uri())


@pytest.fixture
def s3_store(bucket: str) -> BackupStore:
    return BackupStore(f"s3://{bucket}/of/backups", SHORT)


@pytest.fixture(params=["file", "s3"])
def store(request: pytest.FixtureRequest) -> BackupStore:
    found: BackupStore = request.getfixturevalue("folder_store" if request.param == "file" else "s3_store")
    return found


@pytest.fixture
def wanted() -> BackupRequest:
    """What a caller would say of a backup."""
    key = BackupKey("default", next(NUMBERS), uuid.uuid4())
    details: dict[str, JsonValue] = {
        "contexts": [{"key": "schoolYear", "value": "2027"}],
        "description": "before the roll-over",
    }
    return BackupRequest(key, uuid.uuid4(), "Grand Bend 2027", BackupKind.REQUESTED, "Sample", details)


@pytest.fixture
def monitor(tmp_path: Path) -> Monitor:
    return Monitor(tmp_path / "programs.log")
