"""What the pages *Jobs* and of one job show."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Annotated

from fastapi import Depends, Query

from api.dependencies import InstanceQueriesDep, JobListDep, ObstacleDep
from api.http import temporal_calls
from api.services.jobs import JobServiceDep
from ods.console.texts import t
from ods.console.views.ids import id_of
from ods.console.views.paging import PageNumber, Paging
from ods.console.views.progress import ProgressView
from ods.console.views.statuses import Badge, job_badge
from ods.model.operations import JOB_UNDER_WAY, JOB_WORDS, JobStatus
from ods.registry.instances.job_list import JobFilter
from ods.registry.instances.jobs import job_id
from ods.registry.storage.models import DbInstance, Job, Wait
from ods.temporal.job_executions import JobExecution
from ods.temporal.job_runs import UnreadableJobError

PER_PAGE = 25


@dataclass(frozen=True)
class JobsQuery:
    """What the user wants to see; what makes no sense is as if it were not there.

    Attributes:
        status: one of the statuses, or empty.
        operation: what the jobs do, or empty.
        instance: the id of an instance as it was typed, or empty.
        page: counts from 1.
        first_day: jobs that were requested on this day or later, as in 2026-11-26, in UTC; or empty.
        last_day: jobs that were requested on this day or before; or empty.
    """

    status: str = ""
    operation: str = ""
    instance: str = ""
    page: int = 1
    first_day: str = ""
    last_day: str = ""

    @property
    def chosen(self) -> JobFilter:
        """All jobs that fulfil the filter."""
        return JobFilter(
            statuses=[status for status in JobStatus if status == self.status],
            operations=[word for word in JOB_WORDS if word == self.operation],
            instance_id=id_of(self.instance),
            created_from=_midnight(self.first_day),
            created_to=_midnight(self.last_day, days_later=1),
        )

    @property
    def fields(self) -> dict[str, str]:
        """The fields of the address, without the number of the page."""
        return {
            "status": self.status,
            "operation": self.operation,
            "instance": self.instance,
            "first_day": self.first_day,
            "last_day": self.last_day,
        }

    @property
    def number(self) -> int | None:
        """The number of the page in its address; the first one has none."""
        return self.page if self.page > 1 else None

    @property
    def is_filtered(self) -> bool:
        """Whether it leaves jobs out."""
        return any(self.fields.values())


async def _query(  # noqa: PLR0913, PLR0917 - the filters of a list
    page: PageNumber = 1,
    status: Annotated[str, Query()] = "",
    operation: Annotated[str, Query()] = "",
    instance: Annotated[str, Query()] = "",
    first_day: Annotated[str, Query()] = "",
    last_day: Annotated[str, Query()] = "",
) -> JobsQuery:
    return JobsQuery(status, operation, instance.strip(), page, first_day, last_day)


JobsQueryDep = Annotated[JobsQuery, Depends(_query)]


@dataclass(frozen=True)
class JobRow:
    """One line of the list.

    Attributes:
        job: the job.
        badge: its status.
        instance_name: the name of its instance now; None if it is a job of none alone.
        wait: what it waits for; None if it waits for nothing.
        progress: how far it is; None if it does not tell, or has ended.
        seconds: how long it took, without what it waited for; None if it has not ended.
    """

    job: Job
    badge: Badge
    instance_name: str | None
    wait: Wait | None
    progress: ProgressView | None
    seconds: float | None


@dataclass(frozen=True)
class JobsPage:
    """What the list shows."""

    query: JobsQuery
    rows: Sequence[JobRow]
    paging: Paging
    statuses: Sequence[str] = tuple(JobStatus)
    operations: Sequence[str] = JOB_WORDS


@dataclass(frozen=True)
class JobPage:
    """What the page of one job shows.

    Attributes:
        row: the job, as in the list.
        can_cancel: whether it waits or runs.
        can_retry: whether it is the last job of its instance, and can be tried again.
        can_abandon: whether it is the last job of its instance, and has failed.
        usual_seconds: what such jobs usually take; None if that is not known.
    """

    row: JobRow
    can_cancel: bool
    can_retry: bool
    can_abandon: bool
    usual_seconds: float | None


@dataclass(frozen=True)
class ExecutionPage:
    """What the page of one job shows of its workflow.

    Attributes:
        job: the job.
        execution: what Temporal tells; None if no workflow of the job is open.
        is_away: whether Temporal does not tell.
    """

    job: Job
    execution: JobExecution | None = None
    is_away: bool = False

    @property
    def is_failed(self) -> bool:
        """Whether the job has failed, so that its workflow waits for a decision."""
        return self.job.status == JobStatus.ERROR


class JobsView:
    """Reads what the pages show."""

    def __init__(
        self,
        job_list: JobListDep,
        queries: InstanceQueriesDep,
        service: JobServiceDep,
        obstacle: ObstacleDep,
    ) -> None:
        self._obstacle = obstacle
        self._job_list = job_list
        self._queries = queries
        self._service = service

    async def page(self, query: JobsQuery) -> JobsPage:
        """The part of the list that the user wants to see."""
        jobs = await self._job_list.page(query.chosen, offset=(query.page - 1) * PER_PAGE, limit=PER_PAGE)
        names = await self._names(jobs)
        rows = [self._row(job, names.get(job.instance_id)) for job in jobs]
        return JobsPage(query, rows, Paging(query.page, PER_PAGE, await self._job_list.count(query.chosen)))

    async def job(self, job_id: str) -> JobPage:
        """One job.

        Raises:
            ProblemError: 404, there is none.
        """
        job = await self._service.get(job_id)
        instance = None if job.instance_id is None else await self._queries.any_instance(job.instance_id)
        return JobPage(
            self._row(job, instance.name if instance else None),
            can_cancel=job.status in JOB_UNDER_WAY,
            can_retry=instance is not None and _can_retry(job, instance),
            can_abandon=instance is not None and _is_last(job, instance) and job.status == JobStatus.ERROR,
            usual_seconds=await self._usual_seconds(job),
        )

    async def execution(self, job_id: str) -> ExecutionPage:
        """What Temporal tells of a job.

        Raises:
            ProblemError: 404, there is none.
        """
        job = await self._service.get(job_id)
        try:
            return ExecutionPage(job, await self._service.execution(job))
        except (*temporal_calls.FAULTS, UnreadableJobError):
            return ExecutionPage(job, is_away=True)

    def _row(self, job: Job, instance_name: str | None) -> JobRow:
        wait = job.wait_under(self._obstacle)
        progress = _progress(job, wait)
        return JobRow(job, job_badge(job.status), instance_name, wait, progress, job.worked_seconds)

    async def _usual_seconds(self, job: Job) -> float | None:
        if job.operation is None or job.database_template is None:
            return None
        return await self._queries.usual_duration(job.operation, job.database_template)

    async def _names(self, jobs: Sequence[Job]) -> dict[int | None, str]:
        ids = {job.instance_id for job in jobs if job.instance_id is not None}
        return {row.id: row.name for row in await self._queries.instances_with(ids)}


JobsViewDep = Annotated[JobsView, Depends()]


def _progress(job: Job, wait: Wait | None) -> ProgressView | None:
    if job.status not in JOB_UNDER_WAY:
        return None
    if wait is not None:
        return ProgressView(t("progress.waits", reason=wait.reason))
    if job.percent is not None:
        return ProgressView("", job.percent, job.eta_seconds)
    return None


def _can_retry(job: Job, instance: DbInstance) -> bool:
    return _is_last(job, instance) and instance.status in instance.rules.retry.sources


def _is_last(job: Job, instance: DbInstance) -> bool:
    """Whether no other job of the instance was requested since."""
    if instance.ods_instance_id is None or not instance.is_adopted:
        return False
    last = job_id(instance.word, instance.ods_instance_id, instance.job_number)
    return job.job_id == last


def _midnight(day: str, *, days_later: int = 0) -> datetime | None:
    """The beginning of the day, in UTC without a zone as the registry has times; None if it is no day."""
    try:
        return datetime.combine(date.fromisoformat(day) + timedelta(days=days_later), time.min)
    except (ValueError, OverflowError):
        return None
