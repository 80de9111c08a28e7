"""Registries whose tables others made, in each of the layouts that there have been."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from api.security.clients import ApiClients
from api.security.limits import LogIn
from ods.model.operations import Template
from ods.registry.clients.administration import ClientAdministration, ClientInUseError
from ods.registry.clients.credentials import ClientScope
from ods.registry.clients.store import ClientExistsError, ClientStore, Standing
from ods.registry.migrations import upgrade
from ods.registry.migrations.conflicts import ConflictingRowsError
from ods.registry.storage.engine import create_registry_engine
from tests.postgres.instance_states import CONNECTION_STRING, bring_to, stores
from tests.postgres.legacy_schemas import ADMIN_API, LAYOUTS, ODS_API, ODS_API_6, ODS_API_FIRST_7
from tests.postgres.postgres_inspection import CATALOGS, everything

pytestmark = pytest.mark.long

UNLIMITED = LogIn(None, "a client", "an address")


@pytest.fixture(params=LAYOUTS)
async def adopted(bare: asyncpg.Connection, request: pytest.FixtureRequest) -> asyncpg.Connection:
    """A session on a database with the tables and rows of others."""
    await bare.execute(LAYOUTS[request.param])
    return bare


@pytest.fixture
async def engine(dsn: str) -> AsyncIterator[AsyncEngine]:
    engine = create_registry_engine(dsn)
    yield engine
    await engine.dispose()


async def test_rows_columns_and_constraints_stay_when_tables_are_adopted(
    dsn: str, adopted: asyncpg.Connection
) -> None:
    columns = "SELECT attrelid::regclass::text, attname FROM pg_attribute WHERE attrelid >= 16384"
    before = await everything(adopted)
    columns_before = await adopted.fetch(columns)
    await upgrade(dsn)
    after = await everything(adopted)
    assert set(columns_before) <= set(await adopted.fetch(columns))
    lost = set(before["constraints"]) - set(after["constraints"])
    assert {rule["conname"] for rule in lost} <= {"odsinstances_instancetype_not_null"}
    for table in before.keys() - CATALOGS.keys():
        rows = {next(row.values()): row for row in after[table]}
        for row in before[table]:
            kept = rows[next(row.values())]
            # What was not said may be said now.
            said = {name: value for name, value in row.items() if value is not None}
            assert {name: kept[name] for name in said} == said, table
    assert any(before[table] for table in before.keys() - CATALOGS.keys())


async def test_nothing_changes_when_adopted_tables_are_migrated_again(
    dsn: str, adopted: asyncpg.Connection
) -> None:
    await upgrade(dsn)
    before = await everything(adopted)
    await upgrade(dsn)
    assert await everything(adopted) == before


@pytest.mark.usefixtures("adopted")
async def test_instances_live_and_clients_register_when_the_tables_are_others(
    dsn: str, engine: AsyncEngine
) -> None:
    await upgrade(dsn)
    instances, job_store = stores(engine)
    created = (await instances.reserve("Ours", Template.MINIMAL)).job
    assert (await job_store.begin(created)).held
    assert await job_store.fail(created, "x" * 2000)
    again = (await instances.request_retry(created.instance_id)).job
    assert (await job_store.begin(again)).held
    assert await job_store.finish_create(again, CONNECTION_STRING)
    deleted = (await instances.request_delete(created.instance_id)).job
    begun = await job_store.begin(deleted)
    assert (begun.held, begun.refusal) == (True, None)
    assert await job_store.finish_delete(deleted)

    clients = ApiClients(ClientStore(engine, shared=False), asyncio.Semaphore())
    await clients.register("ours", "a secret", "Ours")
    assert await clients.verify("ours", "a secret", UNLIMITED)
    with pytest.raises(ClientExistsError):
        await clients.register("ours", "a secret", "Ours")


async def test_client_of_an_admin_api_proves_who_it_is_when_its_table_is_adopted(
    dsn: str, bare: asyncpg.Connection, engine: AsyncEngine
) -> None:
    await bare.execute(ADMIN_API)
    await upgrade(dsn)
    clients = ApiClients(ClientStore(engine, shared=False), asyncio.Semaphore())
    assert not await clients.verify("a-client", "another secret", UNLIMITED)
    assert await clients.verify("a-client", "A secret of an Admin API's client, 1", UNLIMITED)
    assert (await _secret_hash(bare)).startswith("$argon2id$")


async def test_hash_of_a_secret_stays_when_an_admin_api_verifies_it_as_well(
    dsn: str, bare: asyncpg.Connection, engine: AsyncEngine
) -> None:
    await bare.execute(ADMIN_API)
    await upgrade(dsn)
    before = await _secret_hash(bare)
    clients = ApiClients(ClientStore(engine, shared=False), asyncio.Semaphore(), shared=True)
    assert await clients.verify("a-client", "A secret of an Admin API's client, 1", UNLIMITED)
    assert await _secret_hash(bare) == before


async def _secret_hash(bare: asyncpg.Connection) -> str:
    found: str = await bare.fetchval(
        "SELECT clientsecret FROM adminapi.applications WHERE clientid = 'a-client'"
    )
    return found


async def test_clients_of_an_admin_api_are_administered_when_its_table_is_adopted(
    dsn: str, bare: asyncpg.Connection, engine: AsyncEngine
) -> None:
    await bare.execute(ADMIN_API)
    await upgrade(dsn)
    clients, store = (
        ClientAdministration(engine, "operator@host", shared=False),
        ClientStore(engine, shared=False),
    )
    (found,) = await clients.clients()
    assert (found.client_id, found.enabled, found.created) == ("a-client", True, None)
    assert (await store.standing("a-client")) == Standing(ClientScope.FULL_ACCESS, None, backup_download=True)
    with pytest.raises(ClientInUseError):  # there are authorizations
        await clients.remove("a-client")
    await clients.disable("a-client")
    assert await store.standing("a-client") is None
    await clients.enable("a-client")
    standing = await store.standing("a-client")
    assert standing is not None
    assert standing.generation is not None
    changes = await bare.fetch("SELECT path FROM adminapi.audit ORDER BY id")
    assert [row["path"] for row in changes] == ["ods client disable a-client", "ods client enable a-client"]


async def test_client_is_whole_when_an_admin_api_adds_it_after_the_migration(
    dsn: str, bare: asyncpg.Connection, engine: AsyncEngine
) -> None:
    await bare.execute(ADMIN_API)
    await upgrade(dsn)
    await bare.execute("INSERT INTO adminapi.applications (clientid) VALUES ('later')")
    standing = await ClientStore(engine, shared=False).standing("later")
    assert standing is not None
    assert standing.generation is not None
    (_, later) = await ClientAdministration(engine, "operator@host", shared=False).clients()
    assert (later.enabled, later.created is not None) == (True, True)


async def test_rows_of_others_can_be_written_as_before_when_columns_got_defaults(
    dsn: str, bare: asyncpg.Connection
) -> None:
    await bare.execute(ODS_API_6)
    await upgrade(dsn)
    await bare.execute("INSERT INTO dbo.odsinstances (name) VALUES ('Ours')")
    rows = await bare.fetch("SELECT name, status, isextended, version FROM dbo.odsinstances ORDER BY 1")
    assert [tuple(row) for row in rows] == [("EdFi ODS", "OK", True, "6.1"), ("Ours", "", False, "")]


async def test_delete_is_refused_when_a_client_got_the_instance_meanwhile_and_references_cascade(
    dsn: str, bare: asyncpg.Connection, engine: AsyncEngine
) -> None:
    await bare.execute(ODS_API_FIRST_7)
    await upgrade(dsn)
    instances, job_store = stores(engine)
    deletion = await bring_to(instances, job_store, "Pending_Delete", "Ours")
    async with bare.transaction():
        await bare.execute(
            "INSERT INTO dbo.apiclientodsinstances (apiclient_apiclientid, odsinstance_odsinstanceid)"
            " VALUES (1, $1)",
            deletion.ods_instance_id,
        )
        begin = asyncio.create_task(job_store.begin(deletion))
        done, _ = await asyncio.wait({begin}, timeout=0.2)
        assert not done
    assert not (await begin).held
    refused = await bare.fetchval(
        "SELECT errormessage FROM adminapi.jobstatuses WHERE jobid = $1", deletion.job_id
    )
    assert "in use by Applications" in refused
    assert await bare.fetchval("SELECT count(*) FROM dbo.apiclientodsinstances") == 2


CONFLICTS = {
    "Columns have no sequence of their own: dbo.odsinstances.odsinstanceid. Let PostgreSQL number them"
    " (ALTER COLUMN … ADD GENERATED BY DEFAULT AS IDENTITY)": (
        "ALTER TABLE dbo.odsinstances ALTER COLUMN odsinstanceid DROP DEFAULT;"
        " DROP SEQUENCE dbo.odsinstances_odsinstanceid_seq"
    ),
    "Rows of adminapi.applications share clientid: ids 1, 4: a-client. Mend these rows": (
        "INSERT INTO adminapi.applications (clientid) VALUES ('a-client')"
    ),
    "Rows of dbo.odsinstances share name and instancetype: ids 2, 3: Created Minimal. Mend these rows": (
        "DROP INDEX dbo.ux_name_instancetype;"
        " INSERT INTO dbo.odsinstances (name, instancetype) VALUES ('Created', 'Minimal')"
    ),
    "Rows of dbo.odsinstancecontexts share odsinstance_odsinstanceid and contextkey: ids 1, 2: 1 schoolYear."
    " Mend these rows": (
        "ALTER TABLE dbo.odsinstancecontexts"
        " DROP CONSTRAINT uc_odsinstancecontext_odsinstance_odsinstanceid_contextkey;"
        " INSERT INTO dbo.odsinstancecontexts (odsinstance_odsinstanceid, contextkey, contextvalue)"
        " VALUES (1, 'schoolYear', '2028')"
    ),
    "Tables have names in mixed case, which neither this service nor the ODS/API finds:"
    ' adminapi."DbInstances". Rename them to lower case': (
        'ALTER TABLE adminapi.dbinstances RENAME TO "DbInstances"'
    ),
    "Columns must not be empty, and have no default: adminapi.applications.place."
    " Give them a default, or let them be empty": (
        "ALTER TABLE adminapi.applications ADD COLUMN place point NOT NULL DEFAULT '(0,0)';"
        " ALTER TABLE adminapi.applications ALTER COLUMN place DROP DEFAULT"
    ),
    "Columns must not be empty, and have no default: dbo.odsinstances.vendor."
    " Give them a default, or let them be empty": (
        "ALTER TABLE dbo.odsinstances ADD COLUMN vendor int NOT NULL DEFAULT 1 REFERENCES dbo.vendors;"
        " ALTER TABLE dbo.odsinstances ALTER COLUMN vendor DROP DEFAULT"
    ),
}


@pytest.mark.parametrize("message", CONFLICTS)
async def test_migration_stops_names_what_is_in_the_way_and_changes_nothing_when_it_cannot_adopt(
    dsn: str, bare: asyncpg.Connection, message: str
) -> None:
    await bare.execute(ODS_API + ADMIN_API)
    await bare.execute(CONFLICTS[message])
    before = await everything(bare)
    with pytest.raises(ConflictingRowsError, match=f"^{re.escape(message)}, then migrate again.$"):
        await upgrade(dsn)
    assert _without_job_numbers(await everything(bare)) == _without_job_numbers(before)


def _without_job_numbers(found: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """All but the number of the next job: a migration that was undone has used up some."""
    return found | {
        "sequences": [row for row in found["sequences"] if row["sequencename"] != "jobstatuses_id_seq"]
    }
