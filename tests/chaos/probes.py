"""Jobs whose ends tell that things work."""

import asyncio
import random
from collections.abc import Sequence

from tests.chaos.workload import Service

_CREATES = 2
_PAUSE_SECONDS = 0.2


class Probes:
    """Creates and deletes that a fault shall meet, and that must come to a good end.

    Args:
        service: the API.
        rng: decides about moments and templates.
    """

    def __init__(self, service: Service, rng: random.Random) -> None:
        self._service = service
        self._rng = rng
        self._names = 0
        self._instances: dict[int, str] = {}

    async def start(self) -> Sequence[str]:
        """Request creates, deletes of what the fault before had created, and a sweep; returns the jobs."""
        old, self._instances = self._instances, {}
        deletes = [await self._delete(instance, name) for instance, name in old.items()]
        creates = [await self.create() for _ in range(_CREATES)]
        await self._service.send("POST", "/v2/sweep")
        return [*filter(None, deletes), *creates]

    async def create(self) -> str:
        """Request an instance; returns the job."""
        await self._pause()
        template = self._rng.choice(("Minimal", "Sample"))
        while True:
            self._names += 1
            name = f"Probe {self._names}"
            accepted = await self._service.create(name, template)
            if accepted is not None:
                self._instances[accepted["id"]] = name
                return str(accepted["jobId"])
            # A try without an answer had been accepted: its job is good, but nobody was told its id.

    async def ended_well(self, jobs: Sequence[str]) -> None:
        """Wait until all of `jobs` are done; a failure is noted as odd.

        Raises:
            TimeoutError: they are not for minutes.
        """
        for told in await asyncio.gather(*(self._service.ended(job) for job in jobs)):
            if told["status"] != "Completed":
                self._service.ledger.oddities.append(f"{told['jobId']}: {told['errorMessage']}")

    async def _delete(self, instance: int, name: str) -> str | None:
        await self._pause()
        accepted = await self._service.delete(instance, name)
        return str(accepted["jobId"]) if accepted else None

    async def _pause(self) -> None:
        await asyncio.sleep(self._rng.uniform(0, _PAUSE_SECONDS))
