"""Starting the workflows of jobs, and asking Temporal which jobs were started."""

from temporalio.client import Client, WorkflowExecution
from temporalio.common import Priority, WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from ods.model.operations import InstanceStatus
from ods.observability.tracing.jobs import job_span
from ods.registry.instances.jobs import INSTALLATION, InstanceJob, StartedJob, job_number
from ods.temporal.codec import UnreadablePayloadError
from ods.temporal.executions import open_run
from workflows import options, search_attributes
from workflows.job_workflow import WORKFLOW_TYPES, JobWorkflow

_ATTEMPTS = 5
_REQUESTED, _SWEPT = 2, 4
"""Priority keys, of 1 (first) to 5, that a workflow and its activities have in Temporal's queues."""
_LONGEST_FAIRNESS_KEY = 64
"""Bytes: the limit of Temporal."""
_MAX_STARTED_JOBS = 100


async def started_jobs(client: Client, tenant: str) -> list[StartedJob]:
    """The tenant's jobs that were started last, up to a hundred; none while Temporal is away."""
    types = ", ".join(f"'{name}'" for name in WORKFLOW_TYPES.values())
    query = f"WorkflowType IN ({types}) AND {search_attributes.TENANT.name} = '{tenant}'"
    listed = client.list_workflows(
        query, page_size=_MAX_STARTED_JOBS, limit=_MAX_STARTED_JOBS, rpc_timeout=options.RPC_TIMEOUT
    )
    try:
        found = [one async for one in listed]
    except (RPCError, RuntimeError):  # the second from a client that has never been connected
        return []
    return [job for one in found if (job := await _job_in_memo(one)) is not None]


async def _job_in_memo(execution: WorkflowExecution) -> StartedJob | None:
    """The job that a workflow's memo names; None if it names none, or cannot be decrypted."""
    try:
        memo = await execution.memo()
        return StartedJob(memo[INSTALLATION], memo["mark"], job_number(memo["job"]), execution.start_time)
    except (KeyError, RuntimeError, UnreadablePayloadError):
        return None


class JobStarter:
    """Starts jobs on one task queue."""

    def __init__(self, client: Client, task_queue: str) -> None:
        self._client = client
        self._task_queue = task_queue

    async def start(self, job: InstanceJob, requester: str | None = None) -> None:
        """Start the workflow of `job`, or hand it over to the one that is open under the instance's id.

        Safe to repeat: a job that runs already is not started again.

        Args:
            job: what shall be done.
            requester: the client that requested it. Temporal schedules jobs of different requesters fairly;
                those without one, such as swept ones, come after them.

        Raises:
            temporalio.service.RPCError: Temporal cannot be reached, or refuses.
        """
        for _ in range(_ATTEMPTS):
            # Between the two calls the open workflow may close; then it is free to be started.
            if await self._started(job, _priority(job, requester)) or await self._handed_over(job):
                return
        raise RPCError("the instance's workflow opens and closes too fast", RPCStatusCode.ABORTED, b"")

    async def start_unrequested(self, job: InstanceJob) -> None:
        """Start a job that no client waits for, as `start` does, in a trace of its own.

        Raises:
            temporalio.service.RPCError: Temporal cannot be reached, or refuses.
        """
        with job_span("Start job", *job.identity):
            await self.start(job)

    async def is_at_work(self, job: InstanceJob) -> bool:
        """Whether a workflow is open under the instance's id that does not wait for the operator's decision.

        Raises:
            temporalio.service.RPCError: Temporal cannot be reached.
        """
        run = await open_run(self._client, job.workflow_id)
        return run is not None and not run.awaits_decision

    async def _started(self, job: InstanceJob, priority: Priority) -> bool:
        try:
            await self._client.start_workflow(
                WORKFLOW_TYPES[job.operation],
                job,
                id=job.workflow_id,
                task_queue=self._task_queue,
                # Never USE_EXISTING: the running workflow may be of another type, and would lose our job.
                id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
                id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
                search_attributes=search_attributes.of(job, InstanceStatus.PENDING),
                static_summary=f"{job.kind.name} instance {job.name}" + _target(job.new_name),
                static_details=(
                    f"Job `{job.job_id}`: {job.kind.name.lower()} database `{job.database}`"
                    f"{_target(job.new_database, '`')} (template {job.template}, tenant {job.tenant})."
                ),
                memo=job.memo,
                task_timeout=options.WORKFLOW_TASK_TIMEOUT,
                priority=priority,
                rpc_timeout=options.RPC_TIMEOUT,
            )
        except WorkflowAlreadyStartedError:
            return False
        return True

    async def _handed_over(self, job: InstanceJob) -> bool:
        handle = self._client.get_workflow_handle(job.workflow_id)
        try:
            await handle.signal(JobWorkflow.hand_over, job, rpc_timeout=options.RPC_TIMEOUT)
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return False
            raise
        return True


def _priority(job: InstanceJob, requester: str | None) -> Priority:
    """A requested job comes before swept ones; jobs of different requesters are scheduled fairly."""
    if requester is None:
        return Priority(priority_key=_SWEPT, fairness_key=job.tenant)
    key = f"{job.tenant}/{requester}".encode()[:_LONGEST_FAIRNESS_KEY].decode(errors="ignore")
    return Priority(priority_key=_REQUESTED, fairness_key=key)


def _target(name: str | None, quote: str = "") -> str:
    """How a summary names the target of a rename; empty for other jobs."""
    return f" to {quote}{name}{quote}" if name else ""
