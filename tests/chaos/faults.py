"""What is done to the stack's processes, and how long it takes until jobs are done again."""

import asyncio
import json
import math
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from itertools import product
from pathlib import Path

import asyncpg
from temporalio.api.workflowservice.v1 import GetSystemInfoRequest
from temporalio.client import Client
from temporalio.service import RPCError

from tests.chaos.evidence import connected
from tests.chaos.probes import Probes
from tests.chaos.workload import Json, Service

_POLL_SECONDS = 0.05
_RETURN_SECONDS = 90
_SMART_SHUTDOWN_SECONDS = 3


class Victim(StrEnum):
    """Whom a fault strikes."""

    WORKER = "worker"
    API = "API"
    TEMPORAL = "Temporal"
    POSTGRES = "PostgreSQL"
    BACKEND = "backend"


_ENTRIES = {
    Victim.WORKER: "worker",
    Victim.API: "api",
    Victim.TEMPORAL: "temporal",
    Victim.POSTGRES: "postgres",
}
"""Where `stack.json` has the process ids."""


class Blow(StrEnum):
    """What it does to the victim."""

    KILL = "SIGKILL"
    TERM = "SIGTERM"
    STOP = "SIGSTOP"


@dataclass(frozen=True)
class Fault:
    """One fault; `pause` is how many seconds a stopped process stays stopped."""

    victim: Victim
    blow: Blow
    pause: float

    def __str__(self) -> str:
        stopped = f" for {self.pause:.1f} s" if self.blow is Blow.STOP else ""
        return f"{self.victim} {self.blow}{stopped}"


@dataclass(frozen=True)
class Recovery:
    """How many seconds a fault cost, and the other one that struck in the middle of it, if any."""

    fault: Fault
    second: Fault | None
    seconds: float

    def __str__(self) -> str:
        both = f"{self.fault} and {self.second}" if self.second else str(self.fault)
        return f"{both}: recovered after {self.seconds:.2f} s"


def seeded(seed: float) -> random.Random:
    """Chance that repeats itself."""
    return random.Random(seed)  # noqa: S311 - guards no secret


def plan(rng: random.Random, heartbeat_timeout: float) -> Iterator[Fault]:
    """The whole matrix in a random order, and then again in another one."""
    while True:
        matrix = list(product(Victim, Blow))
        rng.shuffle(matrix)
        for victim, blow in matrix:
            # A worker is paused longer than others wait for it.
            least = heartbeat_timeout + 0.5 if victim is Victim.WORKER else 1
            yield Fault(victim, blow, least + rng.uniform(0, 4))


