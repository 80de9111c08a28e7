"""What the page shows before instances are deleted: what goes, who uses it, and what happens to it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends

from api.bulk_service import BulkServiceDep
from api.dependencies import InstanceQueriesDep, InstanceUsageDep, SettingsDep
from api.http.parsing import Properties
from api.http.problems import found
from api.schemas.plans import Plan, PlannedJob
from console.texts import t
from registry.instances.status import Operation
from registry.storage.models import DbInstance
from tenants.usage import InstanceFigures

_LOSES_DATA = (Operation.DELETE, Operation.PURGE)


@dataclass(frozen=True)
class DeletionLine:
    """One instance that would be deleted.

    Attributes:
        row: the instance.
        planned: the job that would be started; None if that is refused.
        usage: how its database is used; a text says why that is not known.
        errors: why it cannot be deleted.
    """

    row: DbInstance
    planned: PlannedJob | None
    usage: InstanceFigures | str
    errors: Sequence[str]

    @property
    def size_bytes(self) -> int | None:
        """The size of its database; None if that is not known."""
        if self.planned is not None:
            return self.planned.size_bytes
        return None if isinstance(self.usage, str) else self.usage.database.size_bytes

    @property
    def sessions(self) -> int | None:
        """How many sessions are open on its database; None if that is not known."""
        if isinstance(self.usage, str):
            return None
        return sum(session.count for session in self.usage.database.sessions)

    @property
    def applications(self) -> int | None:
        """How many applications of the ODS/API may use it; None if that is not known."""
        if isinstance(self.usage, str) or self.usage.application_ids is None:
            return None
        return len(self.usage.application_ids)


@dataclass(frozen=True)
class DeletionPage:
    """What the page shows.

    Attributes:
        lines: the instances.
        plan: the dry run of the API, with what it is refused for.
        days: how long they can come back; 0 if they cannot.
    """

    lines: Sequence[DeletionLine]
    plan: Plan
    days: int

    @property
    def loses_data(self) -> bool:
        """Whether a database is dropped at once."""
        return any(line.planned and line.planned.operation in _LOSES_DATA for line in self.lines)

    @property
    def to_be_typed(self) -> str:
        """What must be typed, so that the right ones are deleted."""
        if len(self.lines) == 1:
            return self.lines[0].row.name
        return t("delete.phrase", number=len(self.lines)) if self.loses_data else ""


class DeletionView:
    """Reads what the page shows."""

    def __init__(
        self,
        bulk: BulkServiceDep,
        queries: InstanceQueriesDep,
        usage: InstanceUsageDep,
        settings: SettingsDep,
    ) -> None:
        self._bulk = bulk
        self._queries = queries
        self._usage = usage
        self._days = settings.trash_days

    async def page(self, ids: Sequence[int]) -> DeletionPage:
        """What becomes of the instances with these ids; those that there are not are left out.

        Raises:
            ProblemError: 404, there is none of them.
        """
        plan = await self._bulk.plan_deletes(request_of(ids))
        rows = sorted(await self._queries.instances_with(ids), key=lambda row: ids.index(row.id))
        found(rows[0] if rows else None, "instance", ids[0])
        figures_of = await self._usage.of_page(rows)
        planned = {job.id: job for job in plan.instances}
        # The API files them under the place of the instance in the request.
        errors = {one: plan.errors.get(f"ids[{place}]", ()) for place, one in enumerate(ids)}
        lines = [DeletionLine(row, planned.get(row.id), figures_of(row), errors[row.id]) for row in rows]
        return DeletionPage(lines, plan, self._days)


DeletionViewDep = Annotated[DeletionView, Depends()]


def request_of(ids: Sequence[int]) -> Properties[list[int]]:
    """The body that the API would be sent for the same."""
    return Properties({"ids": list(ids)})
