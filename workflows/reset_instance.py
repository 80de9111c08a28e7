"""The workflows that reset an instance, and that bring back the database which it had before."""

from abc import abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, assert_never

from temporalio import workflow
from temporalio.exceptions import ActivityError
from temporalio.workflow import ActivityConfig

with workflow.unsafe.imports_passed_through():
    from activities.databases import DatabaseActivities, ReplaceResult
    from activities.refreshes import RefreshActivities
    from activities.statuses import StatusActivities
    from activities.versions import VersionActivities
    from ods.registry.instances.jobs import ExecutionPolicy, InstanceJob
    from ods.registry.instances.origins import FROM_TEMPLATE, BackupOrigin, CopyOrigin, Origin, TemplateOrigin
    from workflows import options
    from workflows.job_workflow import JobWorkflow


class _ReplacementWorkflow(JobWorkflow):
    """Put another database in the place of the instance's, which goes to the trash."""

    @property
    @abstractmethod
    def step(self) -> tuple[Callable[[Any, InstanceJob], Awaitable[ReplaceResult]], str]:
        """The activity that does it, and its summary."""

    @property
    def options_of_try(self) -> Callable[[ExecutionPolicy, str], ActivityConfig]:
        """The options of one try of that."""
        return options.ddl_try

    async def do_work(self) -> bool:
        """Exchange the databases, then record it, unless the first activity has done both."""
        job = self.job
        result = await self.run_step(*self.step, self.options_of_try)
        done = result.finished or await self.run_to_completion(
            workflow.execute_activity_method(
                StatusActivities.finish_replacement,
                replace(job, template_generation=result.template_generation),
                **options.status_write(job.policy, "Record Completed with the other database"),
            )
        )
        if done:
            await self.run_to_completion(self._follow_up())
        return done

    async def _follow_up(self) -> None:
        """Do what can be left undone: the passes do it otherwise."""
        job = self.job
        with suppress(ActivityError):
            await workflow.execute_activity_method(
                RefreshActivities.request_refresh_of,
                job.ods_instance_id,
                **options.comparison("Read its education organizations"),
            )
        if job.replacement is None or job.replacement.keeps:
            return
        with suppress(ActivityError):
            await workflow.execute_activity_method(
                VersionActivities.drop_replaced,
                job,
                **options.clean_up(job.policy, f"Drop {job.replacement.replaced}, which is not kept"),
            )

    async def clean_up(self) -> bool:
        """Remove what was made; if it has taken the place already, record that."""
        job = self.job
        return bool(
            await workflow.execute_activity_method(
                DatabaseActivities.compensate,
                job,
                **options.clean_up(job.policy, f"Make sure that {job.database} is the one of the registry"),
            )
        )


@workflow.defn
class ResetInstance(_ReplacementWorkflow):
    """Replace the instance's database by a fresh clone of its template."""

    @workflow.init
    def __init__(self, job: InstanceJob) -> None:
        super().__init__(job)

    @workflow.run
    async def run(self, job: InstanceJob) -> str:  # noqa: ARG002 - `__init__` got it, before any signal
        """Carry `job` out; returns how it ended."""
        return await self.run_job()

    @property
    def step(self) -> tuple[Callable[[Any, InstanceJob], Awaitable[ReplaceResult]], str]:
        """Make the other database, and exchange both."""
        return DatabaseActivities.reset, f"Replace {self.job.database} by a fresh database"


@workflow.defn
class ReplaceInstance(_ReplacementWorkflow):
    """Replace the instance's database by a copy of another instance's, or by what is in a backup."""

    @workflow.init
    def __init__(self, job: InstanceJob) -> None:
        super().__init__(job)

    @workflow.run
    async def run(self, job: InstanceJob) -> str:  # noqa: ARG002 - `__init__` got it, before any signal
        """Carry `job` out; returns how it ended."""
        return await self.run_job()

    @property
    def step(self) -> tuple[Callable[[Any, InstanceJob], Awaitable[ReplaceResult]], str]:
        """Make the other database, and exchange both."""
        return DatabaseActivities.reset, f"Replace {self.job.database} by {_contents(self._origin)}"

    @property
    def options_of_try(self) -> Callable[[ExecutionPolicy, str], ActivityConfig]:
        """The options of one try of that."""
        return options.making_try(self._origin)

    @property
    def _origin(self) -> Origin:
        replacement = self.job.replacement
        return FROM_TEMPLATE if replacement is None else replacement.origin


def _contents(origin: Origin) -> str:
    match origin:
        case TemplateOrigin():
            return "a fresh database"
        case CopyOrigin():
            return f"a copy of the instance {origin.instance_id}, {origin.mode}"
        case BackupOrigin():
            return f"what is in the backup {origin.backup_id}"
        case _:
            assert_never(origin)


@workflow.defn
class UndoResetInstance(_ReplacementWorkflow):
    """Bring back the database that a reset has replaced."""

    @workflow.init
    def __init__(self, job: InstanceJob) -> None:
        super().__init__(job)

    @workflow.run
    async def run(self, job: InstanceJob) -> str:  # noqa: ARG002 - `__init__` got it, before any signal
        """Carry `job` out; returns how it ended."""
        return await self.run_job()

    @property
    def step(self) -> tuple[Callable[[Any, InstanceJob], Awaitable[ReplaceResult]], str]:
        """Exchange both databases."""
        return DatabaseActivities.undo_reset, f"Bring back the database that {self.job.database} had before"
