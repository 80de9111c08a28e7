import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio.client import Client, WorkflowHandle

from activities.scheduled_requests import ScheduledReport
from tests.workflows.conftest import Keep
from tests.workflows.script import Script
from workflows.passes import ScheduledBackups, ScheduledSnapshots

_PASSES = {"backups": ScheduledBackups, "snapshots": ScheduledSnapshots}


async def started(client: Client, queue: str, kind: str) -> WorkflowHandle[Any, str]:
    identifier = f"scheduled-{kind}-{uuid.uuid4()}"
    return await client.start_workflow(_PASSES[kind].__name__, id=identifier, task_queue=queue)


@pytest.mark.parametrize(
    ("kind", "told"),
    [("backups", "3 requested, 1 refused, 40 unchanged."), ("snapshots", "3 requested, 1 refused.")],
)
async def test_what_was_requested_is_told_when_a_pass_has_ended(
    client: Client, queue: str, script: Script, keep: Keep, kind: str, told: str
) -> None:
    script.scheduled = ScheduledReport(requested=3, unchanged=40, refused=1)
    handle = await started(client, queue, kind)
    assert await handle.result() == told
    (due_at,) = script.due_times
    assert datetime.now(UTC) - due_at < timedelta(minutes=5)  # no schedule has started it
    await keep(f"scheduled-{kind}", handle)


@pytest.mark.parametrize("kind", _PASSES)
async def test_pass_goes_on_when_registry_or_server_was_away(
    client: Client, queue: str, script: Script, keep: Keep, kind: str
) -> None:
    script.faults[f"request_scheduled_{kind}"] = [OSError("away")] * 8
    handle = await started(client, queue, kind)
    assert (await handle.result()).startswith("0 requested")
    assert len(set(script.due_times)) == 1
    await keep(f"scheduled-{kind}-away", handle)
