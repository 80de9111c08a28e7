"""Cancelling the workflow of one job, and of no other.

An instance's jobs all run under one workflow id, but each attempt at a job is a run of its own, whose first
event has the job. So the run that is cancelled is named, after its job was compared with the one that is
meant; when it has ended since, Temporal refuses, and what follows under the id is left alone.
"""

from collections.abc import Awaitable, Callable
from enum import Enum, auto
from typing import Any

from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode

from ods.registry.education_organizations.refreshes import Scope
from ods.registry.instances.jobs import InstanceJob
from ods.temporal.executions import open_run
from ods.temporal.job_runs import is_same_attempt, job_of
from workflows import options
from workflows.job_workflow import JobWorkflow
from workflows.refresh_education_organizations import RefreshEducationOrganizations


class CancelOutcome(Enum):
    """What came of cancelling a job."""

    REQUESTED = auto()
    """Its workflow has the request, and acts on it as soon as a worker takes it up."""
    MOVED_ON = auto()
    """Another job is carried out under the id, or the run has just ended."""
    NO_WORKFLOW = auto()
    """No workflow is open under the id."""


class JobCanceller:
    """Cancels jobs whose workflows run."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def cancel(self, job: InstanceJob) -> CancelOutcome:
        """Cancel the run that carries out this very attempt of `job`. Safe to repeat.

        Raises:
            UnreadableJobError: it cannot be read which job the open workflow carries out.
            temporalio.service.RPCError: Temporal cannot be reached, or refuses.
        """

        async def cancel(handle: WorkflowHandle[Any, Any]) -> None:
            await handle.cancel(
                reason=f"A client of the API has cancelled {job.job_id}.", rpc_timeout=options.RPC_TIMEOUT
            )

        return await self._ask(job, cancel)

    async def abandon(self, job: InstanceJob) -> CancelOutcome:
        """Have the run of this very attempt of `job`, which has failed, wait for no retry any longer.

        Raises:
            UnreadableJobError: it cannot be read which job the open workflow carries out.
            temporalio.service.RPCError: Temporal cannot be reached, or refuses.
        """

        async def abandon(handle: WorkflowHandle[Any, Any]) -> None:
            await handle.signal(JobWorkflow.abandon, rpc_timeout=options.RPC_TIMEOUT)

        return await self._ask(job, abandon)

    async def _ask(
        self, job: InstanceJob, request: Callable[[WorkflowHandle[Any, Any]], Awaitable[None]]
    ) -> CancelOutcome:
        """Make a request of the run that carries out this very attempt of `job`."""
        run = await open_run(self._client, job.workflow_id)
        if run is None:
            return CancelOutcome.NO_WORKFLOW
        handle = self._client.get_workflow_handle(job.workflow_id, run_id=run.run_id)
        try:
            if not is_same_attempt(await job_of(self._client, handle), job):
                return CancelOutcome.MOVED_ON
            await request(handle)
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return CancelOutcome.MOVED_ON
            raise
        return CancelOutcome.REQUESTED

    async def cancel_refresh(self, scope: Scope, job_id: str) -> bool:
        """Tell the workflow of `scope` to end this job, if it still carries it out; false if none is open.

        One run carries out several of a scope's jobs: so the workflow compares, at the moment it acts.

        Raises:
            temporalio.service.RPCError: Temporal cannot be reached, or refuses.
        """
        handle = self._client.get_workflow_handle(scope.workflow_id)
        try:
            await handle.signal(
                RefreshEducationOrganizations.cancel_job, job_id, rpc_timeout=options.RPC_TIMEOUT
            )
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return False
            raise
        return True
