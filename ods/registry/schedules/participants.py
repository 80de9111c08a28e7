"""Which instances take part in a schedule at one of its times."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Interval, ScalarSelect, literal, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from ods.model.operations import InstanceStatus
from ods.registry.schedules.frequency import frequency_of, is_wanted
from ods.registry.storage.models import UTC_NOW, DbInstance, ServedSchedule

_TAKES_PART = (InstanceStatus.COMPLETED, InstanceStatus.PENDING, InstanceStatus.IN_PROGRESS)
"""One that works, or that a job works on: that may end while others are served."""


_AHEAD = timedelta(days=1)
"""By how much a time of a schedule may be ahead of the registry's clock. One that is later was served while a
clock was wrong: it must not keep an instance from being served until then."""


def is_credible(
    served: InstrumentedAttribute[datetime] | InstrumentedAttribute[datetime | None],
) -> ColumnElement[bool]:
    """Whether a time of a schedule, which was served, can have been; null if there is none."""
    return served <= UTC_NOW + literal(_AHEAD, Interval)


async def serve(session: AsyncSession, instance_id: int, label: str, due_at: datetime) -> bool:
    """Record that an instance is served at a time of a schedule; false if it was, for this or a later one.

    `due_at` is in UTC without a zone; the arguments are otherwise those of `participants`.
    """
    served = insert(ServedSchedule).values(instance_id=instance_id, schedule=label, due_at=due_at)
    recorded = served.on_conflict_do_update(
        index_elements=[ServedSchedule.instance_id, ServedSchedule.schedule],
        set_={"dueat": due_at},
        where=_is_unserved(due_at),
    )
    return await session.scalar(recorded.returning(ServedSchedule.instance_id)) is not None


def _is_unserved(due_at: datetime) -> ColumnElement[bool]:
    return or_(ServedSchedule.due_at < due_at, ~is_credible(ServedSchedule.due_at))


async def participants(
    session: AsyncSession,
    label: str,
    last_made: ScalarSelect[datetime | None],
    due_at: datetime,
) -> Sequence[int]:
    """The ids of these instances, those first that were served longest ago.

    Args:
        session: the registry.
        label: the label that says how often an instance takes part.
        last_made: of an instance, the last such time for which something was made that is there.
        due_at: the time of the schedule, in UTC without a zone.
    """
    query = (
        select(DbInstance.id, DbInstance.labels, last_made)
        .outerjoin(
            ServedSchedule, (ServedSchedule.instance_id == DbInstance.id) & (ServedSchedule.schedule == label)
        )
        .where(
            DbInstance.is_live,
            DbInstance.is_adopted,
            DbInstance.is_published,
            DbInstance.status.in_(_TAKES_PART),
            or_(ServedSchedule.due_at.is_(None), _is_unserved(due_at)),
        )
        .order_by(ServedSchedule.due_at.asc().nulls_first(), DbInstance.id)
    )
    rows = (await session.execute(query)).all()
    return [row[0] for row in rows if is_wanted(frequency_of(row[1], label), due_at, row[2])]
