"""Who comes first when more databases are wanted than can be made at once."""

import asyncio
from collections.abc import Sequence

import pytest
from temporalio.client import Client

from ods.embedded.postgres import EmbeddedPostgres
from ods.model.operations import JobStatus, Template
from ods.registry.instances.jobs import InstanceJob
from ods.settings.settings import Settings
from ods.tenants.tenant import Tenant
from tests.end_to_end.conftest import Operator
from tests.servers import NUMBERS, make_settings
from worker import ddl_worker, registry_worker


@pytest.fixture
def settings(postgres: EmbeddedPostgres, registry_dsn: str) -> Settings:
    """One database is made at a time."""
    return make_settings(postgres, registry_dsn, ddl_concurrency=1)


async def _requested(operator: Operator, requester: str | None, number: int) -> list[InstanceJob]:
    """So many creates, requested by `requester`, or left to the sweep."""
    jobs = []
    for _ in range(number):
        job = (await operator.instances.reserve(f"Turn {next(NUMBERS)}", Template.MINIMAL)).job
        await operator.starter.start(job, requester)
        await operator.reached(job, {JobStatus.IN_PROGRESS})
        jobs.append(job)
    return jobs


async def _requested_together(operator: Operator, requester: str, number: int) -> list[InstanceJob]:
    """So many creates of one request, started all at once as the API does it."""
    async with operator.instances.together():
        jobs = [
            (await operator.instances.reserve(f"Turn {next(NUMBERS)}", Template.MINIMAL)).job
            for _ in range(number)
        ]
    await asyncio.gather(*(operator.starter.start(job, requester) for job in jobs))
    for job in jobs:
        await operator.reached(job, {JobStatus.IN_PROGRESS})
    return jobs


async def _order(operator: Operator, jobs: Sequence[InstanceJob]) -> list[InstanceJob]:
    """The jobs, as their databases were published."""
    published = {}
    for job in jobs:
        assert await operator.ended(job) is JobStatus.COMPLETED
        published[job.instance_id] = (await operator.instance(job)).database.published_at
    return sorted(jobs, key=lambda job: str(published[job.instance_id]))


async def test_person_does_not_wait_when_a_sweep_has_filled_the_queue(
    operator: Operator, temporal: Client, tenant: Tenant
) -> None:
    async with registry_worker(temporal, tenant):
        swept = await _requested(operator, None, 8)
        (asked,) = await _requested(operator, "a-client", 1)
        async with ddl_worker(temporal, tenant):
            assert asked in (await _order(operator, [*swept, asked]))[:2]


async def test_requesters_are_served_fairly_when_one_of_them_has_filled_the_queue(
    operator: Operator, temporal: Client, tenant: Tenant
) -> None:
    async with registry_worker(temporal, tenant):
        batch = await _requested(operator, "batch", 8)
        (asked,) = await _requested(operator, "a-client", 1)
        async with ddl_worker(temporal, tenant):
            assert asked in (await _order(operator, [*batch, asked]))[:3]


async def test_single_requests_of_others_are_served_fairly_when_one_request_is_for_twenty(
    operator: Operator, temporal: Client, tenant: Tenant
) -> None:
    async with registry_worker(temporal, tenant):
        bulk = await _requested_together(operator, "batch", 20)
        (first,) = await _requested(operator, "a-client", 1)
        (second,) = await _requested(operator, "another-client", 1)
        async with ddl_worker(temporal, tenant):
            order = await _order(operator, [*bulk, first, second])
    # One that was fetched already, then each client in its turn.
    assert {first, second} <= set(order[:4])
