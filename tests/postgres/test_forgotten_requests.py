"""A database whose revision the registry has forgotten is neither dropped nor put aside.

Numbers of jobs do not tell it here: the row has the number of the forgotten request, or a later one.
"""

from collections.abc import Sequence
from typing import Literal, assert_never

import asyncpg
import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.databases import DatabaseActivities
from activities.job_fence import ConcurrencyLimit
from activities.statuses import StatusActivities
from ods.model.arguments import Way
from ods.model.operations import Template
from ods.recovery.adoption import DatabaseAdoption
from ods.recovery.following import follow
from ods.recovery.plan import StepKind
from ods.recovery.recovery import Recovery
from ods.registry.instances.deletes import Delete
from ods.registry.instances.jobs import InstanceJob
from ods.settings.settings import Settings
from ods.tenants.tenant import Tenant
from tests.job_kinds import kind_of
from tests.put_back_rows import put_rows_back, remember_rows

pytestmark = pytest.mark.long

_STATE = (
    "SELECT string_agg(oid || datname || datallowconn, ',' ORDER BY oid) FROM pg_database"
    " WHERE shobj_description(oid, 'pg_database') LIKE $1"
)
_DESCRIBED = """
SELECT shobj_description(oid, 'pg_database')::json ->> 'instance' AS instance,
    shobj_description(oid, 'pg_database')::json ->> 'template' AS template
FROM pg_database WHERE shobj_description(oid, 'pg_database') LIKE $1
"""
_FORGET = """
DELETE FROM adminapi.databaserevisions WHERE instanceid = $1
    AND at = (SELECT max(at) FROM adminapi.databaserevisions WHERE instanceid = $1)
RETURNING *
"""
_CONFIRM_LAST = """
UPDATE adminapi.databaserevisions SET state = 'confirmed'
WHERE (databaseid, at) IN (
    SELECT databaseid, max(at) FROM adminapi.databaserevisions WHERE instanceid = $1 GROUP BY databaseid
)
"""
_Publisher = Literal["undelete", "rename", "reset", "adoption"]
publishers = pytest.mark.parametrize("publisher", ["undelete", "rename", "reset", "adoption"])


class Site:
    """An instance with a database that was made by the product, and jobs on it as workers do them."""

    def __init__(
        self, tenant: Tenant, rows: asyncpg.Connection, admin: asyncpg.Connection, name: str
    ) -> None:
        self.tenant = tenant
        self.activities = DatabaseActivities(tenant, ConcurrencyLimit(1))
        self.rows = rows
        self._admin = admin
        self._name = name
        self.job: InstanceJob

    async def create(self) -> None:
        """Create the instance."""
        self.job = await self.begun((await self.tenant.instances.reserve(self._name, Template.MINIMAL)).job)
        await ActivityEnvironment().run(self.activities.provision, self.job)

    async def begun(self, job: InstanceJob) -> InstanceJob:
        """The job, which has the instance now."""
        assert (await self.tenant.jobs.begin(job)).held
        return job

    async def publish(self, publisher: _Publisher) -> None:
        """Have a request publish the database of the instance."""
        instances, jobs, run = self.tenant.instances, self.tenant.jobs, ActivityEnvironment().run
        match publisher:
            case "undelete":
                await self.trash()
                job = await self.begun((await instances.request_undelete(self.job.instance_id)).job)
                await run(self.activities.undelete, job)
                assert await jobs.finish_undelete(job, "any")
            case "rename":
                asked = await instances.request_rename(self.job.instance_id, f"{self._name} new")
                job = await self.begun(asked.job)
                await run(self.activities.rename, job)
                assert await jobs.finish_rename(job, "any")
            case "reset":
                job = await self.begun((await instances.request_reset(self.job.instance_id)).job)
                assert (await run(self.activities.reset, job)).is_recorded
            case "adoption":
                await DatabaseAdoption(self.tenant).adopt(self.job.instance_id)
            case _:
                assert_never(publisher)

    async def trash(self) -> InstanceJob:
        """Delete the instance, which can come back."""
        job = await self.begun(await self.asked("Trash"))
        assert (await ActivityEnvironment().run(self.activities.trash, job)).is_recorded
        return job

    async def asked(self, kind: str, *, backup_first: bool = False) -> InstanceJob:
        """A job of this kind, which is requested."""
        instances, number = self.tenant.instances, self.job.instance_id
        match kind:
            case "Delete" | "Trash" | "Detach":
                requested = await instances.request_delete(number, Delete(Way(kind)))
            case "Purge":
                requested = await instances.request_purge(number, final_backup=backup_first)
            case "Reset":
                requested = await instances.request_reset(number)
            case "UndoReset":
                requested = await instances.request_undo_reset(number)
            case "Rename":
                requested = await instances.request_rename(number, f"{self._name} last")
            case "Undelete":
                requested = await instances.request_undelete(number)
            case _:
                raise AssertionError(kind)
        return requested.job

    async def forget(self) -> Sequence[asyncpg.Record]:
        """Have the registry forget the latest revisions, and nothing else; returns them."""
        known: Sequence[asyncpg.Record] = await self.rows.fetch(_FORGET, self.job.instance_id)
        await self.rows.execute(_CONFIRM_LAST, self.job.instance_id)
        return known

    async def know(self, revisions: Sequence[asyncpg.Record]) -> None:
        """Have the registry know these revisions again."""
        for one in revisions:
            await self.rows.execute(
                "INSERT INTO adminapi.databaserevisions VALUES ($1, $2, $3, $4, $5, $6)", *one.values()
            )

    async def state(self) -> str | None:
        """The databases of the instance, and whether they are open."""
        state: str | None = await self._admin.fetchval(_STATE, f"%{self.job.mark}%")
        return state

    async def described(self) -> set[tuple[str, str]]:
        """What the comments of the instance's databases call it, and the templates that they name."""
        rows = await self._admin.fetch(_DESCRIBED, f"%{self.job.mark}%")
        return {(row["instance"], row["template"]) for row in rows}

    async def work(self, job: InstanceJob) -> None:
        """Do what the job is to do with the databases."""
        run, activities = ActivityEnvironment().run, self.activities
        match kind_of(job):
            case "Delete":
                await run(activities.drop, job)
            case "Trash":
                await run(activities.trash, job)
            case "Detach":
                await run(activities.detach, job)
            case "Purge":
                await run(activities.purge, job)
            case "Reset":
                await run(activities.reset, job)
            case "UndoReset":
                await run(activities.reset, job)
            case "Rename":
                await run(activities.rename, job)
            case "Undelete":
                await run(activities.undelete, job)
            case _:
                raise AssertionError(kind_of(job))


