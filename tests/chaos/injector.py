"""Does faults to a stack, and measures how long it takes until jobs are done again."""

import asyncio
import json
import random
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar, assert_never
from urllib.parse import urlsplit

import asyncpg
from temporalio.api.workflowservice.v1 import GetSystemInfoRequest
from temporalio.client import Client
from temporalio.service import RPCError

from tests.chaos import obstacles
from tests.chaos.evidence import BROKEN, connected
from tests.chaos.faults import Blow, Fault, Recovery, Victim
from tests.chaos.probes import Probes
from tests.chaos.processes import children, frozen, is_alive, parent, send
from tests.chaos.restore import Snapshot
from tests.chaos.workload import Json, Service, insist
from tests.replication import ReplicatedPair

_POLL_SECONDS = 0.05
_RETURN_SECONDS = 90
_URGENT_SIGNALS = ((3, signal.SIGINT), (20, signal.SIGQUIT))
"""What is sent to a PostgreSQL that has not ended as many seconds after the signal before."""
_DONE_SECONDS = 10
"""How long jobs may take that a restore shall meet when they are done."""
_CREATES_AGAIN = 12
"""How many are requested at most until an id is given out again."""
_ACCEPTED_SECONDS = 5
"""How long requests may be refused after a standby has become the primary."""
_LOCKED = 4
"""So many databases are locked: more than a worker drops at once."""
_ROLE = "ods_service"
_ENTRIES = {
    Victim.WORKER: "worker",
    Victim.API: "api",
    Victim.TEMPORAL: "temporal",
    Victim.POSTGRES: "postgres",
}
"""Where `stack.json` has the process ids."""

_Result = TypeVar("_Result")


