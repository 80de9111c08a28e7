"""One `EdFi_Admin` for this service and an Admin API, installed and upgraded in each order."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine

from api.schemas.managed_status import ManagedStatus, managed_status
from embedded.postgres import EmbeddedPostgres
from registry import migrations
from registry.instances.queries import InstanceQueries
from registry.instances.status import InstanceStatus, Operation, Template
from registry.migrations import upgrade
from registry.migrations.conflicts import ConflictingRowsError
from registry.storage.engine import create_registry_engine
from registry.storage.errors import RefusedError
from registry.storage.models import DbInstance
from tests.postgres.instance_states import CONNECTION_STRING, STATES, bring_to, status_in, stores
from tests.postgres.legacy_schemas import ADMIN_API_INSTANCES, ADMIN_API_RENAME, ODS_API
from tests.postgres.postgres_inspection import everything
from tests.servers import session

VIEW = f"adminapi.{DbInstance.__tablename__}"
TABLES = ("dbinstances", "odsinstancemanages")
STATE_OF_WORD = {
    "PendingCreate": "Pending",
    "CreateInProgress": "InProgress",
    "Created": "Completed",
    "CreateFailed": "Error",
    "CreateError": "Error",
    "PendingDelete": "Pending_Delete",
    "DeleteInProgress": "InProgress",
    "Deleted": "Deleted",
    "DeleteFailed": "Delete_Failed",
    "DeleteError": "Delete_Failed",
}


@pytest.fixture
async def engine(dsn: str) -> AsyncIterator[AsyncEngine]:
    engine = create_registry_engine(dsn)
    yield engine
    await engine.dispose()


@dataclass
class EdFiAdmin:
    """The registry that both products use, and what was written to it."""

    dsn: str
    engine: AsyncEngine
    sql: asyncpg.Connection
    theirs: dict[str, str] = field(default_factory=dict)
    ours: dict[str, str] = field(default_factory=dict)
    is_shared: bool = False

    async def table(self) -> str:
        """The table's name at present: there is one."""
        (table,) = await self.sql.fetch(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'adminapi' AND tablename = ANY ($1)", TABLES
        )
        return f"adminapi.{table[0]}"

    async def first_script(self) -> None:
        """Install the Admin API as it was at first."""
        await self.sql.execute(ADMIN_API_INSTANCES)

    async def rename_script(self) -> None:
        """Upgrade the Admin API, whose scripts name the table anew."""
        await self.sql.execute(ADMIN_API_RENAME)
        assert await self.table() == "adminapi.odsinstancemanages"

    async def install(self) -> None:
        """Install this service."""
        await self.sql.execute(ODS_API.replace("CREATE SCHEMA dbo", "CREATE SCHEMA IF NOT EXISTS dbo"))
        await upgrade(self.dsn)
        self.is_shared = True

    async def old_rows(self) -> None:
        """Rows of an Admin API with the words of `/v2/dbInstances`, one for each."""
        await self._add_theirs(list(InstanceStatus))

    async def new_rows(self) -> None:
        """The same with the words of `manage`."""
        await self._add_theirs(list(ManagedStatus))

    async def our_rows(self) -> None:
        """Instances of this service, one in each state."""
        instances, job_store = stores(self.engine)
        for state in STATES:
            job = await bring_to(instances, job_store, state, f"Ours {state}")
            name = job.final_name if state == "Completed_Rename" else job.name
            self.ours[name] = status_in(state)

    async def add(self, name: str, status: str, number: int | None) -> int:
        """Insert a row as an Admin API does, with the columns that it knows."""
        added: int = await self.sql.fetchval(
            f"INSERT INTO {await self.table()} (name, odsinstanceid, odsinstancename, status,"  # noqa: S608 - a constant
            " databasetemplate, databasename, lastrefreshed, lastmodifieddate)"
            " VALUES ($1, $2, $1, $3, 'Minimal', $4, '2026-01-01', '2026-01-02') RETURNING id",
            *(name, number, status, number and f"EdFi_Ods_{name}_Minimal"),
        )
        return added

    async def status(self, name: str) -> str:
        """The status of a row, as an Admin API reads it."""
        query = f"SELECT status FROM {await self.table()} WHERE name = $1"  # noqa: S608 - a constant
        return str(await self.sql.fetchval(query, name))

    async def migrate_again(self) -> None:
        """Run `ods migrate` twice; the second time changes nothing."""
        await upgrade(self.dsn)
        before = await everything(self.sql)
        await upgrade(self.dsn)
        assert await everything(self.sql) == before

    async def check(self) -> None:
        """Each product sees each row once, and understands its status."""
        table = await self.table()
        in_table = await self.sql.fetch(f"SELECT name, status FROM {table}")  # noqa: S608 - a constant
        assert sorted(row["name"] for row in in_table) == sorted(self.theirs | self.ours)
        if not self.is_shared:
            return
        seen = await InstanceQueries(self.engine).instances(offset=0, limit=100)
        assert sorted(row.name for row in seen) == sorted(self.theirs | self.ours)
        states = {row.name: (row.status, row.operation) for row in seen}
        for name, status in self.ours.items():
            assert states[name][0] == status
        for name, word in self.theirs.items():
            assert states[name][0] in {STATE_OF_WORD.get(word, word), "Pending_Delete"}
        is_manage = table.endswith(TABLES[1]) or "PendingCreate" in self.theirs.values()
        for name, word in in_table:
            expected = managed_status(*states[name]) if is_manage else states[name][0]
            assert word in {expected, self.theirs.get(name) if is_manage else expected}

    async def _add_theirs(self, words: Sequence[str]) -> None:
        for number, word in enumerate(words, start=100):
            name = f"Theirs_{word}"
            await self.add(name, word, None if word.startswith("Pending") else number)
            self.theirs[name] = word


