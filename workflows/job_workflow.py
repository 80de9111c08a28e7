"""The workflow of a job of an instance: it begins, does its work, and records how it ended.

After a failure the workflow stays open for the decision window (seconds, `ODS_DECISION_WINDOW`), so that the
operator can signal `retry` when the cause is gone, or `abandon` to end it. While it is open it is also the
instance's lock: a newer job of the instance is handed over to it by signal, and it continues as that job
without a gap.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NoReturn, TypeVar

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, FailureError, is_cancelled_exception
from temporalio.exceptions import TimeoutError as TemporalTimeoutError
from temporalio.workflow import ActivityConfig

with workflow.unsafe.imports_passed_through():
    from activities.databases import DatabaseActivities
    from activities.endings import JobEnd, Outcome
    from activities.errors import OUTAGE
    from activities.job_fence import SLOT_MISSED
    from activities.statuses import StatusActivities
    from ods.model.operations import InstanceStatus, Operation
    from ods.registry.instances.jobs import BeginResult, ExecutionPolicy, InstanceJob, JobFailure, JobWait
    from workflows import options, search_attributes

WORKFLOW_TYPES = {operation: f"{operation}Instance" for operation in Operation}
"""The workflow of each operation, as Temporal knows it: `CreateInstance`."""

_CANCELLED = "The job was cancelled."
_OF_OTHER_RELEASE = (
    "A worker of another release has got a step of the job, and cannot read it. Check that all workers are of"
    " one release, then retry."
)

_OUTAGE_TYPES = {OUTAGE, SLOT_MISSED, "WorkerShutdown", "ActivityPause", "ActivityReset"}
"""Types of errors that say nothing about the job; the last three are Temporal's own."""

_OTHER_RELEASE = "OtherReleaseError"
"""Type of the cause if a worker cannot read the argument of a step: see `ods.temporal.strict_json`."""

_Argument = TypeVar("_Argument")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class _Outage:
    """An outage that a job waits out: since when, how many tries have met it, and what is away."""

    since: datetime
    now: datetime
    tries: int
    reason: str
    is_reportable: bool

    @property
    def lasted(self) -> timedelta:
        return self.now - self.since


def _continued(outage: _Outage | None, reason: str, now: datetime) -> _Outage:
    """The outage after one more try has met it; reportable at its second try, and when the reason changes."""
    if outage is None:
        return _Outage(now, now, 1, reason, is_reportable=False)
    is_reportable = outage.tries == 1 or reason != outage.reason
    return _Outage(outage.since, now, outage.tries + 1, reason, is_reportable)


