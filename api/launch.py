"""Starting a job right after it was committed, if Temporal can be reached."""

import logging

from api import temporal
from instances.jobs import InstanceJob
from logs import fault_name
from settings import Trigger
from workflows.start import JobStarter

_logger = logging.getLogger(__name__)


class Launcher:
    """Starts committed jobs at once, unless they shall wait for the sweep."""

    def __init__(self, starter: JobStarter, trigger: Trigger) -> None:
        self._starter = starter
        self._trigger = trigger

    async def launch(self, job: InstanceJob) -> None:
        """Start `job`; one that cannot be started now is started by the next sweep."""
        if self._trigger is Trigger.SCHEDULED:
            return
        try:
            await temporal.answer_of(self._starter.start(job))
        except temporal.FAULTS as error:
            _logger.warning("%s waits for the sweep: %s", job.job_id, fault_name(error))
