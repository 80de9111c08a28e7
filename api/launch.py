"""Starting a job right after it was committed, or as soon as Temporal can be reached again."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import NoReturn

from api import temporal
from instances.jobs import InstanceJob
from logs import fault_name
from settings import Trigger
from workflows.start import JobStarter

_PAUSE_SECONDS = 2

_logger = logging.getLogger(__name__)


class Launcher:
    """Starts committed jobs at once, unless they shall wait for the schedule.

    Args:
        starter: starts one job.
        sweep: has everything started that is still pending.
        trigger: whether to start jobs at all.
    """

    def __init__(self, starter: JobStarter, sweep: Callable[[], Awaitable[None]], trigger: Trigger) -> None:
        self._starter = starter
        self._sweep = sweep
        self._immediately = trigger is Trigger.IMMEDIATE
        self._missed = asyncio.Event()

    async def launch(self, job: InstanceJob, requester: str | None) -> None:
        """Start `job`, for which `requester` waits; one that cannot be started now is caught up with."""
        if not self._immediately:
            return
        try:
            await temporal.answer_of(self._starter.start(job, requester))
        except temporal.FAULTS as error:
            _logger.warning("%s waits for the next sweep: %s", job.job_id, fault_name(error))
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
