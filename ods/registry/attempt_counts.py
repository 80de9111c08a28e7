"""Rate limits that all API processes count together (GCRA): what addresses and clients have tried lately."""

import hashlib
from dataclasses import dataclass
from datetime import timedelta
from time import monotonic

from sqlalchemy import ColumnElement, case, delete, extract, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from ods.registry.storage.models import UTC_NOW, AttemptCount
from ods.registry.storage.sessions import RegistrySessions

_PRUNED_EVERY_SECONDS = 60


@dataclass(frozen=True)
class AttemptLimit:
    """How often each key is admitted.

    Attributes:
        name: what is counted; each limit has another one.
        burst: how often at once.
        interval: the time in which one more is regained.
    """

    name: str
    burst: int
    interval: timedelta

    @property
    def tolerance(self) -> timedelta:
        """The time in which everything is regained."""
        return self.burst * self.interval


class AttemptCounts:
    """Counts in one registry.

    A key has one row, with the time at which it will have regained everything. Rows are removed after that
    time, and never before it: no number of other keys makes a count begin anew. The table is not logged, so
    a crash of PostgreSQL or a failover empties it.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._sessions = RegistrySessions(engine)
        self._prune_at = monotonic()

    async def wait(self, limit: AttemptLimit, key: str) -> float:
        """Seconds until `key` is admitted; 0 if it is now, and that counts."""
        await self._prune()
        row = AttemptCount
        counted = _regained(limit) + limit.interval
        counting = (
            insert(row)
            .values(digest=_digest(limit, key), regained_at=UTC_NOW + limit.interval)
            .on_conflict_do_update(
                index_elements=[row.digest],
                set_={row.regained_at: counted},
                where=counted <= UTC_NOW + limit.tolerance,
            )
            .returning(row.digest)
        )
        async with self._sessions.statement() as session:
            admitted = (await session.execute(counting)).one_or_none()
        return 0 if admitted else await self.peek(limit, key)

    async def peek(self, limit: AttemptLimit, key: str) -> float:
        """Seconds until `key` is admitted; 0 if it is now, which does not count."""
        wait = extract("epoch", _regained(limit) + limit.interval - UTC_NOW - limit.tolerance)
        query = select(wait).where(AttemptCount.digest == _digest(limit, key))
        async with self._sessions.statement() as session:
            return max(0, float(await session.scalar(query) or 0))

    async def forget(self, limit: AttemptLimit, key: str) -> None:
        """Let `key` begin anew."""
        async with self._sessions.statement() as session:
            await session.execute(delete(AttemptCount).where(AttemptCount.digest == _digest(limit, key)))

    async def _prune(self) -> None:
        """Remove the rows of keys that have regained everything, once a minute."""
        if monotonic() < self._prune_at:
            return
        self._prune_at = monotonic() + _PRUNED_EVERY_SECONDS
        row = AttemptCount
        regained = select(row.digest).where(row.regained_at <= UTC_NOW).with_for_update(skip_locked=True)
        async with self._sessions.statement() as session:
            await session.execute(delete(row).where(row.digest.in_(regained), row.regained_at <= UTC_NOW))


def _regained(limit: AttemptLimit) -> ColumnElement[bool]:
    """When the key of a row will have regained everything, now at the earliest.

    A time that no count leads to was written before the registry's clock was set back.
    """
    is_possible = AttemptCount.regained_at <= UTC_NOW + limit.tolerance
    return func.greatest(case((is_possible, AttemptCount.regained_at), else_=UTC_NOW), UTC_NOW)


def _digest(limit: AttemptLimit, key: str) -> bytes:
    return hashlib.sha256(f"{limit.name} {key}".encode(errors="replace")).digest()
