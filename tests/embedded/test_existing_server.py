"""`ods up --postgres`: a stack on a PostgreSQL server that runs already."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import asyncpg
import pytest

from ods.embedded import seeding
from ods.embedded.data_folder import DataFolder, Secrets
from ods.embedded.errors import CommandError
from ods.embedded.existing_server import ExistingServer
from ods.embedded.polling import wait_until
from ods.embedded.postgres import EmbeddedPostgres
from ods.embedded.supervisor import Supervisor
from tests.embedded.conftest import port_options, running
from tests.servers import (
    ENCRYPTION_KEY,
    MINIMAL_TEMPLATE,
    NUMBERS,
    SAMPLE_TEMPLATE,
    make_settings,
    server_folder,
    session,
    unsafe_postgres,
)

Ods = Callable[..., subprocess.CompletedProcess[str]]
PASSWORD = "pass/word @ of: a role;"


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[EmbeddedPostgres]:
    with server_folder() as folder:
        async with unsafe_postgres(folder / "data", "superuser") as running:
            yield running


@pytest.fixture
async def admin(server: EmbeddedPostgres) -> AsyncIterator[asyncpg.Connection]:
    async with session(server.dsn()) as connection:
        yield connection
        for row in await connection.fetch("SELECT datname FROM pg_database WHERE datname LIKE 'EdFi%'"):
            await connection.execute(f'ALTER DATABASE "{row["datname"]}" IS_TEMPLATE false')
            await connection.execute(f'DROP DATABASE "{row["datname"]}" WITH (FORCE)')


@pytest.fixture
async def role(admin: asyncpg.Connection) -> str:
    """A role that may create databases, see and end sessions, and no more."""
    name = f"operator {next(NUMBERS)}"
    await admin.execute(
        f"""CREATE ROLE "{name}" LOGIN CREATEDB PASSWORD '{PASSWORD}'
            IN ROLE pg_signal_backend, pg_read_all_stats"""
    )
    return name


def dsn(server: EmbeddedPostgres, role: str, database: str = "postgres") -> str:
    login = f"{quote(role, safe='')}:{quote(PASSWORD, safe='')}"
    return f"postgresql://{login}@127.0.0.1:{server.port}/{database}"


async def databases(admin: asyncpg.Connection) -> set[str]:
    return {
        row["datname"] for row in await admin.fetch("SELECT datname FROM pg_database WHERE NOT datistemplate")
    } - {"postgres"}


async def roles(admin: asyncpg.Connection) -> Mapping[str, str]:
    return {
        row["rolname"]: row["rolpassword"]
        for row in await admin.fetch("SELECT rolname, rolpassword FROM pg_authid")
    }


def command_lines() -> Iterator[str]:
    """Of all processes."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):
            yield (process / "cmdline").read_bytes().decode(errors="replace")


