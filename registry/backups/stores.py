"""The stores of backups that a registry has used: which one it knows at which URL."""

from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from registry.storage.models import Backup, Installation
from registry.storage.sessions import RegistrySessions


class BackupStores:
    """The stores of one registry.

    Args:
        engine: the connections to the registry.
    """

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

    async def newest_in(self, location: str) -> Backup | None:
        """The newest backup that is recorded as stored below this URL; None if there is none."""
        its = (
            Backup.location.startswith(f"{location}/", autoescape=True),
            Backup.stored_id.is_not(None),
            Backup.deleted_at.is_(None),
        )
        newest = select(Backup).where(*its).order_by(Backup.created_at.desc(), Backup.id).limit(1)
        async with self._sessions.statement() as session:
            return await session.scalar(newest)

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
