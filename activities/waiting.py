"""The end of what a job has recorded that it waits for, which its next step records as soon as it works."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from ods.observability.logs import fault_name
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.jobs import InstanceJob

_AGAIN_SECONDS = 1

_logger = logging.getLogger(__name__)


@asynccontextmanager
async def ends_wait(
    jobs: JobStore, job: InstanceJob, works: Callable[[], Awaitable[object]]
) -> AsyncIterator[None]:
    """Record, beside the body, that the job waits for nothing any more, once `works` has returned.

    It is tried until it is recorded: as long as it is not, clients are told that the job waits.

    Args:
        jobs: where it is recorded.
        job: the job whose step the body is.
        works: awaited once; returns when the step has begun to work.
    """
    ending = asyncio.create_task(_end_wait(jobs, job, works))
    try:
        yield
    finally:
        ending.cancel()
        await asyncio.wait([ending])


async def _end_wait(jobs: JobStore, job: InstanceJob, works: Callable[[], Awaitable[object]]) -> None:
    await works()
    while True:
        try:
            await jobs.end_wait(job)
        except Exception as error:  # noqa: BLE001 - the registry is away, which says nothing of the step
            _logger.info("That %s waits no longer is not recorded: %s", job.job_id, fault_name(error))
        else:
            return
        await asyncio.sleep(_AGAIN_SECONDS)
