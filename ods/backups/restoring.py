"""Restoring a backup into an empty database, through pg_restore."""

from asyncio.subprocess import Process
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from functools import partial
from hashlib import sha256
from types import MappingProxyType
from uuid import uuid4

import asyncpg

from ods.backups.channels import Channel, channel, unchanged
from ods.backups.client_programs import ClientProgram, find_program, major
from ods.backups.encryption import decrypting
from ods.backups.errors import BackupFaultError, explained_by, translate_database_faults
from ods.backups.layout import dump_of
from ods.backups.manifest import Manifest
from ods.backups.monitoring import Monitor, Progress
from ods.backups.readiness import require_restores
from ods.backups.snapshots import Database
from ods.backups.storage import READ_BYTES, BackupStore
from ods.databases.constants import program_name
from ods.databases.errors import translate_postgres_errors
from ods.databases.rights.restore_login import NOT_ADMITTED
from ods.databases.statements import fetch_value
from ods.programs import process
from ods.programs.postgres import (
    ENDS_WITH_PROGRAM,
    LOAD_SETTINGS,
    MONEY_SETTINGS,
    client_address,
    client_environment,
)
from ods.programs.process import Command
from ods.registry.storage.connecting import connect

OPTIONS = ("--no-owner", "--no-privileges", "--exit-on-error", "--no-password")
SESSION_SETTINGS: Mapping[str, str] = MappingProxyType(
    {
        **LOAD_SETTINGS,
        **ENDS_WITH_PROGRAM,
        **MONEY_SETTINGS,
        "array_nulls": "on",
        "transform_null_equals": "off",
    }
)
"""Parameters of the sessions of pg_restore.

They hold whatever settings the role has: code that another restore runs at the same time can give it some.
"""
_CONNECT_TIMEOUT = 10
# 16 MB, not compressed. A login that was lent a database may make no temporary tables in it.
_WRITE = """
BEGIN;
CREATE SCHEMA {schema};
CREATE TABLE {schema}.written AS SELECT repeat('-', 1000) FROM generate_series(1, 14000);
ROLLBACK
"""
_HAS_TABLES = """
SELECT EXISTS (
    SELECT FROM pg_tables WHERE schemaname <> 'information_schema' AND NOT starts_with(schemaname, 'pg_')
)
"""


async def restore(
    store: BackupStore,
    manifest: Manifest,
    database: Database,
    monitor: Monitor,
    identities: Sequence[str] = (),
) -> None:
    """Fill an empty database from a backup.

    The stored bytes are checked while they are read. If this raises, the database may hold a part of the
    backup, or something else: drop it.

    The database is private until it was filled. One of the `identities`, private keys of age, decrypts the
    backup.

    Raises:
        UnsuitableProgramError: pg_restore is missing, or older than the server or the dump.
        BackupFaultError: the backup cannot be read or decrypted, or is damaged; the database is not empty;
            the store or the server is away.
    """
    transform = decrypting(identities) if manifest.encrypted else unchanged
    with translate_database_faults():
        async with database.server.connected(database.name) as session, channel(transform) as flow:
            program = await _suitable_program(session, manifest)
            await _require_empty(session, database)
            async with (
                login_lent(database) as dsn,
                explained_by(
                    partial(fetch_value, session, "SELECT 1"), partial(require_writes, database, dsn)
                ),
                _loading(_pg_restore(program, dsn, database.name), flow, monitor) as running,
                aclosing(read_dump(store, manifest)) as chunks,
            ):
                await _feed(flow, running, chunks, manifest.size_bytes, monitor)
                code = await running.wait()
                await flow.require_transformed()
                monitor.require_success("pg_restore", code)


