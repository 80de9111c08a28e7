"""What tests share of the servers they run on: names, passwords, addresses."""

import base64
import fcntl
import itertools
import json
import os
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import asyncpg
import pytest
from pydantic import SecretStr
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import WorkflowEnvironment

from ods.databases.rights.restore_login import RestoreLogin
from ods.databases.server import Server
from ods.embedded import seeding
from ods.embedded.ports import free_port
from ods.embedded.postgres import EmbeddedPostgres
from ods.embedded.postgres_binaries import PostgresVersion
from ods.embedded.temporal_server import DYNAMIC_CONFIG, GARBAGE_COLLECTION
from ods.settings.settings import DEFAULT_TENANT, AnySettings, MultiTenantSettings, ServiceSettings, Settings
from ods.temporal import schedules
from ods.temporal.client import DATA_CONVERTER
from tests.secret_search import SEARCH, as_secret

SERVICE_PASSWORD = as_secret("service-password-for-tests")
RESTORE_PASSWORD = as_secret("restore-password-for-tests")
INSTANCE_PASSWORD = as_secret("instance-password-for-tests")
SUPERUSER_PASSWORD = as_secret("superuser-password-for-tests")
ENCRYPTION_KEY = as_secret(base64.b64encode(b"encryption key of 32 bytes, yes!").decode())
TOKEN_KEY = as_secret(base64.b64encode(b"signing key of 32 bytes, really!").decode())
POSTGRES_VERSION = PostgresVersion(os.environ.get("TEST_POSTGRES_VERSION", PostgresVersion.V18))
"""Of the servers that tests start; `make test-postgres` tries each."""
_FOLDER_PREFIX = "ods-tests-"
_IN_USE = "in-use"
"""The file in a folder of tests that their process has locked."""
_LOCK_SECONDS = 60
"""Within which a process has locked it for sure."""
_ROOM_BYTES = 4 * 2**30
MINIMAL_TEMPLATE = "EdFi_Ods_Minimal_Template"
SAMPLE_TEMPLATE = "EdFi_Ods_Populated_Template"


INSTALLATION = str(uuid.uuid4())
"""Of schedules that tests set by themselves."""

NUMBERS = itertools.count(1)
"""For names, ids and queues that no other test uses."""


def since_postgres(version: int, what: str) -> pytest.MarkDecorator:
    """Skips a test about something that older servers do not have."""
    return pytest.mark.skipif(
        int(POSTGRES_VERSION) < version, reason=f"PostgreSQL {POSTGRES_VERSION} has no {what}"
    )


def service_dsn(server: EmbeddedPostgres, database: str) -> str:
    """How the product reaches `database`: with the rights that the service needs, not as superuser."""
    return f"postgresql://{seeding.SERVICE_ROLE}:{SERVICE_PASSWORD}@127.0.0.1:{server.port}/{database}"


def restore_dsn(server: EmbeddedPostgres, database: str = "postgres") -> str:
    """How the product reaches `database` to restore something."""
    return f"postgresql://{seeding.RESTORE_ROLE}:{RESTORE_PASSWORD}@127.0.0.1:{server.port}/{database}"


def product_server(server: EmbeddedPostgres) -> Server:
    """The server as the product reaches it, with the login that restores."""
    login = RestoreLogin(restore_dsn(server), seeding.RESTORED_OWNER)
    return Server(service_dsn(server, "postgres"), login)


def make_settings(server: EmbeddedPostgres, registry_dsn: str, **changes: Any) -> Settings:
    """Settings for the test servers, with `changes`."""
    values: dict[str, Any] = {
        "admin_dsn": registry_dsn,
        "master_dsn": service_dsn(server, "postgres"),
        # A test with another server has its own login there, or none.
        **({"restore_as_service": True} if "master_dsn" in changes else {"restore_dsn": restore_dsn(server)}),
        "instance_connection_string": (
            f"host=127.0.0.1;port={server.port};username=ods_api;password={INSTANCE_PASSWORD};database=any"
        ),
        "encryption_key": ENCRYPTION_KEY,
        "token_signing_key": TOKEN_KEY,
        "registration": True,
        "task_queue": f"ods-{next(NUMBERS)}",
        "ddl_attempts": 2,
        "shared_server": True,
        "heartbeat_timeout": 2,
        "shutdown_timeout": 5,
    }
    return Settings(**(values | changes))