class Injector:
    """Strikes the processes of the stack in `folder` and measures until they are of use again.

    Args:
        folder: of the stack, which restarts its children and says in `stack.json` under which ids.
        service: its API.
        rng: decides about moments, probes and backends.
        report: told what happens.
    """

    def __init__(
        self, folder: Path, service: Service, rng: random.Random, report: Callable[[str], None]
    ) -> None:
        self._folder = folder
        self._service = service
        self._rng = rng
        self._report = report
        self._probes = Probes(service, rng)

    @staticmethod
    def read(folder: Path) -> Json:
        """How to reach the stack in `folder` now."""
        stack: Json = json.loads((folder / "stack.json").read_text())
        return stack

    async def strike(self, fault: Fault, second: Fault | None = None) -> Recovery:
        """Do `fault`, and `second` in the middle of it, while jobs are under way.

        It counts until these jobs and a new one are done; for the API, until it answers.
        """
        running = await self._probes.start()
        if second:
            delay = self._rng.uniform(0, 1)
            since, _ = await asyncio.gather(self._done(fault), self._done(second, delay))
        else:
            since = await self._done(fault)
        recovered = time.monotonic()
        await self._probes.ended_well([*running, await self._probes.create()])
        if fault.victim is not Victim.API:
            recovered = time.monotonic()
        recovery = Recovery(fault, second, recovered - since)
        self._report(str(recovery))
        return recovery

    async def _done(self, fault: Fault, delay: float = 0) -> float:
        """Strike; returns the moment from which the recovery counts."""
        await asyncio.sleep(delay)
        struck, pid = await self._struck(fault)
        if fault.victim is Victim.API:
            await self._returned(fault, pid, self._service.answers)
        elif fault.victim is Victim.TEMPORAL:
            await self._returned(fault, pid, self._temporal_answers)
            return time.monotonic()
        elif fault.victim is Victim.POSTGRES or (fault.blow is Blow.KILL and fault.victim is Victim.BACKEND):
            await self._returned(fault, pid, self._postgres_answers)
            return time.monotonic()
        return struck

    async def _struck(self, fault: Fault) -> tuple[float, int]:
        """Send the signals; returns when the victim was struck or woken up, and its id."""
        pid = await self._pid(fault.victim)
        if fault.blow is Blow.KILL:
            _send(pid, signal.SIGKILL)
        elif fault.blow is Blow.TERM:
            _send(pid, signal.SIGTERM)
            if fault.victim is Victim.POSTGRES:
                await self._hurry(pid)
        else:
            try:
                _send(pid, signal.SIGSTOP)
                await asyncio.sleep(fault.pause)
            finally:
                _send(pid, signal.SIGCONT)
        return time.monotonic(), pid

    async def _hurry(self, pid: int) -> None:
        """After SIGTERM, PostgreSQL waits until all clients have left: like its service scripts, do not."""
        deadline = time.monotonic() + _SMART_SHUTDOWN_SECONDS
        while _is_alive(pid) and time.monotonic() < deadline:
            await asyncio.sleep(_POLL_SECONDS)
        if _is_alive(pid):
            _send(pid, signal.SIGINT)

    async def _returned(self, fault: Fault, pid: int, answers: Callable[[], Awaitable[bool]]) -> None:
        """Wait until the victim answers again, as another process if the fault ended it."""
        ended = fault.blow is not Blow.STOP and fault.victim is not Victim.BACKEND
        async with asyncio.timeout(_RETURN_SECONDS):
            while ended and self._listed(fault.victim) == pid:
                await asyncio.sleep(_POLL_SECONDS)
            while not await answers():
                await asyncio.sleep(_POLL_SECONDS)

    async def _pid(self, victim: Victim) -> int:
        """Process id of a victim that is alive."""
        async with asyncio.timeout(_RETURN_SECONDS):
            while True:
                pid = await self._backend() if victim is Victim.BACKEND else self._listed(victim)
                if pid is not None and _is_alive(pid):
                    return pid
                await asyncio.sleep(_POLL_SECONDS)

    def _listed(self, victim: Victim) -> int:
        return int(self.read(self._folder)[_ENTRIES[victim]]["pid"])

    async def _backend(self) -> int | None:
        """One of the service's sessions, preferably one at work."""
        query = """
            SELECT pid FROM pg_stat_activity WHERE usename = 'ods_service'
            ORDER BY state = 'active' DESC, pid % $1, pid LIMIT 1
        """
        with suppress(OSError, TimeoutError, asyncpg.PostgresError):
            async with connected(self._dsn()) as server:
                pid: int | None = await server.fetchval(query, self._rng.randint(2, 9))
                return pid
        return None

    def _dsn(self) -> str:
        return str(self.read(self._folder)["postgres"]["master_dsn"])

    async def _postgres_answers(self) -> bool:
        try:
            async with asyncio.timeout(1), connected(self._dsn()) as server:
                await server.execute("SELECT 1")
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False
        return True

    async def _temporal_answers(self) -> bool:
        temporal = self.read(self._folder)["temporal"]
        try:
            async with asyncio.timeout(1):
                client = await Client.connect(temporal["address"], namespace=temporal["namespace"])
                await client.workflow_service.get_system_info(GetSystemInfoRequest())
        except (RuntimeError, TimeoutError, RPCError):
            return False
        return True


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of `values` that at least this share of them does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def _send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _is_alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
