"""Who may use a new database, and its settings: as its template has them, and more if ours say so."""

from collections.abc import AsyncIterator
from dataclasses import replace

import asyncpg
import pytest

from ods.databases.activating import rename
from ods.databases.dropping import drop
from ods.databases.errors import DatabaseFaultError
from ods.databases.provisioning import CloneRequest, TemplateSizes, provision, verify
from ods.databases.publishing import DatabaseAccess, settings_left_out
from ods.databases.server import Server
from ods.databases.templates import spares
from ods.databases.templates.spare_pool import Limits, SpareOrder, SparePool
from ods.settings.settings import CloneStrategy
from tests.postgres.postgres_inspection import exists, still_due
from tests.servers import MINIMAL_TEMPLATE, NUMBERS

INSTALLATION = "0b8ad2a0-5c5e-4f3c-9a63-3b0d1a5b9a01"
_ACCESS = """
SELECT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(grantee) END AS role, privilege_type,
    is_grantable
FROM pg_database, aclexplode(datacl) WHERE datname = $1 AND grantee <> datdba
"""
_SETTINGS = """
SELECT unnest(setconfig) FROM pg_db_role_setting JOIN pg_database ON pg_database.oid = setdatabase
WHERE datname = $1 AND setrole = 0
"""


@pytest.fixture
async def role(admin: asyncpg.Connection) -> AsyncIterator[str]:
    """A role that is neither ours nor a superuser's, with a name that has to be quoted."""
    name = f"Role {next(NUMBERS)}; --"
    await admin.execute(f'CREATE ROLE "{name}"')
    yield name
    await admin.execute(f'DROP OWNED BY "{name}"; DROP ROLE "{name}"')


@pytest.fixture
async def template(admin: asyncpg.Connection) -> AsyncIterator[str]:
    """A closed template of the test's own, which belongs to a superuser."""
    name = f"Template {next(NUMBERS)}"
    await admin.execute(
        f'CREATE DATABASE "{name}" TEMPLATE "{MINIMAL_TEMPLATE}" IS_TEMPLATE true ALLOW_CONNECTIONS false'
    )
    yield name
    await admin.execute(f'ALTER DATABASE "{name}" IS_TEMPLATE false')
    await admin.execute(f'DROP DATABASE "{name}"')


@pytest.fixture
def wanted(wanted: CloneRequest, template: str) -> CloneRequest:
    return replace(wanted, template=template)


async def provisioned(server: Server, wanted: CloneRequest) -> bool:
    """Make the database; returns whether it was a spare."""
    async with server.fenced(wanted.owner) as fenced:
        return (await provision(fenced, wanted, TemplateSizes())).claimed


async def access(admin: asyncpg.Connection, database: str) -> set[tuple[object, ...]]:
    """What roles beside its owner may do with the database; empty as well if it has no ACL."""
    return {tuple(row) for row in await admin.fetch(_ACCESS, database)}


async def settings_of(admin: asyncpg.Connection, database: str) -> set[str]:
    return {row[0] for row in await admin.fetch(_SETTINGS, database)}


async def test_privileges_are_those_of_the_template_when_a_clone_is_published(
    server: Server, wanted: CloneRequest, admin: asyncpg.Connection, role: str
) -> None:
    await admin.execute(
        f'REVOKE ALL ON DATABASE "{wanted.template}" FROM PUBLIC;'
        f' GRANT TEMPORARY ON DATABASE "{wanted.template}" TO PUBLIC, ods_service;'
        f' GRANT CONNECT ON DATABASE "{wanted.template}" TO ods_service;'
        f' GRANT CONNECT ON DATABASE "{wanted.template}" TO "{role}" WITH GRANT OPTION;'
        f' GRANT CREATE ON DATABASE "{wanted.template}" TO "{role}"'
    )
    await provisioned(server, wanted)
    assert await access(admin, wanted.database) >= {
        ("PUBLIC", "TEMPORARY", False),
        (role, "CONNECT", True),
        (role, "CREATE", False),
    }
    public = {
        privilege for grantee, privilege, _ in await access(admin, wanted.database) if grantee == "PUBLIC"
    }
    assert public == {"TEMPORARY"}
    await verify(server, wanted.database)


async def test_no_privilege_is_written_when_the_template_has_none(
    server: Server, wanted: CloneRequest, admin: asyncpg.Connection
) -> None:
    await provisioned(server, wanted)
    assert await admin.fetchval("SELECT datacl FROM pg_database WHERE datname = $1", wanted.database) is None


