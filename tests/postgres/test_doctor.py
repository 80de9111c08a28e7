"""`ods doctor` on real faults of registry and server: it names each, and a command that mends it."""

import asyncio
import base64
import json
import re
import shutil
import socket
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import asyncpg
import pytest
from pydantic import SecretStr

from ods.backups import readiness
from ods.backups.client_programs import ClientProgram
from ods.databases.ownership import Owner
from ods.doctor.backups import examine_backups
from ods.doctor.examination import examine
from ods.doctor.findings import Finding, Level
from ods.doctor.postgres import Target
from ods.embedded import seeding
from ods.embedded.postgres import EmbeddedPostgres
from ods.model.operations import Template
from ods.registry.backups.stores import BackupStores
from ods.registry.connection_strings.encryption import encrypt
from ods.registry.instances.attributes import AttributeChanges
from ods.registry.instances.naming import trash_name
from ods.registry.instances.store import InstanceStore
from ods.registry.rights.needs import literal
from ods.settings.settings import DEFAULT_TENANT, Address, Settings
from ods.tenants.known_store import claim_store, known_store
from ods.tenants.tenant import open_tenants
from tests import preloaded
from tests.ods import add_ods_instance, connection_string
from tests.servers import (
    INSTALLATION,
    MINIMAL_TEMPLATE,
    NUMBERS,
    RESTORE_PASSWORD,
    SERVICE_PASSWORD,
    environment,
    make_settings,
    make_tenant_settings,
    seeded_postgres,
    service_dsn,
    session,
    since_postgres,
)

NOBODY = "127.0.0.1:1"
"""An address that refuses connections."""


@pytest.fixture
def settings(postgres: EmbeddedPostgres, registry_dsn: str) -> Settings:
    """Settings of an installation without faults, but that Temporal is away."""
    return make_settings(
        postgres, registry_dsn, instance_connection_string=connection_string(postgres.port, "any")
    )


@pytest.fixture(autouse=True)
def temporal_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", NOBODY)