@pytest.fixture
def ed_fi_admin(dsn: str, engine: AsyncEngine, bare: asyncpg.Connection) -> EdFiAdmin:
    return EdFiAdmin(dsn, engine, bare)


Step = Callable[[EdFiAdmin], Awaitable[None]]
FIRST, RENAME, OURS = EdFiAdmin.first_script, EdFiAdmin.rename_script, EdFiAdmin.install
OLD_ROWS, NEW_ROWS, OUR_ROWS = EdFiAdmin.old_rows, EdFiAdmin.new_rows, EdFiAdmin.our_rows
ORDERS: dict[str, list[Step]] = {
    "theirs with the new table, ours": [FIRST, RENAME, NEW_ROWS, OURS, OUR_ROWS],
    "theirs with the new table, ours, no rows": [FIRST, RENAME, OURS, OUR_ROWS, NEW_ROWS],
    "ours, theirs": [OURS, OUR_ROWS, FIRST, RENAME, NEW_ROWS],
    "theirs with the old table and old words, ours": [FIRST, OLD_ROWS, OURS, OUR_ROWS],
    "theirs with the old table and words of manage, ours": [FIRST, NEW_ROWS, OURS, OUR_ROWS],
    "theirs old, ours, theirs new": [FIRST, OLD_ROWS, OURS, OUR_ROWS, RENAME],
    "theirs with words of manage, ours, theirs new": [FIRST, NEW_ROWS, OURS, OUR_ROWS, RENAME],
}


@pytest.mark.parametrize("order", ORDERS)
async def test_each_row_is_seen_once_and_understood_when_the_products_are_installed_in_any_order(
    ed_fi_admin: EdFiAdmin, order: str
) -> None:
    for step in ORDERS[order]:
        await step(ed_fi_admin)
        if ed_fi_admin.is_shared:
            await ed_fi_admin.migrate_again()
        await ed_fi_admin.check()
    await ed_fi_admin.sql.execute(ADMIN_API_RENAME)


@pytest.mark.parametrize("order", ORDERS)
async def test_instances_live_when_the_products_were_installed_in_any_order(
    ed_fi_admin: EdFiAdmin, order: str
) -> None:
    """Also where `ods migrate` was not run since the table has got another name."""
    for step in ORDERS[order]:
        await step(ed_fi_admin)
    instances, job_store = stores(ed_fi_admin.engine)
    created = (await instances.reserve("Another", Template.MINIMAL)).job
    assert (await job_store.begin(created)).held
    assert await job_store.finish_create(created, CONNECTION_STRING)
    is_manage = await ed_fi_admin.table() != "adminapi.dbinstances" or NEW_ROWS in ORDERS[order]
    assert await ed_fi_admin.status("Another") == ("Created" if is_manage else "Completed")
    deleted = (await instances.request_delete(created.instance_id)).job
    assert (await job_store.begin(deleted)).refusal is None
    assert await job_store.finish_delete(deleted)
    assert await ed_fi_admin.status("Another") == "Deleted"


# Words


