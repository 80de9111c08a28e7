"""Questions to Temporal about the executions under a workflow id."""

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import DescribeWorkflowExecutionRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from workflows import options


async def open_run(client: Client, workflow_id: str) -> str | None:
    """The id of the run that is open under this workflow id; None if none is.

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
    return None if found.HasField("close_time") else found.execution.run_id
