"""`ods grants`: what it prints is the file in deploy/, and its check names what is missing."""

import asyncio
import subprocess
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest

from ods.embedded.postgres import EmbeddedPostgres
from ods.registry.audit import AuditTrail, command_entry
from ods.registry.rights.needs import quoted
from ods.registry.storage.engine import create_registry_engine
from ods.settings.settings import Settings
from tests import preloaded
from tests.secret_search import as_secret
from tests.servers import NUMBERS, environment, make_settings, make_tenant_settings, right_missing, session

DEPLOYED = Path(__file__).parents[2] / "deploy" / "grants.sql"
COMPOSED = {
    "ODS_ADMIN_DSN": "postgresql://ods_service:a-password@postgres/EdFi_Admin",
    "ODS_MASTER_DSN": "postgresql://ods_service:a-password@postgres/EdFi_Master",
    "ODS_RESTORE_DSN": "postgresql://ods_restore:a-password@postgres/EdFi_Master",
}


@pytest.fixture
def settings(postgres: EmbeddedPostgres, registry_dsn: str) -> Settings:
    return make_settings(postgres, registry_dsn)


async def ods_grants(*options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(preloaded.run, "ods.cli", "grants", *options, env=variables)


async def test_command_prints_the_deployed_file_when_the_names_are_those_of_the_composed_stack(
    settings: Settings,
) -> None:
    run = await ods_grants(**(environment(settings) | COMPOSED))

    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout == DEPLOYED.read_text()


async def test_name_is_in_quotes_when_it_is_a_word_of_sql(admin: asyncpg.Connection) -> None:
    words = await admin.fetch("SELECT word FROM pg_get_keywords() WHERE catcode IN ('R', 'T')")
    assert [row["word"] for row in words if not quoted(row["word"]).startswith('"')] == []
    assert quoted("ods_service") == "ods_service"


async def test_check_is_content_when_the_role_owns_all(settings: Settings) -> None:
    run = await ods_grants("--check", **environment(settings))

    assert (run.returncode, run.stdout) == (0, "The service's role has all rights that it needs.\n")


async def test_check_names_each_grant_when_rights_are_missing(
    settings: Settings, postgres: EmbeddedPostgres, admin: asyncpg.Connection
) -> None:
    missing = "SELECT, INSERT ON adminapi.audit"
    database = settings.admin_dsn.get_secret_value().rpartition("/")[2]
    async with session(postgres.dsn(database)) as superuser, right_missing(admin):
        await superuser.execute(f"REVOKE {missing} FROM ods_service")
        try:
            run = await ods_grants("--check", **environment(settings))
        finally:
            await superuser.execute(f"GRANT {missing} TO ods_service")

    assert run.returncode == 1
    assert run.stdout == f"GRANT {missing} TO ods_service;\nALTER ROLE ods_service CREATEDB;\n"


async def test_check_names_the_tenant_when_there_are_several(
    settings: Settings, admin: asyncpg.Connection
) -> None:
    several = environment(make_tenant_settings({"one": settings}))
    other = settings.model_copy(update={"admin_dsn": settings.master_dsn})
    both = environment(make_tenant_settings({"one": settings, "two": other}))
    async with right_missing(admin):
        run = await ods_grants("--check", "--tenant", "two", **both)
        every = await ods_grants("--check", **both)

    assert run.stdout == "ALTER ROLE ods_service CREATEDB;\n"
    assert every.stdout.splitlines() == [
        f"ALTER ROLE ods_service CREATEDB; -- tenant {name}" for name in ("one", "two")
    ]
    assert (await ods_grants("--check", "--tenant", "two", **several)).returncode == 1


async def test_check_names_the_login_when_the_role_may_not_connect(
    settings: Settings, postgres: EmbeddedPostgres, admin: asyncpg.Connection
) -> None:
    database, role = f"closed_{next(NUMBERS)}", f"stranger_{next(NUMBERS)}"
    await admin.execute(f"CREATE ROLE {role} LOGIN CREATEDB PASSWORD 'a-password'")
    await admin.execute(f"CREATE DATABASE {database}")
    await admin.execute(f"REVOKE CONNECT ON DATABASE {database} FROM PUBLIC")
    dsn = f"postgresql://{role}:a-password@127.0.0.1:{postgres.port}/{database}"
    try:
        run = await ods_grants("--check", **(environment(settings) | {"ODS_MASTER_DSN": dsn}))
    finally:
        await admin.execute(f"DROP DATABASE {database}")
        await admin.execute(f"DROP ROLE {role}")

    assert (run.returncode, run.stdout) == (1, f"GRANT CONNECT ON DATABASE {database} TO {role};\n")


async def test_check_says_that_the_registry_is_away_when_it_is(settings: Settings) -> None:
    away = {"ODS_ADMIN_DSN": "postgresql://ods_service:a-password@127.0.0.1:1/EdFi_Admin"}
    run = await ods_grants("--check", **(environment(settings) | away))

    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.startswith(
        "Error: The registry cannot be asked (ConnectionRefusedError); check ODS_ADMIN_DSN"
    )


@pytest.fixture
async def divided(
    settings: Settings, postgres: EmbeddedPostgres, admin: asyncpg.Connection
) -> AsyncIterator[tuple[Settings, Settings]]:
    """Settings of `ods migrate`, whose role owns a registry without tables, and those of the service."""
    number, password = next(NUMBERS), as_secret("password-of-an-owner-or-not")
    database, owner, service = f"EdFi_Admin_{number}", f"owner_{number}", f"service_{number}"
    for role in (owner, service):
        await admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{password}'")
    await admin.execute(f'CREATE DATABASE "{database}" OWNER {owner}')
    at = f"{password}@127.0.0.1:{postgres.port}/{database}"
    yield (
        make_settings(postgres, f"postgresql://{owner}:{at}"),
        make_settings(postgres, f"postgresql://{service}:{at}"),
    )
    await admin.execute(f'DROP DATABASE "{database}" WITH (FORCE)')
    await admin.execute(f"DROP ROLE {owner}; DROP ROLE {service}")


async def test_service_cannot_change_the_audit_trail_when_another_role_has_migrated(
    divided: tuple[Settings, Settings], postgres: EmbeddedPostgres
) -> None:
    owner, service = divided
    role = service.admin_dsn.get_secret_value().partition("//")[2].partition(":")[0]
    run = await asyncio.to_thread(
        preloaded.run, "ods.cli", "migrate", "--grant-to", role, env=environment(owner)
    )
    assert (run.returncode, run.stdout) == (0, "The registry database is up to date.\n")
    checked = await ods_grants("--check", **environment(service))
    assert checked.stdout == "The service's role has all rights that it needs.\n"

    engine = create_registry_engine(service.admin_dsn.get_secret_value(), pool_size=1)
    audit = AuditTrail(engine)
    try:
        for _ in range(2):
            await audit.record(command_entry("ods registration close", "operator@here"))
        async with session(owner.admin_dsn.get_secret_value()) as tables:
            await tables.execute("UPDATE adminapi.audit SET at = at - interval '31 days' WHERE id = 1")
        async with session(service.admin_dsn.get_secret_value()) as thief:
            for statement in (
                "DELETE FROM adminapi.audit",
                "UPDATE adminapi.audit SET client = 'another one'",
                "TRUNCATE adminapi.audit",
                "ALTER TABLE adminapi.audit DISABLE TRIGGER ALL",
                "DROP FUNCTION adminapi.prune_audit",
            ):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await thief.execute(statement)
        assert await audit.prune(timedelta(seconds=-1)) is False
        assert [row.id for row in await audit.page(limit=10)] == [2]
    finally:
        await engine.dispose()


async def test_migration_names_the_role_when_it_shall_get_rights_and_is_not_there(settings: Settings) -> None:
    run = await asyncio.to_thread(
        preloaded.run, "ods.cli", "migrate", "--grant-to", "no_such_role", env=environment(settings)
    )
    assert run.returncode == 1
    assert run.stderr == ("Error: The registry is up to date, but the role no_such_role does not exist.\n")
