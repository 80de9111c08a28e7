import uuid

from temporalio.client import Client

from tests.workflows.conftest import Keep
from tests.workflows.script import Script
from workflows.passes import RecordSizes


async def test_sizes_are_recorded_when_registry_or_server_was_away(
    client: Client, queue: str, script: Script, keep: Keep
) -> None:
    script.faults["record_sizes"] = [OSError("away")] * 8
    handle = await client.start_workflow(RecordSizes.run, id=f"sizes-{uuid.uuid4()}", task_queue=queue)
    assert await handle.result() == "3 sizes recorded."
    assert script.calls == ["record_sizes"] * 9
    await keep("record-sizes", handle)
