"""One `EdFi_Admin` for this service and an Admin API, installed and upgraded in each order."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest

from ods.model.operations import Template
from ods.registry.migrations import upgrade
from ods.registry.migrations.conflicts import ConflictingRowsError
from ods.registry.storage.models import DbInstance
from tests.postgres.ed_fi_admin import EdFiAdmin
from tests.postgres.instance_states import CONNECTION_STRING, bring_to, stores
from tests.postgres.legacy_schemas import ADMIN_API_INSTANCES, ADMIN_API_RENAME
from tests.postgres.postgres_inspection import everything, until
from tests.servers import session

pytestmark = pytest.mark.long  # each installs two products
MANUAL = Path(__file__).parents[2] / "docs/operations/beside-an-admin-api.md"
VIEW = f"adminapi.{DbInstance.__tablename__}"


Step = Callable[[EdFiAdmin], Awaitable[None]]
FIRST, RENAME, OURS = EdFiAdmin.first_script, EdFiAdmin.rename_script, EdFiAdmin.install
THEIR_ROW = (
    "INSERT INTO adminapi.odsinstancemanages (name, odsinstanceid, status, databasetemplate, databasename)"
    " VALUES ('Theirs', 77, 'Created', 'Minimal', 'Theirs')"
)
WAITING = (
    "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()"
    " AND wait_event_type = 'Lock')"
)
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


# Both tables


async def test_migration_stops_and_goes_on_after_the_operator_moved_the_rows_when_both_tables_have_some(
    ed_fi_admin: EdFiAdmin,
) -> None:
    await _install_beside(ed_fi_admin)
    await ed_fi_admin.sql.execute(
        "INSERT INTO adminapi.odsinstancemanages"
        " (name, odsinstanceid, status, databasetemplate, databasename)"
        " VALUES ('Theirs', 77, 'Created', 'Minimal', 'Theirs'), ('Gone', 78, 'Deleted', 'Minimal', 'Gone')"
    )
    before = await everything(ed_fi_admin.sql)
    with pytest.raises(ConflictingRowsError, match=r"^Both adminapi\.dbinstances and .* have rows\. "):
        await upgrade(ed_fi_admin.dsn)
    assert await everything(ed_fi_admin.sql) == before

    (move,) = re.findall(r"```sql\n(.*?)```", MANUAL.read_text(), re.DOTALL)
    await ed_fi_admin.sql.execute(move)
    kept = await ed_fi_admin.sql.fetch("SELECT name FROM adminapi.odsinstancemanages_moved ORDER BY name")
    assert [name for (name,) in kept] == ["Gone", "Theirs"]
    ed_fi_admin.theirs["Theirs"] = "Created"
    await ed_fi_admin.migrate_again()
    await ed_fi_admin.check()


@pytest.mark.parametrize("step", [NEW_ROWS, OUR_ROWS, None])
async def test_one_table_has_all_rows_when_both_are_there_and_one_is_empty(
    ed_fi_admin: EdFiAdmin, step: Step | None
) -> None:
    await ed_fi_admin.install()
    if step is OUR_ROWS:
        await ed_fi_admin.our_rows()
    await ed_fi_admin.sql.execute("ALTER TABLE adminapi.dbinstances RENAME TO ours")
    await ed_fi_admin.sql.execute(ADMIN_API_INSTANCES.replace("dbinstances", "odsinstancemanages"))
    if step is NEW_ROWS:
        await step(ed_fi_admin)
    await ed_fi_admin.sql.execute("ALTER TABLE adminapi.ours RENAME TO dbinstances")

    await ed_fi_admin.migrate_again()
    assert await ed_fi_admin.table() == "adminapi.odsinstancemanages"
    await ed_fi_admin.check()
    await ed_fi_admin.add("Later", "Created", 5000)
    kept = await ed_fi_admin.sql.fetchval("SELECT count(*) FROM adminapi.odsinstancemanages_set_aside")
    assert kept == len(ed_fi_admin.theirs)


async def test_both_tables_stay_when_an_admin_api_adds_a_row_while_the_migration_begins(
    ed_fi_admin: EdFiAdmin,
) -> None:
    """The table that was empty at first is not set aside with the row."""
    await _install_beside(ed_fi_admin)
    with pytest.raises(ConflictingRowsError, match=r"^Both adminapi\.dbinstances and .* have rows\. "):
        await _migrate_while(ed_fi_admin, THEIR_ROW)
    assert await ed_fi_admin.sql.fetchval("SELECT name FROM adminapi.odsinstancemanages") == "Theirs"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ('ALTER TABLE adminapi.odsinstancemanages ADD COLUMN "Created By" text', 'column "Created By"'),
        (
            "CREATE TABLE theirs (id int CONSTRAINT fk_theirs REFERENCES adminapi.odsinstancemanages)",
            "foreign key fk_theirs of theirs",
        ),
        (
            "CREATE TRIGGER theirs AFTER UPDATE ON adminapi.odsinstancemanages EXECUTE FUNCTION theirs()",
            "trigger theirs",
        ),
    ],
)
async def test_migration_stops_when_the_table_that_stays_lacks_what_an_admin_api_gave_the_other(
    ed_fi_admin: EdFiAdmin, change: str, named: str
) -> None:
    await _install_beside(ed_fi_admin)
    await ed_fi_admin.sql.execute(
        "CREATE FUNCTION theirs() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
    )
    await ed_fi_admin.sql.execute(change)
    before = await everything(ed_fi_admin.sql)
    with pytest.raises(ConflictingRowsError, match=re.escape(f"lacks: {named}. Give it to")):
        await upgrade(ed_fi_admin.dsn)
    assert await everything(ed_fi_admin.sql) == before


async def test_each_table_is_kept_when_one_is_set_aside_for_the_second_time(ed_fi_admin: EdFiAdmin) -> None:
    await ed_fi_admin.install()
    await ed_fi_admin.our_rows()
    await ed_fi_admin.rename_script()
    for _ in range(2):
        await ed_fi_admin.first_script()
        await ed_fi_admin.migrate_again()
        await ed_fi_admin.check()
    found = await ed_fi_admin.sql.fetch(
        "SELECT tablename FROM pg_tables WHERE tablename LIKE '%set_aside%' ORDER BY 1"
    )
    assert [name for (name,) in found] == ["dbinstances_set_aside", "dbinstances_set_aside_2"]


async def _install_beside(ed_fi_admin: EdFiAdmin) -> None:
    """Install this service with rows, and an Admin API with a table of its own, without."""
    await ed_fi_admin.install()
    await ed_fi_admin.our_rows()
    await ed_fi_admin.sql.execute(ADMIN_API_INSTANCES.replace("dbinstances", "odsinstancemanages"))


async def test_delete_waits_when_an_admin_api_has_begun_it_in_its_only_row(ed_fi_admin: EdFiAdmin) -> None:
    await ed_fi_admin.first_script()
    await ed_fi_admin.add("Going", "DeleteInProgress", 100)
    await ed_fi_admin.install()
    row = await ed_fi_admin.sql.fetchrow("SELECT state, status, operation FROM adminapi.dbinstances")
    assert row is not None
    assert tuple(row) == ("Pending_Delete", "PendingDelete", "Delete")


# Names


async def test_rows_are_adopted_when_an_admin_api_renames_the_table_while_the_first_migration_begins(
    ed_fi_admin: EdFiAdmin,
) -> None:
    await ed_fi_admin.first_script()
    await ed_fi_admin.new_rows()
    await _migrate_while(ed_fi_admin, ADMIN_API_RENAME)
    ed_fi_admin.is_shared = True
    assert await ed_fi_admin.table() == "adminapi.odsinstancemanages"
    await ed_fi_admin.check()


async def test_row_is_adopted_when_the_instance_that_had_its_name_is_being_purged(
    ed_fi_admin: EdFiAdmin,
) -> None:
    await ed_fi_admin.first_script()
    await ed_fi_admin.install()
    instances, job_store = stores(ed_fi_admin.engine, trash=timedelta(days=7))
    trashed = await bring_to(instances, job_store, "Deleted", "Grand Bend")
    await instances.request_purge(trashed.instance_id)
    await ed_fi_admin.add("Grand Bend", "Pending", None)
    await ed_fi_admin.migrate_again()
    adopted = await ed_fi_admin.sql.fetchval(
        "SELECT databasename FROM adminapi.dbinstances WHERE operation = 'Create'"
    )
    assert adopted == trashed.database


@pytest.mark.parametrize("index", ['idx_dbinstances_Mixed "case', "idx_dbinstances_a:b", "Idx_Of_Theirs"])
async def test_indexes_of_others_are_kept_when_their_names_must_be_quoted(
    ed_fi_admin: EdFiAdmin, index: str
) -> None:
    await ed_fi_admin.first_script()
    await ed_fi_admin.new_rows()
    await ed_fi_admin.rename_script()
    renamed = index.replace("dbinstances", "odsinstancemanages")
    quoted = '"' + renamed.replace('"', '""') + '"'
    await ed_fi_admin.sql.execute(f"CREATE INDEX {quoted} ON adminapi.odsinstancemanages (status)")
    await ed_fi_admin.install()
    await ed_fi_admin.check()
    names = await ed_fi_admin.sql.fetch("SELECT indexname FROM pg_indexes WHERE schemaname = 'adminapi'")
    assert renamed in {name for (name,) in names}


async def test_rows_are_adopted_when_the_table_was_renamed_without_its_primary_key(
    ed_fi_admin: EdFiAdmin,
) -> None:
    await ed_fi_admin.first_script()
    await ed_fi_admin.new_rows()
    await ed_fi_admin.sql.execute("ALTER TABLE adminapi.dbinstances RENAME TO odsinstancemanages")
    await ed_fi_admin.install()
    await ed_fi_admin.check()


async def test_migration_stops_when_a_view_has_the_first_name(ed_fi_admin: EdFiAdmin) -> None:
    await ed_fi_admin.first_script()
    await ed_fi_admin.rename_script()
    await ed_fi_admin.sql.execute(
        "CREATE VIEW adminapi.dbinstances AS SELECT * FROM adminapi.odsinstancemanages"
    )
    with pytest.raises(ConflictingRowsError, match=r"adminapi\.dbinstances\. Drop it, or"):
        await ed_fi_admin.install()


async def test_neither_product_is_refused_when_an_admin_api_writes_both_tables_while_the_migration_begins(
    ed_fi_admin: EdFiAdmin,
) -> None:
    """It locks the ODS instances first, this service's own requests the instances."""
    await ed_fi_admin.install()
    await ed_fi_admin.add("Added", "PendingCreate", None)
    async with session(ed_fi_admin.dsn) as observer:
        async with ed_fi_admin.sql.transaction():
            number = await ed_fi_admin.sql.fetchval(
                "INSERT INTO dbo.odsinstances (name) VALUES ('Theirs') RETURNING odsinstanceid"
            )
            migration = asyncio.create_task(upgrade(ed_fi_admin.dsn))
            await until(lambda: observer.fetchval(WAITING))
            await ed_fi_admin.add("Theirs", "Created", number)
        await migration
    ed_fi_admin.theirs = {"Added": "PendingCreate", "Theirs": "Created"}
    await ed_fi_admin.check()


async def _migrate_while(ed_fi_admin: EdFiAdmin, statement: str) -> None:
    """Run `ods migrate`, which begins while an Admin API has not committed `statement` yet."""
    async with session(ed_fi_admin.dsn) as observer:
        async with ed_fi_admin.sql.transaction():
            await ed_fi_admin.sql.execute(statement)
            migration = asyncio.create_task(upgrade(ed_fi_admin.dsn))
            await until(lambda: observer.fetchval(WAITING))
        await migration


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
