"""The server of the ODS databases is put back to the middle of a job, which is done by the registry."""

import asyncio
import re
from dataclasses import dataclass, replace

import asyncpg
import pytest
from temporalio.client import Client

from ods.databases.ownership import Owner
from ods.embedded.postgres import EmbeddedPostgres
from ods.model.arguments import Way
from ods.model.operations import InstanceStatus, JobStatus
from ods.recovery.adoption import AdoptionRefusedError, DatabaseAdoption
from ods.recovery.compare.findings import RECOVER, DriftKind
from ods.recovery.recovery import Recovery
from ods.registry.instances.deletes import Delete
from ods.registry.instances.jobs import InstanceJob
from ods.settings.settings import Settings
from ods.tenants.job_owners import owner_of
from ods.tenants.tenant import Tenant
from tests.end_to_end.conftest import Operator
from tests.end_to_end.steps import (
    COMMENT,
    comment,
    created,
    drifts_of,
    names,
    read,
    reconcile,
    reset,
    undo,
    write,
)

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("workers")]


@dataclass(frozen=True)
class _NotExchanged:
    """An instance that was reset by the registry, on a server that was put back to before the exchange.

    Attributes:
        job: its creation; the database with its name has "old" data.
        made: the database that the reset had made for it, with "new" data, under its private name.
        before: what the registry calls the database with the old data, in the trash.
    """

    job: InstanceJob
    made: str
    before: str


@pytest.fixture
async def not_exchanged(
    operator: Operator, postgres: EmbeddedPostgres, admin: asyncpg.Connection, name: str
) -> _NotExchanged:
    job = await created(operator, name)
    await write(postgres, job, "old")
    published = await admin.fetchval(COMMENT, job.database)
    done = await reset(operator, job)
    assert await operator.ended(done) is JobStatus.COMPLETED
    await write(postgres, job, "new")
    assert done.replacement is not None
    made, before = done.replacement.database, done.trash_database
    marked = Owner.read(await admin.fetchval(COMMENT, job.database))
    assert marked is not None
    async with asyncio.timeout(20):
        while await admin.fetchval("SELECT count(*) FROM pg_stat_activity WHERE datname = $1", job.database):
            await asyncio.sleep(0.01)
    await admin.execute(f'ALTER DATABASE "{job.database}" RENAME TO "{made}"')
    await comment(admin, made, replace(marked, number=0).comment)
    await admin.execute(f'ALTER DATABASE "{made}" ALLOW_CONNECTIONS false')
    await admin.execute(f'ALTER DATABASE "{before}" RENAME TO "{job.database}"')
    await admin.execute(f'ALTER DATABASE "{job.database}" ALLOW_CONNECTIONS true')
    await comment(admin, job.database, published)
    return _NotExchanged(job, made, before)


async def test_what_a_reset_has_made_can_take_its_place_when_the_server_was_put_back_to_before_the_exchange(
    operator: Operator,
    tenant: Tenant,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    not_exchanged: _NotExchanged,
) -> None:
    job, made = not_exchanged.job, not_exchanged.made
    found = await drifts_of(tenant, job.database)
    assert found[DriftKind.CHANGED_BY_HAND].remedy == RECOVER
    for database in (None, job.database, made):
        with pytest.raises(AdoptionRefusedError, match="`ods recover`"):
            await DatabaseAdoption(tenant).adopt(job.instance_id, database)
    await admin.execute(f'ALTER DATABASE "{job.database}" RENAME TO "before_{made}"')  # by hand
    await admin.execute(f'ALTER DATABASE "{made}" RENAME TO "{job.database}"')
    await admin.execute(f'ALTER DATABASE "{job.database}" ALLOW_CONNECTIONS true')
    await DatabaseAdoption(tenant).adopt(job.instance_id)
    assert await read(postgres, job) == ["new"]

    before = (await drifts_of(tenant, f"before_{made}"))[DriftKind.CHANGED_BY_HAND]
    assert f"its mark is on 'before_{made}'" in before.explanation
    assert "Give it its name back" in before.explanation
    await admin.execute(f'ALTER DATABASE "before_{made}" RENAME TO "{not_exchanged.before}"')
    await follow(tenant, admin, not_exchanged.before)
    assert await drifts_of(tenant, job.database) == {}
    assert await operator.ended(await undo(operator, job)) is JobStatus.COMPLETED
    assert await read(postgres, job) == ["old"]


async def test_what_a_reset_has_made_comes_back_when_it_is_undone_after_the_server_was_put_back(
    operator: Operator,
    temporal: Client,
    settings: Settings,
    tenant: Tenant,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    not_exchanged: _NotExchanged,
) -> None:
    job, made = not_exchanged.job, not_exchanged.made
    second = await undo(operator, job)
    assert await operator.ended(second) is JobStatus.COMPLETED
    assert await read(postgres, job) == ["old"]
    await reconcile(temporal, settings)
    assert await names(admin, job.mark) == sorted([job.database, made])
    assert second.replacement is not None
    version = second.trash_database
    (found,) = (await drifts_of(tenant, version)).values()
    assert f"its mark is on '{made}'" in found.explanation
    assert "Give it its name back" in found.explanation
    await admin.execute(f'ALTER DATABASE "{made}" RENAME TO "{version}"')
    await follow(tenant, admin, version)
    assert await operator.ended(await undo(operator, job)) is JobStatus.COMPLETED
    assert await read(postgres, job) == ["new"]


