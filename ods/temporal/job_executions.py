"""What Temporal tells of an attempt at a job while its workflow is open, for people who look at it.

Of failures only their kinds are told: texts in a history may be those of other programs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import PendingActivityState
from temporalio.api.failure.v1 import Failure
from temporalio.api.history.v1 import (
    ActivityTaskFailedEventAttributes,
    ActivityTaskTimedOutEventAttributes,
    HistoryEvent,
)
from temporalio.api.workflow.v1 import PendingActivityInfo
from temporalio.api.workflowservice.v1 import (
    DescribeWorkflowExecutionRequest,
    GetWorkflowExecutionHistoryReverseRequest,
)
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from ods.registry.instances.jobs import InstanceJob
from ods.temporal.executions import open_run
from ods.temporal.job_runs import is_same_attempt, job_of
from workflows import options

_NEWEST_EVENTS = 40
"""A step that has failed, and the pause after it, are well within so many events."""


@dataclass(frozen=True)
class PendingStep:
    """An activity that waits or runs.

    Attributes:
        name: the activity's type.
        tries: how often Temporal has begun it, this time included.
        is_running: whether a worker is at it.
        next_try_at: when it is tried again, in UTC; None if it runs, or waits for a worker.
        last_failure: the kind of the failure of the try before; None if it is the first.
    """

    name: str
    tries: int
    is_running: bool
    next_try_at: datetime | None
    last_failure: str | None


@dataclass(frozen=True)
class FailedStep:
    """An activity that has failed for good: the workflow decides what follows.

    Attributes:
        name: the activity's type.
        kind: the kind of the failure: `Outage`, the name of a fault's class, or `timeout`.
        at: when, in UTC.
    """

    name: str
    kind: str
    at: datetime


@dataclass(frozen=True)
class JobExecution:
    """How an attempt at a job gets on.

    Attributes:
        attempt: which attempt at the job it is; counts from 1.
        steps: the activities that wait or run.
        last_failed: the last activity that has failed; None if none of the newest events is about one.
        waits_until: when the workflow goes on by itself, in UTC: after a pause it tries a step again, after a
            failure of the job it ends; None if it waits for no time.
    """

    attempt: int
    steps: Sequence[PendingStep]
    last_failed: FailedStep | None
    waits_until: datetime | None


class JobExecutions:
    """Asks Temporal about jobs."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def find(self, job: InstanceJob) -> JobExecution | None:
        """How this very attempt of `job` gets on; None if no workflow that carries it out is open.

        Raises:
            UnreadableJobError: it cannot be read which job the open workflow carries out.
            temporalio.service.RPCError: Temporal cannot be reached, or refuses.
        """
        run = await open_run(self._client, job.workflow_id)
        if run is None:
            return None
        handle = self._client.get_workflow_handle(job.workflow_id, run_id=run.run_id)
        try:
            if not is_same_attempt(await job_of(self._client, handle), job):
                return None
            execution = WorkflowExecution(workflow_id=job.workflow_id, run_id=run.run_id)
            steps, events = await self._pending(execution), await self._newest_events(execution)
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return None
            raise
        return JobExecution(
            job.attempt, [_step(pending) for pending in steps], _last_failed(events), _waits_until(events)
        )

    async def _pending(self, execution: WorkflowExecution) -> Sequence[PendingActivityInfo]:
        asked = DescribeWorkflowExecutionRequest(namespace=self._client.namespace, execution=execution)
        described = await self._client.workflow_service.describe_workflow_execution(
            asked, timeout=options.RPC_TIMEOUT
        )
        return described.pending_activities

    async def _newest_events(self, execution: WorkflowExecution) -> Sequence[HistoryEvent]:
        """The newest first."""
        asked = GetWorkflowExecutionHistoryReverseRequest(
            namespace=self._client.namespace, execution=execution, maximum_page_size=_NEWEST_EVENTS
        )
        answer = await self._client.workflow_service.get_workflow_execution_history_reverse(
            asked, timeout=options.RPC_TIMEOUT
        )
        return answer.history.events


def _step(pending: PendingActivityInfo) -> PendingStep:
    waits = pending.HasField("next_attempt_schedule_time")
    return PendingStep(
        name=pending.activity_type.name,
        tries=pending.attempt,
        is_running=pending.state == PendingActivityState.PENDING_ACTIVITY_STATE_STARTED,
        next_try_at=_time(pending.next_attempt_schedule_time) if waits else None,
        last_failure=_kind(pending.last_failure) if pending.HasField("last_failure") else None,
    )


def _last_failed(events: Sequence[HistoryEvent]) -> FailedStep | None:
    names = {
        event.event_id: event.activity_task_scheduled_event_attributes.activity_type.name
        for event in events
        if event.HasField("activity_task_scheduled_event_attributes")
    }
    for event in events:
        failed: ActivityTaskFailedEventAttributes | ActivityTaskTimedOutEventAttributes
        match event.WhichOneof("attributes"):
            case "activity_task_failed_event_attributes":
                failed = event.activity_task_failed_event_attributes
            case "activity_task_timed_out_event_attributes":
                failed = event.activity_task_timed_out_event_attributes
            case _:
                continue
        name = names.get(failed.scheduled_event_id, "")
        return FailedStep(name, _kind(failed.failure), _time(event.event_time))
    return None


def _waits_until(events: Sequence[HistoryEvent]) -> datetime | None:
    """When the timer that was started last fires; None if it has fired already, or was cancelled."""
    for event in events:
        match event.WhichOneof("attributes"):
            case "timer_fired_event_attributes" | "timer_canceled_event_attributes":
                return None
            case "timer_started_event_attributes":
                pause = event.timer_started_event_attributes.start_to_fire_timeout.ToTimedelta()
                return _time(event.event_time) + pause
    return None


def _kind(failure: Failure) -> str:
    if failure.HasField("application_failure_info"):
        return failure.application_failure_info.type
    return (failure.WhichOneof("failure_info") or "").removesuffix("_failure_info")


def _time(stamp: Timestamp) -> datetime:
    return stamp.ToDatetime(tzinfo=UTC)
