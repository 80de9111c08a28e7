"""A registry that was put back to an earlier state follows the server, by one command."""

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import asyncpg
import httpx
import pytest
from temporalio.client import Client

from ods.databases.ownership import Owner
from ods.embedded.polling import wait_until
from ods.embedded.postgres import EmbeddedPostgres
from ods.embedded.seeding import SERVICE_ROLE
from ods.model.arguments import Way
from ods.model.operations import JobStatus, Template
from ods.recovery.adoption import DatabaseAdoption
from ods.recovery.following import ChangedMeanwhileError, follow, leave_name
from ods.recovery.plan import StepKind
from ods.recovery.recovery import IdentityError, Outcome, Recovery
from ods.registry.instances.attributes import AttributeChanges
from ods.registry.instances.deletes import Delete
from ods.registry.instances.jobs import InstanceJob
from ods.registry.instances.naming import database_name, trash_name
from ods.registry.instances.store import Requested
from ods.registry.storage.errors import RefusedError
from ods.tenants.kept_databases import KeptDatabases
from ods.tenants.tenant import Tenant, open_tenants
from tests import preloaded, registries
from tests.api.server import environment
from tests.api.service import bearer, client_of, faults_of, running
from tests.end_to_end.conftest import Operator
from tests.end_to_end.steps import created, undo
from tests.postgres.postgres_inspection import comment_on, row_of
from tests.put_back_rows import JOBS, put_rows_back, remember_rows
from tests.servers import make_settings, session

pytestmark = pytest.mark.usefixtures("workers")

_DATABASES = (
    "SELECT oid FROM pg_database WHERE shobj_description(oid, 'pg_database') LIKE '%\"mark\"%' ORDER BY oid"
)
_SERVER = """
SELECT oid, datname, datallowconn, shobj_description(oid, 'pg_database') AS comment FROM pg_database
WHERE shobj_description(oid, 'pg_database') LIKE '%"mark"%' ORDER BY oid
"""
_DUE = "SELECT databaseid FROM adminapi.databases WHERE purgeafter IS NOT NULL"
_REPLICAS = """
INSERT INTO dbo.odsinstancederivatives (odsinstance_odsinstanceid, derivativetype, connectionstring)
SELECT odsinstanceid, 'ReadReplica', connectionstring FROM dbo.odsinstances
"""
_LEADS_TO = "SELECT connectionstring FROM dbo.odsinstancederivatives WHERE odsinstance_odsinstanceid = $1"
_KNOWN = """
SELECT i.name, i.state, i.databasetemplate, i.databasename, d.reason, o.name AS routed
FROM adminapi.dbinstances AS i
    JOIN adminapi.databases AS d ON (d.instanceid, d.databaseid) = (i.id, i.databaseid)
    LEFT JOIN dbo.odsinstances AS o ON o.odsinstanceid = i.odsinstanceid
WHERE i.mark = $1
"""
_OID = "SELECT oid FROM pg_database WHERE datname = $1"