def make_tenant_settings(tenants: Mapping[str, Settings], **changes: Any) -> MultiTenantSettings:
    """Settings for several tenants, each with what is its own in `tenants`; the rest is as in the first."""
    first = next(iter(tenants.values()))
    shared = {name: getattr(first, name) for name in ServiceSettings.model_fields}
    return MultiTenantSettings(**(shared | {"tenants": _tenants_text(tenants)} | changes))


def environment(settings: AnySettings) -> dict[str, str]:
    """The variables that give a process of its own these settings."""
    return {
        f"ODS_{name.upper()}": _tenants_text(value) if name == "tenants" else _text(value)
        for name, value in settings
        if value is not None
    }


def _tenants_text(tenants: Mapping[str, Settings]) -> str:
    own = Settings.model_fields.keys() - ServiceSettings.model_fields.keys()
    return json.dumps(
        {
            name: {field: _text(value) for field in own if (value := getattr(tenant, field)) is not None}
            for name, tenant in tenants.items()
        }
    )


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return json.dumps(dict(value))
    return str(value.get_secret_value() if isinstance(value, SecretStr) else value)


@contextmanager
def server_folder() -> Iterator[Path]:
    """A folder for the data of servers, which PostgreSQL's own account may enter.

    It is in memory if there is room: a database is three hundred files, and on some disks to make them takes
    ten times as long. What tests have left there that were killed is removed first.
    """
    memory = Path("/dev/shm")  # noqa: S108 - only `TemporaryDirectory` creates something in it
    if memory.is_dir():
        _remove_abandoned(memory)
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > _ROOM_BYTES
    with tempfile.TemporaryDirectory(prefix=_FOLDER_PREFIX, dir=memory if roomy else None) as name:
        folder = Path(name)
        folder.chmod(0o711)
        with (folder / _IN_USE).open("w") as in_use:
            fcntl.flock(in_use, fcntl.LOCK_EX)
            try:
                yield folder
            finally:
                SEARCH.search_folder(folder)


def _remove_abandoned(parent: Path) -> None:
    """Remove the folders of tests that were killed: their locks have gone with their processes."""
    for path in parent.glob(f"{_FOLDER_PREFIX}*/{_IN_USE}"):
        with suppress(OSError), path.open() as in_use:
            if time.time() - path.stat().st_mtime < _LOCK_SECONDS:
                continue
            fcntl.flock(in_use, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path.parent)


@asynccontextmanager
async def without_statistics(admin: asyncpg.Connection) -> AsyncIterator[None]:
    """The service's role does not see the sizes of databases that it may not enter, nor others' sessions."""
    await admin.execute(f"REVOKE pg_read_all_stats FROM {seeding.SERVICE_ROLE}")
    try:
        yield
    finally:
        await admin.execute(f"GRANT pg_read_all_stats TO {seeding.SERVICE_ROLE}")


@asynccontextmanager
async def seeded_postgres(**settings: str) -> AsyncIterator[EmbeddedPostgres]:
    """A PostgreSQL server of the caller's own, with the service role and the template `Minimal`.

    Args:
        settings: further run-time parameters.
    """
    with server_folder() as folder:
        server = unsafe_postgres(folder / "data", SUPERUSER_PASSWORD, settings)
        async with seeded(server):
            yield server


def unsafe_postgres(
    data_dir: Path, password: str, settings: Mapping[str, str] = MappingProxyType({})
) -> EmbeddedPostgres:
    """A server of the version under test on a free port, which does not wait for its disk."""
    # Each session hashes its password as often, on the processors of the tests.
    cheap = {"fsync": "off", "scram_iterations": "1"}
    own = {**cheap, "max_prepared_transactions": "2", **settings}
    return EmbeddedPostgres(data_dir, free_port(), password, own, version=POSTGRES_VERSION)


