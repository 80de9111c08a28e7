"""The stores of backups that a registry has used: which one it knows at which URL, and its claim to it."""

from dataclasses import dataclass
from uuid import UUID, uuid4

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from ods.registry.storage.models import Backup, Installation
from ods.registry.storage.sessions import RegistrySessions


@dataclass(frozen=True)
class StoreClaim:
    """Tells a registry whether it, and no copy of it, was the last to clean a store."""

    number: int
    id: UUID


@dataclass(frozen=True)
class ClaimState:
    """What a registry knows of its claims."""

    installation: UUID
    number: int
    id: UUID | None

    def lacks(self, found: StoreClaim) -> bool:
        """Whether a claim is neither the last one of this registry, nor from before that."""
        return found.number > self.number or (found.number == self.number and found.id != self.id)


class BackupStores:
    """The stores of one registry."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._sessions = RegistrySessions(engine)

    async def known_at(self, location: str) -> UUID | None:
        """The id of the store at this URL; None if none is known there."""
        async with self._sessions.statement() as session:
            stores = await session.scalar(select(Installation.backup_stores))
        return UUID(stores[location]) if stores and location in stores else None

    async def record(self, location: str, identity: UUID) -> UUID:
        """Record the store at this URL, unless one is known there by now; returns the one that is known."""
        known = func.jsonb_build_object(location, str(identity)).op("||")(Installation.backup_stores)
        return await self._write(location, known)

    async def replace(self, location: str, identity: UUID) -> None:
        """Record that another store is at this URL from now on."""
        replaced = Installation.backup_stores.op("||")(func.jsonb_build_object(location, str(identity)))
        await self._write(location, replaced)

    async def _write(self, location: str, stores: object) -> UUID:
        written = update(Installation).values(backup_stores=stores).returning(Installation.backup_stores)
        async with self._sessions.statement() as session:
            return UUID((await session.scalars(written)).one()[location])

    async def count_elsewhere(self, location: str) -> int:
        """How many backups of the installation are recorded as stored elsewhere than below this URL."""
        its = (
            ~Backup.location.startswith(f"{location}/", autoescape=True),
            Backup.stored_id.is_not(None),
            Backup.deleted_at.is_(None),
            Backup.installation == Installation.id,
        )
        async with self._sessions.statement() as session:
            return (await session.scalars(select(func.count(Backup.id)).where(*its))).one()

    async def claims(self) -> ClaimState:
        """What the registry knows of its claims."""
        known = select(Installation.id, Installation.store_claim, Installation.store_claim_id)
        async with self._sessions.statement() as session:
            return ClaimState(*(await session.execute(known)).one())

    async def claim(self, seen: ClaimState, number: int) -> StoreClaim | None:
        """Record that this number is claimed next; returns the claim, to be written to the store.

        None if there is another claim than the one that was seen: another worker was first.
        """
        claim = StoreClaim(number, uuid4())
        is_last = (
            Installation.id == seen.installation,
            Installation.store_claim == seen.number,
            Installation.store_claim_id.is_not_distinct_from(seen.id),
        )
        claimed = update(Installation).where(*is_last).values(store_claim=number, store_claim_id=claim.id)
        async with self._sessions.statement() as session:
            return claim if await session.scalar(claimed.returning(Installation.id)) else None

    async def conflict(self) -> str | None:
        """The URL of the store that another registry of this installation has claimed; None if none has."""
        async with self._sessions.statement() as session:
            return await session.scalar(select(Installation.store_conflict))

    async def record_conflict(self, location: str | None) -> None:
        """Record the URL of such a store, or that there is none."""
        is_new = Installation.store_conflict.is_distinct_from(location)
        async with self._sessions.statement() as session:
            await session.execute(update(Installation).where(is_new).values(store_conflict=location))
