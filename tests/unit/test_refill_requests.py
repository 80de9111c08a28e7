import asyncio

import pytest
from temporalio.service import RPCError, RPCStatusCode

from activities.spares import RefillRequests
from tests.workflows.script import until


class Schedule:
    """Answers requests when it is told to."""

    def __init__(self) -> None:
        self.requested = 0
        self.answer = asyncio.Event()
        self.away = False

    async def trigger(self) -> None:
        self.requested += 1
        await self.answer.wait()
        if self.away:
            raise RPCError("away", RPCStatusCode.UNAVAILABLE, b"")


@pytest.fixture
def schedule() -> Schedule:
    return Schedule()


async def test_claims_share_a_request_but_the_last_gets_one_of_its_own_when_they_come_close(
    schedule: Schedule,
) -> None:
    refill = RefillRequests(schedule.trigger)
    refill()
    refill()  # before the first was sent
    await until(lambda: schedule.requested == 1)
    for _ in range(10):
        refill()  # while the first is under way: it may have come too late for these
    schedule.answer.set()
    await until(lambda: schedule.requested == 2)
    refill()
    await until(lambda: schedule.requested == 3)


async def test_next_claim_requests_again_when_temporal_was_away(
    schedule: Schedule, caplog: pytest.LogCaptureFixture
) -> None:
    schedule.away = True
    schedule.answer.set()
    refill = RefillRequests(schedule.trigger)
    refill()
    await until(lambda: "UNAVAILABLE" in caplog.text)
    refill()
    await until(lambda: schedule.requested == 2)
