"""What Temporal tells for a scrape of metrics: how long ago each schedule's pass has last ended well."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta

from temporalio.client import Client
from temporalio.common import SearchAttributeKey

from ods.observability.metrics.catalog import SCHEDULE_AGE
from ods.observability.metrics.figures import Sample
from ods.settings.settings import Settings
from ods.temporal import schedules
from ods.temporal.calls import answer_within
from workflows.passes import (
    PendingSweep,
    Reconcile,
    RefillSpares,
    ScheduledBackups,
    ScheduledRefresh,
    ScheduledSnapshots,
)

_SECONDS = 2.5
_FIRST_LOOK_BACK = timedelta(days=2)
"""How far back passes are looked for at first; what is requested at a time of the day comes once a day."""
_OVERLAP = timedelta(minutes=1)
"""Temporal lists an execution a moment after it has ended."""
_MOST = 1000
"""Executions that are read at once, the latest first."""

_SCHEDULE = SearchAttributeKey.for_keyword("TemporalScheduledById")
_PASSES = (PendingSweep, Reconcile, RefillSpares, ScheduledRefresh, ScheduledBackups, ScheduledSnapshots)


class ScheduleAges:
    """Tells for all tenants, by one question, how long ago their passes have last ended well.

    Args:
        temporal: the client.
        tenants: the settings of each tenant.
    """

    def __init__(self, temporal: Client, tenants: Mapping[str, Settings]) -> None:
        self._temporal = temporal
        self._names = {
            schedules.schedule_id(tenant, name): (name, tenant)
            for tenant, settings in tenants.items()
            for name in _schedules_of(settings)
        }
        self._ended: dict[str, datetime] = {}
        self._since: datetime | None = None

    async def read(self) -> list[Sample]:
        """The age of each schedule's last good pass; none of those that have had none.

        Raises:
            temporalio.service.RPCError: Temporal cannot be reached, or refuses.
            TimeoutError: it does not answer.
        """
        await answer_within(self._ask(), _SECONDS)
        now = datetime.now(UTC)
        return [
            Sample(SCHEDULE_AGE, self._names[identifier], max(0.0, (now - at).total_seconds()))
            for identifier, at in self._ended.items()
        ]

    async def _ask(self) -> None:
        since = self._since or datetime.now(UTC) - _FIRST_LOOK_BACK
        types = ", ".join(f"'{one.__name__}'" for one in _PASSES)
        query = (
            f"ExecutionStatus = 'Completed' AND WorkflowType IN ({types})"
            f" AND CloseTime > '{since.isoformat(timespec='milliseconds')}'"
        )
        async for execution in self._temporal.list_workflows(query, page_size=_MOST, limit=_MOST):
            identifier = execution.typed_search_attributes.get(_SCHEDULE)
            if identifier in self._names and execution.close_time is not None:
                earlier = self._ended.get(identifier, execution.close_time)
                self._ended[identifier] = max(earlier, execution.close_time)
        if self._ended:
            self._since = max(self._ended.values()) - _OVERLAP


def _schedules_of(settings: Settings) -> Iterator[str]:
    """The schedules that the worker makes by these settings."""
    yield from (schedules.PENDING_SWEEP, schedules.RECONCILE, schedules.EDUCATION_ORGANIZATIONS)
    if settings.spares:
        yield schedules.SPARE_REFILL
    yield from _named(schedules.crons(settings).items())


def _named(crons: Iterable[tuple[str, str | None]]) -> Iterator[str]:
    return (name for name, cron in crons if cron)
