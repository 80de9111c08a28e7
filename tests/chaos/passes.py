"""Passes of the product's schedules, which those who look on have come by."""

import asyncio

from temporalio.client import ScheduleHandle

_POLL_SECONDS = 0.1


async def passed(schedule: ScheduleHandle) -> None:
    """Have the pass of this schedule come by, from beginning to end."""
    started = (await schedule.describe()).info.num_actions
    while True:
        info = (await schedule.describe()).info
        if info.num_actions > started and not info.running_actions:
            return
        if info.num_actions == started and not info.running_actions:
            await schedule.trigger()
        await asyncio.sleep(_POLL_SECONDS)
