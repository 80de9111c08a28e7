"""One `EdFi_Admin` for this service and an Admin API, installed and upgraded in each order."""

import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg
import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

from registry import migrations
from registry.instances.status import Template
from registry.migrations import upgrade
from registry.migrations.conflicts import ConflictingRowsError
from registry.storage.models import DbInstance
from tests.postgres.ed_fi_admin import EdFiAdmin
from tests.postgres.instance_states import CONNECTION_STRING, stores
from tests.postgres.legacy_schemas import ADMIN_API_INSTANCES, ADMIN_API_RENAME
from tests.postgres.postgres_inspection import everything

MANUAL = Path(__file__).parents[2] / "docs/operations/beside-an-admin-api.md"
VIEW = f"adminapi.{DbInstance.__tablename__}"


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


# Both tables


@pytest.mark.parametrize("is_new", [True, False], ids=["by the latest release", "before tables were shared"])
async def test_migration_stops_and_goes_on_after_the_operator_moved_the_rows_when_both_tables_have_some(
    ed_fi_admin: EdFiAdmin, *, is_new: bool
) -> None:
    await (ed_fi_admin.install() if is_new else _install_release_0_2(ed_fi_admin))
    await (ed_fi_admin.our_rows() if is_new else _row_of_release_0_2(ed_fi_admin))
    await ed_fi_admin.sql.execute(ADMIN_API_INSTANCES.replace("dbinstances", "odsinstancemanages"))
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
    ed_fi_admin.theirs["Theirs"] = "Created"
    ed_fi_admin.is_shared = True
    await ed_fi_admin.migrate_again()
    await ed_fi_admin.check()


@pytest.mark.parametrize("is_new", [True, False], ids=["by the latest release", "before tables were shared"])
@pytest.mark.parametrize("step", [NEW_ROWS, OUR_ROWS, None])
async def test_one_table_has_all_rows_when_both_are_there_and_one_is_empty(
    ed_fi_admin: EdFiAdmin, step: Step | None, *, is_new: bool
) -> None:
    await (ed_fi_admin.install() if is_new else _install_release_0_2(ed_fi_admin))
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
