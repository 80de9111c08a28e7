"""A database goes into a store and comes back, in this service's hands and in an operator's."""

import asyncio
import json
import stat
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from urllib.parse import quote

import asyncpg
import pyrage
import pytest
from pydantic import SecretStr

from ods.backups.backing_up import back_up
from ods.backups.client_programs import ClientProgram
from ods.backups.errors import BackupFaultError, MissingObjectError
from ods.backups.figures import read_figures, verify
from ods.backups.layout import dump_of, folder_of, manifest_of
from ods.backups.manifest import BackupRequest, Manifest
from ods.backups.monitoring import Monitor, Progress
from ods.backups.restoring import restore
from ods.backups.snapshots import Database
from ods.backups.storage import BackupStore
from ods.backups.stored_backups import delete_backup, has_dump, list_backups, load_manifest
from ods.databases.server import Server
from ods.embedded.postgres import EmbeddedPostgres
from ods.programs.postgres import client_address, client_environment, client_program
from ods.settings.secret_files import CurrentDsn
from tests.backups.stores import names_in
from tests.servers import POSTGRES_VERSION, session

pytestmark = pytest.mark.long

IDENTITY = pyrage.x25519.Identity.generate()
RECIPIENT = str(IDENTITY.to_public())
OTHER = pyrage.x25519.Identity.generate()

_PARTITIONS = """
CREATE TABLE enrolled (n int) PARTITION BY RANGE (n);
CREATE TABLE early PARTITION OF enrolled FOR VALUES FROM (0) TO (100);
CREATE TABLE late PARTITION OF enrolled FOR VALUES FROM (100) TO (1000) PARTITION BY HASH (n);
CREATE TABLE late0 PARTITION OF late FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE late1 PARTITION OF late FOR VALUES WITH (MODULUS 2, REMAINDER 1) PARTITION BY RANGE (n);
CREATE TABLE late1a PARTITION OF late1 FOR VALUES FROM (0) TO (500) PARTITION BY HASH (n);
CREATE TABLE late1a0 PARTITION OF late1a FOR VALUES WITH (MODULUS 1, REMAINDER 0);
CREATE TABLE late1b PARTITION OF late1 FOR VALUES FROM (500) TO (1000);
INSERT INTO enrolled SELECT generate_series(0, 999)
"""

each_encryption = pytest.mark.parametrize("recipients", [(), (str(OTHER.to_public()), RECIPIENT)])


@asynccontextmanager
async def opened(database: Database) -> AsyncIterator[asyncpg.Connection]:
    """A session of a client."""
    connection = await asyncpg.connect(database.server.dsn, database=database.name)
    try:
        yield connection
    finally:
        await connection.close()


async def execute(database: Database, *statements: str) -> None:
    async with opened(database) as inside:
        for statement in statements:
            await inside.execute(statement)


def call(
    program: str,
    *arguments: str,
    database: Database,
    stdin: bytes | None = None,
    settings: Mapping[str, str] = MappingProxyType({}),
) -> bytes:
    """Run a program by hand, with these parameters of its session."""
    dsn = database.server.dsn
    address = f"--dbname={client_address(dsn, database.name)}"
    return subprocess.run(  # noqa: S603 - PostgreSQL's own
        [client_program(program, int(POSTGRES_VERSION)), *arguments, address],
        env=client_environment(dsn, settings),
        input=stdin,
        check=True,
        capture_output=True,
    ).stdout


@each_encryption
async def test_database_comes_back_when_its_backup_is_restored(
    recipients: tuple[str, ...],
    store: BackupStore,
    ods: Database,
    empty: Database,
    wanted: BackupRequest,
    monitor: Monitor,
) -> None:
    made = await back_up(ods, store, wanted, monitor, recipients)
    assert await list_backups(store) == {wanted.key: made.size_bytes}
    found = await load_manifest(store, wanted.key)
    assert found == made
    await restore(store, found, empty, monitor, [str(IDENTITY)])
    assert await verify(empty, found.figures) == []
    assert await read_figures(empty) == await read_figures(ods)


