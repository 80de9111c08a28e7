"""Names that renames have taken from databases: who gets them on the server, and when."""

import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta, tzinfo
from itertools import pairwise
from typing import Any, Self, cast
from unittest.mock import AsyncMock

import asyncpg
import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.databases import DatabaseActivities
from activities.endings import JobEnd, Outcome
from activities.job_fence import ConcurrencyLimit
from activities.passes import ReconcileActivities
from activities.statuses import StatusActivities
from ods.databases import activating, adoption, ownership, provisioning, publishing, retiring
from ods.databases.activating import rename, rename_back
from ods.databases.errors import DatabaseFaultError, FormerNameTakenError, NameLeftError
from ods.databases.left_names import record_left
from ods.databases.lookup import find_own
from ods.databases.ownership import Owner, with_left
from ods.databases.provisioning import CloneRequest, TemplateSizes, provision
from ods.databases.retiring import TrashJob
from ods.databases.server import Server
from ods.embedded.postgres import EmbeddedPostgres
from ods.model.arguments import Way
from ods.model.operations import Operation, Template
from ods.recovery.adoption import DatabaseAdoption
from ods.recovery.recovery import Recovery
from ods.registry.instances.deletes import Delete
from ods.registry.instances.jobs import InstanceJob
from ods.registry.instances.naming import trash_name
from ods.registry.storage.models import OdsInstance
from ods.tenants.tenant import Tenant, open_tenants
from tests import registries
from tests.postgres.owners import requesting
from tests.postgres.postgres_inspection import (
    exists,
    fingerprint,
    let_minutes_pass_in_trash,
    make_foreign,
    row_of,
)
from tests.servers import make_settings, make_tenant_settings

NOT_RECORDED = "not recorded yet, or failed and is not undone yet"


@pytest.fixture
async def new_name(admin: asyncpg.Connection, database: str) -> AsyncIterator[str]:
    """A name that the database gets; whatever has it in the end is removed."""
    name = f"{database}_new"
    yield name
    await admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@pytest.fixture
async def other(wanted: CloneRequest, admin: asyncpg.Connection) -> AsyncIterator[CloneRequest]:
    """Another instance, whose database is to be made under a name of its own."""
    owner = replace(wanted.owner, tenant="other", mark=str(uuid.uuid4()))
    name = f"{wanted.database}_other"
    yield replace(wanted, owner=owner, database=name)
    for left in (name, owner.staging_name, trash_name(owner.database_id)):
        await admin.execute(f'DROP DATABASE IF EXISTS "{left}" WITH (FORCE)')


async def make(server: Server, request: CloneRequest) -> None:
    async with server.fenced(request.owner) as fenced:
        await provision(fenced, request, TemplateSizes())


async def renamed(server: Server, request: CloneRequest, name: str, *, recorded: bool) -> None:
    async with server.fenced(request.owner) as fenced:
        await rename(server, fenced, request.owner, request.database, name)
        if recorded:
            await record_left(fenced, request.owner, name)


async def left_by(admin: asyncpg.Connection, database: str) -> dict[str, bool]:
    """The names that the database has left, and whether their time has begun."""
    row = await row_of(admin, database)
    marked = Owner.read(row["comment"]) if row else None
    assert marked is not None
    return {one.name: one.since is not None for one in marked.left}


async def let_minutes_pass(admin: asyncpg.Connection, database: str, minutes: int) -> None:
    """The database has left its names earlier by so many minutes."""
    row = await row_of(admin, database)
    assert row is not None
    marked = Owner.read(row["comment"])
    assert marked is not None
    earlier = [
        replace(one, since=one.since and one.since - timedelta(minutes=minutes)) for one in marked.left
    ]
    comment = await admin.fetchval("SELECT quote_literal($1)", with_left(row["comment"], earlier))
    await admin.execute(f'COMMENT ON DATABASE "{database}" IS {comment}')


async def _create(server: Server, other: CloneRequest, name: str) -> None:
    await make(server, replace(other, database=name))


async def _rename(server: Server, other: CloneRequest, name: str) -> None:
    await make(server, other)
    await renamed(server, other, name, recorded=True)


