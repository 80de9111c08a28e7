"""One `EdFi_Admin` for this service and an Admin API, and what either product does with it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from api.schemas.managed_status import ManagedStatus, managed_status
from ods.model.operations import InstanceStatus
from ods.registry.instances.queries import InstanceQueries
from ods.registry.migrations import upgrade
from tests.postgres.instance_states import STATES, bring_to, status_in, stores
from tests.postgres.legacy_schemas import ADMIN_API_INSTANCES, ADMIN_API_RENAME, ODS_API
from tests.postgres.postgres_inspection import everything

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