async def test_backup_is_found_when_its_folder_has_the_new_name_of_a_renamed_tenant(
    folder_store: BackupStore,
    folder: Path,
    ods: Database,
    empty: Database,
    wanted: BackupRequest,
    monitor: Monitor,
) -> None:
    made = await back_up(ods, folder_store, wanted, monitor)
    (folder / wanted.key.tenant).rename(folder / "districtA")
    moved = replace(wanted.key, tenant="districtA")
    found = await load_manifest(folder_store, moved)
    assert (found.key, found.sha256) == (moved, made.sha256)
    assert await has_dump(folder_store, found)
    await restore(folder_store, found, empty, monitor)
    assert await verify(empty, found.figures) == []

    number = str(wanted.key.ods_instance_id)
    (folder / "districtA" / number).rename(folder / "districtA" / f"{number}0")
    with pytest.raises(BackupFaultError, match="the manifest of another backup"):
        await load_manifest(folder_store, replace(moved, ods_instance_id=int(f"{number}0")))


async def test_texts_come_back_when_sessions_of_the_database_have_another_encoding(
    folder_store: BackupStore,
    ods: Database,
    empty: Database,
    wanted: BackupRequest,
    monitor: Monitor,
    admin: asyncpg.Connection,
) -> None:
    """LATIN1 lacks the one, and SJIS gives another character back for the other."""
    texts = ["\N{SCHOOL SATCHEL}", "\N{CENT SIGN}"]
    async with opened(ods) as inside:
        await inside.execute("CREATE TABLE texts (it text)")
        await inside.executemany("INSERT INTO texts VALUES ($1)", [(it,) for it in texts])
    for encoding in ("LATIN1", "SJIS"):
        await admin.execute(f'ALTER DATABASE "{ods.name}" SET client_encoding TO {encoding}')
        await back_up(ods, folder_store, wanted, monitor)
    found = await load_manifest(folder_store, wanted.key)
    await restore(folder_store, found, empty, monitor)
    async with opened(empty) as inside:
        assert [row["it"] for row in await inside.fetch("SELECT it FROM texts")] == texts


async def test_no_copy_has_the_subscriptions_of_its_source(
    folder_store: BackupStore,
    ods: Database,
    empty: Database,
    wanted: BackupRequest,
    monitor: Monitor,
    postgres: EmbeddedPostgres,
) -> None:
    """Those of a superuser's dump: another role's has none."""
    own = Server(CurrentDsn(SecretStr(postgres.dsn("postgres")), "The address"), restores_as_service=True)
    made = "CREATE SUBSCRIPTION followed CONNECTION 'dbname=none' PUBLICATION p WITH (connect = false)"
    async with session(postgres.dsn(quote(ods.name))) as superuser:
        await superuser.execute("SET client_min_messages = error")
        await superuser.execute(made)
        try:
            backup = await back_up(Database(own, ods.name), folder_store, wanted, monitor)
            await restore(folder_store, backup, Database(own, empty.name), monitor)
            assert await superuser.fetchval("SELECT count(*) FROM pg_subscription") == 1
        finally:
            await superuser.execute("ALTER SUBSCRIPTION followed SET (slot_name = NONE)")
            await superuser.execute("DROP SUBSCRIPTION followed")
            await own.close()


async def test_manifest_tells_what_the_backup_is(
    folder: Path, folder_store: BackupStore, ods: Database, wanted: BackupRequest, monitor: Monitor
) -> None:
    made = await back_up(ods, folder_store, wanted, monitor)
    stored = json.loads((folder / manifest_of(wanted.key)).read_bytes())
    dump = folder / dump_of(wanted.key, encrypted=False)
    assert stored["formatVersion"] == 1
    assert stored["backupId"] == str(wanted.key.backup_id)
    assert stored["odsInstanceId"] == wanted.key.ods_instance_id
    assert stored["mark"] == str(wanted.mark)
    assert stored["details"] == wanted.details
    assert stored["sizeBytes"] == dump.stat().st_size == made.size_bytes
    assert stored["kind"] == "requested"
    assert stored["figures"]["tables"]["public.counted"] == 500
    assert stored["figures"]["sequences"]["public.counted_id_seq"] == 500
    assert stored["figures"]["sequences"]["public.unused"] is None
    assert made.database_size_bytes > made.size_bytes
    digest = subprocess.run(["sha256sum", dump], check=True, capture_output=True, text=True).stdout  # noqa: ASYNC221, S603, S607
    assert stored["sha256"] == digest.split()[0]