async def _undelete(server: Server, other: CloneRequest, name: str) -> None:
    kept = trash_name(other.owner.database_id)
    async with server.fenced(other.owner) as fenced:
        if not await find_own(fenced, other.owner):
            await provision(fenced, other, TemplateSizes())
            await retiring.retire(
                server, fenced, TrashJob(replace(other.owner, number=2), [other.database], kept)
            )
        await activating.take_out(server, fenced, other.owner, kept, name)


@pytest.mark.parametrize("way", [_create, _rename, _undelete])
async def test_other_instance_gets_a_left_name_when_no_cache_of_the_ods_api_has_it_any_more(
    server: Server,
    wanted: CloneRequest,
    other: CloneRequest,
    admin: asyncpg.Connection,
    new_name: str,
    way: Any,
) -> None:
    await make(server, wanted)
    await renamed(server, wanted, new_name, recorded=False)
    with pytest.raises(NameLeftError, match=NOT_RECORDED):
        await way(server, other, wanted.database)
    async with server.fenced(wanted.owner) as fenced:
        await record_left(fenced, wanted.owner, new_name)
    for passed, told in ((0, "Wait 10 minutes, then retry"), (9, "Wait 1 minute, then retry")):
        await let_minutes_pass(admin, new_name, passed)
        with pytest.raises(NameLeftError, match=told) as refused:
            await way(server, other, wanted.database)
        assert not refused.value.retryable  # within minutes
        assert not await exists(admin, wanted.database)
        assert not await exists(admin, other.owner.staging_name)  # nothing was copied in vain
    await let_minutes_pass(admin, new_name, 1)
    await way(server, other, wanted.database)
    row = await row_of(admin, wanted.database)
    assert row is not None
    assert other.owner.owns(row["comment"])


async def test_database_with_a_left_name_is_adopted_when_no_cache_of_the_ods_api_has_it_any_more(
    server: Server, wanted: CloneRequest, other: CloneRequest, admin: asyncpg.Connection, new_name: str
) -> None:
    await make(server, wanted)
    await renamed(server, wanted, new_name, recorded=True)
    async with server.session() as session:
        await session.execute(f'CREATE DATABASE "{wanted.database}"')
    for passed, is_adopted in ((9, False), (1, True)):
        await let_minutes_pass(admin, new_name, passed)
        async with server.session() as session:
            found = await adoption.adopt(session, other.owner, wanted.database, set())
        assert found is not None
        assert found.adopted is is_adopted
        assert is_adopted or "Wait 1 minute" in str(found.obstacle)


async def test_instance_takes_back_at_once_what_it_has_left(
    server: Server, wanted: CloneRequest, admin: asyncpg.Connection, new_name: str
) -> None:
    await make(server, wanted)
    await renamed(server, wanted, new_name, recorded=True)
    await renamed(server, replace(wanted, database=new_name), wanted.database, recorded=True)
    assert await left_by(admin, wanted.database) == {new_name: True}
    await renamed(server, wanted, new_name, recorded=False)
    async with server.fenced(wanted.owner) as fenced:
        await rename_back(server, fenced, wanted.owner, wanted.database, new_name)
    assert await left_by(admin, wanted.database) == {new_name: False}


async def test_every_name_stays_reserved_when_an_instance_is_renamed_deleted_and_undeleted(
    server: Server, wanted: CloneRequest, other: CloneRequest, admin: asyncpg.Connection, new_name: str
) -> None:
    names = [wanted.database, new_name, f"{new_name}er"]
    await make(server, wanted)
    await renamed(server, wanted, names[1], recorded=True)
    await let_minutes_pass(admin, names[1], 7)
    await renamed(server, replace(wanted, database=names[1]), names[2], recorded=True)
    kept = trash_name(wanted.owner.database_id)
    async with server.fenced(wanted.owner) as fenced:
        await retiring.retire(server, fenced, TrashJob(replace(wanted.owner, number=2), [names[2]], kept))
        await activating.take_out(server, fenced, wanted.owner, kept, names[2])
    for name, minutes in zip(names, (3, 10), strict=False):
        with pytest.raises(NameLeftError, match=f"Wait {minutes} minutes"):
            await make(server, replace(other, database=name))
    await let_minutes_pass(admin, names[2], 3)
    async with server.fenced(wanted.owner) as fenced:
        await record_left(fenced, wanted.owner, names[2])  # what is over is forgotten
    assert await left_by(admin, names[2]) == {names[1]: True}
    await admin.execute(f'DROP DATABASE "{names[2]}" WITH (FORCE)')


