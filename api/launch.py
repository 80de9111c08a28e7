"""Starting a job right after it was committed, or as soon as Temporal can be reached again."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import NoReturn

from api import temporal
from instances.jobs import InstanceJob
from instances.refreshes import Scope
from logs import fault_name
from settings import Trigger
from workflows.start import JobStarter
from workflows.start_refresh import RefreshStarter

_PAUSE_SECONDS = 2

_logger = logging.getLogger(__name__)


class Launcher:
    """Starts committed jobs at once, unless they shall wait for the schedule.

    Args:
        starter: starts one job of an instance.
        refreshes: starts the refreshes of one scope.
        sweep: has everything started that is still pending.
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

    async def launch(self, job: InstanceJob, requester: str | None) -> None:
        """Start `job`, for which `requester` waits; one that cannot be started now is caught up with."""
        if self._immediately:
            await self._attempt(job.job_id, self._starter.start(job, requester))

    async def launch_refresh(self, job_id: str, scope: Scope) -> None:
        """Start the refresh `job_id` of `scope`; one that cannot be started now is caught up with."""
        if self._immediately:
            await self._attempt(job_id, self._refreshes.start(scope))

    async def _attempt(self, job_id: str, start: Awaitable[None]) -> None:
        try:
            await temporal.answer_of(start)
        except temporal.FAULTS as error:
            _logger.warning("%s waits for the next sweep: %s", job_id, fault_name(error))
            self._missed.set()

    async def catch_up(self) -> NoReturn:
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
            await temporal.answer_of(self._sweep())
        except temporal.FAULTS as error:
            _logger.info("The sweep cannot be requested yet: %s", fault_name(error))
            return False
        return True
