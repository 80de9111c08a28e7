"""Jobs that waited, or had failed, in the registry that was put back, and were done or called off since."""

from collections.abc import Awaitable, Callable

import asyncpg
import httpx
import pytest

from ods.model.arguments import Way
from ods.model.operations import JobStatus, Template
from ods.recovery.compare.detector import DriftDetector
from ods.recovery.compare.findings import DriftKind
from ods.recovery.plan import StepKind
from ods.registry.instances.deletes import Delete
from ods.registry.instances.jobs import InstanceJob
from ods.registry.instances.naming import database_name
from ods.registry.instances.store import Requested
from ods.settings.settings import Settings
from tests.end_to_end import steps
from tests.end_to_end.steps import created
from tests.end_to_end.test_recovery import Site, site

__all__ = ["site"]

pytestmark = pytest.mark.usefixtures("workers")


async def _create(site: Site, name: str) -> Requested:
    return await site.instances.reserve(name, Template.MINIMAL)


async def _delete(site: Site, name: str) -> Requested:
    job = await created(site.operator, name)
    return await site.instances.request_delete(job.instance_id)


async def _undelete(site: Site, name: str) -> Requested:
    job = await created(site.operator, name)
    await site.delete(job)
    return await site.instances.request_undelete(job.instance_id)


async def _purge(site: Site, name: str) -> Requested:
    job = await created(site.operator, name)
    await site.delete(job)
    return await site.instances.request_purge(job.instance_id)


async def _reset(site: Site, name: str) -> Requested:
    job = await created(site.operator, name)
    return await site.instances.request_reset(job.instance_id, Template.SAMPLE)


async def _drop(site: Site, name: str) -> Requested:
    job = await created(site.operator, name)
    return await site.instances.request_delete(job.instance_id, Delete(Way.DROP))


_Request = Callable[[Site, str], Awaitable[Requested]]


async def _findings(site: Site, job: InstanceJob) -> list[DriftKind]:
    """What contradicts itself about an instance, but for its row in the registry of the ODS/API."""
    found = await DriftDetector(site.tenant).detect()
    kinds = [one.kind for one in found if one.subject == f"{job.instance_id} {job.name}"]
    return [kind for kind in kinds if kind is not DriftKind.ROUTE_BROKEN]


@pytest.mark.parametrize("request_job", [_create, _delete, _undelete])
async def test_job_that_was_done_since_is_done_again_and_finds_what_is_there(
    site: Site, name: str, settings: Settings, request_job: _Request
) -> None:
    requested = await request_job(site, name)
    async with site.forgotten():
        await site.done(requested)
        expected = await site.known(requested.job)
    databases = await site.databases()
    outcome = await site.recovery.apply()
    assert outcome.plan.waiting == [name]
    await steps.sweep(site.operator.client, settings)
    assert await site.operator.ended(requested.job) is JobStatus.COMPLETED
    outcome = await site.recovery.apply()
    assert (outcome.done, outcome.plan.is_empty) == ([], True)
    assert await site.known(requested.job) == expected
    assert await site.databases() == databases
    assert await _findings(site, requested.job) == []


@pytest.mark.parametrize("request_job", [_purge, _drop])
async def test_job_that_had_dropped_a_database_is_cancelled_and_requested_again(
    site: Site, name: str, request_job: _Request
) -> None:
    requested = await request_job(site, name)
    async with site.forgotten():
        await site.done(requested)
    outcome = await site.recovery.apply(is_confirmed=True)
    assert [job.job_id for job in outcome.cancelled] == [requested.job.job_id]
    assert await _findings(site, requested.job) == [DriftKind.DATABASE_MISSING]
    ask = site.instances.request_purge if request_job is _purge else site.instances.request_delete
    await site.done(await ask(requested.job.instance_id))
    assert await _findings(site, requested.job) == []


@pytest.mark.parametrize("request_job", [_purge, _drop, _reset])
async def test_job_that_would_drop_a_database_is_cancelled_and_the_database_stays(
    site: Site, name: str, api: httpx.AsyncClient, request_job: _Request
) -> None:
    """Its client has cancelled it since."""
    requested = await request_job(site, name)
    async with site.forgotten():
        cancelled = await api.post(f"/v2/jobs/{requested.job.job_id}/cancel")
        assert cancelled.status_code == 202
        expected = await site.known(requested.job)
    databases = await site.databases()
    outcome = await site.recovery.apply(is_confirmed=True)
    assert [job.job_id for job in outcome.cancelled] == [requested.job.job_id]
    assert await site.known(requested.job) == expected
    assert await site.databases() == databases
    assert await _findings(site, requested.job) == []


async def test_instance_comes_back_when_an_undelete_that_was_done_since_is_cancelled(
    site: Site, name: str, api: httpx.AsyncClient
) -> None:
    requested = await _undelete(site, name)
    async with site.forgotten():
        await site.done(requested)
        expected = await site.known(requested.job)
    assert (await api.post(f"/v2/jobs/{requested.job.job_id}/cancel")).status_code == 202
    assert [step.kind for step in (await site.recovered()).done] == [StepKind.TAKE_BACK]
    assert await site.known(requested.job) == expected


async def test_instance_is_completed_when_its_failed_create_was_retried_since(
    site: Site, name: str, admin: asyncpg.Connection
) -> None:
    in_the_way = database_name(name, Template.MINIMAL)
    await admin.execute(f'CREATE DATABASE "{in_the_way}" TEMPLATE template0')
    job = await site.operator.create(name)
    assert await site.operator.ended(job) is JobStatus.ERROR
    await admin.execute(f'DROP DATABASE "{in_the_way}"')
    async with site.forgotten():
        assert await site.operator.ended(await site.operator.retry(job)) is JobStatus.COMPLETED
        expected = await site.known(job)
    assert [step.kind for step in (await site.recovered()).done] == [StepKind.HAND_OVER]
    assert await site.known(job) == expected
    assert await _findings(site, job) == []


@pytest.mark.parametrize("is_in_trash", [False, True])
async def test_instance_that_was_deleted_for_good_since_is_told_and_deleted_again(
    site: Site, name: str, *, is_in_trash: bool
) -> None:
    job = await created(site.operator, name)
    if is_in_trash:
        await site.delete(job)
    instances = site.instances
    async with site.forgotten():
        request = (
            instances.request_purge(job.instance_id)
            if is_in_trash
            else instances.request_delete(job.instance_id, Delete(Way.DROP))
        )
        await site.done(await request)
    outcome = await site.recovery.apply()
    assert (outcome.done, outcome.plan.is_empty) == ([], True)
    assert await _findings(site, job) == [DriftKind.DATABASE_MISSING]
    ask = instances.request_purge if is_in_trash else instances.request_delete
    await site.done(await ask(job.instance_id))
    assert await _findings(site, job) == []
