import asyncio
from typing import Any

import pytest

from api.job_dispatcher import JobDispatcher
from ods.registry.instances.jobs import InstanceJob
from ods.settings.settings import Trigger
from tests.unit.example import JOB


class SlowTemporal:
    """Starts jobs when it is told to."""

    def __init__(self) -> None:
        self.ready = asyncio.Event()
        self.started: list[str] = []
        self.fault: Exception | None = None

    async def start(self, job: InstanceJob, _requester: str | None) -> None:
        await self.ready.wait()
        if self.fault:
            raise self.fault
        self.started.append(job.job_id)

    async def sweep(self) -> None:
        """Never asked for."""


def dispatcher(temporal: SlowTemporal) -> JobDispatcher:
    starter: Any = temporal
    return JobDispatcher(starter, starter, temporal.sweep, Trigger.IMMEDIATE)


async def test_job_is_started_after_the_answer_when_temporal_is_slow() -> None:
    temporal = SlowTemporal()
    launching = dispatcher(temporal)
    await asyncio.wait_for(launching.launch(JOB, "a-client"), 1)
    assert temporal.started == []
    temporal.ready.set()
    await launching.drain()
    assert temporal.started == [JOB.job_id]


async def test_job_is_started_all_the_same_when_its_requester_leaves() -> None:
    temporal = SlowTemporal()
    launching = dispatcher(temporal)
    request = asyncio.create_task(launching.launch(JOB, "a-client"))
    await asyncio.sleep(0)
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    temporal.ready.set()
    await launching.drain()
    assert temporal.started == [JOB.job_id]


async def test_text_of_a_fault_is_not_logged_when_it_is_unforeseen(
    caplog: pytest.LogCaptureFixture,
) -> None:
    temporal = SlowTemporal()
    temporal.fault = KeyError("password=hunter2")
    temporal.ready.set()
    await dispatcher(temporal).launch(JOB, "a-client")
    assert f"{JOB.job_id} waits for the next sweep: KeyError" in caplog.text
    assert "hunter2" not in caplog.text
