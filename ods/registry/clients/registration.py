"""Until when clients may register themselves: stored in the registry, where every API process reads it."""

from datetime import datetime, timedelta

from sqlalchemy import DateTime, func, literal, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from ods.registry.audit import append, command_entry
from ods.registry.storage.models import UTC_NOW, Registration
from ods.registry.storage.sessions import RegistrySessions


class RegistrationWindow:
    """The time in which clients may register themselves; it ends by itself, by the database's clock."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._sessions = RegistrySessions(engine)

    async def is_open(self) -> bool:
        """Whether clients may register themselves now."""
        return await self.open_until() is not None

    async def open_until(self) -> datetime | None:
        """When it will close, in UTC; None if it is closed."""
        query = select(Registration.open_until).where(Registration.open_until > UTC_NOW)
        async with self._sessions.statement() as session:
            return await session.scalar(query)

    async def open(self, minutes: int, operator: str) -> datetime:
        """Let clients register themselves for so many minutes from now, even if that was open for longer.

        It is recorded in the audit trail. Returns when registration will close, in UTC.

        Args:
            minutes: for how long.
            operator: which user of which host has called the command.
        """
        end = func.date_trunc("second", UTC_NOW + literal(timedelta(minutes=minutes)), type_=DateTime)
        async with self._sessions.transaction() as session:
            until: datetime = (await session.scalars(select(end))).one()
            await session.execute(update(Registration).values(open_until=until))
            await append(session, command_entry(f"ods registration open --minutes {minutes}", operator))
        return until

    async def close(self, operator: str) -> None:
        """Close it, and record that in the audit trail as `open` does."""
        async with self._sessions.transaction() as session:
            await session.execute(update(Registration).values(open_until=None))
            await append(session, command_entry("ods registration close", operator))