async def test_former_name_is_taken_by_one_alone_when_an_instance_comes_back_under_another(
    server: Server, wanted: CloneRequest, other: CloneRequest, admin: asyncpg.Connection, new_name: str
) -> None:
    await make(server, wanted)
    undelete, former = requesting(wanted.owner), wanted.database
    kept = trash_name(wanted.owner.database_id)
    job = TrashJob(replace(wanted.owner, number=2), [wanted.database, new_name], kept)
    async with server.fenced(wanted.owner) as fenced:
        await retiring.retire(server, fenced, job)
    await make(server, replace(other, database=wanted.database))
    async with server.fenced(wanted.owner) as fenced:
        with pytest.raises(FormerNameTakenError, match="Wait 10 minutes, then undelete it"):
            await activating.take_out(server, fenced, undelete, kept, new_name, former=former)
    await admin.execute(f'DROP DATABASE "{wanted.database}" WITH (FORCE)')
    async with server.fenced(wanted.owner) as fenced:
        await activating.take_out(server, fenced, undelete, kept, new_name, former=former)
    assert await left_by(admin, new_name) == {wanted.database: False}
    with pytest.raises(NameLeftError, match=NOT_RECORDED):
        await make(server, replace(other, database=wanted.database))
    async with server.fenced(wanted.owner) as fenced:
        # The undelete has failed: the name is free at once again.
        await retiring.retire(server, fenced, replace(job, owner=replace(undelete, number=3)))
    await make(server, replace(other, database=wanted.database))
    await let_minutes_pass_in_trash(admin, kept, 10)
    async with server.fenced(wanted.owner) as fenced:
        await activating.take_out(server, fenced, undelete, kept, new_name, former=former)
        await record_left(fenced, wanted.owner, new_name)
    assert await left_by(admin, new_name) == {wanted.database: True}


@pytest.mark.parametrize("ahead", [-timedelta(hours=1), timedelta(hours=1)])
async def test_undelete_waits_for_ten_minutes_when_the_worker_that_deleted_has_another_time(
    server: Server,
    wanted: CloneRequest,
    other: CloneRequest,
    admin: asyncpg.Connection,
    new_name: str,
    monkeypatch: pytest.MonkeyPatch,
    ahead: timedelta,
) -> None:
    class Clock(datetime):
        """The clock of the worker's machine."""

        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return super().now(tz) + ahead

    await make(server, wanted)
    undelete, former = requesting(wanted.owner), wanted.database
    kept = trash_name(wanted.owner.database_id)
    with monkeypatch.context() as worker:
        worker.setattr(ownership, "datetime", Clock)
        async with server.fenced(wanted.owner) as fenced:
            await retiring.retire(
                server, fenced, TrashJob(replace(wanted.owner, number=2), [wanted.database], kept)
            )
    await make(server, replace(other, database=wanted.database))
    for passed, told in ((0, "Wait 10 minutes"), (9, "Wait 1 minute")):
        await let_minutes_pass_in_trash(admin, kept, passed)
        async with server.fenced(wanted.owner) as fenced:
            with pytest.raises(FormerNameTakenError, match=told):
                await activating.take_out(server, fenced, undelete, kept, new_name, former=former)
    await let_minutes_pass_in_trash(admin, kept, 1)
    async with server.fenced(wanted.owner) as fenced:
        await activating.take_out(server, fenced, undelete, kept, new_name, former=former)
    assert await exists(admin, new_name)


async def test_name_is_free_when_the_instance_is_deleted_that_had_begun_to_leave_it(
    server: Server, wanted: CloneRequest, other: CloneRequest, admin: asyncpg.Connection, new_name: str
) -> None:
    await make(server, wanted)
    await renamed(server, wanted, new_name, recorded=False)
    kept = trash_name(wanted.owner.database_id)
    async with server.fenced(wanted.owner) as fenced:
        await retiring.retire(
            server, fenced, TrashJob(replace(wanted.owner, number=2), [wanted.database, new_name], kept)
        )
    await make(server, replace(other, database=wanted.database))
    await admin.execute(f'DROP DATABASE "{kept}" WITH (FORCE)')


