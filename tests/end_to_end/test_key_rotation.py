"""All keys are rotated in three steps while jobs come in: nothing is ever unreadable."""

import asyncio
import base64
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import (
    Client,
    ScheduleActionExecutionStartWorkflow,
    WorkflowExecutionStatus,
    WorkflowHandle,
)

from api.security.tokens import Tokens
from ods.embedded.polling import wait_until
from ods.embedded.postgres import EmbeddedPostgres
from ods.model.operations import JobStatus, Template
from ods.recovery.compare.detector import DriftDetector
from ods.registry.connection_strings.encryption import Keyring, decrypt
from ods.registry.connection_strings.key_rotation import rotate
from ods.registry.instances.jobs import InstanceJob
from ods.settings.settings import DEFAULT_TENANT, Settings
from ods.temporal import client, schedules
from ods.temporal.job_starter import JobStarter
from ods.tenants.tenant import Tenant, open_tenants
from tests.end_to_end.conftest import Operator
from tests.end_to_end.test_encryption import has_event
from tests.servers import INSTALLATION, make_settings, scheduled, session
from worker import WORKERS

OLD, NEW = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2))
PAGE = Path(__file__).parents[2] / "docs" / "operations" / "rotating-keys.md"
KEYS = ("encryption_key", "token_signing_key", "payload_key")


def with_keys(settings: Settings, key: str, previous: str | None = None) -> Settings:
    """The settings of a process that starts now: with these keys."""
    own = {name: value for name, value in settings if name not in KEYS}
    previous_keys = {f"{name}_previous": previous for name in KEYS}
    return Settings(**(own | dict.fromkeys(KEYS, key) | previous_keys))


@pytest.fixture
def steps(postgres: EmbeddedPostgres, registry_dsn: str) -> dict[str, Settings]:
    """The settings at each step of a rotation."""
    settings = make_settings(postgres, registry_dsn)
    return {
        "before": with_keys(settings, OLD),
        "announced": with_keys(settings, OLD, NEW),
        "taken over": with_keys(settings, NEW, OLD),
        "removed": with_keys(settings, NEW),
    }


@asynccontextmanager
async def operating(settings: Settings) -> AsyncIterator[tuple[Operator, Tenant]]:
    """An API's client and registry, started with these settings."""
    temporal = await client.connect(settings)
    async with open_tenants(settings) as (tenant,):
        starter = JobStarter(temporal, settings.registry_queue)
        yield Operator(tenant.instances, tenant.jobs, tenant.queries, starter, temporal), tenant


@asynccontextmanager
async def working(settings: Settings) -> AsyncIterator[None]:
    """A worker, started with these settings."""
    async with operating(settings) as (operator, tenant), AsyncExitStack() as stack:
        for worker in WORKERS:
            await stack.enter_async_context(worker(operator.client, tenant))
        yield


async def is_closed(handle: WorkflowHandle[Any, Any]) -> bool:
    """Whether the workflow needs no key any more; it may go on for a moment after its row has the outcome."""
    return (await handle.describe()).status is not WorkflowExecutionStatus.RUNNING


async def stored(registry_dsn: str) -> dict[int, str]:
    """The encrypted connection strings, by OdsInstanceId."""
    async with session(registry_dsn) as connection:
        rows = await connection.fetch("SELECT odsinstanceid, connectionstring FROM dbo.odsinstances")
    return {row["odsinstanceid"]: row["connectionstring"] for row in rows}