@pytest.fixture
async def superuser(postgres: EmbeddedPostgres, registry_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A session of a superuser on the registry, where commands of the doctor are run."""
    async with session(postgres.dsn(registry_dsn.rpartition("/")[2])) as connection:
        yield connection


async def complaints(settings: Settings) -> list[Finding]:
    """Everything of registry and server that is not well; crash safety is off in tests."""
    return [
        finding
        for finding in await examine(settings)
        if finding.level is not Level.OK
        and not finding.subject.startswith("temporal")
        and finding.subject not in {"server: fsync", "server: full_page_writes"}
    ]


async def complaint(settings: Settings, subject: str, words: str) -> str:
    """The remedy for the one thing that is not well."""
    (found,) = [one for one in await complaints(settings) if not one.found.startswith("Not examined")]
    assert found.subject == subject
    assert words in found.found
    assert found.remedy is not None
    return found.remedy


@pytest.mark.parametrize(
    ("mode", "encrypted", "local", "found"),
    [
        ("", False, True, "The connection does not leave this machine"),
        ("", False, False, "There is no TLS"),
        ("?sslmode=require", True, False, "TLS, but the server's certificate is not checked"),
        ("?sslmode=verify-full", True, False, "TLS, and the server's certificate is checked"),
        ("?sslmode=verify-full", False, False, "There is no TLS"),  # a pooler on the way has it no further
    ],
)
def test_transport_is_told_when_the_server_is_elsewhere(
    mode: str, found: str, *, encrypted: bool, local: bool
) -> None:
    dsn = f"postgresql://ods@db.example.org/EdFi_Admin{mode}"
    target = Target("registry", "ODS_ADMIN_DSN", dsn, Address.of(SecretStr(dsn)), "ods")
    finding = target.transport(encrypted=encrypted, local=local)
    assert finding.found == found
    is_well = local or found.endswith("is checked")
    assert finding.level is (Level.OK if is_well else Level.WARNING)
    assert is_well or finding.remedy == "add ?sslmode=verify-full&sslrootcert=… to ODS_ADMIN_DSN"


async def test_transport_is_well_when_the_server_is_on_this_machine(settings: Settings) -> None:
    found = {finding.subject: finding.found for finding in await examine(settings)}
    assert found["registry: transport"] == found["server: transport"]
    assert found["server: transport"] == "The connection does not leave this machine"


async def test_nothing_is_wrong_when_all_is_there(settings: Settings) -> None:
    assert await complaints(settings) == []


@pytest.mark.parametrize("accepted", [False, True])
async def test_login_that_restores_is_asked_for_when_there_is_none(
    settings: Settings, *, accepted: bool
) -> None:
    without = settings.model_copy(update={"restore_dsn": None, "restore_as_service": accepted})
    words = "with all rights of the service" if accepted else "Nothing is restored"
    remedy = await complaint(without, "server: restores", words)
    (found,) = await complaints(without)
    assert found.level is (Level.WARNING if accepted else Level.FAULT)
    assert remedy.endswith("GRANT ods_restore, ods_restored TO ods_service; and set ODS_RESTORE_DSN")


async def test_login_that_restores_is_named_when_it_cannot_log_in(
    settings: Settings, admin: asyncpg.Connection
) -> None:
    await admin.execute("ALTER ROLE ods_restore PASSWORD 'another'")
    try:
        remedy = await complaint(settings, "login that restores", "refuses the login of the role ods_restore")
    finally:
        await admin.execute(f"ALTER ROLE ods_restore PASSWORD '{RESTORE_PASSWORD}'")
    assert remedy == "ALTER ROLE ods_restore LOGIN PASSWORD '…'; or correct ODS_RESTORE_DSN"


@dataclass(frozen=True)
class Fault:
    """A fault that SQL makes and that the doctor's own command mends.

    Attributes:
        making: the statement that makes it.
        subject: what the doctor says is not well.
        words: a part of what it says of it.
        remedy: the command; `…` in it stands for the service's password.
        undoing: the statement that takes back what the command has left.
    """

    making: str
    subject: str
    words: str
    remedy: str
    undoing: str = "SELECT 1"


FAULTS = [
    Fault(
        f"ALTER ROLE {seeding.SERVICE_ROLE} PASSWORD 'another'",
        "registry",
        "refuses the login of the role ods_service",
        "ALTER ROLE ods_service LOGIN PASSWORD '…'",
    ),
    Fault(
        'ALTER DATABASE "{registry}" SET default_transaction_read_only = on',
        "registry",
        "is read-only",
        'ALTER DATABASE "{registry}" RESET default_transaction_read_only;',
    ),
    Fault(
        'ALTER DATABASE "{registry}" SET synchronous_commit = off',
        "registry: commits",
        "a crash of the server loses what was committed last",
        'ALTER DATABASE "{registry}" RESET synchronous_commit;',
    ),
    Fault(
        "REVOKE INSERT, DELETE ON dbo.odsinstancecontexts FROM ods_service",
        "registry: rights",
        "lacks a right",
        "GRANT INSERT, DELETE ON dbo.odsinstancecontexts TO ods_service;",
    ),
    Fault(
        "ALTER ROLE ods_service NOCREATEDB",
        "server: rights",
        "lacks a right",
        "ALTER ROLE ods_service CREATEDB;",
    ),
    Fault(
        "ALTER ROLE ods_service SUPERUSER",
        "server: role",
        "is a superuser",
        "ALTER ROLE ods_service NOSUPERUSER;",
    ),
    Fault(
        "REVOKE ods_restored FROM ods_service",
        "server: rights",
        "lacks a right",
        "GRANT ods_restored TO ods_service;",
    ),
    Fault(
        "ALTER ROLE ods_restore CREATEDB",
        "server: restores",
        "nothing is restored",
        "ALTER ROLE ods_restore NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;",
    ),
    Fault(
        "ALTER ROLE ods_restore SET array_nulls = off",
        "server: restores",
        "nothing is restored",
        "ALTER ROLE ods_restore RESET ALL;",
    ),
    Fault(
        "GRANT pg_monitor TO ods_restored",
        "server: restores",
        "nothing is restored",
        "REVOKE pg_monitor FROM ods_restored;",
    ),
    Fault(
        f'ALTER DATABASE "{MINIMAL_TEMPLATE}" ALLOW_CONNECTIONS true',
        "server: template Minimal",
        "accepts connections",
        f'ALTER DATABASE "{MINIMAL_TEMPLATE}" ALLOW_CONNECTIONS false;',
    ),
    Fault(
        f'ALTER DATABASE "{MINIMAL_TEMPLATE}" IS_TEMPLATE false',
        "server: template Minimal",
        "not marked as a template",
        f'ALTER DATABASE "{MINIMAL_TEMPLATE}" IS_TEMPLATE true;',
    ),
    Fault(
        f"ALTER DATABASE \"{MINIMAL_TEMPLATE}\" SET log_min_messages = 'warning'",
        "server: template Minimal",
        "do not get its setting log_min_messages",
        "GRANT SET ON PARAMETER log_min_messages TO ods_service;",
        f'ALTER DATABASE "{MINIMAL_TEMPLATE}" RESET log_min_messages;'
        " REVOKE SET ON PARAMETER log_min_messages FROM ods_service",
    ),
    Fault(
        "ALTER ROLE ods_service CONNECTION LIMIT 30",
        "server: connections",
        "30 may be open",
        "ALTER ROLE ods_service CONNECTION LIMIT -1;",
    ),
    Fault(
        "UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'half_dropped'",
        "server: database half_dropped",
        "A DROP of it was interrupted",
        "DROP DATABASE half_dropped;",
    ),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.remedy[:40])
async def test_fault_is_named_and_mended_by_the_command_when_it_is_run(
    settings: Settings, superuser: asyncpg.Connection, registry_dsn: str, fault: Fault
) -> None:
    registry = registry_dsn.rpartition("/")[2]
    if "half_dropped" in fault.making:
        await superuser.execute("CREATE DATABASE half_dropped")
    await superuser.execute(fault.making.replace("{registry}", registry))
    expected = fault.remedy.replace("{registry}", registry)
    try:
        found = await examine(settings)
    finally:
        # Run whatever was found, so that the next test finds all well.
        await superuser.execute(expected.replace("…", SERVICE_PASSWORD))
    (named,) = [
        one for one in found if one.subject == fault.subject and one.level is not Level.OK and one.remedy
    ]
    assert fault.words in named.found
    assert (named.remedy or "").startswith(expected)
    assert await complaints(settings) == []
    await superuser.execute(fault.undoing.replace("{registry}", registry))


async def test_address_is_named_when_the_server_is_away(settings: Settings) -> None:
    away = SecretStr("postgresql://ods_service:hidden@127.0.0.1:1/postgres")
    remedy = await complaint(
        settings.model_copy(update={"master_dsn": away}), "server", "127.0.0.1:1, database postgres cannot"
    )
    assert remedy.startswith("pg_isready --host 127.0.0.1 --port 1;")
    assert "ODS_MASTER_DSN" in remedy


async def test_database_is_named_when_the_registry_does_not_exist(
    settings: Settings, postgres: EmbeddedPostgres, admin: asyncpg.Connection
) -> None:
    name = f"missing_{next(NUMBERS)}"
    bare = settings.model_copy(update={"admin_dsn": SecretStr(service_dsn(postgres, name))})
    remedy = await complaint(bare, "registry", f"The database {name} does not exist")
    created, _, rest = remedy.partition(";")
    assert "ODS_ADMIN_DSN" in rest
    await admin.execute(f"{created} OWNER ods_service")
    try:
        found = {one.subject: one.remedy for one in await complaints(bare) if one.level is Level.FAULT}
        assert found["registry: tables"] == "ods migrate"
        run = await asyncio.to_thread(preloaded.run, "ods.cli", "migrate", env=environment(bare))
        assert run.returncode == 0, run.stderr
        assert await complaints(bare) == []
    finally:
        await admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


async def test_template_is_named_when_it_is_missing(settings: Settings) -> None:
    missing = settings.model_copy(update={"sample_template": "EdFi_Ods_No_Template"})
    remedy = await complaint(missing, "server: template Sample", '"EdFi_Ods_No_Template" does not exist')
    assert remedy.startswith('createdb "EdFi_Ods_No_Template"')


async def test_no_database_of_an_instance_shall_be_closed_when_the_settings_name_it_as_a_template(
    settings: Settings, superuser: asyncpg.Connection
) -> None:
    owner = Owner(
        "default",
        7,
        "7-1",
        str(uuid.uuid4()),
        INSTALLATION,
        database_id=str(uuid.uuid4()),
        revision=str(uuid.uuid4()),
    )
    named = settings.model_copy(update={"templates": {"North": "EdFi_Ods_North"}})
    await superuser.execute('CREATE DATABASE "EdFi_Ods_North" OWNER ods_service')
    try:
        await superuser.execute(f'COMMENT ON DATABASE "EdFi_Ods_North" IS {literal(owner.comment)}')
        words = "It is the database of the OdsInstanceId 7"
        remedy = await complaint(named, "server: template North", words)
    finally:
        await superuser.execute('DROP DATABASE "EdFi_Ods_North"')
    assert remedy == "Do not close it: name another database in ODS_TEMPLATES"


async def test_slot_is_named_when_it_keeps_wal_for_a_database_in_the_trash(settings: Settings) -> None:
    owner = Owner(
        "north",
        7,
        "7-1",
        str(uuid.uuid4()),
        INSTALLATION,
        database_id=str(uuid.uuid4()),
        revision=str(uuid.uuid4()),
    )
    trashed, live = trash_name(owner.database_id), "EdFi_Ods_North"
    followed = {trashed: replace(owner, trashed_name=live).comment, live: owner.comment, "of_another": ""}
    async with seeded_postgres(wal_level="logical") as server, session(server.dsn()) as superuser:
        named = settings.model_copy(update={"master_dsn": SecretStr(service_dsn(server, "postgres"))})
        for name, comment in followed.items():
            await superuser.execute(f'CREATE DATABASE "{name}"')
            await superuser.execute(f'COMMENT ON DATABASE "{name}" IS {literal(comment)}')
            async with session(server.dsn(name)) as inside:
                make = "SELECT pg_create_logical_replication_slot($1, 'pgoutput')"
                await inside.execute(make, name.lower())
            await superuser.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        (found,) = [one for one in await examine(named) if one.subject == "server: replication slots"]
        assert found.level is Level.WARNING
        assert found.found == (
            f"{trashed} keeps WAL for {trashed}, which is in the trash of the installation {INSTALLATION},"
            " tenant north"
        )
        assert found.remedy is not None
        await superuser.execute(found.remedy.partition(": ")[2])
        left = await superuser.fetch("SELECT slot_name FROM pg_replication_slots ORDER BY 1")
        assert [row["slot_name"] for row in left] == ["edfi_ods_north", "of_another"]
        (found,) = [one for one in await examine(named) if one.subject == "server: replication slots"]
        assert found.level is Level.OK


@since_postgres(17, "versions of the collations of the test's databases")
async def test_databases_are_named_when_the_system_sorts_otherwise_than_their_indexes(
    settings: Settings, superuser: asyncpg.Connection
) -> None:
    await superuser.execute(
        "UPDATE pg_database SET datcollversion = '0' WHERE datname = $1", MINIMAL_TEMPLATE
    )
    try:
        remedy = await complaint(settings, "server: collations", f'is copied: "{MINIMAL_TEMPLATE}"')
    finally:
        await superuser.execute(f'ALTER DATABASE "{MINIMAL_TEMPLATE}" REFRESH COLLATION VERSION')
    assert remedy == "docs/operations/postgresql-versions.md#after-an-update-of-the-operating-system"
    assert await complaints(settings) == []


async def test_rows_are_named_when_another_key_has_encrypted_them(
    settings: Settings, rows: asyncpg.Connection
) -> None:
    earlier = bytes(32)
    added = await add_ods_instance(rows, "North", None)
    await rows.execute("UPDATE dbo.odsinstances SET connectionstring = $1", encrypt("host=h", earlier))

    kept = {"derivatives": [{"id": 7, "connectionString": encrypt("host=r", earlier)}]}
    await rows.execute(
        "INSERT INTO adminapi.dbinstances (name, state, databasetemplate, operation, arguments, jobnumber,"
        " setaside) VALUES ('Deleted', 'Deleted', 'Minimal', 'Delete',"
        ' \'{"keep": true, "backup_first": false}\', 2, $1)',
        json.dumps(kept),
    )

    named = f"with any key: ODS instance {added}, derivative 7 in the trash"
    remedy = await complaint(settings, "registry: encryption", named)
    assert re.fullmatch(r"ODS_ENCRYPTION_KEY_PREVIOUS=<.*> ods keys rotate", remedy)
    key = {"ODS_ENCRYPTION_KEY_PREVIOUS": base64.b64encode(earlier).decode()}
    variables = environment(settings) | key
    run = await asyncio.to_thread(preloaded.run, "ods.cli", "keys", "rotate", env=variables)
    assert run.returncode == 0, run.stderr
    assert await complaints(settings) == []


async def test_login_is_named_when_the_ods_api_cannot_log_in(
    settings: Settings, rows: asyncpg.Connection, postgres: EmbeddedPostgres, admin: asyncpg.Connection
) -> None:
    role = f"Ods Api {next(NUMBERS)}"
    await admin.execute(f"CREATE ROLE \"{role}\" LOGIN PASSWORD 'another'")
    string = f"host=127.0.0.1;port={postgres.port};username={role};password=expected"
    wrong = settings.model_copy(update={"instance_connection_string": SecretStr(string)})
    await rows.execute(
        "INSERT INTO adminapi.dbinstances (name, status, databasetemplate, databasename, operation)"
        " VALUES ('North', 'Completed', 'Minimal', 'postgres', 'Create')"
    )
    try:
        remedy = await complaint(wrong, "connection string of the ODS/API", "the database postgres")
        assert remedy.startswith(f"ALTER ROLE \"{role}\" LOGIN PASSWORD '…';")
        await admin.execute(remedy.partition(";")[0].replace("…", "expected"))
        assert await complaints(wrong) == []
    finally:
        await admin.execute(f'DROP ROLE "{role}"')


async def test_jobs_are_counted_when_they_wait_for_longer_than_a_sweep(
    settings: Settings, rows: asyncpg.Connection
) -> None:
    await rows.execute(
        "INSERT INTO adminapi.jobstatuses (jobid, status, createdat)"
        " VALUES ('a job', 'Pending', timezone('utc', now()) - interval '1 day')"
    )
    assert await complaint(settings, "registry: jobs", "1 have waited") == "ods sweep"


async def test_installation_is_named_when_the_registry_is_a_copy(
    settings: Settings, rows: asyncpg.Connection
) -> None:
    before = await rows.fetchrow("SELECT registrysystem, registrydatabase FROM adminapi.installation")
    await rows.execute("UPDATE adminapi.installation SET registrysystem = '7', serversystem = '7'")
    try:
        remedy = await complaint(settings, "installation", "This registry was copied or moved")
        assert remedy == "ods recover --apply; with --as-new-installation, if this registry is a copy"
        command = [*remedy.partition(";")[0].split()[1:], "--yes", "--confirm"]
        run = await asyncio.to_thread(preloaded.run, "ods.cli", *command, env=environment(settings))
        assert "Confirmed." in run.stdout, run.stderr
        assert await complaints(settings) == []
    finally:
        assert before is not None
        await rows.execute(
            "UPDATE adminapi.installation SET registrysystem = $1, serversystem = NULL", *before[:1]
        )


async def test_nothing_is_changed_when_the_doctor_examines(
    settings: Settings, rows: asyncpg.Connection, admin: asyncpg.Connection
) -> None:
    async def state() -> list[object]:
        registry = await rows.fetch("SELECT * FROM adminapi.installation")
        return [
            registry,
            await admin.fetch("SELECT datname, datconnlimit, datacl FROM pg_database ORDER BY 1"),
        ]

    before = await state()
    await examine(settings)
    assert await state() == before


@pytest.mark.timed
async def test_examination_ends_in_time_when_no_server_answers(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        monkeypatch.setenv("TEMPORAL_ADDRESS", f"127.0.0.1:{port}")
        dsn = SecretStr(f"postgresql://ods_service:hidden@127.0.0.1:{port}/postgres")
        away = settings.model_copy(update={"admin_dsn": dsn, "master_dsn": dsn})
        started = time.monotonic()
        found = await examine(away)
        took = time.monotonic() - started
    faults = [one.subject for one in found if one.level is Level.FAULT]
    assert faults == ["registry", "server", "temporal"]
    assert "hidden" not in str(found)
    assert took < 20


async def test_tenant_is_named_when_the_registry_of_one_is_away(settings: Settings) -> None:
    away = settings.model_copy(
        update={"admin_dsn": SecretStr("postgresql://ods_service:hidden@127.0.0.1:1/EdFi_Admin")}
    )
    several = make_tenant_settings({"one": settings, "two": away})
    found = [one for one in await examine(several) if one.level is Level.FAULT]
    assert [one.subject for one in found] == ["two: registry", "temporal"]
    assert (found[0].remedy or "").endswith("correct admin_dsn in ODS_TENANTS")


async def test_command_fails_and_tells_each_line_when_something_is_wrong(settings: Settings) -> None:
    given = {"TEMPORAL_ADDRESS": NOBODY, "ODS_TYPO": "7", "ODS_POSTGRES": "postgresql://of-ods-up@pg-a"}
    variables = environment(settings) | given
    run = await asyncio.to_thread(preloaded.run, "ods.cli", "doctor", env=variables)

    assert (run.returncode, run.stderr) == (1, "")
    assert "\n✓ registry: tables: All " in run.stdout
    assert "\n! variable ODS_TYPO: No setting has this name\n    unset ODS_TYPO\n" in run.stdout
    assert "ODS_POSTGRES" not in run.stdout
    assert f"\n✗ temporal: {NOBODY} cannot be reached\n    temporal operator cluster health" in run.stdout
    for secret in (SERVICE_PASSWORD, settings.encryption_key.get_secret_value()):
        assert secret not in run.stdout


async def test_command_names_each_setting_when_they_cannot_be_used(settings: Settings) -> None:
    variables = environment(settings) | {"ODS_ENCRYPTION_KEY": "short", "ODS_SPARES": "many"}
    run = await asyncio.to_thread(preloaded.run, "ods.cli", "doctor", env=variables)

    assert run.returncode == 1
    assert [line for line in run.stdout.splitlines() if line.startswith("✗ settings: ODS_SPARES: ")]
    assert [line for line in run.stdout.splitlines() if line.startswith("✗ settings: ODS_ENCRYPTION_KEY: ")]


async def test_store_and_programs_are_examined_when_backups_are_made(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def older(program: str, _: int) -> ClientProgram:
        return ClientProgram(program, "15.1")

    folder = tmp_path / "backups"
    folder.mkdir()
    with_store = settings.model_copy(update={"backup_url": folder.as_uri(), "backup_recipients": "age1one"})
    assert [one.level for one in await examine_backups("backups", settings, DEFAULT_TENANT)] == [Level.OK]
    assert {one.level for one in await examine_backups("backups", with_store, DEFAULT_TENANT)} == {Level.OK}
    folder.rmdir()
    monkeypatch.setattr(readiness, "find_program", older)
    store, programs, _ = await examine_backups("backups", with_store, DEFAULT_TENANT)
    assert (store.level, "does not exist" in store.found) == (Level.FAULT, True)
    assert (programs.level, "older than the server" in programs.found) == (Level.FAULT, True)


_STORED = """
INSERT INTO adminapi.backups (id, instanceid, odsinstanceid, mark, installation, name, kind, jobid, template,
                              createdat, details, storedid, location)
SELECT gen_random_uuid(), 1, 1, gen_random_uuid(), installation.id, 'A', 'requested', 'a job', 'Minimal',
       now(), '{}', gen_random_uuid(), store || '/default/1/a'
FROM adminapi.installation, unnest(ARRAY[$1, $2]) AS store
"""


async def test_store_is_named_when_its_disk_is_not_mounted_or_has_not_all_backups(
    settings: Settings, rows: asyncpg.Connection, store: Path
) -> None:
    with_store = settings.model_copy(update={"backup_url": store.as_uri()})

    async def finding() -> Finding:
        found, *_ = await examine_backups("backups", with_store, DEFAULT_TENANT)
        return found

    assert (await finding()).level is Level.OK
    assert store.as_uri() not in await rows.fetchval("SELECT backupstores FROM adminapi.installation")
    async with open_tenants(with_store) as (tenant,):
        await known_store(tenant)
    assert (await finding()).level is Level.OK
    await rows.execute(_STORED, store.as_uri(), f"{store.as_uri()}-earlier")
    elsewhere = await finding()
    assert (elsewhere.level, elsewhere.found) == (Level.WARNING, "1 backups are recorded as stored elsewhere")
    shutil.rmtree(store / "_store")
    other = await finding()
    assert (other.level, "is not the store of backups" in other.found) == (Level.FAULT, True)
    assert "mount its disk" in str(other.remedy)
    assert not (store / "_store").exists(), "the doctor changes nothing"


def everything_in(store: Path) -> list[Path]:
    return sorted(store.rglob("*"))


async def test_store_is_named_when_another_registry_of_the_installation_uses_it(
    settings: Settings, rows: asyncpg.Connection, store: Path
) -> None:
    with_store = settings.model_copy(update={"backup_url": store.as_uri()})
    async with open_tenants(with_store) as (tenant,):
        await claim_store(await known_store(tenant), BackupStores(tenant.engine), tenant.name)
    await rows.execute("UPDATE adminapi.installation SET storeclaimid = gen_random_uuid()")  # a copy's
    before = everything_in(store)
    shared, *_ = await examine_backups("backups", with_store, DEFAULT_TENANT)
    assert (shared.level, "another registry" in shared.found) == (Level.FAULT, True)
    assert "--accept-store" in str(shared.remedy)
    assert everything_in(store) == before, "the doctor changes nothing"


async def test_label_is_named_when_its_value_says_nothing_to_a_schedule(
    settings: Settings, instances: InstanceStore
) -> None:
    labels: dict[str, str | None] = {"backup": "sometimes", "snapshot": "never", "district": "1"}
    attributes = AttributeChanges(labels=labels)
    instance = (await instances.reserve("Labelled", Template.MINIMAL, attributes)).instance
    remedy = await complaint(settings, "registry: labels", "backup=sometimes of instance")
    assert remedy == f"ods instance label {instance.id} backup=daily"
    await instances.change_attributes(instance.id, AttributeChanges(labels={"backup": "weekly"}))
    assert await complaints(settings) == []


async def test_backups_are_named_when_they_are_stored_unencrypted(settings: Settings, store: Path) -> None:
    with_store = settings.model_copy(update={"backup_url": store.as_uri()})
    *_, found = await examine_backups("backups", with_store, DEFAULT_TENANT)
    assert (found.level, found.subject) == (Level.WARNING, "backups: encryption")
    assert "unencrypted" in found.found
    assert "ODS_BACKUP_RECIPIENTS" in str(found.remedy)


async def test_schedule_of_backups_is_told_when_there_is_one(settings: Settings, tmp_path: Path) -> None:
    scheduled = {"backup_url": tmp_path.as_uri(), "backup_cron": "0 2 * * *", "backup_keep": ""}
    found, *_ = await examine_backups("backups", settings.model_copy(update=scheduled), DEFAULT_TENANT)
    assert (found.level, found.found) == (Level.OK, "Backups are made at 0 2 * * *; what stays: all")
