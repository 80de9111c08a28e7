"""What can be done to the stack, and in which order a campaign does it."""

import math
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import product
from typing import assert_never

OUTAGE_SECONDS = 90
"""How long a server is away unless the caller says otherwise."""


class Victim(StrEnum):
    """Whom a fault strikes."""

    WORKER = "worker"
    API = "API"
    TEMPORAL = "Temporal"
    POSTGRES = "PostgreSQL"
    BACKEND = "backend"
    REGISTRY = "registry"
    SERVER = "ODS server"
    DATABASE = "database"


class Blow(StrEnum):
    """What it does to the victim."""

    KILL = "SIGKILL"
    TERM = "SIGTERM"
    STOP = "SIGSTOP"
    OUTAGE = "outage"
    FREEZE = "frozen"
    RESTORE = "put back"
    LOCK = "locked"
    INTERRUPT = "interrupted DROP"
    LEAVE = "abandoned DROP"
    SWITCHOVER = "switchover"
    FAILOVER = "crash with promotion"
    DEMOTION = "demotion in place"


class Hand(StrEnum):
    """What does the faults of one kind."""

    SIGNALS = "signals"
    RESTORES = "restores"
    OUTAGES = "outages"
    LOCKS = "locks"
    DROPS = "drops"
    SWITCHOVERS = "switchovers"


ON_A_PAIR = (Hand.SWITCHOVERS, Hand.RESTORES, Hand.LOCKS, Hand.DROPS)
"""What can be done where PostgreSQL is a primary with a standby, which `ods up` does not run."""
ALONE = tuple(hand for hand in Hand if hand is not Hand.SWITCHOVERS)
"""What can be done where there is one PostgreSQL."""


_Kind = tuple[Victim, Blow]
_SIGNALLED = (Victim.WORKER, Victim.API, Victim.TEMPORAL, Victim.POSTGRES, Victim.BACKEND)
_SIGNALS = (Blow.KILL, Blow.TERM, Blow.STOP)
_KINDS: Mapping[Hand, Sequence[_Kind]] = {
    Hand.SIGNALS: list(product(_SIGNALLED, _SIGNALS)),
    Hand.RESTORES: [(Victim.REGISTRY, Blow.RESTORE)],
    Hand.OUTAGES: [
        (Victim.POSTGRES, Blow.OUTAGE),
        (Victim.POSTGRES, Blow.FREEZE),
        (Victim.TEMPORAL, Blow.OUTAGE),
        (Victim.TEMPORAL, Blow.FREEZE),
        (Victim.REGISTRY, Blow.OUTAGE),
        (Victim.SERVER, Blow.OUTAGE),
    ],
    Hand.LOCKS: [(Victim.DATABASE, Blow.LOCK)],
    Hand.DROPS: [(Victim.DATABASE, Blow.INTERRUPT), (Victim.DATABASE, Blow.LEAVE)],
    Hand.SWITCHOVERS: [
        (Victim.POSTGRES, Blow.SWITCHOVER),
        (Victim.POSTGRES, Blow.FAILOVER),
        (Victim.POSTGRES, Blow.DEMOTION),
    ],
}
_SHARES = {
    Hand.SIGNALS: 15,
    Hand.RESTORES: 2,
    Hand.OUTAGES: 1,
    Hand.LOCKS: 1,
    Hand.DROPS: 2,
    Hand.SWITCHOVERS: 3,
}
"""How many faults of each hand a round has; an outage takes as long as many others together."""


@dataclass(frozen=True)
class Fault:
    """One fault; `pause` is how many seconds it lasts, or how old the state is that is put back."""

    victim: Victim
    blow: Blow
    pause: float

    @property
    def lasts(self) -> bool:
        """Whether it is more than a signal: jobs must be done for it, or it goes on for a while."""
        return self.blow not in _SIGNALS

    def __str__(self) -> str:
        match self.blow:
            case Blow.STOP | Blow.OUTAGE | Blow.FREEZE | Blow.LOCK | Blow.DEMOTION:
                return f"{self.victim} {self.blow} for {self.pause:.1f} s"
            case Blow.RESTORE:
                return f"{self.victim} {self.blow} by {self.pause:.1f} s or more"
            case Blow.KILL | Blow.TERM | Blow.INTERRUPT | Blow.LEAVE:
                return f"{self.victim} {self.blow}"
            case Blow.SWITCHOVER | Blow.FAILOVER:
                return f"{self.victim} {self.blow}"
            case _:
                assert_never(self.blow)


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


def plan(
    rng: random.Random,
    heartbeat_timeout: float,
    hands: Collection[Hand] = (Hand.SIGNALS,),
    outage: float = OUTAGE_SECONDS,
) -> Iterator[Fault]:
    """Rounds of the faults of all `hands`, each of which goes through its kinds in a random order.

    Args:
        rng: decides about the order and about how long each fault lasts.
        heartbeat_timeout: how many seconds others wait for a worker.
        hands: which faults there are.
        outage: how many seconds a server is away.
    """
    kinds = {hand: _shuffled(rng, _KINDS[hand]) for hand in Hand if hand in hands}
    while True:
        round_of_hands = [hand for hand in kinds for _ in range(_SHARES[hand])]
        rng.shuffle(round_of_hands)
        for hand in round_of_hands:
            victim, blow = next(kinds[hand])
            yield Fault(victim, blow, _pause(rng, victim, blow, heartbeat_timeout, outage))


def _shuffled(rng: random.Random, kinds: Sequence[_Kind]) -> Iterator[_Kind]:
    """All of them in a random order, and then again in another one."""
    while True:
        yield from rng.sample(kinds, len(kinds))


def _pause(rng: random.Random, victim: Victim, blow: Blow, heartbeat_timeout: float, outage: float) -> float:
    match blow:
        case Blow.OUTAGE | Blow.FREEZE:
            return outage
        case Blow.LOCK:
            return rng.uniform(10, 20)
        case Blow.SWITCHOVER | Blow.FAILOVER:
            return 0
        case Blow.DEMOTION:
            return 10
        case Blow.KILL | Blow.TERM | Blow.STOP | Blow.RESTORE | Blow.INTERRUPT | Blow.LEAVE:
            # A worker is paused longer than others wait for it.
            least = heartbeat_timeout + 0.5 if victim is Victim.WORKER else 1
            return least + rng.uniform(0, 4)
        case _:
            assert_never(blow)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of `values` that at least this share of them does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
