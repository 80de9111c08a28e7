"""Until when what may be wanted back is kept, by the registry's clock, which may have been set back."""

from datetime import datetime, timedelta

from sqlalchemy import Interval, func, literal, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from ods.registry.storage.models import UTC_NOW, Installation, InstanceDatabase

KEPT_IN_DOUBT = timedelta(days=7)
"""How long a database stays in the trash at least, or a backup does not expire, whatever the settings say.

Clients were told that a job had failed which has replaced the database, or was to bring it back or to restore
the backup; or an operator has handed over another database, or has confirmed a registry that may have been
restored; or a client has protected the instance for a time; or a clock was wrong; or there was a trash when
the delete was requested, and is none any more.
"""
_SET_BACK_BY = timedelta(days=1)
IS_SET_BACK = Installation.pass_at > UTC_NOW + literal(_SET_BACK_BY, Interval)
"""Whether the clock was set back by more than a day since the last pass of a worker."""
TIME_BEFORE = func.greatest(Installation.set_back_from, Installation.pass_at)
"""The latest that the clock has shown before it was set back."""


async def end_of(session: AsyncSession, kept_for: timedelta) -> datetime:
    """Until when something stays that is to be kept for so long from now on, in UTC without a zone.

    If the clock was set back since the last pass, it may be wrong, and the time is counted from that pass. It
    is recorded as well, so that what is in the trash stays for its days once the clock is right again
    (`ods/registry/clock.py`).

    It need not stay if `kept_for` is zero.
    """
    set_back = update(Installation).where(IS_SET_BACK).values(set_back_from=TIME_BEFORE)
    await session.execute(set_back)
    latest = func.greatest(UTC_NOW, select(Installation.pass_at).scalar_subquery()) if kept_for else UTC_NOW
    end: datetime = (await session.scalars(select(latest + literal(kept_for, Interval)))).one()
    return end


async def hold_trash(session: AsyncSession) -> None:
    """As `keep_trash`, for a registry that may have been restored; until when is recorded, to be told."""
    until = func.greatest(Installation.held_until, await end_of(session, KEPT_IN_DOUBT))
    await session.execute(update(Installation).values(held_until=until))
    await keep_trash(session)


async def keep_trash(session: AsyncSession) -> None:
    """Let what is in the trash stay for `KEPT_IN_DOUBT` at least."""
    kept_until = await end_of(session, KEPT_IN_DOUBT)
    # Also what a delete is about to move there. A pass would claim again what it has begun to drop.
    is_claimed = InstanceDatabase.purging_since.is_not(None)
    due = update(InstanceDatabase).where(or_(InstanceDatabase.purge_after < kept_until, is_claimed))
    kept = func.greatest(InstanceDatabase.purge_after, kept_until)
    await session.execute(due.values(purge_after=kept, purging_since=None))
