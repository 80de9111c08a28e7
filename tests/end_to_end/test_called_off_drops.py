"""Drops that were called off, at any stage and in any way: what stays when passes and an Admin API go on."""

from enum import StrEnum
from typing import assert_never

import asyncpg
import pytest
from temporalio.client import Client

from ods.embedded.polling import wait_until
from ods.model import arguments
from ods.model.operations import AT_REST, JobStatus
from ods.registry.instances.cancelling import JobCancellations
from ods.registry.instances.deletes import Delete
from ods.registry.instances.jobs import InstanceJob
from ods.settings.settings import Settings
from ods.tenants.tenant import Tenant
from tests.end_to_end.conftest import Operator
from tests.end_to_end.steps import HALF_DROP, created, names, reconcile, reset, sweep

pytestmark = [pytest.mark.usefixtures("workers"), pytest.mark.long]

DROP, BACKED_UP = Delete(arguments.Way.DROP), Delete(arguments.Way.DROP, final_backup=True)


class Place(StrEnum):
    """Where the database is that is to be dropped."""

    LIVE = "live"
    TRASH = "trash"


class Stage(StrEnum):
    """How far the DROP of the instance's own database has got when it is called off."""

    NOT_BEGUN = "not begun"
    HALF_DROPPED = "half dropped"
    DROPPED = "dropped"


class Way(StrEnum):
    """How it is called off."""

    WHILE_IT_RUNS = "cancelled while it runs"
    WITHOUT_WORKFLOW = "cancelled without a workflow"
    BY_THE_PASS = "recorded as cancelled, for the pass"
    BEFORE_ITS_RETRY = "cancelled while its retry waits"
    ABANDONED = "abandoned after an outage"
    CONFIRMED_RUNNING = "confirmed while it runs"
    CONFIRMED_FAILED = "confirmed after an outage"


async def call_off(operator: Operator, cancellations: JobCancellations, job: InstanceJob, way: Way) -> None:
    """Call off the drop `job`, which is in progress, and which no workflow carries out."""
    match way:
        case Way.WHILE_IT_RUNS:
            assert await operator.jobs.fail(job, "The job was cancelled.", cancelled=True)
        case Way.WITHOUT_WORKFLOW:
            assert await cancellations.cancel_lost(job)
        case Way.BY_THE_PASS:
            assert await cancellations.record(job)
        case Way.BEFORE_ITS_RETRY:
            assert await operator.jobs.fail(job, "It has failed.")
            assert (await operator.instances.request_retry(job.instance_id)).job.attempt == 2
            row = await operator.queries.job(job.job_id)
            assert row is not None
            assert await cancellations.cancel_waiting(row)
        case Way.ABANDONED:
            assert await operator.jobs.fail(job, "The server was away.", outage=True)
            assert await cancellations.give_up(job)
        case Way.CONFIRMED_RUNNING:
            assert len(await cancellations.hold_drops()) == 1
        case Way.CONFIRMED_FAILED:
            assert await operator.jobs.fail(job, "The server was away.", outage=True)
            assert await cancellations.hold_drops() == []
        case _:
            assert_never(way)


# What is backed up before it is dropped goes to the trash first.
DROPS = [
    *[(place, DROP, stage) for place in Place for stage in Stage],
    *[(Place.TRASH, BACKED_UP, stage) for stage in Stage],
    (Place.LIVE, BACKED_UP, Stage.NOT_BEGUN),
]


@pytest.mark.parametrize("way", Way)
@pytest.mark.parametrize(("place", "delete", "stage"), DROPS)
@pytest.mark.parametrize("has_version", [True, False], ids=["version", "alone"])
async def test_what_can_be_used_stays_when_its_drop_was_called_off(
    operator: Operator,
    tenant: Tenant,
    rows: asyncpg.Connection,
    admin: asyncpg.Connection,
    temporal: Client,
    settings: Settings,
    name: str,
    way: Way,
    place: Place,
    delete: Delete,
    stage: Stage,
    *,
    has_version: bool,
) -> None:
    job = await created(operator, name)
    own, versions = job.database, set[str]()
    if has_version:
        replacing = await reset(operator, job)
        assert await operator.ended(replacing) is JobStatus.COMPLETED
        assert replacing.replacement is not None
        versions.add(replacing.trash_database)
    if place is Place.TRASH:
        deletion = await operator.delete(job)
        assert await operator.ended(deletion) is JobStatus.COMPLETED
        own = str(deletion.trash_database)
    drop = (await operator.instances.request_delete(job.instance_id, delete)).job
    assert (await operator.jobs.begin(drop)).held
    await _bring_to(admin, own, stage)
    await call_off(operator, tenant.cancellations, drop, way)

    async def is_at_rest() -> bool:
        row = await operator.queries.any_instance(job.instance_id)
        return row is not None and row.status in AT_REST

    async def sweep_and_reconcile() -> None:
        await sweep(temporal, settings)
        await reconcile(temporal, settings)
        await wait_until(is_at_rest, 30)

    usable = versions | ({own} if stage is Stage.NOT_BEGUN else set())
    for _ in range(2):
        await sweep_and_reconcile()
    assert usable <= set(await names(admin, job.mark))
    await rows.execute(
        "UPDATE adminapi.dbinstances SET status = 'PendingDelete' WHERE id = $1", job.instance_id
    )
    await sweep_and_reconcile()
    left = set(await names(admin, job.mark))
    assert versions <= left
    row = await operator.queries.any_instance(job.instance_id)
    assert row is not None
    if stage is Stage.NOT_BEGUN:
        assert row.is_in_trash
        assert row.database.trash_name in left
    await admin.execute(f'DROP DATABASE IF EXISTS "{own}"')  # of half dropped ones, later tests would be told


async def _bring_to(admin: asyncpg.Connection, database: str, stage: Stage) -> None:
    match stage:
        case Stage.NOT_BEGUN:
            pass
        case Stage.HALF_DROPPED:
            await admin.execute(HALF_DROP, database)
        case Stage.DROPPED:
            await admin.execute(f'DROP DATABASE "{database}"')
        case _:
            assert_never(stage)
