"""Two installations by mistake on one server, or in one namespace: neither touches what is the other's."""

import asyncio
import base64
import uuid

import pytest
from pydantic import SecretStr
from temporalio.client import Client

from embedded.polling import wait_until
from metrics.catalog import INSTRUMENTS
from registry.instances.status import Template
from registry.instances.store import InstanceStore
from settings import Settings
from temporal import schedules
from temporal.client import data_converter
from temporal.job_starter import JobStarter, started_jobs
from tenants.drift import DriftKind
from tests.servers import delete_schedules, scheduled, session
from worker import run


async def test_worker_serves_only_when_a_copied_registry_was_confirmed(
    instances: InstanceStore,
    settings: Settings,
    registry_dsn: str,
    temporal: Client,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", temporal.service_client.config.target_host)
    job = (await instances.reserve(name, Template.MINIMAL)).job
    async with session(registry_dsn) as rows:
        await rows.execute("UPDATE adminapi.installation SET registrydatabase = 1")
        stop, status = asyncio.Event(), "SELECT status FROM adminapi.dbinstances WHERE id = $1"
        working = asyncio.create_task(run(settings, stop))
        try:
            done, _ = await asyncio.wait({working}, timeout=3)
            assert not done
            assert await rows.fetchval(status, job.instance_id) == "Pending"
            suspicion = {"kind": DriftKind.INSTALLATION_NOT_CONFIRMED, "tenant": "default"}
            assert INSTRUMENTS.get_sample_value("ods_drift", suspicion) == 1
            instances.installation.forget()
            await instances.installation.confirm(await instances.installation.state())

            async def completed() -> bool:
                return bool(await rows.fetchval(status, job.instance_id) == "Completed")

            await wait_until(completed, 30)
        finally:
            stop.set()
            await working
            await delete_schedules(temporal)


async def test_schedules_are_left_alone_when_another_installation_has_made_them(
    temporal: Client, settings: Settings
) -> None:
    async with scheduled(temporal, settings):
        other = str(uuid.uuid4())
        with pytest.raises(schedules.ForeignScheduleError, match="temporal schedule delete"):
            await schedules.require_own(temporal, other, "default")
        with pytest.raises(schedules.ForeignScheduleError, match=other):
            await schedules.ensure(temporal, settings, other)


async def test_jobs_are_remembered_where_their_memo_can_be_read_when_keys_differ(
    temporal: Client, instances: InstanceStore, settings: Settings, name: str
) -> None:
    key = SecretStr(base64.b64encode(bytes(32)).decode())
    encrypted_text = Client(
        temporal.service_client,
        data_converter=data_converter(settings.model_copy(update={"payload_key": key})),
    )
    jobs = [(await instances.reserve(f"{name} {number}", Template.MINIMAL)).job for number in range(2)]
    for client, job in zip((temporal, encrypted_text), jobs, strict=True):
        await JobStarter(client, f"nothing-polls-{job.mark}").start(job)
    marks = [job.mark for job in jobs]

    async def remembered(client: Client) -> list[str]:
        return [job.mark for job in await started_jobs(client, "default") if job.mark in marks]

    try:
        async with asyncio.timeout(20):  # visibility is behind by a moment
            while await remembered(encrypted_text) != marks[::-1]:
                await asyncio.sleep(0.05)
        assert await remembered(temporal) == marks[:1]
    finally:
        for job in jobs:
            await temporal.get_workflow_handle(job.workflow_id).terminate()
