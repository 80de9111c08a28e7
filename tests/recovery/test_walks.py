"""Whatever was done, and whatever was put back to whenever: one recovery, and registry and server agree.

`ODS_WALKS=2000 .venv/bin/pytest -n0 -m faults tests/recovery` takes as many, `--hypothesis-seed` the same.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ods.databases.errors import DatabaseFaultError
from ods.databases.ownership import Owner
from ods.embedded.seeding import SERVICE_ROLE
from ods.model.operations import JobStatus, Template
from ods.model.revisions import Role
from ods.recovery.compare.detector import DriftDetector
from ods.recovery.recovery import Recovery
from ods.registry.instances.attributes import AttributeChanges
from ods.registry.instances.store import Requested
from ods.registry.storage.errors import InstanceNotFoundError, NameTakenError, RefusedError
from ods.tenants.kept_databases import KeptDatabases
from ods.tenants.tenant import Tenant
from tests.end_to_end.conftest import Operator
from tests.recovery.states import RegistryState, ServerState

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("workers")]

_INSTANCES = """
SELECT i.mark::text, i.id, i.name, i.state, i.databasename AS database, i.databaseid::text AS database_id,
       i.isprotected AS is_protected, d.reason, o.name AS routed, o.connectionstring AS leads_to
FROM adminapi.dbinstances AS i
    JOIN adminapi.databases AS d ON (d.instanceid, d.databaseid) = (i.id, i.databaseid)
    LEFT JOIN dbo.odsinstances AS o ON o.odsinstanceid = i.odsinstanceid
