"""The password of a role is changed while the service runs: new connections take it from the file."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from ods.databases.errors import DatabaseFaultError
from ods.embedded.postgres import EmbeddedPostgres
from ods.settings.secret_files import FileSecret
from ods.settings.settings import Settings
from ods.tenants.tenant import Tenant, open_tenants
from tests.servers import NUMBERS, make_settings

DATABASES = {"admin_dsn": "template1", "master_dsn": "postgres"}


@dataclass(frozen=True)
class Role:
    """A role, whose password files hold in the addresses of databases."""

    admin: asyncpg.Connection
    name: str
    folder: Path
    port: int

    async def change_password(self, password: str) -> None:
        """Change it on the server, as an administrator does first."""
        await self.admin.execute(f"ALTER ROLE {self.name} LOGIN PASSWORD '{password}'")

    def write(self, password: str, port: int | None = None) -> None:
        """Replace each file in one step, as those who mount them do."""
        for name, database in DATABASES.items():
            new = self.folder / "new"
            new.write_text(f"postgresql://{self.name}:{password}@127.0.0.1:{port or self.port}/{database}\n")
            new.replace(self.folder / name)


@pytest.fixture
async def role(admin: asyncpg.Connection, postgres: EmbeddedPostgres, tmp_path: Path) -> AsyncIterator[Role]:
    role = Role(admin, f"rotating_{next(NUMBERS)}", tmp_path, postgres.port)
    await admin.execute(f"CREATE ROLE {role.name}")
    await role.change_password("first")
    role.write("first")
    yield role
    await admin.execute(f"DROP ROLE {role.name}")


@pytest.fixture
def settings(postgres: EmbeddedPostgres, role: Role) -> Settings:
    return make_settings(postgres, "", **{name: FileSecret.of(str(role.folder / name)) for name in DATABASES})


@pytest.fixture
async def tenant(settings: Settings) -> AsyncIterator[Tenant]:
    async with open_tenants(settings) as (tenant,):
        yield tenant


async def connect(tenant: Tenant) -> None:
    """Open a new connection of each kind."""
    await tenant.close()
    async with tenant.engine.connect() as registry, tenant.reading_engine.connect() as reading:
        assert await registry.scalar(text("SELECT 1")) == await reading.scalar(text("SELECT 1")) == 1
    async with tenant.server.session() as session, tenant.server.connected("template1") as other:
        assert await session.fetchval("SELECT 1") == await other.fetchval("SELECT 1") == 1


async def test_new_connections_have_the_new_password_when_the_files_were_replaced(
    tenant: Tenant, role: Role
) -> None:
    await connect(tenant)
    await role.change_password("second")
    with pytest.raises(DBAPIError, match="password authentication failed"):
        await connect(tenant)
    role.write("second")
    await connect(tenant)


async def test_open_connections_go_on_when_the_password_was_changed(tenant: Tenant, role: Role) -> None:
    async with tenant.server.session() as session, tenant.engine.connect() as connection:
        await role.change_password("second")
        role.write("second")
        assert await session.fetchval("SELECT 1") == await connection.scalar(text("SELECT 1")) == 1
        async with tenant.server.session() as another:
            assert await another.fetchval("SELECT 1") == 1


async def test_old_address_is_used_when_a_file_names_another_server(
    tenant: Tenant, role: Role, caplog: pytest.LogCaptureFixture
) -> None:
    role.write("second", port=1)
    await connect(tenant)
    assert {message.split(" stays")[0] for message in caplog.messages} == {
        "The address of the registry of tenant default",
        "The address of the server of tenant default",
    }
    assert "second" not in caplog.text


async def test_server_refuses_and_no_password_is_told_when_the_file_has_the_wrong_one(
    tenant: Tenant, role: Role
) -> None:
    role.write("hidden")
    with pytest.raises(DatabaseFaultError) as refused:
        async with tenant.server.session():
            pass
    assert "hidden" not in str(refused.value)
