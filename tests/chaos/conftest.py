"""A clean state made by hand, and means to spoil it."""

import asyncio
import base64
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import asyncpg
import pytest
from temporalio.client import Client
from temporalio.common import SearchAttributePair, TypedSearchAttributes

from ods.embedded.postgres import EmbeddedPostgres
from ods.registry.connection_strings.encryption import encrypt
from ods.temporal.namespace import register_search_attributes
from tests.chaos.evidence import ROWS, Target, connected
from tests.chaos.violations import Request
from tests.servers import ENCRYPTION_KEY, MINIMAL_TEMPLATE, NUMBERS, development_server
from workflows import search_attributes

_Connection = asyncpg.Connection
KEY = base64.b64decode(ENCRYPTION_KEY)


KEEPS = '{"keep": true, "backup_first": false}'
"""The arguments of a delete to the trash, as rows have them."""
DROPS = '{"keep": false, "backup_first": false}'
"""The same of one that drops the database at once."""


@dataclass
class Garden:
    """One registry, its server and its Temporal, where a test plants what it likes."""

    registry: _Connection
    server: _Connection
    temporal: Client
    port: int
    dsn: str
    number: int = field(default_factory=lambda: next(NUMBERS))
    databases: list[str] = field(default_factory=list)
    workflows: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The completed instance's."""
        return f"Garden {self.number}"

    @property
    def database(self) -> str:
        """The completed instance's."""
        return f"EdFi_Ods_Garden_{self.number}_Minimal"

    @property
    def request(self) -> Request:
        """What led to the completed instance."""
        return Request("Create", self.name, f"CreateInstanceJob-{self.number}-1")

    async def plant_completed(self, number: int | None = None) -> None:
        """A completed instance, in perfect order: the garden's own, or another one."""
        number = number or self.number
        mark, name, database = str(uuid.uuid4()), f"Garden {number}", f"EdFi_Ods_Garden_{number}_Minimal"
        await self.plant_instance(number, name, "Completed", "Create", 1, mark)
        await self.plant_job("Create", 1, "Completed", number)
        await self.plant_database(database, mark)
        await self.registry.execute(
            "INSERT INTO dbo.odsinstances VALUES ($1, $2, 'Minimal', $3)",
            *(number, name, self.connection_string(database)),
        )

    async def plant_instance(
        self, number: int, name: str, status: str, operation: str, jobs: int, mark: str | None = None
    ) -> None:
        """A row of `adminapi.dbinstances` whose id is its OdsInstanceId."""
        await self.registry.execute(
            "INSERT INTO adminapi.dbinstances (id, name, odsinstanceid, status, databasetemplate,"
            " databasename, operation, arguments, jobnumber, attempt, mark, errormessage)"
            " VALUES ($1, $2, $1, $3, 'Minimal', $4, $5, $9, $6, 1, $7, $8)",
            *(number, name, status, f"EdFi_Ods_{name.replace(' ', '_')}_Minimal", operation, jobs),
            *(mark or str(uuid.uuid4()), "Why not." if status in {"Error", "Delete_Failed"} else None),
            {"Delete": KEEPS, "Create": '{"origin": {}}'}.get(operation, "{}"),
        )
        await self.registry.execute(
            "UPDATE adminapi.databases SET publishedat = now() WHERE instanceid = $1", number
        )

    async def plant_job(self, operation: str, job: int, status: str, number: int) -> None:
        """A row of `adminapi.jobstatuses` of the instance with this id."""
        await self.registry.execute(
            "INSERT INTO adminapi.jobstatuses"
            " (jobid, status, errormessage, createdat, finishedat, dbinstanceid)"
            " VALUES ($1, $2, $3, now(), CASE WHEN $4 THEN now() END, $5)",
            *(f"{operation}InstanceJob-{number}-{job}", status),
            *("Why not." if status == "Error" else None, status in {"Completed", "Error"}, number),
        )

    async def plant_database(self, name: str, mark: str | None = None) -> None:
        """A database, with the comment of a published one if there is a mark."""
        self.databases.append(name)
        await self.server.execute(f'CREATE DATABASE "{name}" STRATEGY file_copy')
        if mark:
            comment = json.dumps({"tenant": "default", "odsInstanceId": 1, "job": "any", "mark": mark})
            await self.server.execute(f"COMMENT ON DATABASE \"{name}\" IS '{comment}'")

    async def plant_rows(self, *numbers: int, mark: str, database: str | None = None) -> None:
        """Rows that a client of the ODS/API has written to the garden's own database, or to another one."""
        async with connected(self.dsn, database or self.database) as session:
            await session.execute(f"CREATE TABLE IF NOT EXISTS {ROWS} (number bigint, mark uuid)")
            for number in numbers:
                await session.execute(f"INSERT INTO {ROWS} VALUES ($1, $2)", number, mark)  # noqa: S608 - no text of others

    async def plant_spare(self, comment: str | None = None) -> str:
        """A ready spare of the template `Minimal`, or one with another comment; returns its name."""
        installation = await self.registry.fetchval("SELECT id::text FROM adminapi.installation")
        state = await self.server.fetchrow(
            "SELECT oid::int8, xmin::text::int8 AS xmin FROM pg_database WHERE datname = $1", MINIMAL_TEMPLATE
        )
        assert state is not None
        said = {"installation": installation, "template": MINIMAL_TEMPLATE, "bytes": 1, **state}
        name = f"ods_spare_{installation.replace('-', '')[:16]}_{uuid.uuid4().hex}"
        await self.plant_database(name)
        await self.server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await self.server.execute(f"COMMENT ON DATABASE {name} IS '{comment or json.dumps(said)}'")
        return name

    async def plant_workflow(self, workflow_id: str, ods_instance_id: int) -> None:
        """An open workflow that no worker serves, which lists of workflows show."""
        pairs = [SearchAttributePair(search_attributes.INSTANCE_ID, ods_instance_id)]
        self.workflows.append(workflow_id)
        await self.temporal.start_workflow(
            "CreateInstance",
            id=workflow_id,
            task_queue="no-worker",
            search_attributes=TypedSearchAttributes(pairs),
        )
        async with asyncio.timeout(10):
            while not (await self.temporal.count_workflows(f"WorkflowId = '{workflow_id}'")).count:
                await asyncio.sleep(0.01)

    def connection_string(self, database: str, key: bytes = KEY) -> str:
        """What `dbo.odsinstances` holds for `database`."""
        return encrypt(f"host=127.0.0.1;port={self.port};username=x;password=y;database={database}", key)

    async def clear(self) -> None:
        """Remove what was planted outside of the registry, which goes by itself."""
        for name in self.databases:
            await self.server.execute("UPDATE pg_database SET datconnlimit = -1 WHERE datname = $1", name)
            await self.server.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        for name in self.workflows:
            await self.temporal.get_workflow_handle(name).terminate()


@pytest.fixture(scope="package")
async def quiet_temporal() -> AsyncIterator[Client]:
    """A Temporal server on which nothing runs but what the checker's tests start."""
    async with development_server() as client:
        await register_search_attributes(client)
        yield client


@pytest.fixture
def target(postgres: EmbeddedPostgres, registry_dsn: str, quiet_temporal: Client) -> Target:
    return Target(
        admin_dsn=postgres.dsn(registry_dsn.rpartition("/")[2]),
        master_dsn=postgres.dsn(),
        temporal_address=quiet_temporal.service_client.config.target_host,
        namespace=quiet_temporal.namespace,
        encryption_key=KEY,
    )


@pytest.fixture
async def garden(
    postgres: EmbeddedPostgres, target: Target, admin: _Connection, quiet_temporal: Client
) -> AsyncIterator[Garden]:
    async with AsyncExitStack() as stack:
        registry = await asyncpg.connect(target.admin_dsn)
        stack.push_async_callback(registry.close)
        garden = Garden(registry, admin, quiet_temporal, postgres.port, postgres.dsn())
        stack.push_async_callback(garden.clear)
        yield garden
