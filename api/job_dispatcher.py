"""Starting a job right after it was committed, or as soon as Temporal can be reached again."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import NoReturn

from api.http import temporal_calls
from ods.observability.logs import fault_name
from ods.observability.tracing.jobs import job_span
from ods.registry.education_organizations.refreshes import Scope
from ods.registry.instances.jobs import InstanceJob
from ods.registry.storage.unit_of_work import Action, after_commit
from ods.settings.settings import Trigger
from ods.temporal.job_starter import JobStarter
from ods.temporal.refresh_starter import RefreshStarter

_PAUSE_SECONDS = 2
_ANSWER_TIMEOUT_SECONDS = 0.01
"""How long a request waits for the start of its job, which goes on after the answer."""

_logger = logging.getLogger(__name__)


class JobDispatcher:
    """Starts committed jobs at once, unless they shall wait for the schedule.

    Args:
        starter: starts one job of an instance.
        refreshes: starts the refreshes of one scope.
        sweep: starts all jobs that are still pending.
        trigger: whether to start jobs at all.
    """

    def __init__(
        self,
        starter: JobStarter,
        refreshes: RefreshStarter,
        sweep: Callable[[], Awaitable[None]],
        trigger: Trigger,
    ) -> None:
        self._starter = starter
        self._refreshes = refreshes
        self._sweep = sweep
        self._immediately = trigger is Trigger.IMMEDIATE
        self._missed = asyncio.Event()
        self._starting: set[asyncio.Task[None]] = set()

    async def launch(self, job: InstanceJob, requester: str | None) -> None:
        """Start `job` for `requester`; one that cannot be started is started when Temporal answers.

        Returns when it has been started, or after a moment, while it still is being started; within a unit of
        work it is started when that is committed.
        """
        start = partial(self._starter.start, job, requester)
        await self._launch(job.job_id, start, partial(_trace_waiting, job))

    async def launch_refresh(self, job_id: str, scope: Scope) -> None:
        """Start the refresh `job_id` of `scope`, in the same way."""
        await self._launch(job_id, partial(self._refreshes.start, scope))

    async def drain(self) -> None:
        """Wait for jobs that are being started: at most as long as a call to Temporal may take."""
        await asyncio.gather(*self._starting)

    async def _launch(self, job_id: str, start: Action, trace_waiting: Action | None = None) -> None:
        if self._immediately:
            await after_commit(partial(self._begin, job_id, start, trace_waiting))
        elif trace_waiting is not None:
            await after_commit(trace_waiting)

    async def _begin(self, job_id: str, start: Action, trace_waiting: Action | None) -> None:
        task = asyncio.create_task(self._attempt(job_id, start(), trace_waiting))
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)
        await asyncio.wait({task}, timeout=_ANSWER_TIMEOUT_SECONDS)

    async def _attempt(self, job_id: str, start: Awaitable[None], trace_waiting: Action | None) -> None:
        try:
            await temporal_calls.answer_of(start)
        except Exception as error:  # noqa: BLE001 - whatever it is, the job is committed, and its requester gone
            _logger.warning("%s waits for the next sweep: %s", job_id, fault_name(error))
            self._missed.set()
            if trace_waiting is not None:
                await trace_waiting()

    async def retry_missed(self) -> NoReturn:
        """Sweep whenever a job could not be started, as soon as Temporal answers.

        Also once at first: the process before this one may have died between a commit and the start.
        """
        if self._immediately:
            self._missed.set()
        while True:
            await self._missed.wait()
            self._missed.clear()
            while not await self._swept():  # noqa: ASYNC110 - Temporal does not tell when it is back
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _swept(self) -> bool:
        try:
            await temporal_calls.answer_of(self._sweep())
        except temporal_calls.FAULTS as error:
            _logger.info("The sweep cannot be requested yet: %s", fault_name(error))
            return False
        return True


async def _trace_waiting(job: InstanceJob) -> None:
    """Lead from the trace of this request to that of the job, which another process will start."""
    with job_span("Job waits", *job.identity):
        pass
