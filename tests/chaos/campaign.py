"""One campaign: clients at work on a stack while faults strike it, then quiet, then judgement."""

import asyncio
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from temporalio.client import Client

from ods.programs.postgres import client_program
from tests.chaos import backups
from tests.chaos.backups import BackupSource
from tests.chaos.busy import busy
from tests.chaos.checker import check_drift, judge
from tests.chaos.customer import Customer, Surroundings
from tests.chaos.evidence import Target, connected, foreign_databases, watch
from tests.chaos.faults import Blow, Fault, Recovery, Victim, percentile, seeded
from tests.chaos.injector import Injector
from tests.chaos.passes import passed
from tests.chaos.rows import write_rows
from tests.chaos.violations import Storm, Violation
from tests.chaos.workload import TIMEOUT_SECONDS, Ledger, Service, insist
from tests.replication import ReplicatedPair

_CUSTOMERS = 6
_TAKEN = ("Taken One", "Taken Two", "Stranger")
_CONTESTED = tuple(f"Contested {number}" for number in range(1, 9))
_QUIET_SECONDS = 150
_SPARES = 2
"""Of each template, unless the caller has said otherwise."""
_SHARE_OF_DOUBLE_FAULTS = 0.2

_SPARE_SECONDS = 2
"""What a killed worker may cost beyond the heartbeat timeout."""
_RESTART_SECONDS = 15
"""What a restart of PostgreSQL or Temporal may cost from the moment that it answers again."""
_RETURN_SECONDS = 30
"""What an outage may cost from the moment that the server answers again."""

_RECONCILE = "reconcile"
_PASSES = 2
"""The second pass sees what the jobs have come to that the first one has put to work again."""
_PASS_SECONDS = 120