async def test_everything_stays_readable_when_all_keys_are_rotated_between_jobs(
    temporal: Client,
    steps: dict[str, Settings],
    registry_dsn: str,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", temporal.service_client.config.target_host)
    jobs: dict[str, InstanceJob] = {}

    async def request(step: str) -> InstanceJob:
        """An API of the step requests an instance; no worker runs."""
        async with operating(steps[step]) as (operator, _):
            job = await operator.create(f"{name} {len(jobs)}", Template.MINIMAL)
        jobs[job.job_id] = job
        return job

    async def work(step: str) -> None:
        """A worker of the step carries out whatever has been requested."""
        async with operating(steps[step]) as (operator, _), working(steps[step]):
            for job in jobs.values():
                assert await operator.ended(job) is JobStatus.COMPLETED
                handle = operator.client.get_workflow_handle(job.workflow_id)
                await wait_until(partial(is_closed, handle), 30)

    first = await request("before")
    await work("before")
    token = Tokens(steps["before"].token_signing_keys, 60).issue("me")
    await request("before")
    await request("announced")
    await work("announced")
    # In the middle of step 2: some processes have been restarted, and others have not.
    await request("taken over")
    await work("announced")
    await request("announced")
    await request("taken over")
    await work("taken over")
    assert await Tokens(steps["taken over"].token_signing_keys, 60).verify(token) is not None

    async with operating(steps["taken over"]) as (_, tenant):
        done = await rotate(tenant.engine, Keyring(steps["taken over"].encryption_keys))
        assert (done.renewed, done.current, done.unreadable) == (4, 2, [])
    (new,) = steps["removed"].encryption_keys
    read = {number: decrypt(string, new) for number, string in (await stored(registry_dsn)).items()}
    assert {number: text.rpartition("database=")[2] for number, text in read.items()} == {
        job.ods_instance_id: job.database for job in jobs.values()
    }

    async with operating(steps["removed"]) as (operator, tenant), working(steps["removed"]):
        assert [
            found for found in await DriftDetector(tenant).detect() if first.database in found.explanation
        ] == []
        assert await operator.ended(await operator.rename(first, f"{name} renamed")) is JobStatus.COMPLETED
        for job in jobs.values():
            assert await operator.ended(await operator.delete(job)) is JobStatus.COMPLETED
    assert await Tokens(steps["removed"].token_signing_keys, 60).verify(token) is None


async def test_job_waits_and_goes_on_when_the_old_payload_key_was_removed_too_early(
    temporal: Client, steps: dict[str, Settings], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", temporal.service_client.config.target_host)
    async with operating(steps["before"]) as (operator, _):
        job = await operator.create(name)
        handle = operator.client.get_workflow_handle(job.workflow_id)
        async with working(steps["removed"]):
            await wait_until(lambda: has_event(handle, EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED), 20)
        assert (await operator.instance(job)).status == "Pending"
        query = re.findall('--query "(.+?)"', PAGE.read_text())[0].replace("2026-01-31", "2100-01-31")

        async def is_listed() -> bool:
            """Whether the command of the page says that the old key is needed."""
            return job.workflow_id in await operator.temporal("workflow", "list", "--query", query)

        await wait_until(is_listed, 10)
        async with working(steps["taken over"]):
            assert await operator.ended(job) is JobStatus.COMPLETED


@pytest.mark.parametrize("has_key", [True, False])
async def test_passes_go_on_when_the_key_of_their_last_results_is_removed(
    temporal: Client, steps: dict[str, Settings], monkeypatch: pytest.MonkeyPatch, *, has_key: bool
) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", temporal.service_client.config.target_host)
    before, removed = steps["before"], steps["removed"]
    if not has_key:
        removed = removed.model_copy(update={"payload_key": None})
    async with operating(before) as (operator, _), scheduled(operator.client, before):
        async with working(before):
            assert await result_of_pass(operator.client, runs=1) == "0 sizes recorded."
        # Temporal hands the next run this result, under the old key.
        async with operating(removed) as (later, _), working(removed):
            await schedules.require_own(later.client, INSTALLATION, DEFAULT_TENANT)
            await schedules.ensure(later.client, removed, INSTALLATION)
            assert await result_of_pass(later.client, runs=2) == "0 sizes recorded."


async def result_of_pass(client: Client, runs: int) -> str:
    """Begin the pass that records sizes, which makes so many `runs` of it; returns what it has done."""
    await schedules.trigger(client, DEFAULT_TENANT, schedules.SIZES)
    schedule = client.get_schedule_handle(schedules.SIZES)

    async def has_begun() -> bool:
        return (await schedule.describe()).info.num_actions == runs

    await wait_until(has_begun, 20)
    begun = (await schedule.describe()).info.recent_actions[-1].action
    assert isinstance(begun, ScheduleActionExecutionStartWorkflow)
    async with asyncio.timeout(20):
        result: str = await client.get_workflow_handle(begun.workflow_id).result()
    return result