@each_encryption
async def test_manifest_tells_to_whom_the_backup_is_encrypted(
    recipients: tuple[str, ...],
    folder_store: BackupStore,
    ods: Database,
    wanted: BackupRequest,
    monitor: Monitor,
) -> None:
    await back_up(ods, folder_store, wanted, monitor, recipients)
    made = await load_manifest(folder_store, wanted.key)
    assert made.is_encrypted_to([*reversed(recipients), *recipients])
    assert not made.is_encrypted_to([*recipients, str(pyrage.x25519.Identity.generate().to_public())])
    assert not made.is_encrypted_to([RECIPIENT])


async def test_only_the_account_of_the_service_may_read_a_folder(
    folder: Path, folder_store: BackupStore, ods: Database, wanted: BackupRequest, monitor: Monitor
) -> None:
    await back_up(ods, folder_store, wanted, monitor)
    made = [path for path in folder.rglob("*") if path.is_dir()]  # noqa: ASYNC240 - at once
    assert len(made) == 3
    assert {stat.S_IMODE(path.stat().st_mode) for path in made} == {0o700}


async def test_pg_restore_by_hand_restores_what_is_stored(
    folder: Path,
    folder_store: BackupStore,
    ods: Database,
    empty: Database,
    wanted: BackupRequest,
    monitor: Monitor,
) -> None:
    made = await back_up(ods, folder_store, wanted, monitor)
    file = str(folder / dump_of(wanted.key, encrypted=False))
    call("pg_restore", "--jobs=2", "--no-owner", file, database=empty)
    assert await verify(empty, made.figures) == []


async def test_private_key_alone_decrypts_what_is_stored(
    folder: Path,
    folder_store: BackupStore,
    ods: Database,
    empty: Database,
    wanted: BackupRequest,
    monitor: Monitor,
    tmp_path: Path,
) -> None:
    made = await back_up(ods, folder_store, wanted, monitor, [RECIPIENT])
    encrypted = folder / dump_of(wanted.key, encrypted=True)
    assert encrypted.read_bytes().startswith(b"age-encryption.org/v1\n")
    pyrage.decrypt_file(str(encrypted), str(tmp_path / "plain"), [IDENTITY])
    call("pg_restore", "--no-owner", stdin=(tmp_path / "plain").read_bytes(), database=empty)
    assert await verify(empty, made.figures) == []


@pytest.mark.age
async def test_the_tool_age_decrypts_what_is_stored(
    folder: Path,
    folder_store: BackupStore,
    ods: Database,
    empty: Database,
    wanted: BackupRequest,
    monitor: Monitor,
    tmp_path: Path,
) -> None:
    made = await back_up(ods, folder_store, wanted, monitor, [RECIPIENT])
    key = tmp_path / "key.txt"
    key.write_text(f"{IDENTITY}\n")
    encrypted = folder / dump_of(wanted.key, encrypted=True)
    plain = subprocess.run(  # noqa: ASYNC221, S603
        ["age", "--decrypt", "--identity", key, encrypted],  # noqa: S607
        check=True,
        capture_output=True,
    ).stdout
    call("pg_restore", "--no-owner", stdin=plain, database=empty)
    assert await verify(empty, made.figures) == []


async def test_figures_are_those_of_the_dump_when_other_sessions_write_meanwhile(
    folder_store: BackupStore, ods: Database, empty: Database, wanted: BackupRequest, monitor: Monitor
) -> None:
    async with writing_always(ods):
        made = await back_up(ods, folder_store, wanted, monitor)
    await restore(folder_store, made, empty, monitor)
    assert await verify(empty, made.figures) == []
    assert await verify(ods, made.figures) != []


