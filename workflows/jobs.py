"""The workflows of jobs: what the job of each operation does between its beginning and its end.

Temporal knows each by its own name, and wants `run` in the class itself. `do_work` is what differs.
"""

# ruff: noqa: ARG002, D102 - `__init__` gets the job before any signal; `JobWorkflow` explains `do_work`

from contextlib import suppress
from typing import assert_never

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, FailureError
from temporalio.workflow import ParentClosePolicy

with workflow.unsafe.imports_passed_through():
    from activities.backup_verification import Verdict, Verification, VerificationActivities
    from activities.backups import BackupActivities
    from activities.databases import DatabaseActivities
    from activities.education_organizations import RefreshActivities
    from activities.statuses import StatusActivities
    from ods.model.arguments import DeleteArguments, PurgeArguments, origin_in
    from ods.model.origins import BackupOrigin, CopyOrigin, EarlierDatabase, Origin, TemplateOrigin
    from ods.registry.backups.stored import FinishedBackup
    from ods.registry.instances.jobs import InstanceJob
    from workflows import options, search_attributes
    from workflows.job_workflow import JobWorkflow

_GIVEN_UP = "The backup could not be read or restored in time. Verify it again when store and server answer."


@workflow.defn
class CreateInstance(JobWorkflow):
    """Provision a database of the job's origin; then the ODS/API routes to it."""

    @workflow.run
    async def run(self, job: InstanceJob) -> str:
        return await self.run_job()

    async def do_work(self) -> bool:
        job = self.job
        summary = f"{_words(job, job.origin)[0]} into {job.database}"
        making_try = options.making_try(job.origin)
        return await self.finish(await self.run_step(DatabaseActivities.provision, summary, making_try))


def _words(job: InstanceJob, origin: Origin) -> tuple[str, str]:
    """How a database of this origin is made, and what it holds then, for the Web UI."""
    match origin:
        case TemplateOrigin():
            return f"Clone template {job.template}", "a fresh database"
        case CopyOrigin(instance_id=source, mode=mode):
            return f"Copy the instance {source}, {mode},", f"a copy of the instance {source}, {mode}"
        case BackupOrigin(backup_id=backup):
            return f"Restore the backup {backup}", f"what is in the backup {backup}"
        case _:
            assert_never(origin)


@workflow.defn
class RenameInstance(JobWorkflow):
    """Rename the instance's database, then the instance and its ODS instance."""

    @workflow.run
    async def run(self, job: InstanceJob) -> str:
        return await self.run_job()

    async def do_work(self) -> bool:
        job = self.job
        summary = f"Rename {job.database} to {job.final_database}"
        done = await self.finish(await self.run_step(DatabaseActivities.rename, summary))
        if done:
            workflow.upsert_search_attributes([search_attributes.NAME.value_set(job.final_name)])
        return done


@workflow.defn
class DeleteInstance(JobWorkflow):
    """Drop the instance's database, or move it to the trash, as the arguments of the job say.

    The ODS/API stopped routing to it when the job began.
    """

    @workflow.run
    async def run(self, job: InstanceJob) -> str:
        return await self.run_job()

    async def do_work(self) -> bool:
        match self.job.arguments:
            case DeleteArguments(keep=True):
                return await self._move_to_trash()
            case DeleteArguments(keep=False):
                dropping = self.run_step(DatabaseActivities.drop, f"Drop {self.job.database}")
                return await self.finish(await dropping)
            case other:
                raise TypeError(f"A delete has no {type(other).__name__}.")

    async def _move_to_trash(self) -> bool:
        """Move the database, then record `Deleted`; continue as the purge that the client wants as well."""
        job = self.job
        summary = f"Move {job.database} to {job.trash_database}"
        done = await self.finish(await self.run_step(DatabaseActivities.trash, summary))
        if done and job.backup_first:
            purge = await self.record(StatusActivities.request_purge_after, job, "Request the purge")
            if purge is not None and workflow.cancellation_reason() is not None:
                await self.record(StatusActivities.call_off_purge, purge, "Cancel the purge")
            elif purge is not None:
                self.hand_over(purge)
        return done


@workflow.defn
class DetachInstance(JobWorkflow):
    """Remove the mark from the instance's database, which is left to the operator."""

    @workflow.run
    async def run(self, job: InstanceJob) -> str:
        return await self.run_job()

    async def do_work(self) -> bool:
        summary = f"Remove the mark of {self.job.database}"
        return await self.finish(await self.run_step(DatabaseActivities.detach, summary))


@workflow.defn
class UndeleteInstance(JobWorkflow):
    """Take the instance's database out of the trash; then the ODS/API routes to it."""

    @workflow.run
    async def run(self, job: InstanceJob) -> str:
        return await self.run_job()

    async def do_work(self) -> bool:
        job = self.job
        summary = f"Give {job.trash_database} the name {job.final_database}"
        return await self.finish(await self.run_step(DatabaseActivities.undelete, summary))


