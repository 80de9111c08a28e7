"""The workflow that reads the education organizations of one ODS instance, or of all of a tenant."""

import asyncio
from dataclasses import dataclass, field, replace

from temporalio import workflow
from temporalio.exceptions import ActivityError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from activities.education_organizations import (
        EducationOrganizationActivities,
        PageRead,
        PageToRead,
        RefreshActivities,
        RefreshResult,
    )
    from ods.model.operations import JobStatus
    from ods.registry.education_organizations.refreshes import CANCELLED, RefreshPolicy, Scope
    from workflows import options, search_attributes

_PAGE_SIZE = 50
_PAGES_PER_RUN = 50
"""After so many pages the workflow continues as new, so that its history stays short."""
_MAX_NAMED = 20

_GAVE_UP = (
    "The registry could not be reached for long, or no worker finished in time. Request another refresh."
)


@dataclass(frozen=True)
class Progress:
    """How far a refresh job is."""

    job_id: str
    after: int = 0  # id of the last ODS instance that was tried
    read: int = 0  # how many were read
    unreadable: int = 0  # how many could not be read
    faults: list[str] = field(default_factory=list)  # why not, for the first of them

    @property
    def status(self) -> JobStatus:
        """How the job ends: a refresh that could read nothing has failed."""
        return JobStatus.ERROR if self.unreadable and not self.read else JobStatus.COMPLETED

    @property
    def message(self) -> str | None:
        """What could not be read, in words; None if everything was read."""
        if not self.unreadable:
            return None
        unnamed = self.unreadable - len(self.faults)
        return (
            f"{self.unreadable} of {self.read + self.unreadable} ODS instances could not be read, and keep"
            f" what was read earlier: {'; '.join(self.faults)}{f'; and {unnamed} more' if unnamed else ''}."
        )


@dataclass(frozen=True)
class Refresh:
    """The workflow's argument: it carries out the jobs of `scope`; `progress` is that of the run before."""

    scope: Scope
    policy: RefreshPolicy
    progress: Progress | None = None


@workflow.defn
class RefreshEducationOrganizations:
    """Carry out the refresh jobs of a scope, one after the other, until none is left."""

    @workflow.init
    def __init__(self, refresh: Refresh) -> None:
        self._refresh = refresh
        self._requested = False
        self._cancelled: set[str] = set()
        self._pages = 0

    @workflow.signal
    def cancel_job(self, job_id: str) -> None:
        """End this job as cancelled, if it is the one that is carried out."""
        self._cancelled.add(job_id)

    @workflow.signal
    def request(self) -> None:
        """Begin another job before ending: a client or the schedule has requested one."""
        self._requested = True

    @workflow.run
    async def run(self, refresh: Refresh) -> str:
        """Carry the jobs out; returns how the last one ended."""
        outcome = "Nothing was requested."
        progress = refresh.progress or await self._begin()
        while progress:
            outcome = await self._carry_out(progress)
            progress = await self._begin()
        return outcome

    async def _begin(self) -> Progress | None:
        while True:
            self._requested = False
            job_id = await workflow.execute_activity_method(
                RefreshActivities.begin_refresh,
                self._refresh.scope,
                **options.status_write(self._refresh.policy, "Take the job that is due"),
            )
            if job_id is not None:
                return Progress(job_id)
            # The activity may have missed a job that was requested while it ran.
            if not self._requested:
                return None

    async def _carry_out(self, progress: Progress) -> str:
        self._set_details(progress)
        try:
            progress = await self._read(progress)
        except (ActivityError, asyncio.CancelledError) as error:
            if is_cancelled_exception(error):
                outcome = await self._finish(progress.job_id, JobStatus.ERROR, CANCELLED)
                if workflow.cancellation_reason() is not None:
                    raise
                return outcome
            return await self._finish(progress.job_id, JobStatus.ERROR, _GAVE_UP)
        return await self._finish(progress.job_id, progress.status, progress.message)

    async def _read(self, progress: Progress) -> Progress:
        while True:
            # The next run would not know of a cancellation: this one ends the job with the next page.
            if self._pages >= _PAGES_PER_RUN and progress.job_id not in self._cancelled:
                workflow.continue_as_new(
                    replace(self._refresh, progress=progress), initial_versioning_behavior=options.NEXT_RUN
                )
            self._pages += 1
            page = await self._read_page(progress)
            if page.last_id is None:
                return progress
            progress = replace(
                progress,
                after=page.last_id,
                read=progress.read + page.read,
                unreadable=progress.unreadable + page.unreadable,
                faults=[*progress.faults, *page.faults][:_MAX_NAMED],
            )
            self._set_details(progress)

    async def _read_page(self, progress: Progress) -> PageRead:
        """Read the next page; the activity is cancelled with the job or the workflow."""
        reading = asyncio.ensure_future(
            workflow.execute_activity_method(
                EducationOrganizationActivities.read_page,
                PageToRead(self._refresh.scope, progress.after, _PAGE_SIZE),
                **options.read_page(self._refresh.policy, f"ODS instances after id {progress.after}"),
            )
        )
        try:
            await workflow.wait_condition(lambda: reading.done() or progress.job_id in self._cancelled)
        except asyncio.CancelledError:
            if reading.done():
                raise
        reading.cancel()  # which changes nothing if it is done
        return await reading

    async def _finish(self, job_id: str, status: JobStatus, message: str | None) -> str:
        await workflow.execute_activity_method(
            RefreshActivities.finish_refresh,
            RefreshResult(self._refresh.scope, job_id, status, message),
            **options.status_write(self._refresh.policy, f"Record {status}"),
        )
        workflow.upsert_search_attributes([search_attributes.STATUS.value_set(status)])
        outcome = f"{job_id} is {status}. {message or ''}".strip()
        workflow.set_current_details(outcome)
        return outcome

    def _set_details(self, progress: Progress) -> None:
        """Publish in the Web UI how far the job is."""
        workflow.upsert_search_attributes([search_attributes.STATUS.value_set(JobStatus.IN_PROGRESS)])
        workflow.set_current_details(
            f"`{progress.job_id}`: {progress.read} ODS instances read, {progress.unreadable} could not be."
        )
