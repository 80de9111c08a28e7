"""Starting refreshes of education organizations."""

from temporalio.client import Client

from ods.registry.education_organizations.refreshes import RefreshPolicy, Scope
from workflows import options, search_attributes
from workflows.refresh_education_organizations import Refresh, RefreshEducationOrganizations


class RefreshStarter:
    """Starts refreshes of education organizations on one task queue."""

    def __init__(self, client: Client, task_queue: str, policy: RefreshPolicy) -> None:
        self._client = client
        self._task_queue = task_queue
        self._policy = policy

    async def start(self, scope: Scope) -> None:
        """Signal the open workflow of `scope` to carry out its jobs, or start one.

        Safe to repeat. Signal and start are one call, and a workflow cannot end before it has handled a
        signal: one that is about to end does not miss the job.

        Raises:
            temporalio.service.RPCError: Temporal cannot be reached, or refuses.
        """
        one = scope.ods_instance_id
        whose = "all ODS instances" if one is None else f"ODS instance {one}"
        await self._client.start_workflow(
            RefreshEducationOrganizations.run,
            Refresh(scope, self._policy),
            id=scope.workflow_id,
            task_queue=self._task_queue,
            start_signal="request",
            search_attributes=search_attributes.of_refresh(scope),
            static_summary=f"Read the education organizations of {whose}",
            task_timeout=options.WORKFLOW_TASK_TIMEOUT,
            rpc_timeout=options.RPC_TIMEOUT,
        )