@pytest.mark.long
async def test_stack_works_on_the_server_and_leaves_it_alone_when_one_is_named(
    server: EmbeddedPostgres,
    admin: asyncpg.Connection,
    role: str,
    folder: DataFolder,
    ods: Ods,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    roles_before = await roles(admin)
    monkeypatch.setenv("ODS_POSTGRES", dsn(server, role))
    log = tmp_path / "up.log"
    async with running(folder, port_options(), log):
        stack = folder.running_stack()
        assert stack is not None
        assert "pid" not in stack["postgres"]
        created = ods("instance", "create", "Grand Bend", "--wait", "--data-dir", folder.path)
        assert created.returncode == 0, created.stderr
        assert not [line for line in command_lines() if PASSWORD in line or quote(PASSWORD, safe="") in line]
        refused = ods("demo", "--data-dir", folder.path, "--postgres", "postgresql://other@127.0.0.1/x")
        assert "leave out --postgres" in refused.stderr
    made = {"EdFi_Admin", "EdFi_Ods_Grand_Bend_Minimal"}
    assert made <= await databases(admin)
    assert await roles(admin) == roles_before
    assert not (folder.path / "postgres").exists()
    output = log.read_text()
    assert PASSWORD not in output
    assert quote(PASSWORD, safe="") not in output
    assert f"Made on the server: the databases EdFi_Admin, {MINIMAL_TEMPLATE}, {SAMPLE_TEMPLATE};" in output
    owners = await admin.fetch(
        "SELECT DISTINCT pg_get_userbyid(datdba) AS owner FROM pg_database WHERE datname LIKE 'EdFi%'"
    )
    assert [row["owner"] for row in owners] == [role]

    monkeypatch.delenv("ODS_POSTGRES")
    alone = ods("up", "--data-dir", folder.path, *port_options())
    assert "works on an existing server: name it with --postgres" in alone.stderr


def up(ods: Ods, folder: DataFolder, dsn: str, *options: object, **environment: str) -> str:
    """What `ods up --postgres` says when it refuses to start."""
    refused = ods("up", "--data-dir", folder.path, *port_options(), *options, ODS_POSTGRES=dsn, **environment)
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert PASSWORD not in refused.stdout + refused.stderr
    return refused.stderr


async def test_start_is_refused_when_the_role_is_a_superuser(
    server: EmbeddedPostgres, admin: asyncpg.Connection, folder: DataFolder, ods: Ods
) -> None:
    before = await databases(admin)
    refused = up(ods, folder, server.dsn())
    assert "The role postgres of --postgres is a superuser" in refused
    assert "ODS_ALLOW_SUPERUSER=true" in refused
    assert await databases(admin) == before


async def test_start_is_refused_with_the_grant_when_the_role_may_not_create_databases(
    server: EmbeddedPostgres, admin: asyncpg.Connection, role: str, folder: DataFolder, ods: Ods
) -> None:
    await admin.execute(f'REVOKE pg_read_all_stats FROM "{role}"')
    assert f'`GRANT pg_read_all_stats TO "{role}"`' in up(ods, folder, dsn(server, role))
    await admin.execute(f'REVOKE pg_signal_backend FROM "{role}"')
    assert f'`GRANT pg_signal_backend TO "{role}"`' in up(ods, folder, dsn(server, role))
    await admin.execute(f'ALTER ROLE "{role}" NOCREATEDB')
    assert f'`ALTER ROLE "{role}" CREATEDB`' in up(ods, folder, dsn(server, role))
    assert await databases(admin) == set()


async def test_start_is_refused_when_a_registry_is_there_whose_key_is_not_known(
    server: EmbeddedPostgres, admin: asyncpg.Connection, role: str, folder: DataFolder, ods: Ods
) -> None:
    await admin.execute(f'CREATE DATABASE "{seeding.REGISTRY_DATABASE}"')
    assert "Set ODS_ENCRYPTION_KEY to the key" in up(ods, folder, dsn(server, role))
    async with session(server.dsn(seeding.REGISTRY_DATABASE)) as registry:
        assert not await registry.fetchval("SELECT count(*) FROM pg_namespace WHERE nspname = 'adminapi'")


@pytest.mark.long
async def test_registry_that_is_there_is_used_with_its_key_when_the_operator_gives_it(
    server: EmbeddedPostgres,
    admin: asyncpg.Connection,
    role: str,
    folder: DataFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ods_api = f"host=127.0.0.1;port={server.port};username=ods_api"
    for template in (seeding.REGISTRY_DATABASE, MINIMAL_TEMPLATE, SAMPLE_TEMPLATE):
        await admin.execute(f'CREATE DATABASE "{template}" OWNER "{role}"')
    monkeypatch.setenv("ODS_POSTGRES", dsn(server, role))
    monkeypatch.setenv("ODS_ENCRYPTION_KEY", ENCRYPTION_KEY)
    monkeypatch.setenv("ODS_INSTANCE_CONNECTION_STRING", ods_api)
    log = tmp_path / "up.log"
    async with running(folder, port_options(), log):
        pass
    assert "Made on the server: no database, all were there;" in log.read_text()


async def test_start_is_refused_when_the_folder_belongs_to_another_server(
    server: EmbeddedPostgres, role: str, folder: DataFolder, ods: Ods
) -> None:
    folder.create()
    folder.store_secrets(Secrets.generate(5432))
    folder.store_existing_server({"system": "1", "made": []})
    assert "works on another server than that of --postgres" in up(ods, folder, dsn(server, role))


@pytest.mark.long
async def test_stack_serves_and_changes_nothing_until_the_operator_confirms_a_server_that_was_upgraded(
    server: EmbeddedPostgres,
    admin: asyncpg.Connection,
    role: str,
    folder: DataFolder,
    ods: Ods,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ODS_POSTGRES", dsn(server, role))
    log = tmp_path / "up.log"
    async with running(folder, port_options(), log):
        pass
    before = folder.existing_server()
    assert before is not None
    # All that pg_upgrade changes for us: the system identifier of the cluster.
    folder.store_existing_server({**before, "system": "1"})
    async with session(server.dsn(seeding.REGISTRY_DATABASE)) as registry:
        await registry.execute("UPDATE adminapi.installation SET registrysystem = '1', serversystem = '1'")

    def create(name: str) -> subprocess.CompletedProcess[str]:
        return ods("instance", "create", name, "--wait", "--data-dir", folder.path)

    async with running(folder, port_options(), log):
        assert folder.existing_server() == before
        assert "This registry was copied or moved" in log.read_text()
        assert "must be confirmed by its operator" in create("Too soon").stderr
        recover = ("recover", "--apply", "--yes", "--data-dir", folder.path)
        assert "Add --confirm if it goes on here." in ods(*recover).stderr
        assert "To confirm" not in ods(*recover, "--confirm").stdout

        async def creates() -> bool:
            return create("Grand Bend").returncode == 0

        await wait_until(creates, 60)
        assert "EdFi_Ods_Grand_Bend_Minimal" in await databases(admin)


def test_start_is_refused_when_the_folder_has_a_server_of_its_own(
    server: EmbeddedPostgres, folder: DataFolder, ods: Ods
) -> None:
    folder.create()
    folder.postgres.mkdir()
    assert "has a PostgreSQL of its own: leave out --postgres" in up(ods, folder, server.dsn())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("superuser@", "wrong@"), "refuses the login; check user and password"),
        (("/maintenance", "/missing"), "has no database of the name in the DSN"),
        (("127.0.0.1", "127.0.0.2"), "127.0.0.2 port"),
        (("postgresql://", "http://"), "must look like postgresql://user@host:5432/postgres"),
        (("postgres:superuser@", ""), "must look like postgresql://user@host:5432/postgres"),
        (("127.0.0.1:", "127.0.0.1:1,127.0.0.1:"), "must look like postgresql://user@host:5432/postgres"),
    ],
)
def test_reason_is_told_when_the_server_cannot_be_used(
    server: EmbeddedPostgres, folder: DataFolder, ods: Ods, change: tuple[str, str], told: str
) -> None:
    assert told in up(ods, folder, server.dsn("maintenance").replace(*change))