@pytest.mark.parametrize("is_deleted", [False, True])
async def test_database_of_before_a_reset_is_recovered_when_the_server_was_put_back_to_before_the_exchange(
    operator: Operator,
    temporal: Client,
    settings: Settings,
    tenant: Tenant,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    not_exchanged: _NotExchanged,
    *,
    is_deleted: bool,
) -> None:
    """Also when a delete has failed, as it finds another database than the registry has."""
    job = not_exchanged.job
    if is_deleted:
        assert await operator.ended(await operator.delete(job)) is JobStatus.ERROR
        assert "`ods recover`" in str((await operator.instance(job)).error_message)
    plan = await Recovery(tenant).plan()
    asked = {one.name for question in plan.questions for one in question.databases}
    assert job.database in asked | {step.database for step in plan.steps}
    outcome = await Recovery(tenant).apply([job.database])
    assert [step.database for step in outcome.done] == [job.database]
    (version,) = await operator.queries.versions()
    assert await names(admin, job.mark) == sorted([job.database, version.trash_name])
    assert (await operator.instance(job)).status == InstanceStatus.COMPLETED
    await reconcile(temporal, settings)
    assert await read(postgres, job) == ["old"]
    assert await operator.ended(await undo(operator, job)) is JobStatus.COMPLETED
    assert await read(postgres, job) == ["new"]


async def follow(tenant: Tenant, admin: asyncpg.Connection, database: str) -> None:
    """Do what drift says of a database of before a reset that has its name in the trash again."""
    while found := await drifts_of(tenant, database):
        (told,) = [drift.explanation for drift in found.values()]
        (statement,) = re.findall(r"COMMENT ON DATABASE .*\}'|ALTER DATABASE .* false", told)
        await admin.execute(statement)


async def unpublish(admin: asyncpg.Connection, job: InstanceJob, database: str) -> str:
    """Give the instance's database the private name that it had before it was published; returns that."""
    private = owner_of(job).staging_name
    await admin.execute(f'COMMENT ON DATABASE "{database}" IS NULL')
    await admin.execute(f'ALTER DATABASE "{database}" RENAME TO "{private}"')
    await admin.execute(f'ALTER DATABASE "{private}" ALLOW_CONNECTIONS false')
    return private


async def test_database_gets_its_name_again_when_the_server_was_put_back_to_before_it_was_published(
    operator: Operator,
    temporal: Client,
    settings: Settings,
    tenant: Tenant,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    name: str,
) -> None:
    job = await created(operator, name)
    await write(postgres, job, "restored")
    private = await unpublish(admin, job, job.database)
    await reconcile(temporal, settings)
    (drift,) = (await drifts_of(tenant, private)).values()
    assert drift.kind is DriftKind.DATABASE_MISSING
    assert drift.remedy is None
    assert await operator.ended(await reset(operator, job)) is JobStatus.ERROR
    await reconcile(temporal, settings)
    for way in (Way.TRASH, Way.LEAVE):
        requested = await operator.instances.request_delete(job.instance_id, Delete(way))
        await operator.starter.start(requested.job)
        assert await operator.ended(requested.job) is JobStatus.ERROR
        failed = await operator.queries.job(requested.job.job_id)
        assert failed is not None
        assert private in str(failed.error_message)
        await reconcile(temporal, settings)
    for statement in re.findall(r'ALTER DATABASE "[^;,]+(?:true|")', drift.explanation):
        await admin.execute(statement)
    await DatabaseAdoption(tenant).adopt(job.instance_id)
    assert await read(postgres, job) == ["restored"]
    assert await drifts_of(tenant, job.database, private) == {}


async def test_database_comes_back_when_the_server_was_put_back_to_before_it_was_published_and_deleted(
    operator: Operator,
    temporal: Client,
    settings: Settings,
    tenant: Tenant,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    name: str,
) -> None:
    job = await created(operator, name)
    await write(postgres, job, "restored")
    deleted = await operator.delete(job)
    assert await operator.ended(deleted) is JobStatus.COMPLETED
    trash = str((await operator.instance(job)).database.trash_name)
    private = await unpublish(admin, job, trash)
    await reconcile(temporal, settings)
    (drift,) = (await drifts_of(tenant, private)).values()
    assert drift.kind is DriftKind.DATABASE_MISSING
    assert drift.remedy is None
    (rename,) = re.findall(r'ALTER DATABASE "\S+" RENAME TO "\S+"', drift.explanation)
    await admin.execute(rename)
    await follow(tenant, admin, trash)
    undelete = await operator.instances.request_undelete(job.instance_id)
    await operator.starter.start(undelete.job)
    assert await operator.ended(undelete.job) is JobStatus.COMPLETED
    assert await read(postgres, job) == ["restored"]


@pytest.mark.parametrize("is_live", [True, False])
async def test_nothing_is_left_when_an_instance_is_purged_whose_database_was_not_published(
    operator: Operator,
    temporal: Client,
    settings: Settings,
    admin: asyncpg.Connection,
    name: str,
    *,
    is_live: bool,
) -> None:
    job = await created(operator, name)
    if is_live:
        private = await unpublish(admin, job, job.database)
    else:
        assert await operator.ended(await operator.delete(job)) is JobStatus.COMPLETED
        private = await unpublish(admin, job, str((await operator.instance(job)).database.trash_name))
    purge = await operator.instances.request_delete(job.instance_id, Delete(Way.DROP))
    await operator.starter.start(purge.job)
    assert await operator.ended(purge.job) is JobStatus.COMPLETED
    await reconcile(temporal, settings)
    assert await admin.fetchval("SELECT count(*) FROM pg_database WHERE datname = $1", private) == 0
