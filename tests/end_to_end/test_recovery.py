"""A registry that was put back to an earlier state follows the server, by one command."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg
import httpx
import pytest

from ods.embedded.polling import wait_until
from ods.model.operations import JobStatus, Template
from ods.recovery.plan import StepKind
from ods.recovery.recovery import Outcome, Recovery
from ods.registry.instances.jobs import InstanceJob
from ods.registry.instances.store import Requested
from ods.tenants.tenant import Tenant
from tests.end_to_end.conftest import Operator
from tests.end_to_end.steps import created
from tests.postgres.postgres_inspection import comment_on, row_of
from tests.put_back_rows import JOBS, put_rows_back, remember_rows

pytestmark = pytest.mark.usefixtures("workers")

_DATABASES = (
    "SELECT oid FROM pg_database WHERE shobj_description(oid, 'pg_database') LIKE '%\"mark\"%' ORDER BY oid"
)
_KNOWN = """
SELECT i.name, i.state, i.databasetemplate, i.databasename, d.reason, o.name AS routed
FROM adminapi.dbinstances AS i
    JOIN adminapi.databases AS d ON (d.instanceid, d.databaseid) = (i.id, i.databaseid)
    LEFT JOIN dbo.odsinstances AS o ON o.odsinstanceid = i.odsinstanceid
WHERE i.mark = $1
"""


class Site:
    """Instances, and a registry that is put back."""

    def __init__(
        self, operator: Operator, tenant: Tenant, rows: asyncpg.Connection, admin: asyncpg.Connection
    ) -> None:
        self.operator = operator
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

    async def recovered(self) -> Outcome:
        """Recover; nothing is left to be done after that, and no database has gone."""
        before = await self.databases()
        outcome = await self.recovery.apply()
        assert (outcome.refused, outcome.is_over) == ([], True)
        assert (outcome.plan.steps, outcome.plan.questions) == ([], [])
        assert await self.databases() == before
        assert (await self.recovery.apply()).done == []
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


async def test_instance_is_led_to_its_database_when_the_server_was_put_back_to_before_a_rename(
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
    instance = await site.operator.instance(job)
    assert (instance.name, instance.database_name) == (f"{name} new", job.database)


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


@pytest.mark.parametrize("body", [{"confirm": 1}, {"choose": "a"}, {"choose": [1]}, {"chosen": []}])
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