@pytest.mark.parametrize("option", [("--postgres-version", "17"), ("--postgres-port", "5432")])
def test_start_is_refused_when_options_of_a_server_of_its_own_are_given_too(
    server: EmbeddedPostgres, folder: DataFolder, ods: Ods, option: tuple[str, str]
) -> None:
    assert "--postgres names an existing server: leave out" in up(ods, folder, server.dsn(), *option)
    assert not folder.path.exists()


def test_password_is_taken_from_its_variable_when_the_dsn_has_none(
    server: EmbeddedPostgres, folder: DataFolder, ods: Ods
) -> None:
    without = server.dsn("missing").replace(":superuser@", "@")
    assert "has no database" in up(ods, folder, without, PGPASSWORD="superuser")
    assert "refuses the login" in up(ods, folder, without, PGPASSWORD="wrong")


# Several stacks that prepare one server at once


@pytest.fixture
async def prepare(
    server: EmbeddedPostgres, admin: asyncpg.Connection, role: str, tmp_path: Path
) -> Callable[[], Awaitable[list[str | None]]]:
    """Does with the server what three stacks do before they start anything; returns why they refuse.

    Their DSNs name different databases, so that they have no advisory lock in common there.
    """
    names = ("postgres", "EdFi_second", "EdFi_third")
    for name in names[1:]:
        await admin.execute(f'CREATE DATABASE "{name}"')
    settings = make_settings(server, server.dsn())

    async def prepare_one(database: str) -> str | None:
        folder = DataFolder(tmp_path / database)
        folder.create()
        stack = ExistingServer(dsn(server, role, database), folder, Secrets.generate(5432), print)
        await stack.start(Supervisor(folder.logs, print))
        try:
            await stack.prepare(settings)
        except CommandError as refusal:
            return str(refusal)
        return None

    async def prepare_all() -> list[str | None]:
        return await asyncio.gather(*(prepare_one(name) for name in names))

    return prepare_all


async def test_each_stack_finds_whole_templates_when_several_prepare_a_server_at_once(
    server: EmbeddedPostgres,
    admin: asyncpg.Connection,
    prepare: Callable[[], Awaitable[list[str | None]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ODS_ENCRYPTION_KEY", ENCRYPTION_KEY)
    assert await prepare() == [None] * 3
    assert await databases(admin) == {seeding.REGISTRY_DATABASE, "EdFi_second", "EdFi_third"}
    for number, template in enumerate((MINIMAL_TEMPLATE, SAMPLE_TEMPLATE)):
        await admin.execute(f'CREATE DATABASE "EdFi_copy_{number}" TEMPLATE "{template}"')
        async with session(server.dsn(f"EdFi_copy_{number}")) as copy:
            students = await copy.fetchval("SELECT count(*) FROM edfi.student")
        assert (students > 0) is (template == SAMPLE_TEMPLATE)


async def test_all_but_one_are_told_why_when_several_stacks_prepare_a_server_with_keys_of_their_own(
    prepare: Callable[[], Awaitable[list[str | None]]],
) -> None:
    refusals = await prepare()
    assert refusals.count(None) == 1
    assert all("Set ODS_ENCRYPTION_KEY to the key" in refusal for refusal in refusals if refusal)