class Site:
    """Instances, and a registry that is put back."""

    def __init__(
        self, operator: Operator, tenant: Tenant, rows: asyncpg.Connection, admin: asyncpg.Connection
    ) -> None:
        self.operator = operator
        self.tenant = tenant
        self.instances = tenant.instances
        self.recovery = Recovery(tenant)
        self._rows = rows
        self._admin = admin

    async def done(self, requested: Requested) -> None:
        """Start a job, and wait until it has succeeded."""
        await self.operator.starter.start(requested.job)
        assert await self.operator.ended(requested.job) is JobStatus.COMPLETED

    async def rename(self, job: InstanceJob, name: str) -> None:
        """Rename an instance."""
        await self.done(await self.instances.request_rename(job.instance_id, name))

    async def delete(self, job: InstanceJob) -> None:
        """Delete an instance, which goes to the trash."""
        await self.done(await self.instances.request_delete(job.instance_id))

    async def undelete(self, job: InstanceJob, name: str | None = None) -> None:
        """Bring a deleted instance back."""
        await self.done(await self.instances.request_undelete(job.instance_id, name))

    async def reset(self, job: InstanceJob) -> None:
        """Reset an instance to another template."""
        await self.done(await self.instances.request_reset(job.instance_id, Template.SAMPLE))

    async def undo_reset(self, job: InstanceJob) -> None:
        """Exchange the instance's database for the one that it had before."""
        await self.done(await self.instances.request_undo_reset(job.instance_id))

    async def known(self, job: InstanceJob) -> tuple[object, ...]:
        """What the registry says of an instance."""
        (row,) = await self._rows.fetch(_KNOWN, job.mark)
        return tuple(row)

    async def databases(self) -> list[int]:
        """The OIDs of the databases of instances on the server."""
        return [row["oid"] for row in await self._admin.fetch(_DATABASES)]

    @asynccontextmanager
    async def forgotten(self) -> AsyncIterator[None]:
        """What is done in the block is forgotten by the registry, and recovered after it."""
        tables = "odsinstances", "odsinstancecontexts", "odsinstancederivatives"
        await remember_rows(self._rows, JOBS)
        for table in tables:
            await self._rows.execute(f"CREATE TABLE earlier_{table} AS TABLE dbo.{table}")
        yield
        await put_rows_back(self._rows, JOBS)
        for table in reversed(tables):
            await self._rows.execute(f"DELETE FROM dbo.{table}")  # noqa: S608 - a constant
        for table in tables:
            await self._rows.execute(f"INSERT INTO dbo.{table} TABLE earlier_{table}")

    @asynccontextmanager
    async def server_put_back(self) -> AsyncIterator[None]:
        """What is done in the block is not on the server after it; data, which it does not change, are."""
        before = {row["oid"]: row for row in await self._admin.fetch(_SERVER)}
        yield
        now = {row["oid"]: row for row in await self._admin.fetch(_SERVER)}
        for oid, row in now.items():
            if oid not in before:
                await self._admin.execute(f'DROP DATABASE "{row["datname"]}" WITH (FORCE)')
        changed = [(row, now[oid]) for oid, row in before.items() if row != now[oid]]
        for _, row in changed:
            await self._admin.execute(f'ALTER DATABASE "{row["datname"]}" RENAME TO "put back {row["oid"]}"')
        for row, _ in changed:
            name = row["datname"]
            await self._admin.execute(f'ALTER DATABASE "put back {row["oid"]}" RENAME TO "{name}"')
            await self._admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS {row["datallowconn"]}')
            await comment_on(self._admin, name, row["comment"])

    async def recovered(self, *chosen: str) -> Outcome:
        """Recover; nothing is left to be done after that, and no database has gone."""
        before = await self.databases()
        outcome = await self.recovery.apply(chosen)
        assert (outcome.refused, outcome.is_over) == ([], True)
        assert (outcome.plan.steps, outcome.plan.questions) == ([], [])
        assert await self.databases() == before
        assert (await self.recovery.apply(chosen)).done == []
        assert await self._rows.fetch(_DUE) == []  # only a client has dropped what a client may have kept
        return outcome


@pytest.fixture
def site(operator: Operator, tenant: Tenant, rows: asyncpg.Connection, admin: asyncpg.Connection) -> Site:
    """The site of the test's registry."""
    return Site(operator, tenant, rows, admin)


Change = Callable[[Site, InstanceJob, str], Awaitable[None]]


async def _rename(site: Site, job: InstanceJob, name: str) -> None:
    await site.rename(job, f"{name} new")


async def _delete(site: Site, job: InstanceJob, _: str) -> None:
    await site.delete(job)


async def _reset(site: Site, job: InstanceJob, _: str) -> None:
    await site.reset(job)


async def _reset_and_delete(site: Site, job: InstanceJob, _: str) -> None:
    await site.reset(job)
    await site.delete(job)


async def _rename_and_delete(site: Site, job: InstanceJob, name: str) -> None:
    await site.rename(job, f"{name} new")
    await site.delete(job)


async def _delete_and_give_the_name_away(site: Site, job: InstanceJob, name: str) -> None:
    await site.delete(job)
    await created(site.operator, name)


async def _undelete(site: Site, job: InstanceJob, _: str) -> None:
    await site.undelete(job)


async def _undelete_renamed(site: Site, job: InstanceJob, name: str) -> None:
    await site.undelete(job, f"{name} back")


async def _undelete_and_reset(site: Site, job: InstanceJob, _: str) -> None:
    await site.undelete(job)
    await site.reset(job)


async def _undelete_reset_and_delete(site: Site, job: InstanceJob, _: str) -> None:
    await site.undelete(job)
    await site.reset(job)
    await site.delete(job)