@pytest.fixture
async def site(tenant: Tenant, rows: asyncpg.Connection, admin: asyncpg.Connection, name: str) -> Site:
    """A site with one instance."""
    site = Site(tenant, rows, admin, name)
    await site.create()
    return site


async def assert_refused_until_known(site: Site, job: InstanceJob, known: Sequence[asyncpg.Record]) -> None:
    """Assert that the work of the job is refused, and done as soon as the registry knows the request."""
    before = await site.state()
    assert before is not None
    for _ in range(2):
        with pytest.raises(ApplicationError, match="restored to"):
            await site.work(job)
        assert await site.state() == before
    await site.know(known)
    await site.work(job)
    assert await site.state() != before


@publishers
@pytest.mark.parametrize("kind", ["Delete", "Trash", "Detach"])
async def test_delete_is_refused_when_the_request_that_published_the_database_is_forgotten(
    site: Site, settings: Settings, publisher: _Publisher, kind: str
) -> None:
    await site.publish(publisher)
    known = await site.forget()
    job = await site.asked(kind)
    tenant = site.tenant
    statuses = StatusActivities(tenant)
    assert "restored to" in str(await statuses._refusal(job))  # noqa: SLF001 - `begin` would end the job
    await assert_refused_until_known(site, await site.begun(job), known)


@publishers
async def test_reset_is_refused_when_the_request_that_published_the_database_is_forgotten(
    site: Site, publisher: _Publisher
) -> None:
    await site.publish(publisher)
    known = await site.forget()
    job = await site.begun(await site.asked("Reset"))
    await assert_refused_until_known(site, job, known)


async def test_undo_of_a_reset_is_refused_when_the_request_of_the_reset_is_forgotten(site: Site) -> None:
    await site.publish("reset")
    known = await site.forget()
    job = await site.begun(await site.asked("UndoReset"))
    await assert_refused_until_known(site, job, known)


@publishers
@pytest.mark.parametrize("backup_first", [False, True])
async def test_purge_is_refused_when_the_request_that_published_the_database_is_forgotten(
    site: Site, publisher: _Publisher, *, backup_first: bool
) -> None:
    await site.publish(publisher)
    await site.trash()
    known = await site.forget()
    job = await site.begun(await site.asked("Purge", backup_first=backup_first))
    if not backup_first:
        await assert_refused_until_known(site, job, known)
        return
    before = await site.state()
    for step in (site.activities.back_up_trash, site.activities.purge_backed_up):
        with pytest.raises(ApplicationError, match="restored to"):
            await ActivityEnvironment().run(step, job)
        assert await site.state() == before


async def test_version_is_not_purged_when_the_request_that_put_it_into_the_trash_is_forgotten(
    site: Site,
) -> None:
    await site.publish("reset")
    known = await site.forget()
    await site.rows.execute(
        "UPDATE adminapi.databases SET purgeafter = now() - interval '1 day' WHERE reason = 'replaced'"
    )
    (purge,) = await site.tenant.versions.claim_due(5)
    before = await site.state()
    versions = DatabaseActivities(site.tenant, ConcurrencyLimit(1))
    with pytest.raises(ApplicationError, match="as the registry knows it"):
        await ActivityEnvironment().run(versions.purge_version, purge)
    assert await site.state() == before
    await site.know(known)
    await ActivityEnvironment().run(versions.purge_version, purge)
    assert await site.state() != before


