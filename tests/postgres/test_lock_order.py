"""Transactions that lock the same rows at once: they follow each other, and none is ended for a deadlock."""

import asyncio
from collections.abc import Callable, Coroutine

import asyncpg
import pytest

from ods.embedded.polling import wait_until
from ods.registry.ods_instances.parts import ContextDraft, Contexts, DerivativeDraft, Derivatives
from ods.tenants.tenant import Tenant
from tests.postgres.instance_states import CONNECTION_STRING, bring_to
from tests.servers import session

_WAITING = (
    "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
)
_CONTEXT = (
    "INSERT INTO dbo.odsinstancecontexts (odsinstance_odsinstanceid, contextkey, contextvalue)"
    " VALUES ($1, 'year', '2026') RETURNING odsinstancecontextid"
)
_DERIVATIVE = (
    "INSERT INTO dbo.odsinstancederivatives (odsinstance_odsinstanceid, derivativetype, connectionstring)"
    " VALUES ($1, 'ReadReplica', 'encrypted') RETURNING odsinstancederivativeid"
)

Change = Callable[[Tenant, int, int], Coroutine[None, None, object]]


async def _change_context(tenant: Tenant, identifier: int, ods_instance_id: int) -> None:
    draft = ContextDraft(ods_instance_id, "year", "2027")
    await Contexts(tenant.engine).update(identifier, draft)


async def _change_derivative(tenant: Tenant, identifier: int, ods_instance_id: int) -> None:
    draft = DerivativeDraft(ods_instance_id, "ReadReplica", "host=other;database=a")
    await Derivatives(tenant.engine, tenant.connection_strings).update(identifier, draft)


PARTS: dict[str, tuple[str, str, Change]] = {
    "odsinstancecontexts": (_CONTEXT, "contextvalue", _change_context),
    "odsinstancederivatives": (_DERIVATIVE, "connectionstring", _change_derivative),
}


async def _waits(rows: asyncpg.Connection, count: int) -> None:
    async def are_waiting() -> bool:
        return bool(await rows.fetchval(_WAITING) == count)

    await wait_until(are_waiting, 10)


@pytest.mark.parametrize("table", PARTS)
async def test_change_is_kept_with_the_instance_when_its_delete_begins_meanwhile(
    tenant: Tenant, registry_dsn: str, name: str, table: str
) -> None:
    plant, column, change = PARTS[table]
    job = await bring_to(tenant.instances, tenant.jobs, "Completed", name)
    deletion = (await tenant.instances.request_delete(job.instance_id)).job
    async with session(registry_dsn) as rows, session(registry_dsn) as other:
        identifier = await rows.fetchval(plant, job.ods_instance_id)
        before = await rows.fetchval(f"SELECT {column} FROM dbo.{table}")  # noqa: S608 - constants
        holding = other.transaction()
        await holding.start()
        await other.execute(f"SELECT FROM dbo.{table} FOR UPDATE")
        changing = asyncio.create_task(change(tenant, identifier, job.ods_instance_id))
        await _waits(rows, 1)
        beginning = asyncio.create_task(tenant.jobs.begin(deletion))
        await _waits(rows, 2)
        await holding.commit()
        await changing
        assert (await beginning).held
        assert await rows.fetchval(f"SELECT count(*) FROM dbo.{table}") == 0  # noqa: S608 - constants
        kept = await rows.fetchval("SELECT setaside FROM adminapi.dbinstances WHERE id = $1", job.instance_id)
    assert before not in kept


async def test_snapshot_is_recorded_when_its_derivative_is_changed_meanwhile(
    tenant: Tenant, registry_dsn: str, name: str
) -> None:
    job = await bring_to(tenant.instances, tenant.jobs, "Completed", name)
    store = tenant.snapshots.store
    first = (await tenant.instances.request_snapshot(job.instance_id)).job
    assert (await tenant.jobs.begin(first)).held
    assert await store.finish(first, CONNECTION_STRING)
    second = (await tenant.instances.request_snapshot(job.instance_id)).job
    assert (await tenant.jobs.begin(second)).held
    async with session(registry_dsn) as rows, session(registry_dsn) as other:
        identifier = await rows.fetchval("SELECT odsinstancederivativeid FROM dbo.odsinstancederivatives")
        holding = other.transaction()
        await holding.start()
        await other.execute("SELECT FROM dbo.odsinstancederivatives FOR UPDATE")
        blank = DerivativeDraft(job.ods_instance_id, "Snapshot", None)  # keeps the connection string
        changes = Derivatives(tenant.engine, tenant.connection_strings).update(identifier, blank)
        changing = asyncio.create_task(changes)
        await _waits(rows, 1)
        finishing = asyncio.create_task(store.finish(second, f"{CONNECTION_STRING}2"))
        await _waits(rows, 2)
        await holding.commit()
        await changing
        assert await finishing
        found = await rows.fetchval("SELECT connectionstring FROM dbo.odsinstancederivatives")
    assert found == f"{CONNECTION_STRING}2"
