"""The workflows of jobs: what the job of each operation does between its beginning and its end.

Temporal knows each by its own name, and wants `run` in the class itself. `do_work` is what differs. Most
activities on the server also try to record the end of the job; if they could not, `do_work` records it.
"""

# ruff: noqa: ARG002, D102 - `__init__` gets the job before any signal; `JobWorkflow` explains `do_work`

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, assert_never

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, FailureError
from temporalio.workflow import ActivityConfig, ParentClosePolicy

with workflow.unsafe.imports_passed_through():
    from activities.backup_verification import Verdict, Verification, VerificationActivities
    from activities.backups import BackupActivities
    from activities.databases import DatabaseActivities, ReplaceResult
    from activities.education_organizations import RefreshActivities
    from activities.statuses import FollowUps, StatusActivities
    from activities.versions import VersionActivities
    from ods.model.arguments import DeleteArguments, PurgeArguments, origin_in
    from ods.model.origins import BackupOrigin, CopyOrigin, EarlierDatabase, Origin, TemplateOrigin
    from ods.registry.backups.stored import FinishedBackup
    from ods.registry.instances.jobs import ExecutionPolicy, InstanceJob
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
        made = await self.run_step(DatabaseActivities.provision, summary, options.making_try(job.origin))
        done = replace(job, template_generation=made.template_generation)
        record = "Record Completed and route the ODS/API"
        return made.finished or await self.record(StatusActivities.finish_create, done, record)


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
        await self.run_step(DatabaseActivities.rename, f"Rename {job.database} to {job.final_database}")
        record = "Record Completed and update the ODS/API routing"
        done = await self.record(StatusActivities.finish_rename, job, record)
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
                done = await self.run_step(DatabaseActivities.drop, f"Drop {self.job.database}")
                return done or await self.record(StatusActivities.finish_delete, self.job, "Record Deleted")
            case other:
                raise TypeError(f"A delete has no {type(other).__name__}.")

    async def _move_to_trash(self) -> bool:
        """Move the database, then record `Deleted`; continue as the purge that the client wants as well."""
        job = self.job
        result = await self.run_step(DatabaseActivities.trash, f"Move {job.database} to {job.trash_database}")
        finish = StatusActivities.finish_delete if result.kept else StatusActivities.finish_delete_of_lost
        done = result.finished or await self.record(finish, job, "Record Deleted")
        if done and job.backup_first:
            purge = await self.record(FollowUps.request_purge_after, job, "Request the purge")
            if purge is not None and workflow.cancellation_reason() is not None:
                await self.record(FollowUps.call_off_purge, purge, "Cancel the purge")
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
        detached = await self.run_step(DatabaseActivities.detach, f"Remove the mark of {self.job.database}")
        return detached or await self.record(StatusActivities.finish_delete, self.job, "Record Deleted")


@workflow.defn
class UndeleteInstance(JobWorkflow):
    """Take the instance's database out of the trash; then the ODS/API routes to it."""

    @workflow.run
    async def run(self, job: InstanceJob) -> str:
        return await self.run_job()

    async def do_work(self) -> bool:
        job = self.job
        summary = f"Give {job.trash_database} the name {job.final_database}"
        await self.run_step(DatabaseActivities.undelete, summary)
        record = "Record Completed and route the ODS/API"
        return await self.record(StatusActivities.finish_undelete, job, record)


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
        dropped = await self.run_step(drop, f"Drop {self.job.trash_database}")
        return dropped or await self.record(StatusActivities.finish_purge, self.job, "Record the purge")

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
            FollowUps.finish_verification,
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
        job = self.job
        is_recorded = await self.run_step(DatabaseActivities.snapshot, f"Copy {job.database} for readers")
        record = "Record the snapshot and switch the ODS/API to it"
        return is_recorded or await self.record(FollowUps.finish_snapshot, job, record)


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
                return await self._replace_database(DatabaseActivities.undo_reset, summary)
            case TemplateOrigin() | CopyOrigin() | BackupOrigin():
                summary = f"Replace {self.job.database} by {_words(self.job, origin)[1]}"
                making_try = options.making_try(origin)
                return await self._replace_database(DatabaseActivities.reset, summary, making_try)
            case None:
                raise TypeError("A reset has an origin.")
            case _:
                assert_never(origin)

    async def _replace_database(
        self,
        step: Callable[[Any, InstanceJob], Awaitable[ReplaceResult]],
        summary: str,
        options_of_try: Callable[[ExecutionPolicy, str], ActivityConfig] = options.ddl_try,
    ) -> bool:
        result = await self.run_step(step, summary, options_of_try)
        ended = replace(self.job, template_generation=result.template_generation)
        record = "Record Completed with the other database"
        done = result.finished or await self.record(StatusActivities.finish_replacement, ended, record)
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
                VersionActivities.drop_replaced,
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