@pytest.mark.parametrize(
    ("endings", "begun", "left"),
    [
        (["", "_new", "_newer"], [True, False], ""),
        (["", "_new", "_newer"], [False, False], ""),  # recorded, but the time is not written yet
        (["", "_new", "", "_new"], [True, True, False], "_new"),
        (["", "_new", "", "_new"], [False, False, False], "_new"),
    ],
)
async def test_delete_frees_the_registry_s_name_alone_when_renames_have_left_several(
    server: Server,
    wanted: CloneRequest,
    admin: asyncpg.Connection,
    endings: list[str],
    begun: list[bool],
    left: str,
) -> None:
    """All renames are recorded but the last one."""
    names = [f"{wanted.database}{ending}" for ending in endings]
    await make(server, wanted)
    for (current, target), has_time in zip(pairwise(names), begun, strict=True):
        await renamed(server, replace(wanted, database=current), target, recorded=has_time)
    kept = trash_name(wanted.owner.database_id)
    async with server.fenced(wanted.owner) as fenced:
        await retiring.retire(server, fenced, TrashJob(replace(wanted.owner, number=2), names[-2:], kept))
    assert await left_by(admin, kept) == {f"{wanted.database}{left}": True}
    await admin.execute(f'DROP DATABASE "{kept}" WITH (FORCE)')


