"""The time-skipping server, a worker whose activities follow a script, and the keeping of histories."""

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any, TypeAlias

import pytest
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest
from temporalio.client import Client, WorkflowHandle, WorkflowHistory
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from ods.model.arguments import MakeArguments
from ods.model.operations import Operation, Template
from ods.model.origins import FROM_TEMPLATE
from ods.registry.instances.jobs import ExecutionPolicy, InstanceJob
from ods.temporal.client import DATA_CONVERTER
from ods.temporal.namespace import SEARCH_ATTRIBUTE_TYPES
from tests.servers import binary
from tests.workflows.paths import RecordedPaths
from tests.workflows.sandbox import Sandbox, replay
from tests.workflows.script import Script
from worker import WORKFLOWS


@pytest.fixture
async def time_skipping() -> AsyncIterator[WorkflowEnvironment]:
    environment = await WorkflowEnvironment.start_time_skipping(
        test_server_existing_path=binary("temporal-test-server"), data_converter=DATA_CONVERTER
    )
    async with environment:
        # This server cannot list what it knows, as `register_search_attributes` would ask it to.
        await environment.client.operator_service.add_search_attributes(
            AddSearchAttributesRequest(namespace="default", search_attributes=SEARCH_ATTRIBUTE_TYPES)
        )
        yield environment


@pytest.fixture
def client(time_skipping: WorkflowEnvironment) -> Client:
    return time_skipping.client


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
async def queue(client: Client, script: Script) -> AsyncIterator[str]:
    """Task queue of a worker whose activities follow the script."""
    queue = f"queue-{uuid.uuid4().hex}"
    async with Worker(
        client,
        task_queue=queue,
        workflows=WORKFLOWS,
        activities=script.activities,
        workflow_runner=Sandbox(),
        max_heartbeat_throttle_interval=timedelta(milliseconds=100),  # cancellations arrive with a heartbeat
    ):
        yield queue


NEXT_REQUEST = "c41d8a90-3f0e-4b6f-9d27-8e1b5a2f6c43"
"""The request for the job that follows `job`."""


@pytest.fixture
def job(queue: str) -> InstanceJob:
    """The creation of an instance of the test's own."""
    return InstanceJob(
        tenant="default",
        operation=Operation.CREATE,
        arguments=MakeArguments(FROM_TEMPLATE),
        instance_id=7,
        ods_instance_id=uuid.uuid4().int % 1_000_000_000,
        number=1,
        attempt=1,
        name="Grand Bend",
        template=Template.MINIMAL,
        database="EdFi_Ods_Grand_Bend_Minimal",
        database_id="7f2a7b1e-52f4-4f3c-8a43-0e8d7f4f3f0d",
        mark="7f2a7b1e-52f4-4f3c-8a43-0e8d7f4f3f10",
        request="0b6e2d5c-9a31-4c53-b6a0-5d5f1a0c7e21",
        published=False,
        policy=ExecutionPolicy(queue, 3, 5, 3600, 3600, queue),
        installation="7f2a7b1e-52f4-4f3c-8a43-0e8d7f4f3f0f",
    )


Keep: TypeAlias = Callable[[str, WorkflowHandle[Any, Any]], Awaitable[None]]


@pytest.fixture(scope="session")
def recorded_paths() -> RecordedPaths:
    return RecordedPaths()


@pytest.fixture
def keep(client: Client, request: pytest.FixtureRequest, recorded_paths: RecordedPaths) -> Keep:
    """Replays every run behind a handle against the current code; with --record, records new ones."""
    record = request.config.getoption("--record")

    async def keep(name: str, handle: WorkflowHandle[Any, Any]) -> None:
        for number, history in enumerate([run async for run in _runs(client, handle)], start=1):
            await replay(history)
            run = f"{name}-{number}"
            if record and not recorded_paths.has(run):
                recorded_paths.record(run, history)
            assert recorded_paths.has(run), f"{run} is not recorded: run its test with --record -n0"

    return keep


async def _runs(client: Client, handle: WorkflowHandle[Any, Any]) -> AsyncIterator[WorkflowHistory]:
    run_id = handle.first_execution_run_id
    while run_id:
        history = await client.get_workflow_handle(handle.id, run_id=run_id).fetch_history()
        yield history
        continued = history.events[-1].workflow_execution_continued_as_new_event_attributes
        run_id = continued.new_execution_run_id
