"""`ods doctor` on faults of Temporal, made for real, and on a whole installation."""

import shlex
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest
from temporalio.client import Client

from ods.doctor.examination import examine
from ods.doctor.findings import Finding, Level
from ods.embedded.polling import wait_until
from ods.embedded.postgres import EmbeddedPostgres
from ods.settings.settings import Settings
from ods.temporal import schedules
from ods.tenants.tenant import Tenant
from tests.end_to_end.conftest import Operator
from tests.ods import connection_string
from tests.servers import NUMBERS, make_settings, scheduled
from worker import WORKERS


@pytest.fixture
def settings(postgres: EmbeddedPostgres, registry_dsn: str) -> Settings:
    login = connection_string(postgres.port, "any")
    return make_settings(postgres, registry_dsn, instance_connection_string=login)


@pytest.fixture(autouse=True)
def temporal_address(temporal: Client, monkeypatch: pytest.MonkeyPatch) -> str:
    address = temporal.service_client.config.target_host
    monkeypatch.setenv("TEMPORAL_ADDRESS", address)
    return address


@pytest.fixture
async def passes(temporal: Client, settings: Settings) -> AsyncIterator[None]:
    async with scheduled(temporal, settings):
        yield


async def complaints(settings: Settings) -> dict[str, Finding]:
    """What is not well of Temporal, by its subject."""
    return {
        one.subject.removeprefix("temporal: "): one
        for one in await examine(settings)
        if one.level is not Level.OK and one.subject.startswith("temporal")
    }


async def run(operator: Operator, remedy: str | None) -> None:
    """Run the command of a finding, as an operator does."""
    assert remedy is not None
    program, *arguments = shlex.split(remedy.partition(";")[0])
    assert program == "temporal"
    await operator.temporal(*arguments)


@pytest.mark.usefixtures("workers", "passes")
async def test_all_is_well_when_nothing_is_missing(settings: Settings, operator: Operator, name: str) -> None:
    job = await operator.create(name)
    await operator.ended(job)

    async def is_well() -> bool:
        return not await complaints(settings)

    await wait_until(is_well, 20)  # until the workers have begun to poll, and the passes have run
    found = await examine(settings)
    assert [one for one in found if one.level is Level.FAULT] == []
    (login,) = (one for one in found if one.subject.startswith("connection string"))
    assert login.found.startswith(f"It opens the database {job.database} at 127.0.0.1:")


@pytest.mark.timed
@pytest.mark.usefixtures("workers", "passes")
async def test_examination_takes_no_longer_than_five_seconds_when_all_is_there(settings: Settings) -> None:
    started = time.monotonic()
    await examine(settings)
    assert time.monotonic() - started < 5


@pytest.mark.usefixtures("workers", "passes")
async def test_schedule_is_named_and_mended_when_it_is_paused(
    settings: Settings, operator: Operator, temporal: Client
) -> None:
    async def is_well() -> bool:
        return "schedule reconcile" not in await complaints(settings)

    # One that is paused at once may lose the run that a worker triggers when it starts.
    await wait_until(is_well, 20)
    await temporal.get_schedule_handle(schedules.RECONCILE).pause()

    async def is_seen() -> bool:
        found = await complaints(settings)
        return "schedule reconcile" in found and "paused" in found["schedule reconcile"].found

    await wait_until(is_seen, 20)
    await run(operator, (await complaints(settings))["schedule reconcile"].remedy)
    await wait_until(is_well, 20)


async def test_queues_are_named_when_no_worker_polls(settings: Settings) -> None:
    found = await complaints(settings)
    for queue in (
        *(settings.registry_queue, settings.ddl_queue),
        *(settings.refresh_queue, settings.backup_queue),
    ):
        assert found[f"task queue {queue}"].found == "No worker polls it: jobs wait"
        assert (found[f"task queue {queue}"].remedy or "").startswith("python -m worker")
    assert found["schedule pending-sweep"].level is Level.WARNING


async def test_version_that_gets_no_tasks_is_named_and_made_current(
    settings: Settings, operator: Operator, temporal: Client, tenant: Tenant
) -> None:
    subject = f"task queue {settings.registry_queue}"
    versioned = replace(tenant, settings=settings.model_copy(update={"worker_deployment_version": "1.4.0"}))
    async with AsyncExitStack() as stack:
        for worker in WORKERS:
            await stack.enter_async_context(worker(temporal, versioned))

        async def is_named() -> bool:
            return "versions that poll: 1.4.0" in (await complaints(settings))[subject].found

        await wait_until(is_named, 20)
        await run(operator, (await complaints(settings))[subject].remedy)

        async def is_well() -> bool:
            return not any(name.startswith("task queue") for name in await complaints(settings))

        await wait_until(is_well, 20)


async def test_namespace_and_search_attributes_are_named_and_mended_when_they_are_missing(
    settings: Settings, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace = f"missing-{next(NUMBERS)}"
    monkeypatch.setenv("TEMPORAL_NAMESPACE", namespace)
    found = await complaints(settings)
    assert list(found) == ["namespace"]
    assert found["namespace"].found == f"{namespace} does not exist"
    await run(operator, found["namespace"].remedy)

    async def are_missed() -> bool:
        missing = (await complaints(settings)).get("search attributes")
        return missing is not None and "OdsInstanceId" in missing.found

    await wait_until(are_missed, 30)  # until all of the server knows the namespace
    missing = (await complaints(settings))["search attributes"]
    await run(operator, missing.remedy)

    async def is_complete() -> bool:
        return "search attributes" not in await complaints(settings)

    await wait_until(is_complete, 30)


async def test_schedule_at_certain_times_is_named_when_it_is_missing_or_paused(
    settings: Settings, operator: Operator, temporal: Client
) -> None:
    own = settings.model_copy(update={"snapshot_cron": "0 2 * * *"})
    subject = f"schedule {schedules.SNAPSHOTS}"
    assert "not there yet" in (await complaints(own))[subject].found
    async with scheduled(temporal, own):

        async def is_well() -> bool:
            return subject not in await complaints(own)

        await wait_until(is_well, 20)
        await temporal.get_schedule_handle(schedules.SNAPSHOTS).pause()

        async def is_seen() -> bool:
            return subject in await complaints(own)

        await wait_until(is_seen, 20)
        await run(operator, (await complaints(own))[subject].remedy)
        await wait_until(is_well, 20)
