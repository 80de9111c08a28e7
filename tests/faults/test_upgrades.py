"""Workers of two releases side by side, and the way forward and back, while clients work.

The later release has changed a workflow without a patch: a job that it carries on in place of the earlier one
would stop. `docs/upgrading.md` has the commands that are run here.
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import asyncpg
import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowExecution, WorkflowExecutionAsyncIterator

from ods.embedded.postgres import EmbeddedPostgres
from ods.model.operations import JobStatus, Template
from ods.registry.instances.jobs import InstanceJob
from ods.settings.settings import Settings
from tests.end_to_end.conftest import Operator
from tests.faults.conftest import WorkerProcess, clone_is_running
from tests.servers import MINIMAL_TEMPLATE, make_settings
from workflows.job_workflow import WORKFLOW_TYPES

NEXT = "tests.faults.next_worker"
LATER_TEMPLATE = "Later_Template"
CLIENTS = 3
WORK = {"provision", "rename", "trash"}
"""The steps of the jobs that work on databases."""


@dataclass
class Load:
    """Clients who create an instance, rename it and delete it, again and again.

    Attributes:
        jobs: what they have requested.
        ended: how many of these jobs have ended.
    """

    operator: Operator
    jobs: list[InstanceJob] = field(default_factory=list)
    ended: int = 0
    _stop: bool = False

    @asynccontextmanager
    async def running(self, name: str) -> AsyncIterator[None]:
        """The clients work meanwhile; then each does to the end what it has begun."""
        async with asyncio.TaskGroup() as clients:
            for number in range(CLIENTS):
                clients.create_task(self._work(f"{name} {number}"))
            yield
            self._stop = True

    async def progress(self, count: int) -> None:
        """Wait until so many more jobs have ended."""
        goal = self.ended + count
        async with asyncio.timeout(60):
            while self.ended < goal:
                await asyncio.sleep(0.01)

    async def _work(self, name: str) -> None:
        for number in itertools.count():
            if self._stop:
                return
            created = await self._done(await self.operator.create(f"{name} {number}"))
            renamed = await self._done(await self.operator.rename(created, f"{name} {number} new"))
            await self._done(await self.operator.delete(renamed))

    async def _done(self, job: InstanceJob) -> InstanceJob:
        self.jobs.append(job)
        assert await self.operator.ended(job) is JobStatus.COMPLETED, job.job_id
        self.ended += 1
        return job


@dataclass(frozen=True)
class Deployment:
    """What an operator tells Temporal about the versions of the workers."""

    operator: Operator
    name: str

    async def make_current(self, version: str) -> None:
        await self._set(version, "set-current-version")

    async def ramp(self, version: str, percent: int) -> None:
        await self._set(version, "set-ramping-version", "--percentage", str(percent))

    async def drained(self, version: str) -> None:
        """Wait until nothing is open that only this version may carry on."""
        query = f"TemporalWorkerDeploymentVersion = '{self.name}:{version}' AND ExecutionStatus = 'Running'"
        async with asyncio.timeout(60):
            while "Total: 0" not in await self.operator.temporal("workflow", "count", "--query", query):
                await asyncio.sleep(0.2)

    async def _set(self, version: str, *words: str) -> None:
        # Until a worker of the version has polled each queue, Temporal refuses.
        async with asyncio.timeout(20):
            while True:
                try:
                    await self._run(version, *words, "--yes")
                except AssertionError:
                    await asyncio.sleep(0.2)
                else:
                    return

    async def _run(self, version: str, word: str, *options: str) -> str:
        return await self.operator.temporal(
            *("worker", "deployment", word, "--deployment-name", self.name, "--build-id", version), *options
        )


@pytest.fixture
def settings(postgres: EmbeddedPostgres, registry_dsn: str, big_template: str) -> Settings:
    return make_settings(
        postgres,
        registry_dsn,
        sample_template=big_template,
        clone_strategy="wal_log",
        templates={"Later": LATER_TEMPLATE},
    )


@pytest.fixture
def deployment(operator: Operator, settings: Settings) -> Deployment:
    return Deployment(operator, settings.task_queue)


@dataclass(frozen=True)
class Run:
    """What a history tells of a run of a job.

    Attributes:
        builds: the versions whose workers carried it on.
        work: its steps on the ODS server that ended well, each with the id of the job.
    """

    builds: set[str]
    work: list[tuple[str, str]]


async def _run(client: Client, execution: WorkflowExecution) -> Run:
    handle = client.get_workflow_handle(execution.id, run_id=execution.run_id)
    events = (await handle.fetch_history()).events
    started = events[0].workflow_execution_started_event_attributes
    (job,) = await client.data_converter.decode(started.input.payloads, [InstanceJob])
    types = {
        event.event_id: event.activity_task_scheduled_event_attributes.activity_type.name for event in events
    }
    ended = [
        types[event.activity_task_completed_event_attributes.scheduled_event_id]
        for event in events
        if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED
    ]
    builds = {
        event.workflow_task_completed_event_attributes.deployment_version.build_id
        for event in events
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED
    }
    return Run(builds, [(job.job_id, step) for step in ended if step in WORK])


def _executions(client: Client) -> WorkflowExecutionAsyncIterator:
    types = ", ".join(f"'{name}'" for name in WORKFLOW_TYPES.values())
    return client.list_workflows(f"WorkflowType IN ({types})")


async def _databases_of(admin: asyncpg.Connection, mark: str) -> list[str]:
    rows = await admin.fetch(
        "SELECT datname FROM pg_database WHERE shobj_description(oid, 'pg_database') LIKE '%' || $1 || '%'",
        mark,
    )
    return [row["datname"] for row in rows]


def version(settings: Settings, number: str) -> Settings:
    """The settings of a worker of this version."""
    return settings.model_copy(update={"worker_deployment_version": number})


@pytest.fixture
async def later_template(admin: asyncpg.Connection) -> AsyncIterator[str]:
    """A statement that makes the template that is missing at first."""
    yield (
        f'CREATE DATABASE "{LATER_TEMPLATE}" TEMPLATE "{MINIMAL_TEMPLATE}" IS_TEMPLATE true'
        " ALLOW_CONNECTIONS false"
    )
    await admin.execute(f'ALTER DATABASE "{LATER_TEMPLATE}" IS_TEMPLATE false')
    await admin.execute(f'DROP DATABASE "{LATER_TEMPLATE}"')


@pytest.mark.timeout(240)
async def test_no_job_is_lost_or_run_twice_when_workers_are_upgraded_and_taken_back_under_load(
    operator: Operator,
    worker_process: WorkerProcess,
    deployment: Deployment,
    settings: Settings,
    admin: asyncpg.Connection,
    later_template: str,
    name: str,
) -> None:
    plain = await worker_process.start(settings)
    failed = await operator.create(f"{name} failed", "Later")
    assert await operator.ended(failed) is JobStatus.ERROR
    # What began before versions were told apart goes on at the first one.
    old = await worker_process.start(version(settings, "1"))
    await deployment.make_current("1")
    plain.terminate()
    await plain.wait()
    failed = await operator.retry(failed)
    assert await operator.ended(failed) is JobStatus.ERROR
    load = Load(operator)
    async with load.running(name):
        copied = await operator.create(f"{name} large", Template.SAMPLE)
        await clone_is_running(admin)
        # Forward, with two jobs open: one in the middle of a clone, one that waits for a decision.
        await worker_process.start(version(settings, "2"), NEXT)
        await deployment.ramp("2", 50)
        await load.progress(9)
        await deployment.make_current("2")
        await load.progress(6)
        # Back, in the middle of another clone.
        assert await operator.ended(copied) is JobStatus.COMPLETED
        again = await operator.create(f"{name} large too", Template.SAMPLE)
        await clone_is_running(admin)
        await deployment.make_current("1")
        await load.progress(6)
        await deployment.make_current("2")
        # A job that is tried again begins anew, so it need not stay with the release that has failed it.
        await admin.execute(later_template)
        retried = await operator.retry(failed)
        await deployment.drained("1")
        old.terminate()
        await old.wait()
        await load.progress(6)
    assert await operator.ended(again) is JobStatus.COMPLETED
    assert await operator.ended(retried) is JobStatus.COMPLETED
    runs = [await _run(operator.client, execution) async for execution in _executions(operator.client)]
    assert Counter(tuple(sorted(run.builds)) for run in runs).keys() == {("", "1"), ("1",), ("2",)}
    work = Counter(step for run in runs for step in run.work)
    assert set(work.values()) == {1}, work.most_common(3)
    assert {job.job_id for job in (*load.jobs, copied, again, retried)} == {job_id for job_id, _ in work}
    assert await _databases_of(admin, copied.mark) == [copied.database]
