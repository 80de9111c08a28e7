"""Questions to Temporal about the executions under a workflow id."""

from dataclasses import dataclass

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import DescribeWorkflowExecutionRequest
from temporalio.client import Client
from temporalio.converter import decode_typed_search_attributes
from temporalio.service import RPCError, RPCStatusCode

from ods.model.operations import InstanceStatus
from workflows import options, search_attributes


@dataclass(frozen=True)
class OpenRun:
    """A run that is open.

    Attributes:
        run_id: its id.
        status: what a job's workflow has published of its job; None of a workflow that publishes nothing.
    """

    run_id: str
    status: str | None

    @property
    def awaits_decision(self) -> bool:
        """Whether its job has failed, so that it waits for the operator; it may still be undoing the job."""
        return self.status not in {None, InstanceStatus.PENDING, InstanceStatus.IN_PROGRESS}


async def open_run(client: Client, workflow_id: str) -> OpenRun | None:
    """The run that is open under this workflow id; None if none is.

    Raises:
        temporalio.service.RPCError: Temporal cannot be reached.
    """
    asked = DescribeWorkflowExecutionRequest(
        namespace=client.namespace, execution=WorkflowExecution(workflow_id=workflow_id)
    )
    try:
        described = await client.workflow_service.describe_workflow_execution(
            asked, timeout=options.RPC_TIMEOUT
        )
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return None
        raise
    found = described.workflow_execution_info
    # Not by its status: a paused workflow, for one, is open as well.
    if found.HasField("close_time"):
        return None
    published = decode_typed_search_attributes(found.search_attributes)
    return OpenRun(found.execution.run_id, published.get(search_attributes.STATUS))
