"""Starting verifications of backups."""

from uuid import UUID

from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy

from activities.backup_verification import Verification
from ods.registry.instances.jobs import ExecutionPolicy
from ods.settings.settings import Settings
from workflows import options
from workflows.jobs import VerifyBackup


class VerificationStarter:
    """Starts verifications of one tenant's backups."""

    def __init__(self, client: Client, tenant: str, settings: Settings) -> None:
        self._client = client
        self._tenant = tenant
        self._queue = settings.registry_queue
        self._policy = ExecutionPolicy.from_settings(settings)

    async def start(self, backup_id: UUID) -> None:
        """Start the verification of a backup; one that runs looks again when it has ended. Safe to repeat.

        Raises:
            temporalio.service.RPCError: Temporal cannot be reached, or refuses.
        """
        verification = Verification(self._tenant, str(backup_id), self._policy)
        await self._client.start_workflow(
            VerifyBackup.run,
            verification,
            id=verification.workflow_id,
            task_queue=self._queue,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            # One that is about to end has recorded its verdict, and would not see what is requested now.
            start_signal=VerifyBackup.request.__name__,
            static_summary=f"Verify the backup {backup_id}",
            task_timeout=options.WORKFLOW_TASK_TIMEOUT,
            rpc_timeout=options.RPC_TIMEOUT,
        )