async def test_words_in_sql_are_those_of_the_api(rows: asyncpg.Connection) -> None:
    for status in InstanceStatus:
        for operation in Operation:
            word = await rows.fetchval("SELECT adminapi.managed_status($1, $2)", status, operation)
            assert word == managed_status(status, operation)
    assert {
        word: await rows.fetchval("SELECT adminapi.state_of_status($1)", word) for word in ManagedStatus
    } == STATE_OF_WORD
    for status in InstanceStatus:
        assert await rows.fetchval("SELECT adminapi.state_of_status($1)", status) == status


@pytest.mark.parametrize("word", [*InstanceStatus, *ManagedStatus])
async def test_instance_follows_when_an_admin_api_writes_its_status(
    ed_fi_admin: EdFiAdmin, word: str
) -> None:
    await ed_fi_admin.install()
    added = await ed_fi_admin.add("Theirs", "Pending", None)
    await ed_fi_admin.sql.execute("UPDATE adminapi.dbinstances SET status = $1", word)
    (instance,) = await InstanceQueries(ed_fi_admin.engine).instances(offset=0, limit=10)
    assert (instance.id, instance.status) == (added, STATE_OF_WORD.get(word, word))
    assert await ed_fi_admin.status("Theirs") == word
    if word in STATE_OF_WORD:
        assert managed_status(instance.status, instance.operation) == word.replace("Failed", "Error")


async def test_status_of_a_rename_stays_when_an_admin_api_writes_the_row_as_it_read_it(
    ed_fi_admin: EdFiAdmin,
) -> None:
    await ed_fi_admin.first_script()
    await ed_fi_admin.rename_script()
    await ed_fi_admin.install()
    job = await bring_to(*stores(ed_fi_admin.engine), "Pending_Rename", "Ours")
    await ed_fi_admin.sql.execute(
        "UPDATE adminapi.odsinstancemanages SET status = 'Created', lastrefreshed = now()"
    )
    instance = await InstanceQueries(ed_fi_admin.engine).instance(job.instance_id)
    assert (instance.status, instance.operation) == ("Pending", "Rename")


async def test_role_of_an_admin_api_needs_no_other_right_when_it_writes_its_table(
    ed_fi_admin: EdFiAdmin, postgres: EmbeddedPostgres, reader: str
) -> None:
    await ed_fi_admin.install()
    await ed_fi_admin.sql.execute(
        "GRANT USAGE ON SCHEMA adminapi TO reader;"
        " GRANT SELECT, INSERT, UPDATE ON adminapi.dbinstances TO reader"
    )
    database = ed_fi_admin.dsn.rpartition("/")[2]
    try:
        async with session(f"{reader}/{database}") as theirs:
            await theirs.execute(
                "INSERT INTO adminapi.dbinstances (name, status, databasetemplate)"
                " VALUES ('Theirs', 'PendingCreate', 'Minimal')"
            )
            await theirs.execute("UPDATE adminapi.dbinstances SET status = 'Created'")
        state = await ed_fi_admin.sql.fetchrow(f"SELECT state, operation FROM {VIEW}")  # noqa: S608 - a constant
        assert tuple(state or ()) == ("Completed", "Create")
    finally:
        await ed_fi_admin.sql.execute(
            "REVOKE ALL ON SCHEMA adminapi FROM reader; REVOKE ALL ON adminapi.dbinstances FROM reader"
        )


# Rows that an Admin API adds while this service runs


async def test_row_is_left_to_an_admin_api_until_the_operator_adopts_it_when_it_adds_one(
    ed_fi_admin: EdFiAdmin,
) -> None:
    await ed_fi_admin.install()
    added = await ed_fi_admin.add("Theirs", "PendingCreate", None)
    running = await ed_fi_admin.add("Running", "DeleteInProgress", 7)
    instances, job_store = stores(ed_fi_admin.engine)
    assert await job_store.waiting_jobs(0, 10) == []
    assert await job_store.running_jobs(0, 10) == []
    for request in (instances.request_delete, instances.request_retry):
        with pytest.raises(RefusedError) as refused:
            await request(added)
        assert "ods migrate" in refused.value.next_step
    with pytest.raises(RefusedError):
        await instances.request_rename(added, "Another")

    await ed_fi_admin.migrate_again()
    (create,) = await job_store.waiting_jobs(0, 10)
    assert (create.instance_id, create.name, create.database) == (added, "Theirs", "EdFi_Ods_Theirs_Minimal")
    assert (await job_store.begin(create)).held
    assert await job_store.finish_create(create, CONNECTION_STRING)
    (delete,) = await job_store.running_jobs(0, 10)
    assert (delete.instance_id, delete.operation) == (running, Operation.DELETE)
    assert await InstanceQueries(ed_fi_admin.engine).job(create.job_id) is not None