@asynccontextmanager
async def seeded(server: EmbeddedPostgres) -> AsyncIterator[None]:
    """Start the server, and give it the service role and the template `Minimal`."""
    async with server:
        await seeding.ensure_service_role(server.dsn(), SERVICE_PASSWORD)
        await seeding.ensure_restore_roles(server.dsn(), RESTORE_PASSWORD)
        await seeding.ensure_template(
            service_dsn(server, "postgres"), MINIMAL_TEMPLATE, seeding.MINIMAL_SCRIPTS
        )
        yield


@asynccontextmanager
async def development_server() -> AsyncIterator[Client]:
    """A Temporal development server of the caller's own."""
    with pytest.MonkeyPatch.context() as variables:
        for name, value in GARBAGE_COLLECTION.items():
            variables.setenv(name, value)
        environment = await WorkflowEnvironment.start_local(
            dev_server_existing_path=binary("temporal"),
            dev_server_extra_args=[
                word
                for name, value in DYNAMIC_CONFIG.items()
                for word in ("--dynamic-config-value", f"{name}={value}")
            ],
            data_converter=DATA_CONVERTER,
        )
    async with environment:
        yield environment.client
        await SEARCH.search_histories(environment.client)


@asynccontextmanager
async def scheduled(client: Client, settings: Settings) -> AsyncIterator[None]:
    """The schedules of these settings, as a worker sets them when it starts; in the end there is none."""
    await schedules.ensure(client, settings, INSTALLATION)
    try:
        yield
    finally:
        await delete_schedules(client)


async def delete_schedules(client: Client, tenant: str = DEFAULT_TENANT) -> None:
    """Remove the schedules of a tenant: the next test's installation is another."""
    for name in (
        *(schedules.PENDING_SWEEP, schedules.RECONCILE),
        *(schedules.EDUCATION_ORGANIZATIONS, schedules.SPARE_REFILL),
        *(schedules.BACKUPS, schedules.SNAPSHOTS, schedules.SIZES),
    ):
        try:
            await client.get_schedule_handle(schedules.schedule_id(tenant, name)).delete()
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise


def binary(name: str) -> str:
    """Path of a program that came with a wheel."""
    return str(Path(sys.executable).with_name(name))


@asynccontextmanager
async def session(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def in_use(admin: asyncpg.Connection, server: EmbeddedPostgres, template: str) -> AsyncIterator[None]:
    """Another session works on the template: PostgreSQL waits for that session before it copies."""
    await admin.execute(f'ALTER DATABASE "{template}" ALLOW_CONNECTIONS true')
    try:
        async with session(server.dsn(template)):
            await admin.execute(f'ALTER DATABASE "{template}" ALLOW_CONNECTIONS false')
            yield
    finally:
        await admin.execute(f'ALTER DATABASE "{template}" ALLOW_CONNECTIONS false')


@asynccontextmanager
async def with_statements(admin: asyncpg.Connection, before: str, after: str) -> AsyncIterator[None]:
    """The server after one statement, and put back by another."""
    await admin.execute(before)
    try:
        yield
    finally:
        await admin.execute(after)


def template_missing(admin: asyncpg.Connection) -> AbstractAsyncContextManager[None]:
    """The template `Minimal` is not where the settings say."""
    return with_statements(
        admin,
        f'ALTER DATABASE "{MINIMAL_TEMPLATE}" RENAME TO "elsewhere"',
        f'ALTER DATABASE "elsewhere" RENAME TO "{MINIMAL_TEMPLATE}"',
    )


def right_missing(admin: asyncpg.Connection) -> AbstractAsyncContextManager[None]:
    """The service's role may not create databases."""
    role = f"ALTER ROLE {seeding.SERVICE_ROLE}"
    return with_statements(admin, f"{role} NOCREATEDB", f"{role} CREATEDB")