async def _undelete_and_delete(site: Site, job: InstanceJob, _: str) -> None:
    await site.undelete(job)
    await site.delete(job)


@pytest.mark.parametrize(
    ("change", "kinds"),
    [
        (_rename, [StepKind.HAND_OVER]),
        (_delete, [StepKind.DELETE]),
        (_reset, [StepKind.HAND_OVER]),
        (_reset_and_delete, [StepKind.DELETE]),
        (_rename_and_delete, [StepKind.DELETE]),
        (_delete_and_give_the_name_away, [StepKind.DELETE, StepKind.RECORD]),
    ],
)
async def test_registry_follows_when_it_has_forgotten_what_was_done_to_a_live_instance(
    site: Site, name: str, change: Change, kinds: list[StepKind]
) -> None:
    job = await created(site.operator, name)
    async with site.forgotten():
        await change(site, job, name)
        expected = await site.known(job)
    outcome = await site.recovered()
    assert [step.kind for step in outcome.done] == kinds
    assert await site.known(job) == expected


@pytest.mark.parametrize(
    ("change", "kinds"),
    [
        (_undelete, [StepKind.TAKE_BACK]),
        (_undelete_renamed, [StepKind.TAKE_BACK]),
        (_undelete_and_reset, [StepKind.TAKE_BACK]),
        (_undelete_reset_and_delete, [StepKind.DELETE]),
        (_undelete_and_delete, [StepKind.DELETE]),
    ],
)
async def test_registry_follows_when_it_has_forgotten_what_was_done_to_an_instance_in_the_trash(
    site: Site, name: str, change: Change, kinds: list[StepKind]
) -> None:
    job = await created(site.operator, name)
    await site.delete(job)
    async with site.forgotten():
        await change(site, job, name)
        expected = await site.known(job)
    outcome = await site.recovered()
    assert [step.kind for step in outcome.done] == kinds
    assert await site.known(job) == expected


