"""Whether workers poll their task queues, and whether the scheduled passes run in time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from temporalio.api.enums.v1 import TaskQueueType, WorkerVersioningMode
from temporalio.api.taskqueue.v1 import PollerInfo, TaskQueue, TaskQueueVersioningInfo
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client

from ods.settings.settings import Settings
from ods.temporal import schedules

_POLLER_MEMORY = timedelta(seconds=70)
"""A poll lasts up to a minute, and Temporal remembers pollers for five: older ones are gone."""

_MOST_INTERVALS = 3
_GRACE = timedelta(seconds=10)
"""What a pass may be late beyond that: where the interval is a second, not every delay is worth an alarm."""

_WORKFLOWS = TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW
_ACTIVITIES = TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY


def task_queues(settings: Settings) -> Mapping[str, Sequence[TaskQueueType.ValueType]]:
    """The task queues of a tenant, with the kinds of tasks that a worker polls each of them for."""
    return {
        settings.registry_queue: (_WORKFLOWS, _ACTIVITIES),
        settings.ddl_queue: (_ACTIVITIES,),
        settings.refresh_queue: (_ACTIVITIES,),
        settings.backup_queue: (_ACTIVITIES,),
    }


def pass_intervals(settings: Settings) -> Mapping[str, timedelta]:
    """The passes of a tenant that must run, by their names, and how often each shall."""
    return {
        schedules.PENDING_SWEEP: timedelta(seconds=settings.sweep_interval),
        schedules.RECONCILE: timedelta(seconds=settings.reconcile_interval),
    }


@dataclass(frozen=True)
class Poller:
    """A worker that polls a task queue.

    Attributes:
        identity: how it calls itself.
        build: of which build it is.
        version: as which version of the queue's deployment it polls; None if it tells none.
        gets_tasks: whether Temporal gives it the tasks of workflows that begin now, or some of them.
    """

    identity: str
    build: str
    version: str | None
    gets_tasks: bool


async def pollers(temporal: Client, queue: str, kind: TaskQueueType.ValueType) -> list[Poller]:
    """The workers that poll the task queue for tasks of this kind.

    Raises:
        temporalio.service.RPCError: Temporal cannot be reached, or refuses.
    """
    described = await temporal.workflow_service.describe_task_queue(
        DescribeTaskQueueRequest(
            namespace=temporal.namespace, task_queue=TaskQueue(name=queue), task_queue_type=kind
        )
    )
    oldest = datetime.now(UTC) - _POLLER_MEMORY
    return [
        _poller(poller, described.versioning_info)
        for poller in described.pollers
        if poller.last_access_time.ToDatetime(tzinfo=UTC) > oldest
    ]


def _poller(poller: PollerInfo, versions: TaskQueueVersioningInfo) -> Poller:
    options, current = poller.deployment_options, versions.current_deployment_version
    if options.worker_versioning_mode == WorkerVersioningMode.WORKER_VERSIONING_MODE_VERSIONED:
        version = options.build_id
        gets_tasks = version in {current.build_id, versions.ramping_deployment_version.build_id}
    else:
        version, gets_tasks = None, not current.build_id
    return Poller(poller.identity, poller.worker_version_capabilities.build_id, version, gets_tasks)


def lateness(at: datetime, interval: timedelta) -> timedelta | None:
    """How long ago a pass ran last that is to run every `interval`; None if it is in time."""
    age = datetime.now(UTC) - at
    return None if age <= _MOST_INTERVALS * interval + _GRACE else age