@publishers
async def test_rename_is_refused_when_the_request_that_published_the_database_is_forgotten(
    site: Site, publisher: _Publisher
) -> None:
    await site.publish(publisher)
    known = await site.forget()
    job = await site.begun(await site.asked("Rename"))
    await assert_refused_until_known(site, job, known)


async def test_undelete_is_refused_when_the_request_that_deleted_the_database_is_forgotten(
    site: Site,
) -> None:
    await site.trash()
    known = await site.forget()
    job = await site.begun(await site.asked("Undelete"))
    await assert_refused_until_known(site, job, known)


async def test_what_an_undelete_has_opened_stays_when_its_request_is_forgotten_before_it_is_undone(
    site: Site,
) -> None:
    await site.trash()
    instances, jobs = site.tenant.instances, site.tenant.jobs
    job = await site.begun((await instances.request_undelete(site.job.instance_id)).job)
    await ActivityEnvironment().run(site.activities.undelete, job)
    await jobs.fail(job, "The server was away.")
    known = await site.forget()
    before = await site.state()
    with pytest.raises(ApplicationError, match="restored to"):
        await ActivityEnvironment().run(site.activities.compensate, job)
    assert await site.state() == before
    await site.know(known)
    await ActivityEnvironment().run(site.activities.compensate, job)
    assert await site.state() != before


async def test_comments_have_the_revisions_that_the_registry_knows_when_jobs_have_published(
    site: Site,
) -> None:
    await site.publish("rename")
    await site.publish("reset")
    comments = await site.rows.fetch(
        "SELECT shobj_description(oid, 'pg_database')::json ->> 'revision' FROM pg_database"
        " WHERE shobj_description(oid, 'pg_database') LIKE $1",
        f"%{site.job.mark}%",
    )
    its = site.job.instance_id
    confirmed = await site.rows.fetch(
        "SELECT id::text FROM adminapi.databaserevisions WHERE state = 'confirmed' AND instanceid = $1", its
    )
    assert len(comments) == 2
    assert {tuple(one) for one in comments} == {tuple(one) for one in confirmed}
    unresolved = "SELECT FROM adminapi.databaserevisions WHERE state = 'intended' AND instanceid = $1"
    assert await site.rows.fetch(unresolved, its) == []


async def test_comments_name_the_instance_and_its_template_when_jobs_have_published_or_undone(
    site: Site, name: str
) -> None:
    instances, jobs, run = site.tenant.instances, site.tenant.jobs, ActivityEnvironment().run
    its = site.job.instance_id
    assert await site.described() == {(name, "Minimal")}
    await site.publish("rename")
    assert await site.described() == {(f"{name} new", "Minimal")}
    resetting = (await instances.request_reset(its, Template.SAMPLE)).job
    await run(site.activities.reset, await site.begun(resetting))
    both = {(f"{name} new", "Minimal"), (f"{name} new", "Sample")}
    assert await site.described() == both
    renaming = await site.begun((await instances.request_rename(its, f"{name} not")).job)
    await run(site.activities.rename, renaming)
    assert await site.described() == {(f"{name} new", "Minimal"), (f"{name} not", "Sample")}
    await jobs.fail(renaming, "The server was away.")
    await run(site.activities.compensate, renaming)
    assert await site.described() == both
    await site.trash()
    coming_back = await site.begun((await instances.request_undelete(its, f"{name} back")).job)
    await run(site.activities.undelete, coming_back)
    assert await jobs.finish_undelete(coming_back, "any")
    assert await site.described() == {(f"{name} new", "Minimal"), (f"{name} back", "Sample")}


async def test_databases_keep_their_templates_when_a_reset_and_a_delete_are_recovered(site: Site) -> None:
    """The registry is put back to before a reset to another template."""
    its = site.job.instance_id
    await remember_rows(site.rows)
    resetting = (await site.tenant.instances.request_reset(its, Template.SAMPLE)).job
    await ActivityEnvironment().run(site.activities.reset, await site.begun(resetting))
    await site.trash()
    await put_rows_back(site.rows)
    steps = (await Recovery(site.tenant).plan()).steps  # also for what other tests have left
    (step,) = [step for step in steps if step.ods_instance_id == site.job.ods_instance_id]
    await follow(site.tenant, step)
    assert step.kind is StepKind.DELETE
    row = await site.tenant.queries.any_instance(its)
    assert row is not None
    assert {row.database_template, row.database.database_template} == {"Sample"}
    (version,) = await site.tenant.queries.versions_of(its)
    assert version.database_template == "Minimal"
