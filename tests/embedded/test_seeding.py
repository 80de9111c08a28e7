from collections.abc import AsyncIterator
from itertools import count

import asyncpg
import pytest

from ods.embedded import seeding
from ods.embedded.postgres import EmbeddedPostgres
from tests.servers import server_folder, unsafe_postgres

PASSWORD = "service-password"
TEMPLATE = "EdFi_Ods_Template"

_numbers = count(1)


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[EmbeddedPostgres]:
    with server_folder() as folder:
        running = unsafe_postgres(folder / "data", "superuser")
        async with running:
            await seeding.ensure_service_role(running.dsn(), PASSWORD)
            yield running


@pytest.fixture
def service_dsn(server: EmbeddedPostgres) -> str:
    return f"postgresql://{seeding.SERVICE_ROLE}:{PASSWORD}@127.0.0.1:{server.port}/postgres"


@pytest.fixture
async def session(service_dsn: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(service_dsn)
    yield connection
    await connection.close()


@pytest.fixture
def template() -> str:
    return f"EdFi_Ods_{next(_numbers)}_Template"


async def tables_of_clone(service_dsn: str, template: str) -> dict[str, int]:
    """Rows of each table in a clone of `template`, made and dropped as the service role."""
    server = await asyncpg.connect(service_dsn)
    await server.execute(f'CREATE DATABASE clone TEMPLATE "{template}"')
    clone = await asyncpg.connect(service_dsn, database="clone")
    tables = await clone.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'edfi'")
    rows = {name: await clone.fetchval(f"SELECT count(*) FROM edfi.{name}") for (name,) in tables}  # noqa: S608 - our names
    await clone.close()
    await server.execute("DROP DATABASE clone WITH (FORCE)")
    await server.close()
    return rows


async def test_templates_are_closed_and_can_be_cloned_when_seeded(
    service_dsn: str, session: "asyncpg.Connection[asyncpg.Record]", template: str
) -> None:
    await seeding.ensure_template(service_dsn, template, seeding.MINIMAL_SCRIPTS)
    row = await session.fetchrow(
        "SELECT datistemplate, datallowconn, datdba::regrole::text FROM pg_database WHERE datname = $1",
        template,
    )
    assert row is not None
    assert tuple(row) == (True, False, seeding.SERVICE_ROLE)
    rows = await tables_of_clone(service_dsn, template)
    assert len(rows) > 20
    assert rows["educationorganization"] == 0
    assert rows["descriptor"] > 0


async def test_sample_holds_a_few_thousand_rows_when_seeded(service_dsn: str, template: str) -> None:
    await seeding.ensure_template(service_dsn, template, seeding.SAMPLE_SCRIPTS)
    rows = await tables_of_clone(service_dsn, template)
    assert rows["student"] == 1000
    assert rows["educationorganization"] == 14
    assert rows["grade"] == rows["studentsectionassociation"] == 3000
    assert all(rows.values())


async def test_template_is_made_anew_when_its_seeding_was_interrupted(
    service_dsn: str,
    session: "asyncpg.Connection[asyncpg.Record]",
    template: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    scripts = tmp_path_factory.mktemp("scripts")
    (scripts / "broken.sql").write_text("CREATE TABLE half_a_template (); SELECT 1 / 0")
    with monkeypatch.context() as patch:
        patch.setattr(seeding, "_SCRIPTS", scripts)
        with pytest.raises(asyncpg.DivisionByZeroError):
            await seeding.ensure_template(service_dsn, template, ["broken.sql"])
    assert not await session.fetchval("SELECT count(*) FROM pg_database WHERE datname = $1", template)
    await seeding.ensure_template(service_dsn, template, seeding.MINIMAL_SCRIPTS)
    assert (await tables_of_clone(service_dsn, template))["descriptor"] > 0
    assert not await session.fetchval("SELECT count(*) FROM pg_database WHERE datname LIKE '%unfinished%'")


async def test_template_is_left_alone_when_it_exists(
    service_dsn: str, session: "asyncpg.Connection[asyncpg.Record]", template: str
) -> None:
    await seeding.ensure_template(service_dsn, template, seeding.MINIMAL_SCRIPTS)
    before = await session.fetchval("SELECT oid FROM pg_database WHERE datname = $1", template)
    await seeding.ensure_template(service_dsn, template, seeding.SAMPLE_SCRIPTS)
    assert await session.fetchval("SELECT oid FROM pg_database WHERE datname = $1", template) == before


async def test_service_role_has_no_more_rights_than_it_needs_when_made(
    server: EmbeddedPostgres, session: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await seeding.ensure_service_role(server.dsn(), PASSWORD)
    row = await session.fetchrow(
        "SELECT rolsuper, rolcreaterole, rolcreatedb, pg_has_role(rolname, 'pg_signal_backend', 'USAGE'),"
        " pg_has_role(rolname, 'pg_read_all_stats', 'USAGE')"
        " FROM pg_roles WHERE rolname = current_user"
    )
    assert row is not None
    assert tuple(row) == (False, False, True, True, True)


async def test_registry_database_belongs_to_the_service_when_made(
    server: EmbeddedPostgres, session: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    for _ in range(2):
        await seeding.ensure_registry_database(server.dsn())
    owner = await session.fetchval(
        "SELECT datdba::regrole::text FROM pg_database WHERE datname = $1", seeding.REGISTRY_DATABASE
    )
    assert owner == seeding.SERVICE_ROLE