Report = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What to do: `operations` spread over `seconds`, `fault_every` seconds between two of `faults`.

    Clients that faults hold up go on for `overtime` seconds, and leave out what is not begun by then.
    Faults strike as long as the clients work, but at least `least_faults`. An outage lasts `outage` seconds.
    With `busy` processes beside the stack, recovery is slower than the faults: the next one does not wait.
    """

    seed: int
    operations: int
    seconds: float
    overtime: float
    fault_every: float
    faults: Iterator[Fault]
    least_faults: int = 0
    outage: float = 0
    busy: int = 0


@dataclass
class Outcome:
    """What came of it."""

    ledger: Ledger
    heartbeat_timeout: float
    faults: list[Fault] = field(default_factory=list)
    recoveries: list[Recovery] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)

    def measured(self) -> Mapping[tuple[Victim, Blow], Sequence[float]]:
        """Seconds of the undisturbed recoveries, by kind of fault."""
        found: dict[tuple[Victim, Blow], list[float]] = {}
        for recovery in self.recoveries:
            if recovery.second is None:
                found.setdefault((recovery.fault.victim, recovery.fault.blow), []).append(recovery.seconds)
        return found

    def limit(self, victim: Victim, blow: Blow) -> float | None:
        """Seconds that 95 of 100 recoveries may take, if that is promised."""
        if blow in {Blow.OUTAGE, Blow.FREEZE}:
            return _RETURN_SECONDS
        if blow in {Blow.SWITCHOVER, Blow.FAILOVER, Blow.DEMOTION}:
            return None  # the old primary has come back as a standby before the jobs are waited for
        if victim in {Victim.POSTGRES, Victim.TEMPORAL}:
            return _RESTART_SECONDS
        if (victim, blow) == (Victim.WORKER, Blow.KILL):
            return self.heartbeat_timeout + _SPARE_SECONDS
        return None

    def missed(self) -> Sequence[str]:
        """Limits that were not kept, in words."""
        return [
            f"{victim} {blow}: {percentile(seconds, 0.95):.1f} s instead of {limit:.0f} s"
            for (victim, blow), seconds in self.measured().items()
            if (limit := self.limit(victim, blow)) is not None and percentile(seconds, 0.95) > limit
        ]

    @property
    def good(self) -> bool:
        """Whether everything is as promised."""
        return not (self.violations or self.missed() or self.ledger.oddities)


async def campaign(
    folder: Path,
    plan: Plan,
    heartbeat_timeout: float,
    report: Report,
    pair: ReplicatedPair | None = None,
) -> Outcome:
    """Carry out `plan` on the stack that serves in `folder`, whose PostgreSQL is `pair` if there is one."""
    target = Target.of_stack(folder)
    await _plant_foreign_databases(target)
    foreign = await foreign_databases(target)
    outcome = Outcome(Ledger(), heartbeat_timeout)
    stack = Injector.read(folder)
    timeout = TIMEOUT_SECONDS + plan.outage
    service = Service(stack["api"]["url"], stack["client"], outcome.ledger, timeout)
    watching = asyncio.create_task(watch(target, outcome.ledger.history))
    try:
        async with busy(plan.busy):
            injector = Injector(
                folder,
                service,
                seeded(plan.seed + 1),
                report,
                outage=plan.outage,
                overlaps=plan.busy > 0,
                pair=pair,
            )
            writing = asyncio.create_task(write_rows(target, outcome.ledger.history, seeded(plan.seed + 2)))
            await _storm(plan, target, service, injector, outcome)
            writing.cancel()
            report("The storm is over; waiting until things are quiet.")
            await _hear_outcomes(service)
        if outcome.ledger.history.changed:
            await _accept_store(folder)
        await _reconcile(target)
        spares = int(os.environ.get("ODS_SPARES", _SPARES))
        ledger = outcome.ledger
        storm = Storm(ledger.told(), foreign, spares, ledger.history, ledger.attributes, ledger.together)
        verdict = await judge(target, storm, _QUIET_SECONDS)
        outcome.violations += verdict.violations
        outcome.violations += await backups.judged(_backup_source(folder, target), ledger.history)
        planned = await _planned(folder) if verdict.leftovers else ()
        outcome.violations += await check_drift(drift_command(folder), storm, verdict, planned)
    finally:
        watching.cancel()
        await service.close()
    outcome.errors = await _errors(target)
    return outcome


def drift_command(folder: Path) -> Sequence[str]:
    """What reports the drift of the stack in `folder`."""
    return (sys.executable, "-m", "ods.cli", "drift", "--json", "--data-dir", str(folder))


async def _planned(folder: Path) -> Sequence[Mapping[str, object]]:
    """The instances that `ods recover` tells of, each of which it would bring in step or asks about."""
    command = (sys.executable, "-m", "ods.cli", "recover", "--json", "--data-dir", str(folder))
    planning = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    told, _ = await planning.communicate()
    plan = json.loads(told)
    return [*plan["steps"], *plan["questions"]]


async def _accept_store(folder: Path) -> None:
    """What the operator does first when the registry was restored; the verdict comes before a recovery."""
    environment = os.environ | Injector.read(folder)["settings"]
    words = ("-m", "tests.put_back.confirming", "--accept-store")
    accepting = await asyncio.create_subprocess_exec(sys.executable, *words, env=environment)
    if await accepting.wait() != 0:
        raise AssertionError("The store of backups is not accepted; what stands against it is above.")


def _backup_source(folder: Path, target: Target) -> BackupSource:
    return BackupSource(folder / "backups", client_program("pg_restore"), target.admin_dsn, target.address[1])


async def _storm(plan: Plan, target: Target, service: Service, injector: Injector, outcome: Outcome) -> None:
    rng = seeded(plan.seed)
    start = time.monotonic()
    surroundings = Surroundings(_CONTESTED, _TAKEN, target.master_dsn, target.admin_dsn)
    customers = [
        Customer(number, service, seeded(rng.random()), surroundings) for number in range(1, _CUSTOMERS + 1)
    ]
    moments = sorted(start + rng.uniform(0, plan.seconds) for _ in range(plan.operations))
    over = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        strikes = _overlapping_strikes if plan.busy else _strikes
        group.create_task(strikes(plan, injector, rng, over, outcome))
        async with asyncio.TaskGroup() as busy:
            for number, customer in enumerate(customers):
                busy.create_task(
                    customer.work(moments[number::_CUSTOMERS], start + plan.seconds + plan.overtime)
                )
        over.set()


async def _strikes(
    plan: Plan, injector: Injector, rng: random.Random, over: asyncio.Event, outcome: Outcome
) -> None:
    """One fault after the other, each when the one before is overcome."""
    for fault in plan.faults:
        await _pause(plan, rng, over)
        if over.is_set() and len(outcome.faults) >= plan.least_faults:
            return
        second = next(plan.faults, None) if rng.random() < _SHARE_OF_DOUBLE_FAULTS else None
        outcome.faults += [it for it in (fault, second) if it]
        try:
            recovery = await injector.strike(fault, second)
            outcome.recoveries += [recovery] if recovery else []
        except TimeoutError:
            outcome.ledger.oddities.append(f"no recovery from {fault}{f' and {second}' if second else ''}")


async def _overlapping_strikes(
    plan: Plan, injector: Injector, rng: random.Random, over: asyncio.Event, outcome: Outcome
) -> None:
    """Faults in a steady pace, whatever is overcome; of those that last, one at a time."""
    lasting: asyncio.Task[None] | None = None
    async with asyncio.TaskGroup() as group:
        for fault in plan.faults:
            await _pause(plan, rng, over)
            if over.is_set() and len(outcome.faults) >= plan.least_faults:
                return
            if fault.lasts and lasting is not None and not lasting.done():
                continue
            outcome.faults.append(fault)
            strike = group.create_task(_struck(injector, fault))
            if fault.lasts:
                lasting = strike
            else:
                await strike


async def _struck(injector: Injector, fault: Fault) -> None:
    """Do a fault; what is not done in time because of others that meet it, the checker finds in the end."""
    with suppress(TimeoutError):
        await injector.strike(fault)


async def _pause(plan: Plan, rng: random.Random, over: asyncio.Event) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(over.wait(), plan.fault_every * rng.uniform(0.5, 1.5))


async def _hear_outcomes(service: Service) -> None:
    """Let the clients hear how their jobs ended; those that do not end are found by the checker."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_QUIET_SECONDS):
            for job in {request.job for request in service.ledger.requests if request.job}:
                await service.ended(job)