@asynccontextmanager
async def login_lent(database: Database) -> AsyncIterator[str]:
    """The address of the server with the login that fills the database, which may do so in the body alone.

    If the body raises, the database goes on belonging in part to that login: drop it.

    Raises:
        RestoreRefusedError: there is none, and the settings do not accept that the service's restores.
        DatabaseFaultError: the login has rights of its own, or lacks some; the server is away, …
    """
    require_restores(database.server)
    if database.server.restore_login is None:
        yield database.server.dsn
        return
    login = database.server.restore_login.as_now()
    async with database.server.connected(database.name) as inside:
        await login.lend(inside, database.name)
    yield login.dsn
    async with database.server.connected(database.name) as inside:
        await login.take_back(inside, database.name)


async def require_writes(database: Database, dsn: str) -> None:
    """Check that the login which fills the database can do so now, by some megabytes that are not kept.

    Else it was the server that has failed pg_restore: what PostgreSQL tells a program can only be read by
    people.

    Raises:
        DatabaseFaultError: as an outage, the disk is full, no connection is free, the login is refused, …
    """
    reasons = {} if database.server.restore_login is None else NOT_ADMITTED
    with translate_postgres_errors(reasons):
        session = await connect(
            dsn, database=database.name, timeout=_CONNECT_TIMEOUT, settings={"search_path": "pg_catalog"}
        )
        try:
            await session.execute(_WRITE.format(schema=f"ods_proof_{uuid4().hex}"))
        finally:
            await session.close(timeout=_CONNECT_TIMEOUT)


async def read_dump(
    store: BackupStore, manifest: Manifest, piece_bytes: int = READ_BYTES
) -> AsyncGenerator[bytes, None]:
    """The stored bytes of a backup, in pieces of about `piece_bytes`.

    Raises:
        BackupFaultError: the store is away or refuses; after the last byte, that these are not the bytes that
            were written.
    """
    digest, size = sha256(), 0
    path = dump_of(manifest.key, encrypted=manifest.encrypted)
    async with aclosing(store.read_stream(path, piece_bytes)) as chunks:
        async for chunk in chunks:
            digest.update(chunk)
            size += len(chunk)
            yield chunk
    if (size, digest.hexdigest()) != (manifest.size_bytes, manifest.sha256):
        raise BackupFaultError(
            f"{store.location(path)} is damaged: it has not the size and SHA-256 that its manifest says."
        )


async def _suitable_program(session: asyncpg.Connection, manifest: Manifest) -> ClientProgram:
    server = session.get_server_version()
    program = await find_program("pg_restore", max(server.major, major(manifest.dump_version)))
    program.require_reads(manifest.dump_version)
    program.require_suits(f"{server.major}.{server.minor}")
    return program


def _pg_restore(program: ClientProgram, dsn: str, database: str) -> Command:
    address = f"--dbname={client_address(dsn, database, program_name('pg_restore', database))}"
    return Command("pg_restore", (program.path, *OPTIONS, address), client_environment(dsn, SESSION_SETTINGS))


@asynccontextmanager
async def _loading(command: Command, flow: Channel, monitor: Monitor) -> AsyncIterator[Process]:
    """pg_restore, which loads what the channel gives; at the end of the body it has ended, or is killed."""
    running = await process.start(command, monitor.log, stdin=flow.reading.fileno())
    flow.reading.close()
    try:
        yield running
    finally:
        if running.returncode is None:
            await process.stop(running, command)


async def _feed(
    flow: Channel,
    running: Process,
    chunks: AsyncGenerator[bytes, None],
    total: int,
    monitor: Monitor,
) -> None:
    """Write all chunks to the channel, unless what reads them has failed."""
    writer = await flow.writer()
    done = 0
    async for chunk in chunks:
        with suppress(ConnectionError):  # it needs no more, or has failed
            writer.write(chunk)
            await writer.drain()
        if running.returncode:
            break
        done += len(chunk)
        monitor.report(Progress(done, min(100, 100 * done // max(1, total))))
    writer.close()


async def _require_empty(session: asyncpg.Connection, database: Database) -> None:
    if await fetch_value(session, _HAS_TABLES):
        raise BackupFaultError(
            f"The database '{database.name}' is not empty. A backup is restored into an empty one."
        )