@asynccontextmanager
async def writing_always(database: Database) -> AsyncIterator[None]:
    """Another session adds rows for as long as the body runs."""
    begun = asyncio.Event()

    async def write() -> None:
        async with opened(database) as inside:
            while True:
                await inside.execute("INSERT INTO counted (word) SELECT 'new' FROM generate_series(1, 100)")
                begun.set()

    writing = asyncio.create_task(write())
    await begun.wait()
    try:
        yield
    finally:
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ("DELETE FROM counted WHERE id = 7", "The table public.counted has 499 rows instead of 500."),
        ("DROP TABLE noted", "The table public.noted is missing."),
        ("CREATE TABLE public.new ()", "The table public.new was not there."),
        (
            "ALTER TABLE counted ALTER id RESTART",
            "The sequence public.counted_id_seq is at None instead of 500.",
        ),
        (
            "SELECT setval('counted_id_seq', 499)",
            "The sequence public.counted_id_seq is at 499 instead of 500.",
        ),
        ("DROP SEQUENCE unused", "The sequence public.unused is missing."),
    ],
)
async def test_difference_is_named_when_a_database_is_not_as_expected(
    change: str, difference: str, ods: Database
) -> None:
    before = await read_figures(ods)
    assert await verify(ods, before) == []
    await execute(ods, change)
    assert await verify(ods, before) == [difference]


@pytest.mark.parametrize(
    ("moved", "differences"),
    [
        ({"late0": 7, "late1a0": -3, "late1b": -4}, []),
        (
            {"early": 1, "late0": -1},
            [
                "The table public.early has 100 rows instead of 101.",
                "The table public.late has 900 rows instead of 899.",
            ],
        ),
        ({"early": 1}, ["The table public.early has 100 rows instead of 101."]),
        ({"late1b": 1}, ["The table public.late has 900 rows instead of 901."]),
    ],
)
async def test_rows_may_be_in_other_partitions_by_hash_but_in_no_others_when_a_database_is_compared(
    moved: dict[str, int], differences: list[str], ods: Database
) -> None:
    """Those of an enum are in others in each copy: its hash is that of an OID."""
    await execute(ods, _PARTITIONS)
    figures = await read_figures(ods)
    expected = {f"public.{name}": figures.tables[f"public.{name}"] + more for name, more in moved.items()}
    assert await verify(ods, replace(figures, tables={**figures.tables, **expected})) == differences
    missing = replace(figures, tables={**figures.tables, "public.late2": 0})
    assert await verify(ods, missing) == ["The table public.late2 is missing."]


async def test_progress_is_told_in_bytes_and_percent(
    folder_store: BackupStore, large: Database, empty: Database, wanted: BackupRequest, monitor: Monitor
) -> None:
    told: list[Progress] = []
    made = await back_up(large, folder_store, wanted, Monitor(monitor.log, told.append))
    assert [it.bytes for it in told] == sorted(it.bytes for it in told)
    assert told[-1].bytes == made.size_bytes
    assert all(0 <= it.percent <= 100 for it in told)
    told.clear()
    await restore(folder_store, made, empty, Monitor(monitor.log, told.append))
    assert told[-1] == Progress(made.size_bytes, 100)


async def test_percent_is_that_of_the_tables_that_are_done(
    folder_store: BackupStore, large: Database, wanted: BackupRequest, monitor: Monitor
) -> None:
    # pg_dump dumps them in the order of their names.
    told: list[Progress] = []
    await execute(large, "CREATE TABLE second AS SELECT * FROM filling LIMIT 9000")
    try:
        await back_up(large, folder_store, wanted, Monitor(monitor.log, told.append))
    finally:
        await execute(large, "DROP TABLE second")
    assert told[0].percent == 0
    assert 60 < told[-1].percent < 90


@each_encryption
async def test_damage_is_noticed_when_a_backup_is_restored(
    recipients: tuple[str, ...],
    folder: Path,
    folder_store: BackupStore,
    ods: Database,
    empty: Database,
    wanted: BackupRequest,
    monitor: Monitor,
) -> None:
    made = await back_up(ods, folder_store, wanted, monitor, recipients)
    file = folder / dump_of(wanted.key, encrypted=made.encrypted)
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(BackupFaultError, match=r"damaged") as raised:
        await restore(folder_store, made, empty, monitor, [str(IDENTITY)])
    assert not raised.value.outage