class JobWorkflow(ABC):
    """The workflow of a job; a subclass does the work between its beginning and its end."""

    @workflow.init
    def __init__(self, job: InstanceJob) -> None:
        self.job = job
        self._retry = False
        self._abandon = False
        self._cancelled = False
        self._handed_over: list[InstanceJob] = []

    @abstractmethod
    async def do_work(self) -> bool:
        """Do the job's work, and record that it is done; false if the instance has another job by now."""

    @workflow.signal
    def retry(self) -> None:
        """Try the failed job again."""
        self._retry = True

    @workflow.signal
    def abandon(self) -> None:
        """End the failed job without waiting for a retry any longer."""
        self._abandon = True

    @workflow.signal
    def hand_over(self, job: InstanceJob) -> None:
        """Continue as `job` when this one has ended, if the instance waits for it then."""
        if job not in self._handed_over:
            self._handed_over.append(job)

    async def run_job(self) -> str:
        """Carry the job out; returns how it ended."""
        self._set_details("Pending", "The job waits for the registry; a delete also for the server.")
        begun = await self._begin()
        if not begun.held:
            return await self._moved_on()
        self._publish_status(self.job.rules.begin.target, "The job has begun.")
        if begun.refusal is not None:
            return await self._give_up(begun.refusal)
        try:
            self._act_on_cancellation()
            if not await self.do_work():
                return await self._moved_on()
        except (ActivityError, asyncio.CancelledError) as error:
            # The step's last try may have failed for another reason while the workflow was cancelled.
            if is_cancelled_exception(error) or workflow.cancellation_reason() is not None:
                self._cancelled = True
            if self._cancelled and not _is_final(error):  # an outage would have a delete tried again
                return await self._give_up(_CANCELLED)
            return await self._give_up(_reason(error), outage=_is_outage(error))
        self._publish_status(self.job.rules.finish.target, "The job is done.")
        await self._continue_as_handed_over()
        return f"{self.job.job_id} is done."

    async def record(
        self, activity: Callable[[Any, _Argument], Awaitable[_Result]], argument: _Argument, summary: str
    ) -> _Result:
        """Run an activity that records how far the job is, until the registry has it.

        Raises:
            ActivityError: the registry refuses it.
        """
        return await self.run_to_completion(
            workflow.execute_activity_method(
                activity, argument, **options.status_write(self.job.policy, summary)
            )
        )

    async def finish(self, outcome: Outcome) -> bool:
        """Record the end of the job, unless its step has; false if the instance has another job by now."""
        summary = f"Record {self.job.rules.finish.target}"
        end = JobEnd(self.job, outcome)
        return outcome.is_recorded or await self.record(StatusActivities.finish, end, summary)

    async def run_to_completion(self, step: Coroutine[Any, Any, _Result]) -> _Result:
        """Await `step` to its end: a cancellation that arrives before is acted on afterwards."""
        task = asyncio.ensure_future(step)
        while True:
            try:
                return await asyncio.shield(task)
            except asyncio.CancelledError:
                if task.cancelled():
                    raise
                self._cancelled = True

    async def run_step(
        self,
        activity: Callable[[Any, InstanceJob], Awaitable[_Result]],
        summary: str,
        options_of_try: Callable[[ExecutionPolicy, str], ActivityConfig] = options.ddl_try,
    ) -> _Result:
        """Run an activity on the ODS server until it answers about the job; outages are waited out.

        An answer that may change by itself uses up one of the job's attempts; any other answer ends the job.
        An outage, or a worker that dies, uses up none. The signal `retry` ends the pause between two tries.

        `summary` says for the Web UI what the step does; `options_of_try` gives the options of one try.

        Raises:
            ActivityError: the last attempt has failed, or an outage lasted longer than the policy allows.
        """
        policy = self.job.policy
        answers = 0
        outage: _Outage | None = None
        while True:
            # Temporal tells it to the last step, which may have been done before it heard.
            self._cancelled = self._cancelled or workflow.cancellation_reason() is not None
            self._act_on_cancellation()
            started = workflow.now()
            try:
                return await workflow.execute_activity_method(
                    activity, self.job, **options_of_try(policy, summary)
                )
            except ActivityError as error:
                if is_cancelled_exception(error) or _is_final(error):
                    raise
                if _is_outage(error):
                    if workflow.now() - started > options.LONGEST_OUTAGE_TRY:
                        outage = None
                    outage = _continued(outage, _reason(error), workflow.now())
                    if outage.lasted >= timedelta(seconds=policy.outage_timeout):
                        raise
                    await self._publish_outage(outage)
                    pause = options.pause_after(outage.tries)
                else:
                    answers, outage = answers + 1, None
                    if answers >= policy.ddl_attempts:
                        raise
                    pause = options.pause_after(answers)
            if workflow.cancellation_reason() is None:
                with suppress(TimeoutError):  # a `retry` ends the pause, also if it came during the try
                    await workflow.wait_condition(lambda: self._retry, timeout=pause)
                self._retry = False

    async def _publish_outage(self, outage: _Outage) -> None:
        """Show in the Web UI what the job waits for; record it in the registry if the outage lasts."""
        until = outage.since + timedelta(seconds=self.job.policy.outage_timeout)
        self._set_details(
            self.job.rules.begin.target,
            f"{outage.reason}\n\nThe job waits for that since {outage.since:%Y-%m-%d %H:%M:%S} UTC, until"
            f" {until:%Y-%m-%d %H:%M:%S} UTC at the latest. Signal `retry` to try at once.",
        )
        if not outage.is_reportable:
            return
        left = self.job.policy.outage_timeout - outage.lasted.total_seconds()
        wait = JobWait(self.job, outage.reason, outage.lasted.total_seconds(), left)
        with suppress(ActivityError):
            await self.run_to_completion(
                workflow.execute_activity_method(
                    StatusActivities.record_wait, wait, **options.wait_record(self.job.policy)
                )
            )

    async def _begin(self) -> BeginResult:
        """Move the instance to `InProgress`, within the workflow task if possible: that is faster."""
        with suppress(FailureError):
            return await self.run_to_completion(
                workflow.execute_local_activity_method(
                    StatusActivities.begin, self.job, **options.quick_write("Take the instance")
                )
            )
        return await self.record(StatusActivities.begin, self.job, "Take the instance")

    async def _give_up(self, reason: str, *, outage: bool = False) -> str:
        self._retry = self._abandon = False  # signals until now were not meant for this failure
        cancelled = self._cancelled
        failure = JobFailure(self.job, reason, outage, cancelled)
        if not await self.record(StatusActivities.fail, failure, "Record the failure"):
            return await self._moved_on()
        self._publish_status(
            (self.job.rules.cancel_running if cancelled else self.job.rules.fail).target,
            f"{reason}\n\nSignal `retry` when the cause is gone, or `abandon` to end this workflow.",
        )
        undo = options.clean_up(self.job.policy, str(self.job.rules.undo).capitalize())
        try:
            if await self.run_to_completion(
                workflow.execute_activity_method(DatabaseActivities.compensate, self.job, **undo)
            ):
                self._publish_status(
                    InstanceStatus.COMPLETED, "The job had failed after it had published the database."
                )
                await self._continue_as_handed_over()
                return f"{self.job.job_id} is done: its database had been published."
        except ActivityError:
            workflow.logger.warning("What the failed job left behind could not be removed.")
        await self._wait_for_decision()
        raise ApplicationError(reason, type="JobFailed")

    async def _wait_for_decision(self) -> None:
        ends = workflow.now() + timedelta(seconds=self.job.policy.decision_window)
        try:
            with suppress(TimeoutError):
                while True:
                    await self._continue_as_due()
                    self._act_on_cancellation()
                    if self._retry or self._abandon:
                        break
                    await workflow.wait_condition(
                        lambda: self._retry or self._abandon or bool(self._handed_over),
                        timeout=ends - workflow.now(),
                    )
        finally:
            # Also when it is cancelled: the next job was handed over to this workflow, which alone starts it.
            await self._continue_as_due()
        self._act_on_cancellation()  # no `retry` outranks it
        if self._retry:
            # Adopting a database gives the job another request: what is late of this one does not touch that.
            attempt = await self.record(StatusActivities.next_attempt, self.job, "Ask for the next attempt")
            await self._continue_as_due()
            self._act_on_cancellation()
            if attempt is not None:
                self._continue_as(attempt)

    async def _continue_as_handed_over(self) -> None:
        """Continue as the job that was handed over, without asking the registry: it begins if it is due.

        The registry is asked if several jobs were handed over, or another attempt at this job: a registry was
        put back, or signals came late.
        """
        match self._handed_over:
            case [job] if not job.is_attempt(self.job):
                self._continue_as(job)
            case _:
                await self._continue_as_due()

    async def _continue_as_due(self) -> None:
        """Continue as the first job that was handed over and is due by the registry; forget the others."""
        while self._handed_over:
            job = self._handed_over.pop(0)
            if await self.record(StatusActivities.is_due, job, "Ask whether the next job is due"):
                self._continue_as(job)

    def _act_on_cancellation(self) -> None:
        if self._cancelled:
            raise asyncio.CancelledError

    async def _moved_on(self) -> str:
        await self._continue_as_handed_over()
        return f"{self.job.job_id} was no longer due; nothing was done."

    def _continue_as(self, job: InstanceJob) -> NoReturn:
        workflow.continue_as_new(
            args=[job],
            workflow=WORKFLOW_TYPES[job.operation],
            search_attributes=search_attributes.of(job, InstanceStatus.PENDING),
            memo=job.memo,  # otherwise that of the job before: a restored registry would not be found
            initial_versioning_behavior=options.NEXT_RUN,
        )

    def _publish_status(self, status: InstanceStatus, details: str) -> None:
        workflow.upsert_search_attributes([search_attributes.STATUS.value_set(status)])
        self._set_details(status, details)

    def _set_details(self, status: str, details: str) -> None:
        target = f" to **{self.job.new_name}**" if self.job.rules.renames else ""
        workflow.set_current_details(
            f"**{status}**: {self.job.kind.name.lower()} instance **{self.job.name}**{target}"
            f" (database `{self.job.database}`, template {self.job.template}).\n\n{details}"
        )


def _is_final(error: BaseException) -> bool:
    """Whether trying again cannot help."""
    cause = error.cause if isinstance(error, ActivityError) else None
    return isinstance(cause, ApplicationError) and cause.non_retryable


def _is_outage(error: BaseException) -> bool:
    """Whether a step gave no answer about the job: an outage, a worker that died or has another release."""
    cause = error.cause if isinstance(error, ActivityError) else None
    if isinstance(cause, ApplicationError):
        return cause.type in _OUTAGE_TYPES or _is_of_other_release(cause)
    return isinstance(cause, TemporalTimeoutError)


def _is_of_other_release(cause: ApplicationError) -> bool:
    return isinstance(cause.cause, ApplicationError) and cause.cause.type == _OTHER_RELEASE


def _reason(error: BaseException) -> str:
    """What clients and operators read about `error`, which was redacted before it entered the history."""
    if is_cancelled_exception(error):
        return _CANCELLED
    cause = error.cause if isinstance(error, ActivityError) else error
    if isinstance(cause, ApplicationError):
        return _OF_OTHER_RELEASE if _is_of_other_release(cause) else cause.message
    return "No worker could finish the step in time. Check the workers, then retry."