@workflow.defn
class PurgeInstance(JobWorkflow):
    """Drop the instance's database from the trash; if its arguments say so, after a verified backup."""

    @workflow.run
    async def run(self, job: InstanceJob) -> str:
        return await self.run_job()

    async def do_work(self) -> bool:
        match self.job.arguments:
            case PurgeArguments(backup_first=True):
                await self._back_up()
                drop = DatabaseActivities.purge_backed_up
            case PurgeArguments(backup_first=False):
                drop = DatabaseActivities.purge
            case other:
                raise TypeError(f"A purge has no {type(other).__name__}.")
        return await self.finish(await self.run_step(drop, f"Drop {self.job.trash_database}"))

    async def _back_up(self) -> None:
        """Store a backup and verify it, unless an earlier attempt has done so."""
        job, slowly = self.job, options.backup_try
        summary = f"Back up {job.trash_database}"
        if await self.run_step(DatabaseActivities.back_up_trash, summary, slowly):
            summary = f"Verify the backup {job.makes_backup}"
            await self.run_step(VerificationActivities.verify_final_backup, summary, slowly)


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
            StatusActivities.finish_verification,
            Verdict(verification.backup_id, error),
            **options.status_write(policy, "Record the verdict"),
        )
        return error or "The backup is whole."


@workflow.defn
class BackupInstance(JobWorkflow):
    """Store a backup of the instance's database, which stays in use, then record it."""

    @workflow.run
    async def run(self, job: InstanceJob) -> str:
        return await self.run_job()

    async def do_work(self) -> bool:
        job = self.job
        stored = await self.run_step(BackupActivities.back_up, f"Back up {job.database}", options.backup_try)
        finished = FinishedBackup(job, stored)
        result = await self.record(StatusActivities.finish_backup, finished, "Record the backup")
        if result.verify and job.makes_backup is not None:
            # By a workflow of its own: the instance need not wait. If it is not started, the next pass does.
            verification = Verification(job.tenant, job.makes_backup, job.policy)
            verifying = workflow.start_child_workflow(
                VerifyBackup.run,
                verification,
                id=verification.workflow_id,
                parent_close_policy=ParentClosePolicy.ABANDON,
                task_timeout=options.WORKFLOW_TASK_TIMEOUT,
                static_summary=f"Verify the backup {verification.backup_id}",
            )
            with suppress(FailureError):
                await self.run_to_completion(verifying)
        return result.recorded


@workflow.defn
class SnapshotInstance(JobWorkflow):
    """Copy the instance's database, which stays in use; then the ODS/API reads the copy."""

    @workflow.run
    async def run(self, job: InstanceJob) -> str:
        return await self.run_job()

    async def do_work(self) -> bool:
        summary = f"Copy {self.job.database} for readers"
        return await self.finish(await self.run_step(DatabaseActivities.snapshot, summary))


@workflow.defn
class ResetInstance(JobWorkflow):
    """Replace the instance's database, which goes to the trash, by a new or an earlier one of it."""

    @workflow.run
    async def run(self, job: InstanceJob) -> str:
        return await self.run_job()

    async def do_work(self) -> bool:
        match origin := origin_in(self.job.arguments):
            case EarlierDatabase():
                summary = f"Bring back the database that {self.job.database} had before"
            case TemplateOrigin() | CopyOrigin() | BackupOrigin():
                summary = f"Replace {self.job.database} by {_words(self.job, origin)[1]}"
            case None:
                raise TypeError("A reset has an origin.")
            case _:
                assert_never(origin)
        making_try = options.making_try(origin)
        done = await self.finish(await self.run_step(DatabaseActivities.reset, summary, making_try))
        if done:
            await self.run_to_completion(self._follow_up())
        return done

    async def _follow_up(self) -> None:
        """Read its education organizations, and drop what is not kept; passes do what fails here."""
        job = self.job
        with suppress(ActivityError):
            await workflow.execute_activity_method(
                RefreshActivities.request_refresh_of,
                job.ods_instance_id,
                **options.pass_step("Read its education organizations"),
            )
        if job.replacement is None or job.replacement.keeps:
            return
        with suppress(ActivityError):
            await workflow.execute_activity_method(
                DatabaseActivities.drop_replaced,
                job,
                **options.clean_up(job.policy, f"Drop {job.trash_database}, which is not kept"),
            )


JOB_WORKFLOWS = (
    CreateInstance,
    RenameInstance,
    DeleteInstance,
    DetachInstance,
    UndeleteInstance,
    PurgeInstance,
    BackupInstance,
    SnapshotInstance,
    ResetInstance,
)
