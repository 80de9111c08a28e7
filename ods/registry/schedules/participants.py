"""Which instances take part in a schedule at one of its times."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Interval, ScalarSelect, literal, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from ods.model.operations import InstanceStatus
from ods.registry.schedules.frequency import frequency_of, is_wanted
from ods.registry.storage.models import UTC_NOW, DbInstance

_TAKES_PART = (InstanceStatus.COMPLETED, InstanceStatus.PENDING, InstanceStatus.IN_PROGRESS)
"""One that works, or that a job works on: that may end while others are served."""


_AHEAD = timedelta(days=1)
"""By how much a time of a schedule may be ahead of the registry's clock. One that is later was served while a
clock was wrong: it must not keep an instance from being served until then."""


def is_credible(
    served: ColumnElement[datetime] | InstrumentedAttribute[datetime | None],
) -> ColumnElement[bool]:
    """Whether a time of a schedule, which was served, can have been; null if there is none."""
    return served <= UTC_NOW + literal(_AHEAD, Interval)


async def is_served(session: AsyncSession, served: datetime | None, due_at: datetime) -> bool:
    """Whether an instance that was served for the time `served` last needs nothing at `due_at`."""
    if served is None or served < due_at:
        return False
    return bool(await session.scalar(select(is_credible(literal(served)))))


async def participants(
    session: AsyncSession,
    label: str,
    requested: InstrumentedAttribute[datetime | None],
    last_made: ScalarSelect[datetime | None],
    due_at: datetime,
) -> Sequence[int]:
    """The ids of these instances, those first that were served longest ago.

    Args:
        session: the registry.
        label: the label that says how often an instance takes part.
        requested: the column with the last time of the schedule for which an instance was served.
        last_made: of an instance, the last such time for which something was made that is there.
        due_at: the time of the schedule, in UTC without a zone.
    """
    query = (
        select(DbInstance.id, DbInstance.labels, last_made)
        .where(
            DbInstance.is_live,
            DbInstance.is_adopted,
            DbInstance.published_at.is_not(None),
            DbInstance.status.in_(_TAKES_PART),
            or_(requested.is_(None), requested < due_at, ~is_credible(requested)),
        )
        .order_by(requested.asc().nulls_first(), DbInstance.id)
    )
    rows = (await session.execute(query)).all()
    return [row[0] for row in rows if is_wanted(frequency_of(row[1], label), due_at, row[2])]