async def _reconcile(target: Target) -> None:
    """Have the product compare rows, workflows and databases, and repair what it can: nothing is left to do.

    A pass that does not end is not waited for: the checker finds what is under way.
    """
    temporal = await Client.connect(target.temporal_address, namespace=target.namespace)
    schedule = temporal.get_schedule_handle(_RECONCILE)
    with suppress(TimeoutError):
        for _ in range(_PASSES):
            async with asyncio.timeout(_PASS_SECONDS):
                await passed(schedule)


async def _plant_foreign_databases(target: Target) -> None:
    """Databases of others: some with names that instances will want, one with a comment like ours."""
    names = ["district_reports", *(f"EdFi_Ods_{name.replace(' ', '_')}_Minimal" for name in _TAKEN)]
    for name in names:
        await insist(target.master_dsn, f'CREATE DATABASE "{name}"')
        async with connected(target.master_dsn, name) as database:
            await database.execute("CREATE TABLE precious AS SELECT generate_series(1, 100) AS row")
    comment = '{"tenant": "default", "odsInstanceId": 1, "job": "another", "mark": "another mark"}'
    await insist(target.master_dsn, f"COMMENT ON DATABASE \"{names[-1]}\" IS '{comment}'")


async def _errors(target: Target) -> Counter[str]:
    """Why jobs have failed, and how often: for a person to see whether that is true."""
    async with connected(target.admin_dsn) as registry:
        rows = await registry.fetch("SELECT errormessage FROM adminapi.jobstatuses WHERE status = 'Error'")
    return Counter(str(row["errormessage"]) for row in rows)