async def test_nothing_is_published_when_its_name_is_left_while_it_is_copied(
    server: Server,
    wanted: CloneRequest,
    other: CloneRequest,
    admin: asyncpg.Connection,
    new_name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither when the name was looked for before, for then the other database had it."""
    publish = publishing.publish

    async def overtaken(*arguments: Any) -> None:
        monkeypatch.setattr(provisioning, "publish", publish)
        await make(server, wanted)
        await renamed(server, wanted, new_name, recorded=True)
        await publish(*arguments)

    monkeypatch.setattr(provisioning, "publish", overtaken)
    request = replace(other, database=wanted.database)
    with pytest.raises(DatabaseFaultError, match="changed which database") as fault:
        await make(server, request)
    assert fault.value.retryable
    assert not await exists(admin, wanted.database)
    with pytest.raises(NameLeftError, match="Wait 10 minutes"):
        await make(server, request)


@pytest.fixture
async def tenants(
    postgres: EmbeddedPostgres, prepared_postgres: EmbeddedPostgres
) -> AsyncIterator[tuple[Tenant, Tenant]]:
    """Two tenants with databases on one server."""
    async with registries.cloned(prepared_postgres) as one, registries.cloned(prepared_postgres) as two:
        settings = {"t1": make_settings(postgres, one), "t2": make_settings(postgres, two)}
        async with open_tenants(make_tenant_settings(settings)) as (first, second):
            for tenant in (first, second):
                await tenant.jobs.installation.require_confirmed()
            yield first, second


async def work(tenant: Tenant, job: InstanceJob, *, finish: bool = True) -> None:
    """Carry a create or a rename out, and record it unless the worker dies before."""
    run = ActivityEnvironment().run
    activities = DatabaseActivities(tenant, ConcurrencyLimit(1))
    assert (await tenant.jobs.begin(job)).held
    if job.operation is not Operation.RENAME:
        assert (await run(activities.provision, job)).is_recorded
        return
    await run(activities.rename, job)
    if finish:
        statuses = StatusActivities(tenant)
        assert await run(statuses.finish, JobEnd(job, Outcome()))


async def failed(tenant: Tenant, job: InstanceJob) -> str:
    """Why a job fails."""
    with pytest.raises(ApplicationError) as refused:
        await work(tenant, job)
    assert refused.value.type == "NameLeftError"
    assert await tenant.jobs.fail(job, refused.value.message)
    return refused.value.message


async def routed(tenant: Tenant) -> str | None:
    (row,) = await tenant.queries.every(OdsInstance)
    return tenant.connection_strings.local_database(row.connection_string)


async def test_clients_reach_no_database_of_another_tenant_when_an_instance_is_renamed(
    tenants: tuple[Tenant, Tenant], admin: asyncpg.Connection, name: str
) -> None:
    first, second = tenants
    job = (await first.instances.reserve(name, Template.MINIMAL)).job
    await work(first, job)
    renaming = (await first.instances.request_rename(job.instance_id, f"{name} old")).job
    await work(first, renaming)
    wanted = await second.instances.reserve(name, Template.MINIMAL)
    assert "Wait 10 minutes, then retry." in await failed(second, wanted.job)
    assert not await exists(admin, job.database)
    await let_minutes_pass(admin, renaming.final_database, 10)
    await work(second, (await second.instances.request_retry(wanted.job.instance_id)).job)
    assert (await routed(first), await routed(second)) == (renaming.final_database, job.database)


async def test_name_stays_reserved_until_a_rename_is_undone_or_recorded(
    tenants: tuple[Tenant, Tenant], admin: asyncpg.Connection, name: str
) -> None:
    """For longer than minutes, if server or registry are away: the ODS/API is routed to it."""
    first, second = tenants
    job = (await first.instances.reserve(name, Template.MINIMAL)).job
    await work(first, job)
    renaming = (await first.instances.request_rename(job.instance_id, f"{name} old")).job
    await work(first, renaming, finish=False)
    await let_minutes_pass(admin, renaming.final_database, 600)
    await first.jobs.fail(renaming, "The registry was away.")
    wanted = await second.instances.reserve(name, Template.MINIMAL)
    assert NOT_RECORDED in await failed(second, wanted.job)
    run, activities = ActivityEnvironment().run, DatabaseActivities(first, ConcurrencyLimit(1))
    await run(activities.compensate, renaming)
    assert await routed(first) == job.database
    assert await left_by(admin, job.database) == {renaming.final_database: True}


async def leftovers(tenant: Tenant) -> list[InstanceJob]:
    unused = cast("Any", None)
    reconcile = ReconcileActivities(
        AsyncMock(), tenant.jobs, tenant.server, unused, unused, unused, AsyncMock(), unused, unused, unused
    )
    return (await ActivityEnvironment().run(reconcile.find_leftovers)).jobs


async def test_pass_lets_the_time_begin_when_a_worker_has_died_after_it_recorded_a_rename(
    tenants: tuple[Tenant, Tenant], admin: asyncpg.Connection, name: str
) -> None:
    tenant, _ = tenants
    job = (await tenant.instances.reserve(name, Template.MINIMAL)).job
    await work(tenant, job)
    renaming = (await tenant.instances.request_rename(job.instance_id, f"{name} old")).job
    await work(tenant, renaming, finish=False)
    assert await leftovers(tenant) == []
    connection_string = tenant.connection_strings.encrypted(renaming.final_database)
    assert await tenant.jobs.finish_rename(renaming, connection_string)
    assert await left_by(admin, renaming.final_database) == {job.database: False}
    (left,) = await leftovers(tenant)
    await ActivityEnvironment().run(DatabaseActivities(tenant, ConcurrencyLimit(1)).compensate, left)
    assert await left_by(admin, renaming.final_database) == {job.database: True}
    assert await leftovers(tenant) == []


async def test_clients_reach_no_database_of_another_tenant_when_a_renamed_instance_is_deleted_and_undeleted(
    tenants: tuple[Tenant, Tenant], admin: asyncpg.Connection, name: str
) -> None:
    """Also if the worker has died after it recorded the rename, and no pass has written the time since."""
    first, second = tenants
    run, activities = ActivityEnvironment().run, DatabaseActivities(first, ConcurrencyLimit(1))
    job = (await first.instances.reserve(name, Template.MINIMAL)).job
    await work(first, job)
    renaming = (await first.instances.request_rename(job.instance_id, f"{name} old")).job
    await work(first, renaming, finish=False)
    connection_string = first.connection_strings.encrypted(renaming.final_database)
    assert await first.jobs.finish_rename(renaming, connection_string)
    delete = (await first.instances.request_delete(job.instance_id, Delete(Way.TRASH))).job
    assert (await first.jobs.begin(delete)).held
    assert (await run(activities.trash, delete)).is_recorded
    wanted = await second.instances.reserve(name, Template.MINIMAL)
    assert "Wait 10 minutes, then retry." in await failed(second, wanted.job)
    undelete = (await first.instances.request_undelete(job.instance_id)).job
    assert (await first.jobs.begin(undelete)).held
    await run(activities.undelete, undelete)
    statuses = StatusActivities(first)
    assert await run(statuses.finish, JobEnd(undelete, Outcome()))
    assert not await exists(admin, job.database)
    await let_minutes_pass(admin, renaming.final_database, 10)
    await work(second, (await second.instances.request_retry(wanted.job.instance_id)).job)
    assert (await routed(first), await routed(second)) == (renaming.final_database, job.database)


@pytest.mark.parametrize("is_marked", [False, True])
async def test_name_stays_reserved_when_a_database_of_another_is_handed_over_to_the_instance_that_had_it(
    tenants: tuple[Tenant, Tenant], admin: asyncpg.Connection, name: str, *, is_marked: bool
) -> None:
    """One that was renamed by hand, or restored without its comment."""
    tenant, other = tenants
    job = (await tenant.instances.reserve(name, Template.MINIMAL)).job
    await work(tenant, job)
    by_hand = job.database.replace("_Minimal", "_by_hand_Minimal")
    await admin.execute(f'ALTER DATABASE "{job.database}" RENAME TO "{by_hand}"')
    if is_marked:
        assert [step.database for step in (await Recovery(tenant).apply()).done] == [by_hand]
    else:
        await admin.execute(f'COMMENT ON DATABASE "{by_hand}" IS NULL')
        await DatabaseAdoption(tenant).adopt(job.instance_id, by_hand)
    wanted = await other.instances.reserve(name, Template.MINIMAL)
    assert NOT_RECORDED in await failed(other, wanted.job)
    (left,) = await leftovers(tenant)
    await ActivityEnvironment().run(DatabaseActivities(tenant, ConcurrencyLimit(1)).compensate, left)
    retry = (await other.instances.request_retry(wanted.job.instance_id)).job
    assert "Wait 10 minutes" in await failed(other, retry)


@pytest.mark.parametrize("is_deleted", [False, True])
async def test_clients_are_led_to_the_instance_s_own_database_when_the_name_before_a_failed_rename_is_taken(
    tenants: tuple[Tenant, Tenant],
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    name: str,
    *,
    is_deleted: bool,
) -> None:
    """By a person; also if a delete has failed since."""
    tenant, _ = tenants
    job = (await tenant.instances.reserve(name, Template.MINIMAL)).job
    await work(tenant, job)
    renaming = (await tenant.instances.request_rename(job.instance_id, f"{name} old")).job
    await work(tenant, renaming, finish=False)
    await tenant.jobs.fail(renaming, "The server was away.")
    last = renaming
    if is_deleted:
        last = (await tenant.instances.request_delete(job.instance_id)).job
        assert (await tenant.jobs.begin(last, "It is in use.")).held
        await tenant.jobs.fail(last, "It is in use.")
    await make_foreign(admin, postgres.dsn(), job.database)
    before = await fingerprint(admin, job.database)
    left = await leftovers(tenant)
    assert [one.job_id for one in left] == [last.job_id]
    activities = DatabaseActivities(tenant, ConcurrencyLimit(1))
    for _ in range(2):  # the second time there is nothing to do
        await ActivityEnvironment().run(activities.compensate, left[0])
    row = await tenant.queries.instance(job.instance_id)
    assert (row.name, row.database_name, row.undo_due) == (name, renaming.final_database, False)
    assert await routed(tenant) == row.database_name
    assert await left_by(admin, row.database_name) == {job.database: True}
    assert await fingerprint(admin, job.database) == before
    assert await leftovers(tenant) == []
    if is_deleted:
        assert row.error_message == "It is in use."
        return
    assert "The ODS/API is led to the instance's own" in str(row.error_message)
    signalled = await tenant.jobs.next_attempt(renaming)
    retry = (await tenant.instances.request_retry(job.instance_id)).job
    assert signalled == retry  # of the database's name now
    await work(tenant, retry)
    row = await tenant.queries.instance(job.instance_id)
    assert (row.status, row.name, row.database_name) == (
        *("Completed", renaming.final_name),
        renaming.final_database,
    )
