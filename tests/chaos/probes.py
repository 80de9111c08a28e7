"""Jobs whose ends tell that things work."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass

from tests.chaos.workload import Service, drop_unmarked, insist

_CREATES = 2
_PAUSE_SECONDS = 0.2
_NOT_RECOVERED = "registry or server was restored to an earlier state"
"""In the reason of a job that does nothing to a database which a recovery must bring in step first."""


@dataclass(frozen=True)
class Probe:
    """An instance that was requested to see what becomes of it, and the job of its create."""

    id: int
    name: str
    template: str
    job: str

    @property
    def database(self) -> str:
        """Of the instance."""
        return _database(self.name, self.template)


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
        self._restores = 0
        self._probes: list[Probe] = []
        self._trash: list[Probe] = []

    async def start(self) -> Sequence[str]:
        """Request creates, deletes of what the fault before had created, and a sweep; returns the jobs.

        One of these is backed up first. What was put into the trash before is undeleted or purged.
        """
        history = self._service.ledger.history
        if (
            history.restores > self._restores
        ):  # what was in the trash may be live again, or the other way round
            self._restores, self._trash = history.restores, []
        old, self._probes = [it for it in self._probes if (it.id, it.name) not in history.removed], []
        trashed, self._trash = self._trash, []
        returns = [await self._from_trash(probe) for probe in trashed]
        backups = [await self._backed_up(probe) for probe in old[-1:]]
        deletes = [await self._to_trash(probe) for probe in old[:-1]]
        creates = [await self.create() for _ in range(_CREATES)]
        await self._service.send("POST", "/v2/sweep")
        return [*filter(None, [*returns, *backups, *deletes]), *creates]

    async def create(self) -> str:
        """Request an instance that the next `start` deletes; returns the job."""
        probe = await self._created(self._rng.choice(("Minimal", "Sample")))
        self._probes.append(probe)
        return probe.job

    async def create_up_to(self, job: str, most: int) -> Sequence[str]:
        """Request instances until one of them has the id of the instance of `job`; returns the jobs."""
        jobs: list[str] = []
        while len(jobs) < most and job not in jobs:
            jobs.append(await self.create())
        return jobs

    async def made(self, count: int) -> Sequence[Probe]:
        """Instances that are there, for the caller to delete.

        Raises:
            TimeoutError: they are not for minutes.
        """
        probes = [await self._created("Minimal") for _ in range(count)]
        await self.ended_well([probe.job for probe in probes])
        return probes

    async def failed(self, server_dsn: str) -> Probe | None:
        """An instance that could not be created, because its database's name is taken by another one.

        None if the answer to the request was lost.

        Raises:
            TimeoutError: the create has not failed for minutes.
        """
        name = self._next_name()
        await insist(server_dsn, f'CREATE DATABASE "{_database(name, "Minimal")}"')
        accepted = await self._service.create(name, "Minimal")
        if accepted is None:
            await drop_unmarked(server_dsn, _database(name, "Minimal"))
            return None
        probe = Probe(accepted["id"], name, "Minimal", accepted["jobId"])
        await self.ended([probe.job])
        return probe

    async def mend(self, probe: Probe, server_dsn: str) -> None:
        """Free the name that kept an instance from being created, and retry it."""
        await drop_unmarked(server_dsn, probe.database)
        await self._service.retry(probe.id, probe.name)

    async def delete(self, probe: Probe, way: str = "Trash") -> str | None:
        """Request that an instance is deleted; returns the job, or None if that was refused."""
        await self._pause()
        accepted = await self._service.delete(probe.id, probe.name, way)
        return str(accepted["jobId"]) if accepted else None

    async def _backed_up(self, probe: Probe) -> str | None:
        """Request a backup of an instance, which another `start` deletes."""
        await self._pause()
        self._probes.append(probe)
        accepted = await self._service.back_up(probe.id, probe.name)
        return str(accepted["jobId"]) if accepted else None

    async def _to_trash(self, probe: Probe) -> str | None:
        job = await self.delete(probe)
        if job is not None:
            self._trash.append(probe)
        return job

    async def _from_trash(self, probe: Probe) -> str | None:
        """Request that an instance comes back, for the next `start` to delete, or that it is purged."""
        if self._rng.random() < 0.5:
            return await self.delete(probe, "Drop")
        await self._pause()
        accepted = await self._service.undelete(probe.id, probe.name)
        if accepted is None:
            return None
        self._probes.append(probe)
        return str(accepted["jobId"])

    async def ended(self, jobs: Sequence[str]) -> None:
        """Wait until all of `jobs` have ended, however.

        Raises:
            TimeoutError: they have not for minutes.
        """
        await asyncio.gather(*(self._service.ended(job) for job in jobs))

    async def ended_well(self, jobs: Sequence[str]) -> None:
        """Wait until all of `jobs` are done; a failure is noted as odd, unless it is due to a restore.

        That has undone the job, or the instance waits for the operator to recover it.

        Raises:
            TimeoutError: they are not for minutes.
        """
        ledger = self._service.ledger
        for told in await asyncio.gather(*(self._service.ended(job) for job in jobs)):
            if told["status"] == "Completed" or ledger.history.has_undone(told["jobId"]):
                continue
            if not (ledger.history.changed and _NOT_RECOVERED in str(told["errorMessage"])):
                ledger.oddities.append(f"{told['jobId']}: {told['errorMessage']}")

    async def _created(self, template: str) -> Probe:
        await self._pause()
        while True:
            name = self._next_name()
            accepted = await self._service.create(name, template)
            if accepted is not None:
                return Probe(accepted["id"], name, template, accepted["jobId"])
            # A try without an answer had been accepted: its job is good, but no client was told its id.

    def _next_name(self) -> str:
        self._names += 1
        return f"Probe {self._names}"

    async def _pause(self) -> None:
        await asyncio.sleep(self._rng.uniform(0, _PAUSE_SECONDS))


def _database(name: str, template: str) -> str:
    return f"EdFi_Ods_{name.replace(' ', '_')}_{template}"
