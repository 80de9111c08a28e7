"""Two installations by mistake on one server, or in one namespace: neither touches what is the other's."""

import asyncio
import uuid

import pytest
from temporalio.client import Client

from cli.polling import wait_until
from instances.registry import Registry
from instances.status import Template
from settings import Settings
from tests.servers import delete_schedules, scheduled, session
from worker import run
from workflows import schedules


async def test_worker_serves_only_when_a_copied_registry_was_confirmed(
    registry: Registry,
    settings: Settings,
    registry_dsn: str,
    temporal: Client,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", temporal.service_client.config.target_host)
    job = (await registry.reserve(name, Template.MINIMAL)).job
    async with session(registry_dsn) as rows:
        await rows.execute("UPDATE adminapi.installation SET registrydatabase = 1")
        stop, status = asyncio.Event(), "SELECT status FROM adminapi.dbinstances WHERE id = $1"
        working = asyncio.create_task(run(settings, stop))
        try:
            done, _ = await asyncio.wait({working}, timeout=3)
            assert not done
            assert await rows.fetchval(status, job.instance_id) == "Pending"
            registry.installation.forget()
            await registry.installation.confirm(await registry.installation.state())

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
