"""The workflow that verifies a backup."""

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities.backup_verification import Verdict, Verification, VerificationActivities
    from activities.statuses import FollowUps
    from workflows import options

_GIVEN_UP = "The backup could not be read or restored in time. Verify it again when store and server answer."


@workflow.defn
class VerifyBackup:
    """Restore a backup to a private database and compare it, then record the verdict."""

    def __init__(self) -> None:
        self._is_requested = False

    @workflow.signal
    def request(self) -> None:
        """Verify again, since that may be requested after the last verdict was recorded."""
        self._is_requested = True

    @workflow.run
    async def run(self, verification: Verification) -> str:
        """Verify as long as that is requested; returns the last verdict, in words."""
        while True:
            self._is_requested = False
            verdict = await self._verify(verification)
            if not self._is_requested:
                return verdict

    async def _verify(self, verification: Verification) -> str:
        policy = verification.policy
        try:
            error = await workflow.execute_activity_method(
                VerificationActivities.verify_backup,
                verification,
                **options.verification(policy, f"Restore the backup {verification.backup_id} and compare it"),
            )
        except ActivityError as failure:
            cause = failure.cause
            is_verdict = isinstance(cause, ApplicationError) and cause.non_retryable
            error = cause.message if is_verdict and isinstance(cause, ApplicationError) else _GIVEN_UP
        await workflow.execute_activity_method(
            FollowUps.finish_verification,
            Verdict(verification.backup_id, error),
            **options.status_write(policy, "Record the verdict"),
        )
        return error or "The backup is whole."