ORDER BY i.id
"""
_KEPT = "SELECT databaseid::text FROM adminapi.databases WHERE reason IS NOT NULL"
_REVISIONS = "SELECT id::text FROM adminapi.databaserevisions"
_CUT = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1 AND datname = 'postgres'"
_NAMES = ("Alpha", "Beta", "Gamma", "Delta", "Epsilon", "Zeta")


class World:
    """A registry and a server, and the states of both that can come back."""

    def __init__(
        self, operator: Operator, tenant: Tenant, rows: asyncpg.Connection, admin: asyncpg.Connection
    ) -> None:
        self._operator = operator
        self._tenant = tenant
        self._rows = rows
        self._admin = admin
        self._registries: list[RegistryState] = []
        self._servers: list[ServerState] = []
        self.log: list[str] = []

    async def server(self) -> ServerState:
        """The databases of the installation."""
        return await ServerState.of(self._admin, await self._tenant.installation.id())

    async def instances(self) -> dict[str, asyncpg.Record]:
        """What the registry says of instances, by their marks."""
        return {row["mark"]: row for row in await self._rows.fetch(_INSTANCES)}

    async def _some(self, which: int) -> asyncpg.Record | None:
        its = list((await self.instances()).values())
        return its[which % len(its)] if its else None

    async def _do(self, request: Awaitable[Requested]) -> None:
        """Carry a request out, unless it is refused."""
        with suppress(RefusedError, NameTakenError, InstanceNotFoundError):
            requested = await request
            await self._operator.starter.start(requested.job)
            await self._operator.ended(requested.job)

    async def create(self, _: int, name: int) -> None:
        """Create an instance."""
        await self._do(self._tenant.instances.reserve(_NAMES[name % len(_NAMES)], Template.MINIMAL))

    async def rename(self, which: int, name: int) -> None:
        """Rename an instance."""
        if its := await self._some(which):
            await self._do(self._tenant.instances.request_rename(its["id"], _NAMES[name % len(_NAMES)]))

    async def reset(self, which: int, _: int) -> None:
        """Reset an instance."""
        if its := await self._some(which):
            await self._do(self._tenant.instances.request_reset(its["id"], Template.SAMPLE))

    async def delete(self, which: int, _: int) -> None:
        """Delete an instance, which goes to the trash."""
        if its := await self._some(which):
            await self._do(self._tenant.instances.request_delete(its["id"]))

    async def undelete(self, which: int, name: int) -> None:
        """Bring an instance back, often under another name."""
        if its := await self._some(which):
            await self._do(self._tenant.instances.request_undelete(its["id"], [None, *_NAMES][name % 7]))

    async def cut_off(self, which: int, moment: int) -> None:
        """Whatever a worker does on the server for a request is cut off in the midst of it."""
        changes = (World.create, World.rename, World.reset, World.delete, World.undelete)
        changing = asyncio.create_task(changes[moment % len(changes)](self, which, moment))
        await asyncio.wait([changing], timeout=moment / 60)
        await self._admin.execute(_CUT, SERVICE_ROLE)
        await changing
        while True:  # sessions that are kept open may be among those
            with suppress(DatabaseFaultError):
                await DriftDetector(self._tenant).read()
                return

    async def copy_by_hand(self, which: int, chosen: int) -> None:
        """A DBA restores a copy beside the database of a live instance; the operator chooses one of both."""
        its, there = await self._some(which), await self.server()
        own = {row["name"]: row["comment"] for row in there.databases.values()}
        if not its or its["state"] != "Completed" or its["database"] not in own:
            return
        copy, comment = f"copy_{uuid4().hex}", own[its["database"]]
        await self._admin.execute(f"CREATE DATABASE {copy} TEMPLATE template0 OWNER {SERVICE_ROLE}")
        await self._admin.execute(f"COMMENT ON DATABASE {copy} IS '{comment.replace(chr(39), chr(39) * 2)}'")
        database = (copy, its["database"])[chosen % 2]
        await self._recover(database)
        assert (await self.instances())[its["mark"]]["database"] == database, self.log

    async def protect(self, which: int, ends: int) -> None:
        """Protect an instance, or end that."""
        if its := await self._some(which):
            with suppress(RefusedError, InstanceNotFoundError):
                changes = AttributeChanges(protected=bool(ends % 2))
                await self._tenant.instances.change_attributes(its["id"], changes)
                await KeptDatabases(self._tenant).mark(its["id"])

    async def save(self, _: int, __: int) -> None:
        """Save the state of both."""
        self._registries.append(await RegistryState.of(self._rows))
        self._servers.append(await self.server())

    async def rename_by_hand(self, which: int, name: int) -> None:
        """A DBA gives the database of a live instance another name."""
        its, target = await self._some(which), f"by_hand_{name}"
        there = {row["name"] for row in (await self.server()).databases.values()}
        if its and its["state"] == "Completed" and its["database"] in there and target not in there:
            await self._admin.execute(f'ALTER DATABASE "{its["database"]}" RENAME TO "{target}"')
            await self._recover()

    async def put_registry_back(self, which: int, _: int) -> None:
        """Put the registry back, and recover: all instances are as they were."""
        if not self._registries:
            return
        before, server = await self.instances(), await self.server()
        await self._registries[which % len(self._registries)].restore(self._rows)
        await self._recover()
        there = {Owner.read(row["comment"]) for row in server.databases.values()}
        ids = {owner.database_id for owner in there if owner}
        now = await self.instances()
        for mark, its in before.items():
            if its["database_id"] in ids:
                assert _told(now[mark]) == _told(its), self.log
                assert now[mark]["is_protected"] or not its["is_protected"], self.log

    async def put_server_back(self, which: int, _: int) -> None:
        """Put the server back, and recover: instances that it has are named and kept as the registry said.

        Unless the registry was put back as well, and does not know what the server has any more.
        """
        if not self._servers:
            return
        before = await self.instances()
        await self._restore_server(which)
        owners = [Owner.read(row["comment"]) for row in (await self.server()).databases.values()]
        known = {row["id"] for row in await self._rows.fetch(_REVISIONS)}
        marks = {owner.mark for owner in owners if owner}
        marks -= {owner.mark for owner in owners if owner and owner.revision not in known}
        await self._recover()
        now = await self.instances()
        for mark, its in before.items():
            if mark in marks:
                assert (now[mark]["name"], now[mark]["state"]) == (its["name"], its["state"]), self.log

    async def _restore_server(self, which: int) -> None:
        """Put the server back; a state that was saved later cannot come back any more, its data are gone."""
        number = which % len(self._servers)
        await self._servers[number].restore(self._admin)
        del self._servers[number + 1 :]

    async def put_both_back(self, registry: int, server: int) -> None:
        """Put both back, perhaps to different states, and recover."""
        if self._registries and self._servers:
            await self._registries[registry % len(self._registries)].restore(self._rows)
            await self._restore_server(server)
            await self._recover()

    async def lose_registry(self, _: int, __: int) -> None:
        """Lose all rows, and recover."""
        await (await RegistryState.of(self._rows)).without_rows.restore(self._rows)
        await self._recover()

    async def _recover(self, *databases: str) -> None:
        """Recover, with the databases chosen, and check what must be true of registry and server then."""
        recovery, chosen = Recovery(self._tenant), [*databases]
        before = await self.server()
        while (outcome := await recovery.apply(chosen)).plan.questions:
            asked = [question.databases[0].name for question in outcome.plan.questions]
            assert not {*asked} & {*chosen}, (self.log, outcome)
            chosen += asked
        assert (outcome.refused, outcome.plan.steps, outcome.plan.waiting) == ([], [], []), (
            self.log,
            outcome,
        )
        assert (await recovery.apply()).done == [], self.log
        for its in (await self.instances()).values():  # as the next pass does
            await KeptDatabases(self._tenant).mark(its["id"])
        server = await self.server()
        assert {*server.databases} == {*before.databases}, self.log
        await self._check(server)

    async def _check(self, server: ServerState) -> None:
        instances = await self.instances()
        kept = {row["databaseid"] for row in await self._rows.fetch(_KEPT)}
        current: dict[str, str] = {}
        for row in server.databases.values():
            owner = Owner.read(row["comment"])
            assert owner is not None
            its = instances[owner.mark]
            if owner.role is Role.RETAINED:
                assert owner.database_id in kept, (self.log, row)
            else:
                assert owner.mark not in current, (self.log, row)
                current[owner.mark] = row["name"]
                is_its = (its["database"], its["database_id"], its["state"])
                assert is_its == (row["name"], owner.database_id, "Completed"), (self.log, row)
        for mark, database in current.items():
            leads_to = self._tenant.connection_strings.local_database(instances[mark]["leads_to"])
            assert (leads_to, instances[mark]["routed"]) == (database, instances[mark]["name"]), self.log

    async def clients_go_on(self) -> None:
        """Clients rename, delete and undelete what is there, and create."""
        there = {row["name"] for row in (await self.server()).databases.values()}
        for number, its in enumerate((await self.instances()).values()):
            if its["state"] != "Completed" or its["database"] not in there:
                continue
            unprotected = AttributeChanges(protected=False)
            await self._tenant.instances.change_attributes(its["id"], unprotected)
            instances, its_id = self._tenant.instances, its["id"]
            await self._done(instances.request_rename(its_id, f"Last {number}"))
            await self._done(instances.request_delete(its_id))
            await self._done(instances.request_undelete(its_id))
        await self._done(self._tenant.instances.reserve(f"New {uuid4().hex[:8]}", Template.MINIMAL))

    async def _done(self, request: Awaitable[Requested]) -> None:
        """Carry a request out, which succeeds."""
        requested = await request
        await self._operator.starter.start(requested.job)
        assert await self._operator.ended(requested.job) is JobStatus.COMPLETED, (self.log, requested)


def _told(its: asyncpg.Record) -> tuple[Any, ...]:
    return its["name"], its["state"], its["database"], its["database_id"], its["reason"], its["routed"]


Rule = Callable[[World, int, int], Awaitable[None]]
_RULES: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (
        World.create,
        World.rename,
        World.reset,
        World.delete,
        World.undelete,
        World.protect,
        World.cut_off,
        World.save,
        World.rename_by_hand,
        World.copy_by_hand,
        World.put_registry_back,
        World.put_server_back,
        World.put_both_back,
        World.lose_registry,
    )
}
_NUMBERS = st.integers(0, 11)
_STEP = st.tuples(st.sampled_from(sorted(_RULES)), _NUMBERS, _NUMBERS)


@pytest.mark.timeout(24 * 3600)
@given(walk=st.lists(_STEP, min_size=20, max_size=20))
@settings(
    max_examples=int(os.environ.get("ODS_WALKS", "50")),
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
async def test_registry_and_server_agree_when_anything_was_put_back(
    operator: Operator,
    tenant: Tenant,
    rows: asyncpg.Connection,
    admin: asyncpg.Connection,
    walk: list[tuple[str, int, int]],
) -> None:
    world = World(operator, tenant, rows, admin)
    empty = replace(await world.server(), databases={})
    await empty.restore(admin)
    await (await RegistryState.of(rows)).without_rows.restore(rows)
    for rule, first, second in walk:
        world.log.append(f"{rule} {first} {second}")
        await _RULES[rule](world, first, second)
    await world.clients_go_on()
