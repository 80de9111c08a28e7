"""A registry and a server to which anything happens that clients, a DBA, faults and put-backs can do."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
from temporalio.service import RPCError

from ods.databases.errors import DatabaseFaultError
from ods.databases.ownership import Owner
from ods.embedded.seeding import SERVICE_ROLE
from ods.model.arguments import Way
from ods.model.operations import AT_REST, JobStatus, Template
from ods.model.revisions import Role
from ods.recovery.compare.detector import DriftDetector
from ods.recovery.recovery import Outcome, Recovery, Refused
from ods.registry.instances.attributes import AttributeChanges
from ods.registry.instances.deletes import Delete
from ods.registry.instances.jobs import InstanceJob
from ods.registry.instances.store import Requested
from ods.registry.storage.errors import InstanceNotFoundError, NameTakenError, RefusedError
from ods.tenants.kept_databases import KeptDatabases
from ods.tenants.tenant import Tenant
from tests.api.service import bearer
from tests.end_to_end import steps
from tests.end_to_end.conftest import Operator
from tests.recovery.states import RegistryState, ServerState

_INSTANCES = """
SELECT i.mark::text, i.id, i.name, i.state, i.databasename AS database, i.databaseid::text AS database_id,
       i.isprotected AS is_protected, d.reason, o.name AS routed, o.connectionstring AS leads_to
FROM adminapi.dbinstances AS i
    LEFT JOIN adminapi.databases AS d ON (d.instanceid, d.databaseid) = (i.id, i.databaseid)
    LEFT JOIN dbo.odsinstances AS o ON o.odsinstanceid = i.odsinstanceid
