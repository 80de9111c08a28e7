"""API and worker do not start with a login by which everything on the server could be done."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import pytest
from pydantic import SecretStr

from ods.embedded.postgres import EmbeddedPostgres
from ods.registry.storage import dsn_check
from ods.registry.storage.dsn_check import DsnCheck
from ods.settings.settings import InvalidSettingsError, Settings
from tests.api.service import NOBODY, running
from tests.secret_search import as_secret
from tests.servers import NUMBERS, make_settings, make_tenant_settings
from worker import run

PASSWORD = as_secret("superuser-of-a-test")
Dsn = Callable[[str], str]


@pytest.fixture
async def role(admin: asyncpg.Connection) -> AsyncIterator[str]:
    """A superuser of the test's own."""
    name = f"ods_super_{next(NUMBERS)}"
    await admin.execute(f"CREATE ROLE {name} LOGIN SUPERUSER PASSWORD '{PASSWORD}'")
    yield name
    await admin.execute(f"DROP ROLE {name}")


@pytest.fixture
def dsn(postgres: EmbeddedPostgres, role: str) -> Dsn:
    """The address of a database with that role."""
    return lambda database: f"postgresql://{role}:{PASSWORD}@127.0.0.1:{postgres.port}/{database}"


@pytest.fixture
def settings(postgres: EmbeddedPostgres, registry_dsn: str) -> Settings:
    return make_settings(postgres, registry_dsn)


def changed(settings: Settings, **changes: Any) -> Settings:
    secrets = {name: SecretStr(value) if isinstance(value, str) else value for name, value in changes.items()}
    return settings.model_copy(update=secrets)


@pytest.mark.parametrize("field", ["admin_dsn", "master_dsn", "restore_dsn"])
async def test_worker_does_not_start_when_a_login_is_a_superuser(
    settings: Settings, dsn: Dsn, role: str, field: str
) -> None:
    database = (
        settings.admin_dsn.get_secret_value().rpartition("/")[2] if field == "admin_dsn" else "postgres"
    )
    with pytest.raises(InvalidSettingsError) as caught:
        await run(changed(settings, **{field: dsn(database)}), asyncio.Event())
    (line,) = str(caught.value).splitlines()
    assert line.startswith(
        f"ODS_{field.upper()}: the role {role} is a superuser, or a member of a role that may"
    )
    assert f"ALTER ROLE {role} NOSUPERUSER" in line
    assert "ODS_ALLOW_SUPERUSER=true" in line
    assert PASSWORD not in line


@pytest.mark.parametrize("group", ["postgres", "pg_execute_server_program", "pg_write_server_files"])
async def test_api_does_not_start_when_the_role_of_a_tenant_may_become_a_superuser(
    settings: Settings, dsn: Dsn, role: str, group: str, admin: asyncpg.Connection
) -> None:
    await admin.execute(f"ALTER ROLE {role} NOSUPERUSER; GRANT {group} TO {role} WITH INHERIT FALSE")
    several = make_tenant_settings({"tenant1": changed(settings, master_dsn=dsn("postgres"))})
    refusal = f"ODS_TENANTS: tenant1: master_dsn: .*REVOKE {group} FROM {role}"
    with pytest.raises(InvalidSettingsError, match=refusal):
        async with running(several, NOBODY):
            pass


async def test_superuser_is_let_in_when_the_settings_allow_it(settings: Settings, dsn: Dsn) -> None:
    await DsnCheck(changed(settings, master_dsn=dsn("postgres"), allow_superuser=True)).check()


async def test_superuser_is_found_later_when_the_server_was_away_at_the_start(
    settings: Settings, dsn: Dsn, role: str, admin: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dsn_check, "_AGAIN_SECONDS", 0.05)
    await admin.execute(f"ALTER ROLE {role} NOLOGIN")
    check = DsnCheck(changed(settings, master_dsn=dsn("postgres")))
    await check.check()
    await admin.execute(f"ALTER ROLE {role} LOGIN")
    with pytest.raises(InvalidSettingsError, match=re.escape(f"ODS_MASTER_DSN: the role {role}")):
        await asyncio.wait_for(check.keep_checking(), 10)
