"""What clients may do with jobs: look at them, cancel one that waits or runs, abandon one that has failed."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, TypeVar, assert_never

import asyncpg
from fastapi import Depends, Query

from api.dependencies import (
    CancelledDropsDep,
    InstanceQueriesDep,
    JobCancellationsDep,
    JobCancellerDep,
    JobExecutionsDep,
    KeptDatabasesDep,
    RefreshJobsDep,
    ServerDep,
)
from api.http import temporal_calls
from api.http.audit_context import AuditContextDep
from api.http.paging import words_of
from api.http.parsing import Count
from api.http.problems import ProblemError, found, in_words
from ods.databases.errors import DatabaseFaultError
from ods.model.operations import JOB_WORDS, REFRESH, JobStatus
from ods.registry.education_organizations.refreshes import Scope
from ods.registry.instances.cancelling import refusal
from ods.registry.instances.job_list import JobFilter
from ods.registry.instances.jobs import InstanceJob
from ods.registry.storage.errors import JobRefusedError
from ods.registry.storage.models import Job
from ods.registry.storage.rules import is_storable
from ods.temporal.calls import answer_within
from ods.temporal.job_canceller import CancelOutcome
from ods.temporal.job_executions import JobExecution
from ods.temporal.job_runs import UnreadableJobError
from ods.tenants.cancelling import after_cancel, cancel_behind_fence

_ROUNDS = 5
"""How often a job is looked at anew that has moved on while it was about to be cancelled."""

_LOOK_SECONDS = 1.0
"""How long Temporal is waited for by those who only look."""

_NOTHING_DONE = "Nothing was done, unless Temporal has received the request all the same."
_RECORDED = (
    "The job goes on, unless Temporal has received the request all the same. If the workflow of the job is"
    " gone before the job has ended, it is cancelled, not done again."
)

_Result = TypeVar("_Result")


async def _filter(
    statuses: Annotated[list[str], words_of("status", JobStatus)],
    operations: Annotated[list[str], words_of("operation", JOB_WORDS)],
    instance_id: Annotated[
        Count | None, Query(alias="instanceId", description="The `id` of an instance in `/v2/dbInstances`.")
    ] = None,
    created_from: Annotated[
        datetime | None, Query(alias="createdFrom", description="ISO 8601; UTC if it names no zone.")
    ] = None,
    created_to: Annotated[
        datetime | None, Query(alias="createdTo", description="Jobs that were created before this time.")
    ] = None,
) -> JobFilter:
    return JobFilter(
        statuses, operations, instance_id, _utc("CreatedFrom", created_from), _utc("CreatedTo", created_to)
    )


JobFilterDep = Annotated[JobFilter, Depends(_filter)]


def _utc(name: str, time: datetime | None) -> datetime | None:
    """The time in UTC without a zone, as the registry holds times."""
    if time is None or time.tzinfo is None:
        return time
    try:
        return time.astimezone(UTC).replace(tzinfo=None)
    except OverflowError:
        raise ProblemError.invalid(
            {name: [f"'{in_words(name)}' must be a time of the years 1 to 9999 UTC."]}
        ) from None


class JobService:
    """Cancels and abandons jobs. A request that cannot be granted raises an error that says why.

    A job that has not begun is cancelled in the registry; a job that runs, by its workflow, which undoes what
    it has done and records the end. A job whose workflow is gone is cancelled in the registry as well; by the
    reconcile pass, if the workflow goes after it was asked.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - its dependencies
        self,
        queries: InstanceQueriesDep,
        cancellations: JobCancellationsDep,
        refreshes: RefreshJobsDep,
        drops: CancelledDropsDep,
        kept: KeptDatabasesDep,
        canceller: JobCancellerDep,
        executions: JobExecutionsDep,
        server: ServerDep,
        audit: AuditContextDep,
    ) -> None:
        self._queries = queries
        self._cancellations = cancellations
        self._refreshes = refreshes
        self._drops = drops
        self._kept = kept
        self._canceller = canceller
        self._executions = executions
        self._server = server
        self._audit = audit

    async def get(self, job_id: str) -> Job:
        """The job with this id.

        Raises:
            ProblemError: 404, there is none.
        """
        return found(await self._queries.job(job_id) if is_storable(job_id) else None, "job", job_id)

    async def execution(self, job: Job) -> JobExecution | None:
        """What Temporal tells of a job that runs, or has failed; None if no workflow of it is open.

        Raises:
            UnreadableJobError: it cannot be read which job the open workflow carries out.
            Exception: one of `temporal_calls.FAULTS`, when Temporal is away.
        """
        running = await self._cancellations.running_attempt(job)
        attempt = running or await self._cancellations.failed_attempt(job)
        if attempt is None:
            return None
        return await answer_within(self._executions.find(attempt), _LOOK_SECONDS)

    async def cancel(self, job_id: str) -> Job:
        """Cancel a job; returns its row as it is then.

        Raises:
            ProblemError: 404, there is none; 503, Temporal is needed and away.
            JobRefusedError: it has ended, or cannot be found where it should run.
        """
        await self._cancellations.installation.require_confirmed()
        for _ in range(_ROUNDS):
            job = await self.get(job_id)
            self._audit.job, self._audit.instance = job.job_id, job.instance_id
            if await self._is_cancelled(job):
                await self._kept.mark(job.instance_id)
                return await self.get(job_id)
        raise JobRefusedError(
            job.status,
            "The instance, or the workflow under its id, is at another job.",
            "Look at the job again in some minutes: the pass `reconcile` mends such contradictions.",
        )

    async def abandon(self, job_id: str) -> Job:
        """End the workflow of a failed job, which waits for a retry; the instance stays as it is.

        Nor does a pass try a delete or purge again that an outage has ended.

        Raises:
            ProblemError: 404, there is no such job; 503, Temporal is away.
            JobRefusedError: it has not failed, another job has followed, or its workflow has ended.
        """
        await self._cancellations.installation.require_confirmed()
        job = await self.get(job_id)
        self._audit.job, self._audit.instance = job.job_id, job.instance_id
        attempt = await self._cancellations.failed_attempt(job)
        if attempt is None:
            raise JobRefusedError(
                job.status,
                "Only the last job of an instance can be abandoned, and only when it has failed.",
                "Look at the instance: another job may have followed.",
            )
        is_given_up = await self._cancellations.give_up(attempt)
        outcome = await _answer_of(self._canceller.abandon(attempt))
        await self._kept.mark(job.instance_id)
        if is_given_up:
            return job
        if await self._cancellations.was_tried_again(job, attempt):  # by a pass or an operator
            raise JobRefusedError(
                job.status,
                "The job was tried again at this very moment.",
                f"Cancel it: POST /v2/jobs/{job.job_id}/cancel, or `ods job cancel {job.job_id}`.",
            )
        if outcome is not CancelOutcome.REQUESTED:
            raise JobRefusedError(
                job.status,
                "The workflow of the job has ended: it waits for no decision any more.",
                "Nothing is left to abandon. The job can still be retried.",
            )
        return job

    async def _is_cancelled(self, job: Job) -> bool:
        """Cancel the job where it is; false if it is there no longer."""
        if job.operation is None:
            raise refusal(job)
        status = JobStatus(job.status)
        match status:
            case JobStatus.PENDING:
                if job.operation == REFRESH:
                    return await self._refreshes.cancel(job.job_id, status)
                return await self._cancel_waiting(job)
            case JobStatus.IN_PROGRESS:
                if job.operation == REFRESH:
                    return await self._cancel_refresh(job)
                return await self._cancel_running(job)
            case JobStatus.ERROR:
                attempt = await self._cancellations.failed_attempt(job)
                if attempt is not None and await self._cancellations.is_tried_again(attempt):
                    raise JobRefusedError(
                        job.status,
                        "An outage has ended the job, and it is tried again by itself.",
                        f"Abandon it instead: POST /v2/jobs/{job.job_id}/abandon, or `ods job abandon"
                        f" {job.job_id}`. The instance stays as it is then.",
                    )
                raise refusal(job)
            case JobStatus.COMPLETED:
                raise refusal(job)
            case _:
                assert_never(status)

    async def _cancel_refresh(self, job: Job) -> bool:
        scope = Scope(job.ods_instance_id, self._refreshes.tenant)
        if await _answer_of(self._canceller.cancel_refresh(scope, job.job_id)):
            return True
        return await self._refreshes.cancel(job.job_id, JobStatus.IN_PROGRESS)

    async def _cancel_running(self, job: Job) -> bool:
        attempt = await self._cancellations.running_attempt(job)
        # First in the registry: what Temporal alone knows is lost when the workflow is terminated.
        if attempt is None or not await self._cancellations.record(attempt):
            return False
        # In this order: a workflow that ends in good order leaves `InProgress` before it closes.
        outcome = await _answer_of(self._canceller.cancel(attempt), _RECORDED)
        match outcome:
            case CancelOutcome.REQUESTED:
                return True
            case CancelOutcome.MOVED_ON:
                return False
            case CancelOutcome.NO_WORKFLOW:
                return await self._cancel_in_registry(
                    attempt,
                    partial(self._cancellations.running_attempt, job),
                    partial(self._cancellations.cancel_lost, attempt),
                    partial(self._drops.follow, job=after_cancel(attempt)),
                )
            case _:
                assert_never(outcome)

    async def _cancel_waiting(self, job: Job) -> bool:
        find = partial(self._cancellations.waiting_attempt, job)
        attempt = await find()
        if attempt is None:
            return False
        return await self._cancel_in_registry(attempt, find, partial(self._cancellations.cancel_waiting, job))

    async def _cancel_in_registry(
        self,
        attempt: InstanceJob,
        find: Callable[[], Awaitable[InstanceJob | None]],
        cancel: Callable[[], Awaitable[bool]],
        follow: Callable[[asyncpg.Connection], Awaitable[None]] | None = None,
    ) -> bool:
        """Cancel an attempt past its workflow, behind the fence of its instance; false if it has moved on.

        While the server is away the attempt is cancelled all the same, for otherwise one that waits would be
        carried out as soon as the server is back.

        Args:
            attempt: the attempt.
            find: finds it anew, before another session that holds the fence is ended.
            cancel: records that it was cancelled; false if it has moved on.
            follow: records what it had done by then.
        """

        async def is_current() -> bool:
            return await find() == attempt

        try:
            return await cancel_behind_fence(self._server, attempt.mark, is_current, cancel, follow)
        except DatabaseFaultError:
            return await cancel()


JobServiceDep = Annotated[JobService, Depends()]


async def _answer_of(call: Awaitable[_Result], done: str = _NOTHING_DONE) -> _Result:
    """What Temporal answers.

    Args:
        call: the call.
        done: what came of the request if Temporal is away, in words for clients.

    Raises:
        ProblemError: 503, it is away, or holds what this process cannot read.
    """
    try:
        return await temporal_calls.answer_of(call)
    except UnreadableJobError:
        raise ProblemError.unavailable(
            "The job's workflow cannot be read",
            "Give the API the release and the keys that the workers have: ODS_PAYLOAD_KEY,"
            " ODS_PAYLOAD_KEY_PREVIOUS.",
        ) from None
    except temporal_calls.FAULTS:
        raise ProblemError.unavailable(
            "Temporal cannot be reached",
            f"{done} Ask again when Temporal is back.",
        ) from None
