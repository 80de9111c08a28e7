"""What the page shows before instances are deleted: what goes, who uses it, and what happens to it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends

from api.dependencies import InstanceQueriesDep, InstanceUsageDep, SettingsDep
from api.http.parsing import Properties
from api.http.problems import found
from api.schemas.plans import Plan, PlannedJob
from api.services.bulk import BulkServiceDep
from api.services.plans import PlanServiceDep
from ods.console.texts import t
from ods.console.views.in_use import InUse
from ods.model.arguments import Way
from ods.registry.instances.deletes import Delete
from ods.tenants.usage import is_without_database


@dataclass(frozen=True)
class DeletionLine(InUse):
    """One instance that would be deleted.

    Attributes:
        planned: the job that would be started; None if that is refused.
        errors: why it cannot be deleted.
    """

    planned: PlannedJob | None
    errors: Sequence[str]

    @property
    def size_bytes(self) -> int | None:
        """The size of its database; None if that is not known.

        The plan has the size of whatever has the name, which only in the trash is no name of others.
        """
        if self.planned is not None and self.row.is_in_trash:
            return self.planned.size_bytes
        return super().size_bytes

    @property
    def never_had_database(self) -> bool:
        """Whether it was never created, and has no database either that a failed create has left."""
        return self._was_never_created and is_without_database(self.usage)

    @property
    def loses_data(self) -> bool:
        """Whether its database is dropped at once."""
        return bool(self.planned and self.planned.drops_database) and not self.never_had_database

    @property
    def is_backed_up(self) -> bool:
        """Whether a backup is made before its database is dropped."""
        return self.planned is not None and self.planned.final_backup is not None

    @property
    def way(self) -> str:
        """What happens to its database, as the key of its text ends; empty if the delete is refused.

        That of a create which has failed may be there, with its mark: then it goes with the instance.
        """
        if self.planned is None:
            return ""
        if self.never_had_database:
            return "NeverCreated"
        operation = self.planned.operation
        if self._was_never_created and operation != Way.LEAVE and isinstance(self.usage, str):
            return "NotKnown"
        return operation

    def told(self, days: int) -> str:
        """What becomes of it, in short; `days` are those that it can come back for."""
        job = self.row.job_number if self.loses_data else ""
        return f"{self.row.id}:{self.way}:{self.is_backed_up:d}:{days}:{job}"

    @property
    def _was_never_created(self) -> bool:
        return not self.row.is_published and self.row.is_live


@dataclass(frozen=True)
class DeletionPage:
    """What the page shows.

    Attributes:
        lines: the instances.
        plan: the dry run of the API, with what it is refused for.
        days: how long they can come back; 0 if they cannot.
        verb: what happens to them, as the keys of its texts begin: `delete`, `purge` or `detach`.
        always_backs_up: whether a backup is made before every purge, also without a request for it.
    """

    lines: Sequence[DeletionLine]
    plan: Plan
    days: int
    verb: str = "delete"
    always_backs_up: bool = False

    @property
    def loses_data(self) -> bool:
        """Whether a database is dropped at once."""
        return any(line.loses_data for line in self.lines)

    @property
    def told(self) -> str | None:
        """What becomes of each, in short, so that the form tells what the client has been told.

        Of what would be dropped, after which job: if another has begun since, as of a client that has brought
        it back from the trash and deleted it again, it may have other rows.
        """
        if self.plan.errors:
            return None
        return " ".join(line.told(self.days) for line in self.lines)

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
        plans: PlanServiceDep,
    ) -> None:
        self._plans = plans
        self._bulk = bulk
        self._queries = queries
        self._usage = usage
        self._days = settings.trash_days
        self._always_backs_up = settings.final_backup

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
        lines = [DeletionLine(row, figures_of(row), planned.get(row.id), errors[row.id]) for row in rows]
        return DeletionPage(lines, plan, self._days)

    async def purge(self, instance_id: int) -> DeletionPage:
        """What becomes of the instance if its database is dropped, be it in the trash or not.

        Raises:
            ProblemError: 404, there is no such instance.
            InstanceNotFoundError: its database was dropped, or left, already.
        """
        return await self._one(instance_id, Way.DROP, "purge")

    async def detach(self, instance_id: int) -> DeletionPage:
        """What becomes of the instance if its database is left where it is.

        Raises:
            ProblemError: 404, there is no such instance.
            InstanceNotFoundError: it is deleted.
        """
        return await self._one(instance_id, Way.LEAVE, "detach")

    async def _one(self, instance_id: int, way: Way, verb: str) -> DeletionPage:
        row = found(await self._queries.any_instance(instance_id), "instance", instance_id)
        plan = await self._plans.of_delete(instance_id, Delete(way))
        errors = [message for messages in plan.errors.values() for message in messages]
        usage = (await self._usage.of_page([row]))(row)
        planned = None if errors else plan.instances[0]
        line = DeletionLine(row, usage, planned, errors)
        return DeletionPage([line], plan, self._days, verb, self._always_backs_up)


DeletionViewDep = Annotated[DeletionView, Depends()]


def request_of(ids: Sequence[int]) -> Properties[list[int]]:
    """The body that the API would be sent for the same."""
    return Properties({"ids": list(ids)})