async def test_settings_are_those_of_the_template_when_a_clone_is_published(
    server: Server, wanted: CloneRequest, admin: asyncpg.Connection
) -> None:
    for setting in (
        'search_path = "$user", edfi, "odd ""name""", "one, two",public, \'\', ", "',
        "work_mem = '8MB'",
        "app.words = 'it''s; DROP ROLE ods_service --'",
        "statement_timeout = '30s'",
        "temp_tablespaces = ''",
    ):
        await admin.execute(f'ALTER DATABASE "{wanted.template}" SET {setting}')
    expected = await settings_of(admin, wanted.template)
    assert len(expected) == 5
    for setting in (
        "default_transaction_read_only = on",
        "log_min_messages = 'debug1'",
        "other.words = 'which the service may not set'",
    ):
        await admin.execute(f'ALTER DATABASE "{wanted.template}" SET {setting}')

    await admin.execute("GRANT SET ON PARAMETER app.words TO ods_service")
    try:
        await provisioned(server, wanted)
    finally:
        await admin.execute("REVOKE SET ON PARAMETER app.words FROM ods_service")
    assert await settings_of(admin, wanted.database) == expected
    async with server.session() as session:
        assert await settings_left_out(session, wanted.template) == [
            "app.words",
            "log_min_messages",
            "other.words",
        ]


async def test_setting_is_empty_when_that_of_the_template_is(
    server: Server, wanted: CloneRequest, admin: asyncpg.Connection
) -> None:
    await admin.execute(f'ALTER DATABASE "{wanted.template}" SET temp_tablespaces FROM CURRENT')
    assert await settings_of(admin, wanted.template) == {"temp_tablespaces="}
    await provisioned(server, wanted)
    assert await settings_of(admin, wanted.database) == {'temp_tablespaces=""'}


async def test_clone_is_made_when_a_role_in_the_acl_of_its_template_is_gone(
    server: Server, wanted: CloneRequest, admin: asyncpg.Connection, role: str
) -> None:
    await admin.execute(f'GRANT CONNECT ON DATABASE "{wanted.template}" TO "{role}"')
    await admin.execute(  # as in a damaged catalogue: PostgreSQL itself drops no role that is in an ACL
        "UPDATE pg_database SET datacl = datacl || makeaclitem(4000000000, datdba, 'CREATE', false)"
        " WHERE datname = $1",
        wanted.template,
    )
    await provisioned(server, wanted)
    assert (role, "CONNECT", False) in await access(admin, wanted.database)
    assert "unknown" not in " ".join(str(row) for row in await access(admin, wanted.database))


async def test_spare_gets_the_settings_that_the_template_has_when_it_is_claimed(
    server: Server, wanted: CloneRequest, admin: asyncpg.Connection, role: str
) -> None:
    async def installation() -> str:
        return INSTALLATION

    pool = SparePool(server, installation, [wanted.template], CloneStrategy.AUTO, Limits(1, 1, 10**12))
    await admin.execute(f'GRANT CREATE ON DATABASE "{wanted.template}" TO "{role}"')
    await pool.replenish(SpareOrder(spares.new_name(INSTALLATION), wanted.template))
    await admin.execute(f"ALTER DATABASE \"{wanted.template}\" SET work_mem = '9MB'")

    assert await provisioned(server, replace(wanted, installation=INSTALLATION))
    assert (role, "CREATE", False) in await access(admin, wanted.database)
    assert await settings_of(admin, wanted.database) == {"work_mem=9MB"}


async def test_database_is_given_away_and_still_managed_when_the_settings_name_its_owner(
    server: Server, wanted: CloneRequest, admin: asyncpg.Connection, role: str
) -> None:
    added = DatabaseAccess(owner=role, grants=[("pg_monitor", "CONNECT, CREATE")])
    await admin.execute(f'REVOKE CONNECT ON DATABASE "{wanted.template}" FROM PUBLIC')
    await admin.execute(f'GRANT CONNECT ON DATABASE "{wanted.template}" TO ods_service')
    given = replace(wanted, access=added)
    with pytest.raises(DatabaseFaultError, match="may not give databases to the role"):
        await provisioned(server, given)
    assert not await exists(admin, wanted.database)

    await admin.execute(f'GRANT "{role}" TO ods_service')
    await provisioned(server, given)
    await verify(server, wanted.database)
    owner = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = $1"
    assert await admin.fetchval(owner, wanted.database) == role
    assert await access(admin, wanted.database) >= {
        ("pg_monitor", "CONNECT", False),
        ("pg_monitor", "CREATE", False),
    }
    renamed = f"{wanted.database}_2"
    async with server.fenced(wanted.owner) as fenced:
        await rename(server, fenced, wanted.owner, wanted.database, renamed)
        assert await admin.fetchval(owner, renamed) == role
        await drop(fenced, wanted.owner, [renamed], published=True, before=still_due)
    assert not await exists(admin, renamed)


async def test_nothing_is_published_when_a_role_of_the_settings_does_not_exist(
    server: Server, wanted: CloneRequest, admin: asyncpg.Connection
) -> None:
    missing = replace(wanted, access=DatabaseAccess(grants=[("no such role", "CONNECT")]))
    with pytest.raises(DatabaseFaultError, match="does not exist on the PostgreSQL server") as caught:
        await provisioned(server, missing)
    assert not caught.value.retryable
    assert not await exists(admin, wanted.database)
    await provisioned(server, wanted)
    assert await access(admin, wanted.database) == set()