async def test_damage_is_noticed_when_pg_restore_accepts_it(
    folder: Path,
    folder_store: BackupStore,
    ods: Database,
    empty: Database,
    wanted: BackupRequest,
    monitor: Monitor,
) -> None:
    made = await back_up(ods, folder_store, wanted, monitor)
    other = replace(made, sha256="0" * 64)
    with pytest.raises(BackupFaultError, match="has not the size and SHA-256") as raised:
        await restore(folder_store, other, empty, monitor)
    assert not raised.value.outage


@pytest.mark.parametrize(
    ("identities", "reason"),
    [
        ([], "Give an identity"),
        ([str(OTHER)], "encrypted to other recipients, or is damaged"),
        (["AGE-SECRET-KEY-1WRONG"], "is no private key of age"),
    ],
)
async def test_backup_is_not_restored_when_no_identity_decrypts_it(
    identities: list[str],
    reason: str,
    folder_store: BackupStore,
    ods: Database,
    empty: Database,
    wanted: BackupRequest,
    monitor: Monitor,
) -> None:
    made = await back_up(ods, folder_store, wanted, monitor, [RECIPIENT])
    with pytest.raises(BackupFaultError, match=reason) as raised:
        await restore(folder_store, made, empty, monitor, identities)
    assert "WRONG" not in raised.value.reason


async def test_backup_is_not_begun_when_a_recipient_is_no_public_key(
    folder: Path, folder_store: BackupStore, ods: Database, wanted: BackupRequest, monitor: Monitor
) -> None:
    with pytest.raises(BackupFaultError, match="is no public key of age"):
        await back_up(ods, folder_store, wanted, monitor, [RECIPIENT, "age1wrong"])
    assert names_in(folder) == []


async def test_nothing_is_restored_when_the_database_is_not_empty(
    folder_store: BackupStore, ods: Database, wanted: BackupRequest, monitor: Monitor
) -> None:
    made = await back_up(ods, folder_store, wanted, monitor)
    with pytest.raises(BackupFaultError, match="is not empty"):
        await restore(folder_store, made, ods, monitor)
    assert await verify(ods, made.figures) == []


async def test_reason_names_the_log_alone_when_pg_restore_fails(
    folder_store: BackupStore, ods: Database, empty: Database, wanted: BackupRequest, monitor: Monitor
) -> None:
    made = await back_up(ods, folder_store, wanted, monitor)
    await execute(empty, "CREATE TYPE counted AS ENUM ()")
    with pytest.raises(BackupFaultError, match="pg_restore has failed") as raised:
        await restore(folder_store, made, empty, monitor)
    assert raised.value.reason == f"pg_restore has failed; {monitor.log} says why."
    assert not raised.value.outage
    assert "counted" in monitor.log.read_text()