ORDER BY i.id
"""
_KEPT = "SELECT databaseid::text FROM adminapi.databases WHERE reason IS NOT NULL"
_REVISIONS = "SELECT id::text FROM adminapi.databaserevisions"
_CUT = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1 AND datname = 'postgres'"
_KNOWN = {"Completed", "Deleted"}
_CANCELLED_DELETE = "Delete_Failed"
"""The ODS/API does not route to the instance any more; its database stays as it is."""
_FAILED = {status.value for status in AT_REST}
_TAKEN = "already exists. Choose another name."
_NAMES = ("Alpha", "Beta", "Gamma", "Delta", "Epsilon", "Zeta")


class World:
    """A registry and a server, and the states of both that can come back.

    Each rule has two numbers, which choose an instance, a name, a moment or a state.
    """

    def __init__(
        self,
        operator: Operator,
        tenant: Tenant,
        rows: asyncpg.Connection,
        admin: asyncpg.Connection,
        api: httpx.AsyncClient,
    ) -> None:
        self._operator = operator
        self._tenant = tenant
        self._rows = rows
        self._admin = admin
        self._api = api
        self._others: list[int] = []
        self._registries: list[RegistryState] = []
        self._servers: list[ServerState] = []
        self._job: InstanceJob | None = None
        self._asked: set[str | None] = set()
        self.log: list[str] = []

    async def begin(self) -> None:
        """Leave the databases that are there alone, and remove all instances."""
        self._others = [row["oid"] for row in await self._admin.fetch("SELECT oid FROM pg_database")]
        await (await RegistryState.of(self._rows)).without_rows.restore(self._rows)

    async def end(self) -> None:
        """Drop what the walk has made."""
        await ServerState(self._others, {}).restore(self._admin)

    async def server(self) -> ServerState:
        """The databases that the walk has made."""
        return await ServerState.of(self._admin, self._others)

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
            self._job = requested.job
            with suppress(RPCError):  # Temporal has lost its store: a sweep starts it
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

    async def undo_reset(self, which: int, _: int) -> None:
        """Bring back what a reset has replaced."""
        if its := await self._some(which):
            await self._do(self._tenant.instances.request_undo_reset(its["id"]))

    async def delete(self, which: int, _: int) -> None:
        """Delete an instance, which goes to the trash."""
        if its := await self._some(which):
            await self._do(self._tenant.instances.request_delete(its["id"]))

    async def undelete(self, which: int, name: int) -> None:
        """Bring an instance back, often under another name."""
        if its := await self._some(which):
            await self._do(self._tenant.instances.request_undelete(its["id"], [None, *_NAMES][name % 7]))

    async def purge(self, which: int, _: int) -> None:
        """Purge an instance of the trash, or one in use."""
        if its := await self._some(which):
            instances = self._tenant.instances
            purged = await self._tenant.queries.marked_instance(its["mark"])
            if purged is not None and purged.is_in_trash:
                await self._do(instances.request_purge(its["id"]))
            else:
                await self._do(instances.request_delete(its["id"], Delete(Way.DROP)))

    async def detach(self, which: int, _: int) -> None:
        """Forget an instance, and leave its database."""
        if its := await self._some(which):
            await self._do(self._tenant.instances.request_delete(its["id"], Delete(Way.LEAVE)))

    async def retry(self, which: int, _: int) -> None:
        """Try the failed job of an instance again."""
        if its := await self._some(which):
            await self._do(self._tenant.instances.request_retry(its["id"]))

    @asynccontextmanager
    async def _in_the_midst(self, which: int, moment: int) -> AsyncIterator[None]:
        """Something happens while a request is carried out, a moment after it was sent."""
        changes = (
            *(self.create, self.rename, self.reset, self.undo_reset),
            *(self.delete, self.undelete, self.purge, self.detach),
        )
        self._job = None
        changing = asyncio.create_task(changes[moment % len(changes)](which, moment))
        await asyncio.wait([changing], timeout=moment / 60)
        try:
            yield
        finally:
            await changing

    async def cut_off(self, which: int, moment: int) -> None:
        """Whatever a worker does on the server for a request is cut off in the midst of it."""
        async with self._in_the_midst(which, moment):
            await self._admin.execute(_CUT, SERVICE_ROLE)
        while True:  # sessions that are kept open may be among those
            with suppress(DatabaseFaultError):
                await DriftDetector(self._tenant).read()
                return

    async def cancel(self, which: int, moment: int) -> None:
        """A client cancels a job that waits or runs."""
        async with self._in_the_midst(which, moment):
            if self._job is not None:
                answer = await self._api.post(
                    f"/v2/jobs/{self._job.job_id}/cancel",
                    headers=bearer(self._tenant.settings),  # a walk may last longer than the token of `api`
                )
                assert answer.status_code in {202, 409}, (self.log, answer)
        await self._has_undone()

    async def _has_undone(self) -> None:
        """Wait until the cancelled job has undone what it did, which is after its end was recorded."""
        if self._job is not None:
            handle = self._operator.client.get_workflow_handle(self._job.workflow_id)
            async with asyncio.timeout(60):
                while (await handle.describe()).raw_description.pending_activities:
                    await asyncio.sleep(0.03)

    async def kill_api(self, which: int, _: int) -> None:
        """The API dies between a request's commit and the start of its workflow: a sweep starts it."""
        if its := await self._some(which):
            with suppress(RefusedError, InstanceNotFoundError):
                requested = await self._tenant.instances.request_delete(its["id"])
                await self._pass()
                await self._operator.ended(requested.job)

    async def save_in_the_midst(self, which: int, moment: int) -> None:
        """Save the state of both while a job goes on."""
        async with self._in_the_midst(which, moment):
            await self.save(which, moment)

    async def copy_by_hand(self, which: int, chosen: int) -> None:
        """A DBA restores a copy beside the database of a live instance; the operator chooses one of both."""
        its, there = await self._some(which), await self.server()
        own = {row["name"]: row["comment"] for row in there.databases.values()}
        if not its or its["state"] != "Completed" or its["database"] not in own:
            return
        copy = f"copy_{uuid4().hex}"
        await self._admin.execute(f"CREATE DATABASE {copy} TEMPLATE template0 OWNER {SERVICE_ROLE}")
        await steps.comment(self._admin, copy, own[its["database"]])
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
        async with self._stopped():
            await self._registries[which % len(self._registries)].restore(self._rows)
            waiting = await self._recover()
        there = {Owner.read(row["comment"]) for row in server.databases.values()}
        ids = {owner.database_id for owner in there if owner}
        now = await self.instances()
        for mark, its in before.items():
            is_known = its["state"] in _KNOWN and its["name"] not in waiting
            if its["database_id"] in ids and is_known:
                assert _told(now[mark]) == _told(its), (self.log, now[mark], its)
                assert now[mark]["is_protected"] or not its["is_protected"], (self.log, now[mark])

    async def put_server_back(self, which: int, _: int) -> None:
        """Put the server back, and recover: instances that it has are named and kept as the registry said.

        Unless the registry was put back as well, and does not know what the server has any more; or the
        operator has said which database an instance has, which is in use then.
        """
        if not self._servers:
            return
        before = await self.instances()
        async with self._stopped():
            await self._restore_server(which)
            owners = [Owner.read(row["comment"]) for row in (await self.server()).databases.values()]
            known = {row["id"] for row in await self._rows.fetch(_REVISIONS)}
            marks = {owner.mark for owner in owners if owner}
            marks -= {owner.mark for owner in owners if owner and owner.revision not in known}
            self._asked.clear()
            await self._recover()
        now = await self.instances()
        for mark, its in before.items():
            if mark in marks - self._asked:
                told = (its["name"], its["state"])
                assert (now[mark]["name"], now[mark]["state"]) == told, (self.log, its, now[mark])

    async def _restore_server(self, which: int) -> None:
        """Put the server back; a state that was saved later cannot come back any more, its data are gone."""
        number = which % len(self._servers)
        await self._servers[number].restore(self._admin)
        del self._servers[number + 1 :]

    async def put_both_back(self, registry: int, server: int) -> None:
        """Put both back, perhaps to different states, and recover."""
        if self._registries and self._servers:
            async with self._stopped():
                await self._registries[registry % len(self._registries)].restore(self._rows)
                await self._restore_server(server)
                await self._recover()

    async def lose_registry(self, _: int, __: int) -> None:
        """Lose all rows, and recover."""
        async with self._stopped():
            await (await RegistryState.of(self._rows)).without_rows.restore(self._rows)
            await self._recover()

    @asynccontextmanager
    async def _stopped(self) -> AsyncIterator[None]:
        """No worker works; here none has anything to do until a pass."""
        yield

    async def _pass(self) -> None:
        """Let a sweep and a reconcile pass go by."""
        settings, client = self._tenant.settings, self._operator.client
        await steps.sweep(client, settings)
        await steps.reconcile(client, settings)

    async def _finish_jobs(self) -> None:
        """Let workers bring the jobs that wait or run to an end."""
        await self._pass()
        async with asyncio.timeout(60):
            while {row["state"] for row in (await self.instances()).values()} - _KNOWN - _FAILED:
                await asyncio.sleep(0.03)

    async def _applied(self, recovery: Recovery, chosen: list[str]) -> Outcome:
        """Recover; again if a job that was cancelled still writes, which the operator is told then."""
        async with asyncio.timeout(20):
            while True:
                outcome = await recovery.apply(chosen)
                done = {step.database for step in outcome.done}  # they may have other names now
                chosen[:] = [name for name in chosen if name not in done]
                if not any("Recover again." in refused.reason for refused in outcome.refused):
                    return outcome

    async def _made_way(self, refused: Sequence[Refused]) -> bool:
        """Give databases that were detached other names, where refused steps say that of their names."""
        reasons, is_made = " ".join(one.reason for one in refused), False
        for row in (await self.server()).databases.values():
            if row["comment"] is None and f"'{row['name']}'" in reasons:
                await self._admin.execute(f'ALTER DATABASE "{row["name"]}" RENAME TO detached_{uuid4().hex}')
                is_made = True
        return is_made

    async def _recover(self, *databases: str) -> set[str]:
        """Recover, with the databases chosen, and check what must be true of registry and server then.

        The operator leaves an instance alone whose name another one has got. Returns the names of instances
        whose jobs have gone on in between.
        """
        recovery, chosen, left = Recovery(self._tenant), [*databases], set[str | None]()
        before = await self.server()
        while True:
            outcome = await self._applied(recovery, chosen)
            in_vain = [one.step for one in outcome.refused if one.step.is_chosen and _TAKEN in one.reason]
            left |= {step.mark for step in in_vain}
            chosen = [name for name in chosen if name not in {step.database for step in in_vain}]
            questions = [one for one in outcome.plan.questions if one.databases[0].mark not in left]
            asked = [question.databases[0].name for question in questions]
            assert not {*asked} & {*chosen}, (self.log, outcome)
            chosen += asked
            self._asked |= {question.databases[0].mark for question in questions}
            if not asked and not in_vain and not await self._made_way(outcome.refused):
                break
        assert (outcome.refused, outcome.plan.steps) == ([], []), (self.log, outcome)
        after = await self.server()
        assert {*after.databases} == {*before.databases}, (self.log, before, after)
        if outcome.plan.waiting:
            await self._finish_jobs()
            return {*outcome.plan.waiting} | await self._recover()
        again = await recovery.apply()
        assert again.done == [], (self.log, again)
        for its in (await self.instances()).values():  # as the next pass does
            await KeptDatabases(self._tenant).mark(its["id"])
        await self._check(await self.server(), left)
        return set()

    async def _check(self, server: ServerState, left: set[str | None]) -> None:
        instances = await self.instances()
        kept = {row["databaseid"] for row in await self._rows.fetch(_KEPT)}
        current: dict[str, str] = {}
        for row in server.databases.values():
            if (owner := Owner.read(row["comment"])) is None:
                continue  # it was detached
            if owner.mark in left:
                continue
            its = instances[owner.mark]
            if its["state"] == "Deleted" and its["reason"] is None:
                continue  # it was purged before the server was put back
            if owner.role is Role.RETAINED:
                assert owner.database_id in kept, (self.log, row)
            else:
                assert owner.mark not in current, (self.log, row)
                current[owner.mark] = row["name"]
                assert (its["database"], its["database_id"]) == (row["name"], owner.database_id), (
                    self.log,
                    row,
                )
                assert its["state"] in {"Completed", _CANCELLED_DELETE}, (self.log, row, its)
        for mark, database in current.items():
            if (its := instances[mark])["state"] == _CANCELLED_DELETE:
                continue
            leads_to = self._tenant.connection_strings.local_database(its["leads_to"])
            assert (leads_to, its["routed"]) == (database, its["name"]), (self.log, leads_to, database, its)

    async def clients_go_on(self) -> None:
        """Clients rename, delete and undelete what is there, and create, once a pass has gone by.

        It undoes what the jobs had done that a recovery has cancelled.
        """
        await self._pass()
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