# Both tables


async def test_migration_stops_and_changes_nothing_when_both_tables_have_rows(
    ed_fi_admin: EdFiAdmin,
) -> None:
    await ed_fi_admin.install()
    await ed_fi_admin.our_rows()
    await ed_fi_admin.sql.execute(
        "CREATE TABLE adminapi.odsinstancemanages AS SELECT * FROM adminapi.dbinstances LIMIT 1"
    )
    before = await everything(ed_fi_admin.sql)
    with pytest.raises(
        ConflictingRowsError, match=r"^Both adminapi\.dbinstances and .* have rows\. Move the"
    ):
        await upgrade(ed_fi_admin.dsn)
    assert await everything(ed_fi_admin.sql) == before


@pytest.mark.parametrize("is_new", [True, False], ids=["by the latest release", "before tables were shared"])
@pytest.mark.parametrize("step", [NEW_ROWS, OUR_ROWS, None])
async def test_one_table_has_all_rows_when_both_are_there_and_one_is_empty(
    ed_fi_admin: EdFiAdmin, step: Step | None, *, is_new: bool
) -> None:
    if is_new:
        await ed_fi_admin.install()
    else:
        await _install_release_0_2(ed_fi_admin)
    if step is OUR_ROWS:
        await (ed_fi_admin.our_rows() if is_new else _row_of_release_0_2(ed_fi_admin))
    await ed_fi_admin.sql.execute("ALTER TABLE adminapi.dbinstances RENAME TO ours")
    await ed_fi_admin.sql.execute(ADMIN_API_INSTANCES.replace("dbinstances", "odsinstancemanages"))
    if step is NEW_ROWS:
        await step(ed_fi_admin)
    await ed_fi_admin.sql.execute("ALTER TABLE adminapi.ours RENAME TO dbinstances")

    ed_fi_admin.is_shared = True
    await ed_fi_admin.migrate_again()
    assert await ed_fi_admin.table() == "adminapi.odsinstancemanages"
    await ed_fi_admin.check()
    await ed_fi_admin.add("Later", "Created", 5000)
    kept = await ed_fi_admin.sql.fetchval("SELECT count(*) FROM adminapi.odsinstancemanages_set_aside")
    assert kept == len(ed_fi_admin.theirs)


async def _install_release_0_2(ed_fi_admin: EdFiAdmin) -> None:
    """Install this service as it was before it shared the table."""

    def install(connection: Connection) -> None:
        config = Config()
        config.set_main_option("script_location", str(Path(migrations.__file__).parent))
        config.attributes["connection"] = connection
        command.upgrade(config, "0009")

    async with ed_fi_admin.engine.begin() as connection:
        await connection.execute(text("CREATE SCHEMA adminapi"))
        await connection.run_sync(install)


async def _row_of_release_0_2(ed_fi_admin: EdFiAdmin) -> None:
    await ed_fi_admin.sql.execute(
        "INSERT INTO adminapi.dbinstances (name, odsinstanceid, status, databasetemplate, databasename,"
        " operation, jobnumber) VALUES ('Ours', 7, 'Completed', 'Minimal', 'EdFi_Ods_Ours', 'Create', 1)"
    )
    ed_fi_admin.ours["Ours"] = "Completed"


# The view


@pytest.mark.parametrize(
    "condition",
    [
        "id = 7",
        "name = 'x' AND state <> 'Deleted'",
        "odsinstanceid = 7 AND state <> 'Deleted'",
        "state IN ('Pending', 'Pending_Delete') AND id > 7 ORDER BY id LIMIT 10 FOR UPDATE SKIP LOCKED",
    ],
)
async def test_same_plan_is_used_when_the_table_is_read_through_the_view(
    rows: asyncpg.Connection, condition: str
) -> None:
    plans = []
    for relation in (VIEW, "adminapi.dbinstances"):
        query = f"EXPLAIN (COSTS off) SELECT id FROM {relation} AS instance WHERE {condition}"  # noqa: S608 - constants
        async with rows.transaction():
            await rows.execute("SET LOCAL enable_seqscan = off")
            lines = [line[0] for line in await rows.fetch(query)]
        plans.append([line.replace(" instance", "").replace("instance.", "dbinstances.") for line in lines])
    assert plans[0] == plans[1]
    assert any("Index" in line for line in plans[0])