async def test_reason_names_the_log_alone_when_pg_dump_fails(
    folder: Path, folder_store: BackupStore, ods: Database, wanted: BackupRequest, monitor: Monitor
) -> None:
    # pg_dump refuses to leave out rows that its role may not see.
    await execute(ods, "ALTER TABLE counted ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    with pytest.raises(BackupFaultError) as raised:
        await back_up(ods, folder_store, wanted, monitor)
    assert raised.value.reason == f"pg_dump has failed; {monitor.log} says why."
    assert not raised.value.outage
    assert names_in(folder) == []


async def test_backup_is_not_begun_when_pg_dump_is_older_than_the_server(
    folder: Path,
    folder_store: BackupStore,
    ods: Database,
    wanted: BackupRequest,
    monitor: Monitor,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    program = tmp_path / "pg_dump"
    program.write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 9.6.24'\n")
    program.chmod(0o755)
    monkeypatch.setattr("ods.programs.postgres.WHEELS", {18: "not_installed"})
    monkeypatch.setattr("ods.programs.postgres._SYSTEM_FOLDERS", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BackupFaultError, match=r"is of PostgreSQL 9\.6\.24, older than the server"):
        await back_up(ods, folder_store, wanted, monitor)
    program.unlink()
    with pytest.raises(BackupFaultError, match="There is no pg_dump here"):
        await back_up(ods, folder_store, wanted, monitor)
    assert names_in(folder) == []


async def test_backup_is_not_restored_when_pg_restore_is_older_than_the_dump(
    folder_store: BackupStore, ods: Database, empty: Database, wanted: BackupRequest, monitor: Monitor
) -> None:
    made = await back_up(ods, folder_store, wanted, monitor)
    newer = replace(made, dump_version="99.1")
    with pytest.raises(BackupFaultError, match=r"older than the pg_dump that made the backup: 99\.1"):
        await restore(folder_store, newer, empty, monitor)


@pytest.mark.parametrize(
    ("program", "server", "suits"),
    [("18.6", "18.1", True), ("18.6", "17.10", True), ("18.6", "16.9", False), ("16.9", "16.1", True)],
)
def test_program_suits_a_server_when_what_it_writes_can_be_restored_there(
    program: str, server: str, *, suits: bool
) -> None:
    with (
        nullcontext() if suits else pytest.raises(BackupFaultError, match="client programs of PostgreSQL 16")
    ):
        ClientProgram("pg_dump", program).require_suits(server)


async def test_nothing_is_left_when_a_backup_is_deleted(
    folder: Path,
    folder_store: BackupStore,
    s3_store: BackupStore,
    ods: Database,
    wanted: BackupRequest,
    monitor: Monitor,
) -> None:
    for store in (folder_store, s3_store):
        await back_up(ods, store, wanted, monitor)
        await delete_backup(store, wanted.key)
        assert await list_backups(store) == {}
        with pytest.raises(MissingObjectError, match="There is no backup at"):
            await load_manifest(store, wanted.key)
        assert await store.list_objects() == []
        await delete_backup(store, wanted.key)
    assert names_in(folder) == []


async def test_backup_does_not_exist_when_its_manifest_is_gone(
    folder: Path, folder_store: BackupStore, ods: Database, wanted: BackupRequest, monitor: Monitor
) -> None:
    await back_up(ods, folder_store, wanted, monitor)
    (folder / manifest_of(wanted.key)).unlink()
    assert await list_backups(folder_store) == {}


async def test_what_is_no_backup_is_left_alone(
    folder: Path, folder_store: BackupStore, ods: Database, wanted: BackupRequest, monitor: Monitor
) -> None:
    (folder / "manifest.json").write_text("{}")
    (folder / "default").mkdir()
    (folder / "default" / "notes#1").write_text("an operator's")
    made = await back_up(ods, folder_store, wanted, monitor)
    assert await list_backups(folder_store) == {wanted.key: made.size_bytes}
    await delete_backup(folder_store, wanted.key)
    assert names_in(folder) == ["default", "manifest.json"]
    assert names_in(folder / "default") == ["notes#1"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "damaged"),
        (b"[]", "damaged"),
        (b'{"formatVersion": 1}', "damaged"),
        (
            b'{"formatVersion": 2, "another": true}',
            "A newer release of this service has written the manifest",
        ),
    ],
)
async def test_reason_says_what_is_wrong_with_a_manifest(
    content: bytes, reason: str, folder: Path, folder_store: BackupStore, wanted: BackupRequest
) -> None:
    (folder / folder_of(wanted.key)).mkdir(parents=True)
    (folder / manifest_of(wanted.key)).write_bytes(content)
    with pytest.raises(BackupFaultError, match=reason) as raised:
        await load_manifest(folder_store, wanted.key)
    assert not raised.value.outage


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sha256", "abc"),
        ("sizeBytes", "12"),
        ("sizeBytes", -1),
        ("kind", "other"),
        ("createdAt", "2027-01-01T00:00:00"),
        ("tenant", "../other"),
        ("unknown", 1),
    ],
)
async def test_manifest_is_damaged_when_a_field_is_wrong(
    field: str,
    value: object,
    folder: Path,
    folder_store: BackupStore,
    ods: Database,
    wanted: BackupRequest,
    monitor: Monitor,
) -> None:
    made: Manifest = await back_up(ods, folder_store, wanted, monitor)
    file = folder / manifest_of(wanted.key)
    file.write_text(json.dumps(json.loads(made.to_json()) | {field: value}))
    with pytest.raises(BackupFaultError, match="damaged"):
        await load_manifest(folder_store, wanted.key)
    file.write_text(json.dumps(json.loads(made.to_json()) | {"odsInstanceId": 123456}))
    with pytest.raises(BackupFaultError, match="of another backup"):
        await load_manifest(folder_store, wanted.key)