@pytest.mark.parametrize("is_deleted", [False, True])
async def test_lost_instance_is_as_it_was_when_it_is_recorded_again(
    site: Site,
    name: str,
    is_deleted: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    async with site.forgotten():
        job = await created(site.operator, name)
        await site.reset(job)
        await site.rename(job, f"{name} more")
        if is_deleted:
            await site.delete(job)
        expected = await site.known(job)
    outcome = await site.recovered()
    assert [step.kind for step in outcome.done] == [
        StepKind.RECORD_DELETED if is_deleted else StepKind.RECORD
    ]
    assert await site.known(job) == expected
    number = (await site.instances.reserve(f"{name} next", Template.MINIMAL)).job.ods_instance_id
    assert number > job.ods_instance_id


async def test_operator_says_which_database_is_the_instances_when_two_are_alike(
    site: Site, api: httpx.AsyncClient, admin: asyncpg.Connection, name: str
) -> None:
    """One is a copy that was restored by hand with its comment."""
    async with site.forgotten():
        job = await created(site.operator, name)
        expected = await site.known(job)
        copy = f"{job.database}_copy"
        await admin.execute(f'CREATE DATABASE "{copy}" TEMPLATE "{job.database}"')
        original = await row_of(admin, job.database)
        assert original is not None
        await comment_on(admin, copy, original["comment"])
    before = await site.databases()
    plan = (await api.get("/v2/recovery")).json()
    (asked,) = plan["questions"]
    assert (plan["steps"], asked["name"], asked["odsInstanceId"]) == ([], name, job.ods_instance_id)
    assert {one["name"] for one in asked["databases"]} == {job.database, copy}
    report = (await api.post("/v2/recovery", json={})).json()
    assert (report["done"], report["left"], report["isOver"]) == ([], plan, True)
    report = (await api.post("/v2/recovery", json={"choose": [job.database]})).json()
    assert [(step["kind"], step["database"]) for step in report["done"]] == [("Record", job.database)]
    assert (report["left"]["steps"], report["left"]["questions"]) == ([], [])
    assert await site.known(job) == expected
    assert await site.databases() == before
    await admin.execute(f'DROP DATABASE "{copy}"')


async def test_database_has_its_name_again_when_the_server_was_put_back_to_before_a_rename(
    site: Site, admin: asyncpg.Connection, name: str
) -> None:
    job = await created(site.operator, name)
    before = await row_of(admin, job.database)
    assert before is not None
    await site.rename(job, f"{name} new")
    instance = await site.operator.instance(job)
    await admin.execute(f'ALTER DATABASE "{instance.database_name}" RENAME TO "{job.database}"')
    await comment_on(admin, job.database, before["comment"])
    outcome = await site.recovered()
    assert [step.kind for step in outcome.done] == [StepKind.HAND_OVER]
    again = await site.operator.instance(job)
    assert (again.name, again.database_name) == (instance.name, instance.database_name)
    assert await row_of(admin, job.database) is None
    row = await row_of(admin, instance.database_name)
    assert row is not None
    told = Owner.read(row["comment"])
    assert told is not None
    assert told.name == f"{name} new"


async def test_registry_goes_on_when_the_operator_confirms_it_with_the_recovery(
    api: httpx.AsyncClient, rows: asyncpg.Connection
) -> None:
    assert (await api.get("/v2/recovery")).json()["confirmation"] is None
    await rows.execute("UPDATE adminapi.installation SET registrydatabase = 1")

    async def is_told() -> bool:  # what the API read before, it believes for two seconds
        return (await api.get("/v2/recovery")).json()["confirmation"] is not None

    await wait_until(is_told, 10)
    assert (await api.post("/v2/recovery", json={})).status_code == 503
    report = await api.post("/v2/recovery", json={"confirm": True})
    assert (report.status_code, report.json()["left"]["confirmation"]) == (200, None)
    assert await rows.fetchval("SELECT registrydatabase FROM adminapi.installation") != 1


async def test_registry_is_no_copy_when_its_databases_are_there(
    site: Site, api: httpx.AsyncClient, name: str
) -> None:
    await created(site.operator, name)
    before = (await api.get("/v2/recovery")).json()["installation"]
    assert before["databases"] > 0
    refused = await api.post("/v2/recovery", json={"asNewInstallation": True})
    assert (refused.status_code, refused.json()["detail"]) == (409, before["whyNoCopy"])
    assert (await api.get("/v2/recovery")).json()["installation"]["id"] == before["id"]


async def test_copy_without_databases_is_an_installation_of_its_own_when_the_operator_says_so(
    postgres: EmbeddedPostgres, prepared_postgres: EmbeddedPostgres, temporal: Client
) -> None:
    async with registries.cloned(prepared_postgres) as dsn:
        settings = make_settings(postgres, dsn)
        async with (
            running(settings, temporal.service_client.config.target_host) as app,
            client_of(app, headers=bearer(settings)) as api,
        ):
            before = (await api.get("/v2/recovery")).json()["installation"]["id"]
            report = await api.post("/v2/recovery", json={"asNewInstallation": True})
            assert (report.status_code, report.json()["isOver"]) == (200, True)
            after = report.json()["left"]["installation"]["id"]
            assert after != before
            async with session(dsn) as rows:
                assert str(await rows.fetchval("SELECT id FROM adminapi.installation")) == after


async def _renamed_since(admin: asyncpg.Connection, *changes: tuple[InstanceJob, str]) -> None:
    """Give databases other names, as renames do of which the registry knows nothing; all at once."""
    for job, _ in changes:
        await admin.execute(f'ALTER DATABASE "{job.database}" RENAME TO "{job.mark}"')
    for job, name in changes:
        database = database_name(name, job.template)
        row = await row_of(admin, job.mark)
        assert row is not None
        told = Owner.read(row["comment"])
        assert told is not None
        later = replace(told, name=name, number=told.number + 1, revision=str(uuid.uuid4()))
        await admin.execute(f'ALTER DATABASE "{job.mark}" RENAME TO "{database}"')
        await comment_on(admin, database, later.comment)


@pytest.mark.parametrize("names", [("b", "a"), ("c", "a"), ("b", "c")])
async def test_names_follow_when_instances_have_got_each_others(
    site: Site,
    tenant: Tenant,
    rows: asyncpg.Connection,
    admin: asyncpg.Connection,
    name: str,
    names: tuple[str, str],
) -> None:
    jobs = [await created(site.operator, f"{name} {one}") for one in ("a", "b")]
    await rows.execute(_REPLICAS)
    renamed = [f"{name} {one}" for one in names]
    await _renamed_since(admin, *zip(jobs, renamed, strict=True))
    await site.recovered()
    for job, its in zip(jobs, renamed, strict=True):
        database = database_name(its, job.template)
        assert await site.known(job) == (its, "Completed", job.template, database, None, its)
        replica = await rows.fetchval(_LEADS_TO, job.ods_instance_id)
        assert tenant.connection_strings.local_database(replica) == database


async def test_names_follow_when_a_deleted_one_has_had_the_name_on_the_server(site: Site, name: str) -> None:
    first, second = await created(site.operator, f"{name} a"), await created(site.operator, f"{name} b")
    async with site.server_put_back():
        await site.delete(second)
        await site.rename(first, f"{name} b")
        expected = [await site.known(one) for one in (first, second)]
    await site.recovered()
    assert [await site.known(one) for one in (first, second)] == expected


async def test_instance_is_recorded_when_one_that_is_gone_has_its_name_by_the_registry(
    site: Site, name: str
) -> None:
    gone = await created(site.operator, name)
    async with site.forgotten():
        await site.done(await site.instances.request_delete(gone.instance_id, Delete(Way.DROP)))
        job = await created(site.operator, name)
        expected = await site.known(job)
    outcome = await site.recovered()
    assert [step.kind for step in outcome.done] == [StepKind.RECORD]
    assert await site.known(job) == expected
    await site.done(await site.instances.request_delete(gone.instance_id, Delete(Way.DROP)))
    assert await site.known(job) == expected


async def test_step_is_not_done_when_the_database_has_another_revision_by_then(site: Site, name: str) -> None:
    job = await created(site.operator, name)
    async with site.server_put_back():
        await site.delete(job)
    plan = await site.recovery.plan()
    await site.recovered()
    await site.undelete(job)
    known = await site.known(job)
    for step in plan.steps:
        assert step.database == job.database
        with pytest.raises(ChangedMeanwhileError):
            await follow(site.tenant, step)
    assert await site.known(job) == known


async def test_version_stays_when_the_protection_of_its_recovered_instance_begins_and_ends(
    site: Site, rows: asyncpg.Connection, name: str
) -> None:
    job = await created(site.operator, name)
    async with site.forgotten():
        await site.reset(job)
    await site.recovered()
    for is_protected in (True, False):
        changes = AttributeChanges(protected=is_protected)
        await site.instances.change_attributes(job.instance_id, changes)
    assert await rows.fetch(_DUE) == []


@pytest.mark.parametrize("is_lost", [False, True])
async def test_instance_is_protected_again_when_that_was_forgotten(
    site: Site,
    tenant: Tenant,
    name: str,
    is_lost: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    job = None if is_lost else await created(site.operator, name)
    async with site.forgotten():
        job = job or await created(site.operator, name)
        await site.instances.change_attributes(job.instance_id, AttributeChanges(protected=True))
        await KeptDatabases(tenant).mark(job.instance_id)
    await site.recovered()
    instance = await tenant.queries.marked_instance(job.mark)
    assert instance is not None
    with pytest.raises(RefusedError, match="is protected"):
        await site.instances.request_delete(instance.id)


async def test_lost_instance_is_protected_again_when_it_was_created_so(
    site: Site, tenant: Tenant, name: str
) -> None:
    async with site.forgotten():
        protected = AttributeChanges(protected=True)
        job = (await site.instances.reserve(name, Template.MINIMAL, protected)).job
        await site.operator.starter.start(job)
        assert await site.operator.ended(job) is JobStatus.COMPLETED
    await site.recovered()
    instance = await tenant.queries.marked_instance(job.mark)
    assert instance is not None
    assert instance.is_protected


async def test_instance_is_deleted_when_an_application_could_use_it_in_the_restored_registry(
    site: Site, rows: asyncpg.Connection, name: str
) -> None:
    job = await created(site.operator, name)
    async with site.forgotten():
        await site.delete(job)
    await rows.execute(
        "INSERT INTO dbo.apiclientodsinstances (apiclient_apiclientid, odsinstance_odsinstanceid)"
        " VALUES (1, $1)",
        job.ods_instance_id,
    )
    outcome = await site.recovered()
    assert [step.kind for step in outcome.done] == [StepKind.DELETE]
    await site.undelete(job)


async def _left_long_ago(rows: asyncpg.Connection, admin: asyncpg.Connection, database: str) -> None:
    """The name that the database has left is free."""
    await rows.execute("DELETE FROM adminapi.leftdatabasenames")
    row = await row_of(admin, database)
    told = None if row is None else Owner.read(row["comment"])
    assert told is not None
    await comment_on(admin, database, replace(told, left=()).comment)


async def test_database_has_its_name_again_when_another_instance_has_got_the_former_since(
    site: Site, rows: asyncpg.Connection, admin: asyncpg.Connection, name: str
) -> None:
    job = await created(site.operator, name)
    async with site.server_put_back():
        await site.rename(job, f"{name} new")
        await _left_long_ago(rows, admin, database_name(f"{name} new", job.template))
        other = await created(site.operator, name)
        expected = await site.known(job)
    outcome = await site.recovered()
    assert [step.kind for step in outcome.done] == [StepKind.HAND_OVER]
    assert await site.known(job) == expected
    assert await row_of(admin, other.database) is None


@pytest.mark.parametrize("renames", [{"a": "c", "b": "a", "c": "b"}, {"b": "c", "a": "b"}])
async def test_databases_have_their_names_again_when_others_had_these_on_the_server_put_back(
    site: Site, rows: asyncpg.Connection, admin: asyncpg.Connection, name: str, renames: Mapping[str, str]
) -> None:
    jobs = [await created(site.operator, f"{name} {one}") for one in ("a", "b")]
    its = dict(zip(("a", "b"), jobs, strict=True))
    oids = [await admin.fetchval(_OID, job.database) for job in jobs]
    async with site.server_put_back():
        for old, new in renames.items():
            its[new] = its.pop(old)
            await site.rename(its[new], f"{name} {new}")
            await _left_long_ago(rows, admin, database_name(f"{name} {new}", jobs[0].template))
        expected = [await site.known(job) for job in jobs]
    await site.recovered()
    assert [await site.known(job) for job in jobs] == expected
    databases = [(await site.operator.instance(job)).database_name for job in jobs]
    assert [await admin.fetchval(_OID, database) for database in databases] == oids


async def test_database_has_its_name_when_a_recovery_was_interrupted_that_gave_it_a_private_one(
    site: Site, tenant: Tenant, admin: asyncpg.Connection, name: str
) -> None:
    job = await created(site.operator, name)
    async with site.server_put_back():
        await site.rename(job, f"{name} new")
        expected = await site.known(job)
    (step,) = (await site.recovery.plan()).steps
    await leave_name(tenant, step)
    assert await row_of(admin, job.database) is None
    await site.recovered()
    assert await site.known(job) == expected


async def test_database_goes_to_the_trash_again_when_the_server_was_put_back_to_before_the_delete(
    site: Site, name: str
) -> None:
    job = await created(site.operator, name)
    async with site.server_put_back():
        await site.delete(job)
        other = await created(site.operator, name)
        expected = await site.known(job)
    outcome = await site.recovered()
    assert [step.kind for step in outcome.done] == [StepKind.DELETE]
    assert await site.known(job) == expected
    await site.delete(other)
    await site.undelete(job)


async def test_database_comes_back_under_its_last_name_when_the_server_was_put_back_to_before_the_undelete(
    site: Site, name: str
) -> None:
    job = await created(site.operator, name)
    await site.delete(job)
    async with site.server_put_back():
        await site.undelete(job, f"{name} back")
        expected = await site.known(job)
    outcome = await site.recovered()
    assert [step.kind for step in outcome.done] == [StepKind.HAND_OVER]
    assert await site.known(job) == expected


async def test_name_of_the_registry_stays_when_the_server_was_put_back_to_before_a_rename_and_a_delete(
    site: Site, name: str
) -> None:
    job = await created(site.operator, name)
    async with site.server_put_back():
        await site.rename(job, f"{name} new")
        await site.delete(job)
        expected = await site.known(job)
    outcome = await site.recovered()
    assert [step.kind for step in outcome.done] == [StepKind.DELETE]
    assert await site.known(job) == expected
    await site.undelete(job)
    assert (await site.known(job))[0] == f"{name} new"


@pytest.mark.parametrize("is_deleted", [False, True])
async def test_server_follows_when_it_was_put_back_to_what_a_recovered_registry_never_knew(
    site: Site,
    admin: asyncpg.Connection,
    name: str,
    is_deleted: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    job = await created(site.operator, name)
    expected = await site.known(job)
    if is_deleted:
        await site.delete(job)
        async with site.server_put_back():
            await site.undelete(job)
    database = trash_name(job.database_id) if is_deleted else job.database
    row = await row_of(admin, database)
    assert row is not None
    told = Owner.read(row["comment"])
    assert told is not None
    before = datetime.now(UTC) - timedelta(hours=1)
    await comment_on(
        admin, database, replace(told, name="Older", revision=str(uuid.uuid4())).comment_at(before)
    )
    if not is_deleted:
        await admin.execute(f'ALTER DATABASE "{database}" RENAME TO "EdFi_Ods_Older_Minimal"')
    outcome = await site.recovered()
    assert [step.kind for step in outcome.done] == [StepKind.HAND_OVER]
    assert await site.known(job) == expected
    assert await row_of(admin, job.database) is not None


async def test_operator_says_which_is_meant_when_the_server_was_put_back_to_before_an_undo(
    site: Site, name: str
) -> None:
    job = await created(site.operator, name)
    await site.reset(job)
    async with site.server_put_back():
        assert await site.operator.ended(await undo(site.operator, job)) is JobStatus.COMPLETED
    outcome = await site.recovery.apply()
    (question,) = outcome.plan.questions
    assert (outcome.done, len(question.databases)) == ([], 2)
    outcome = await site.recovery.apply([job.database])
    assert [step.database for step in outcome.done] == [job.database]
    assert await site.operator.ended(await undo(site.operator, job)) is JobStatus.COMPLETED
    assert str((await site.operator.instance(job)).database_id) == job.database_id


async def test_other_ods_instance_is_led_nowhere_when_the_deleted_one_has_given_its_name_away(
    site: Site, rows: asyncpg.Connection, name: str
) -> None:
    job = await created(site.operator, name)
    leads = "SELECT connectionstring FROM dbo.odsinstances WHERE odsinstanceid = $1"
    its = await rows.fetchval(leads, job.ods_instance_id)
    other = await rows.fetchval(
        "INSERT INTO dbo.odsinstances (name, connectionstring) VALUES ('Other', $1) RETURNING odsinstanceid",
        its,
    )
    async with site.forgotten():
        await rows.execute("DELETE FROM dbo.odsinstances WHERE odsinstanceid = $1", other)
        await site.delete(job)
        await created(site.operator, name)
    await site.recovered()
    led = site.tenant.connection_strings.local_database(await rows.fetchval(leads, other))
    assert led not in {None, job.database}


async def test_comment_tells_of_the_protection_when_it_is_written_anew(
    site: Site, admin: asyncpg.Connection, name: str
) -> None:
    job = await created(site.operator, name)
    await site.instances.change_attributes(job.instance_id, AttributeChanges(protected=True))
    await admin.execute(f'COMMENT ON DATABASE "{job.database}" IS NULL')
    await DatabaseAdoption(site.tenant).adopt(job.instance_id)
    row = await row_of(admin, job.database)
    told = None if row is None else Owner.read(row["comment"])
    assert told is not None
    assert told.is_protected


async def test_lost_instance_is_deleted_when_its_undelete_had_failed(
    site: Site, admin: asyncpg.Connection, name: str
) -> None:
    async with site.forgotten():
        job = await created(site.operator, name)
        await site.delete(job)
        trash = trash_name(job.database_id)
        row = await row_of(admin, trash)
        assert row is not None
        await comment_on(admin, trash, row["comment"].replace("DeleteInstanceJob", "UndeleteInstanceJob"))
    outcome = await site.recovered()
    assert [step.kind for step in outcome.done] == [StepKind.RECORD_DELETED]
    await site.undelete(job)


@pytest.mark.parametrize("is_later", [True, False])
async def test_operator_says_which_is_meant_when_one_of_yesterday_was_restored_beside_the_last(
    site: Site,
    admin: asyncpg.Connection,
    name: str,
    is_later: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """The other one goes to the trash, as if a reset had replaced it."""
    job = await created(site.operator, name)
    row = await row_of(admin, job.database)
    assert row is not None
    async with site.forgotten():
        await site.rename(job, f"{name} new")
        expected = await site.known(job)
    await admin.execute(f'CREATE DATABASE "{job.database}" OWNER {SERVICE_ROLE}')
    await comment_on(admin, job.database, row["comment"])
    last = str(expected[3])
    plan = await site.recovery.plan()
    assert [{one.name for one in question.databases} for question in plan.questions] == [{last, job.database}]
    both = await site.recovery.apply([last, job.database])
    assert (both.done, len(both.plan.questions)) == ([], 1), "one of them is the instance's"
    chosen, other = (last, job.database) if is_later else (job.database, last)
    oid = await admin.fetchval("SELECT oid FROM pg_database WHERE datname = $1", other)
    outcome = await site.recovered(chosen)
    assert [step.database for step in outcome.done] == [chosen]
    assert (await site.operator.instance(job)).database_name == chosen
    (version,) = await site.operator.queries.versions()
    assert version.purge_after is None, "only a client has it dropped"
    aside = await row_of(admin, version.trash_name)
    assert aside is not None
    assert (aside["oid"], aside["datallowconn"]) == (oid, False)
    await site.undo_reset(job)
    current = await row_of(admin, chosen)
    assert current is not None
    assert current["oid"] == oid


async def test_choice_is_refused_when_no_instance_has_the_database(api: httpx.AsyncClient) -> None:
    answer = await api.post("/v2/recovery", json={"choose": ["EdFi_Ods_Unknown"]})
    assert answer.status_code == 400
    assert "EdFi_Ods_Unknown" in str(faults_of(answer)["Choose"])


@pytest.mark.parametrize(
    "body",
    [
        {"confirm": 1},
        {"acceptStore": "yes"},
        {"asNewInstallation": 1},
        {"asNewInstallation": True, "confirm": True},
        {"choose": "a"},
        {"choose": [1]},
        {"chosen": []},
    ],
)
async def test_request_is_refused_when_it_does_not_name_databases(
    api: httpx.AsyncClient, body: dict[str, object]
) -> None:
    assert (await api.post("/v2/recovery", json=body)).status_code == 400


async def test_names_follow_when_two_instances_have_taken_each_others_place(site: Site, name: str) -> None:
    first, second = await created(site.operator, f"{name} 1"), await created(site.operator, f"{name} 2")
    async with site.forgotten():
        await site.rename(second, f"{name} 3")
        await site.delete(first)
        expected = [await site.known(one) for one in (first, second)]
    await site.recovered()
    assert [await site.known(one) for one in (first, second)] == expected


async def test_new_registry_goes_on_as_the_installation_whose_registry_is_lost(
    site: Site, tenant: Tenant, postgres: EmbeddedPostgres, prepared_postgres: EmbeddedPostgres, name: str
) -> None:
    """By the command line alone, before API or worker are started on the new registry."""
    lost, before = await tenant.installation.id(), dict[str, tuple[object, ...]]()
    for job in (await created(site.operator, name), await created(site.operator, f"{name} deleted")):
        if "deleted" in job.name:
            await site.delete(job)
        before[job.mark] = await site.known(job)
    async with registries.cloned(prepared_postgres) as anew, session(anew) as rows:
        settings = make_settings(postgres, anew)
        async with open_tenants(settings) as (new,):
            with pytest.raises(IdentityError, match="No database on the server"):
                await Recovery(new).take_over(str(uuid.uuid4()))
        plan = preloaded.run("ods.cli", "recover", env=environment(settings))
        assert f"another installation: {lost} (of tenant {tenant.name}; databases: " in plan.stdout
        assert f"--apply --as-installation {lost}" in plan.stdout
        words = ("recover", "--apply", "--as-installation", lost, "--confirm")
        asked = preloaded.run("ods.cli", *words, env=environment(settings))
        assert (asked.returncode, "Aborted" in asked.stderr) == (1, True)
        assert f"the installation {lost} (of tenant {tenant.name}; databases: " in asked.stderr
        assert str(await rows.fetchval("SELECT id FROM adminapi.installation")) != lost
        preloaded.run("ods.cli", *words, "--yes", env=environment(settings))
        assert str(await rows.fetchval("SELECT id FROM adminapi.installation")) == lost
        for mark, known in before.items():
            (row,) = await rows.fetch(_KNOWN, mark)
            assert tuple(row) == known
        again = preloaded.run("ods.cli", *words, "--yes", env=environment(settings))
        assert "This registry has instances, or had" in again.stderr