class Injector:
    """Strikes the stack in `folder` and measures until it is of use again.

    Args:
        folder: of the stack, which restarts its children and says in `stack.json` under which ids.
        service: its API.
        rng: decides about moments, probes and backends.
        report: told what happens.
        outage: how many seconds a server is away at most.
        overlaps: whether the next fault comes before the jobs that met this one are done, which the checker
            then looks at.
        pair: the two servers, if PostgreSQL is a primary with a standby.
    """

    def __init__(
        self,
        folder: Path,
        service: Service,
        rng: random.Random,
        report: Callable[[str], None],
        *,
        outage: float = 0,
        overlaps: bool = False,
        pair: ReplicatedPair | None = None,
    ) -> None:
        self._folder = folder
        self._service = service
        self._rng = rng
        self._report = report
        self._overlaps = overlaps
        self._pair = pair
        self._promotion = asyncio.Lock()
        self._probes = Probes(service, rng)
        self._return_seconds = _RETURN_SECONDS + outage
        self._outages = 0

    @staticmethod
    def read(folder: Path) -> Json:
        """How to reach the stack in `folder` now."""
        stack: Json = json.loads((folder / "stack.json").read_text())
        return stack

    async def strike(self, fault: Fault, second: Fault | None = None) -> Recovery | None:
        """Do `fault`, and `second` in the middle of it, while jobs are under way.

        It counts until these jobs and a new one are done; for the API, until it answers. None if faults
        overlap, so that nothing can be measured.

        Raises:
            TimeoutError: nothing was of use for minutes.
        """
        jobs = list(await self._probes.start())
        if second:
            delay = self._rng.uniform(0, 1)
            since, _ = await asyncio.gather(self._done(fault, jobs), self._done(second, jobs, delay))
        else:
            since = await self._done(fault, jobs)
        recovered = time.monotonic()
        if self._overlaps:
            self._report(str(fault) if second is None else f"{fault} and {second}")
            return None
        await self._probes.ended_well([*jobs, await self._probes.create()])
        if fault.victim is not Victim.API:
            recovered = time.monotonic()
        recovery = Recovery(fault, second, recovered - since)
        self._report(str(recovery))
        return recovery

    async def _done(self, fault: Fault, jobs: list[str], delay: float = 0) -> float:
        """Strike; returns the moment from which the recovery counts.

        Jobs that the fault needs, and that shall come to a good end, are added to `jobs`.
        """
        await asyncio.sleep(delay)
        match fault.blow:
            case Blow.KILL | Blow.TERM | Blow.STOP:
                return await self._signalled(fault)
            case Blow.OUTAGE:
                await self._away(fault)
            case Blow.FREEZE:
                await self._frozen(fault)
            case Blow.RESTORE:
                await self._put_back(fault, jobs)
            case Blow.LOCK:
                await self._locked(fault, jobs)
            case Blow.INTERRUPT:
                await self._interrupted(jobs)
            case Blow.LEAVE:
                await self._left()
            case Blow.SWITCHOVER | Blow.FAILOVER | Blow.DEMOTION:
                return await self._promoted(fault, jobs)
            case _:
                assert_never(fault.blow)
        return time.monotonic()

    async def _signalled(self, fault: Fault) -> float:
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

    async def _away(self, fault: Fault) -> None:
        """A server is not there for a while, and is started when that is over."""
        if fault.victim in {Victim.REGISTRY, Victim.SERVER}:
            database = urlsplit(self._dsn(fault.victim)).path.removeprefix("/")
            async with obstacles.closed(self._dsn(), database, _ROLE):
                await asyncio.sleep(fault.pause)
            return
        pid = await self._pid(fault.victim)
        self._outages += 1
        supervisor = parent(pid)
        try:
            send(supervisor, signal.SIGSTOP)  # it would start the server again
            send(pid, signal.SIGKILL if fault.victim is Victim.TEMPORAL else signal.SIGQUIT)
            await asyncio.sleep(fault.pause)
        finally:
            self._outages -= 1
            if not self._outages:
                send(supervisor, signal.SIGCONT)
        await self._returned(fault, pid, self._answers(fault.victim))

    async def _frozen(self, fault: Fault) -> None:
        """A server takes connections and says nothing, as one does that the network has lost."""
        pid = await self._pid(fault.victim)
        with frozen([pid]), frozen(children(pid)):
            await asyncio.sleep(fault.pause)
        await self._returned(fault, pid, self._answers(fault.victim))

    async def _put_back(self, fault: Fault, later: list[str]) -> None:
        """The registry is restored, after some jobs were done that it then knows nothing of.

        One of them had failed and was retried, so that the registry says `Error` of what is in use. Others
        wait for the worker, which is slow, when new requests get their ids again.
        """
        failed = await self._probes.failed(self._dsn())
        snapshot = await _insisted(lambda: Snapshot.take(self._dsn(Victim.REGISTRY)))
        jobs = await self._probes.start()
        if failed is not None:
            await self._probes.mend(failed, self._dsn())
        await asyncio.sleep(fault.pause)
        with suppress(TimeoutError):
            async with asyncio.timeout(_DONE_SECONDS):
                await self._probes.ended([*jobs, *([failed.job] if failed else [])])
        history = self._service.ledger.history
        with frozen([self._listed(Victim.WORKER)]):
            waiting = await self._probes.start()
            await _insisted(lambda: snapshot.put_back(self._dsn(Victim.REGISTRY), history))
            later += await self._probes.create_up_to(waiting[-1], _CREATES_AGAIN)

    async def _locked(self, fault: Fault, jobs: list[str]) -> None:
        """Another session holds locks on databases that are being deleted; the other jobs must go on."""
        probes = await self._probes.made(_LOCKED)
        with suppress(*BROKEN):
            async with obstacles.locks(self._dsn(), [probe.database for probe in probes]):
                released = time.monotonic() + fault.pause
                deletes = [await self._probes.delete(probe) for probe in probes]
                created = await self._probes.create()
                jobs += [*filter(None, deletes), created]
                await self._ended_before(released, created)
                await asyncio.sleep(released - time.monotonic())

    async def _ended_before(self, moment: float, job: str) -> None:
        try:
            async with asyncio.timeout(moment - time.monotonic()):
                await self._probes.ended([job])
        except TimeoutError:
            if not self._overlaps:
                words = f"{job} got no turn while another session held locks on {_LOCKED} databases"
                self._service.ledger.oddities.append(words)

    async def _interrupted(self, jobs: list[str]) -> None:
        """The sessions that drop databases are ended in the middle of it."""
        (probe,) = await self._probes.made(1)

        async def request() -> None:
            jobs.extend(filter(None, [await self._probes.delete(probe, "Drop")]))

        if not await obstacles.interrupt_drop(self._dsn(), _ROLE, request):
            self._report("No DROP was met.")

    async def _left(self) -> None:
        """A delete has failed and its DROP was interrupted: the pass must bring it to its end."""
        (probe,) = await self._probes.made(1)

        async def fail() -> None:
            await self._probes.ended([*filter(None, [await self._probes.delete(probe, "Drop")])])

        await obstacles.leave_invalid(self._dsn(), probe.database, fail)
        # A delete that has come so far has ended the routing before.
        routing = f"DELETE FROM dbo.odsinstances WHERE name = '{probe.name}'"  # noqa: S608 - no client's name
        await insist(self._dsn(Victim.REGISTRY), routing)

    async def _promoted(self, fault: Fault, jobs: list[str]) -> float:
        """The standby becomes the primary; returns when. A request must be accepted soon after.

        A primary that was demoted in place keeps its sessions, and refuses writes, until the fault ends.
        """
        pair = self._pair
        assert pair is not None, "there is no standby: the hand needs the stack on a pair"
        async with self._promotion:  # one after the other
            if fault.blow is Blow.SWITCHOVER:
                await pair.switchover()
            else:
                await (pair.crash_and_promote() if fault.blow is Blow.FAILOVER else pair.demote_in_place())
            promoted = time.monotonic()
            await self._accepted(jobs)
            if pair.standby is None:
                await asyncio.sleep(fault.pause)
                await pair.rejoin()
            return promoted

    async def _accepted(self, jobs: list[str]) -> None:
        """Request an instance; it is odd if that takes long. If it is accepted at all, the clients see."""
        try:
            async with asyncio.timeout(_ACCEPTED_SECONDS):
                jobs.append(await self._probes.create())
        except TimeoutError:
            if not self._overlaps:
                words = f"no request was accepted within {_ACCEPTED_SECONDS} s of the promotion"
                self._service.ledger.oddities.append(words)

    def _answers(self, victim: Victim) -> Callable[[], Awaitable[bool]]:
        return self._temporal_answers if victim is Victim.TEMPORAL else self._postgres_answers

    async def _struck(self, fault: Fault) -> tuple[float, int]:
        """Send the signals; returns when the victim was struck or woken up, and its id."""
        pid = await self._pid(fault.victim)
        if fault.blow is Blow.KILL:
            send(pid, signal.SIGKILL)
        elif fault.blow is Blow.TERM:
            send(pid, signal.SIGTERM)
            if fault.victim is Victim.POSTGRES:
                await self._hurry(pid)
        else:
            with frozen([pid]):
                await asyncio.sleep(fault.pause)
        return time.monotonic(), pid

    async def _hurry(self, pid: int) -> None:
        """After SIGTERM, PostgreSQL waits until all clients have left: like its service scripts, do not.

        Nor does PostgreSQL 18 always end at SIGINT, if SIGTERM came while it recovered from a crash.
        """
        for seconds, urgent in _URGENT_SIGNALS:
            deadline = time.monotonic() + seconds
            while is_alive(pid) and time.monotonic() < deadline:
                await asyncio.sleep(_POLL_SECONDS)
            if is_alive(pid):
                send(pid, urgent)

    async def _returned(self, fault: Fault, pid: int, answers: Callable[[], Awaitable[bool]]) -> None:
        """Wait until the victim answers again, as another process if the fault ended it."""
        stopped = fault.blow in {Blow.STOP, Blow.FREEZE}
        ended = not stopped and fault.victim is not Victim.BACKEND
        async with asyncio.timeout(self._return_seconds):
            while ended and self._listed(fault.victim) == pid:
                await asyncio.sleep(_POLL_SECONDS)
            while not await answers():
                await asyncio.sleep(_POLL_SECONDS)

    async def _pid(self, victim: Victim) -> int:
        """Process id of a victim that is alive."""
        async with asyncio.timeout(self._return_seconds):
            while True:
                pid = await self._backend() if victim is Victim.BACKEND else self._listed(victim)
                if pid is not None and is_alive(pid):
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

    def _dsn(self, victim: Victim = Victim.SERVER) -> str:
        name = "admin_dsn" if victim is Victim.REGISTRY else "master_dsn"
        return str(self.read(self._folder)["postgres"][name])

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


async def _insisted(step: Callable[[], Awaitable[_Result]]) -> _Result:
    """Do `step` as often as it takes: another fault may have ended the server."""
    while True:
        try:
            return await step()
        except BROKEN:
            await asyncio.sleep(_POLL_SECONDS)
