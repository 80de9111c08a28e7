"""What the page *Instances* shows: a part of the list."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from fastapi import Depends, Query

from api.dependencies import InstanceQueriesDep, InstanceUsageDep, RecentChangesDep, SettingsDep
from api.schemas.instances import Instance
from api.services.instances import MOST_AT_ONCE, InstanceServiceDep, Selection
from ods.console.attention import FAILED, NEEDS_PERSON
from ods.console.texts import t
from ods.console.views.paging import PageNumber, Paging
from ods.console.views.progress import ProgressView, progress_of
from ods.console.views.statuses import Badge, instance_badge
from ods.model.operations import InstanceStatus
from ods.registry.instances.instance_list import InstanceFilter
from ods.registry.instances.job_list import JobState
from ods.registry.storage.listing import Page
from ods.registry.storage.models import DbInstance
from ods.tenants.usage import InstanceFigures

PER_PAGE = MOST_AT_ONCE
"""So all that a page shows can be deleted at once."""
LISTED = tuple(status for status in InstanceStatus if status is not InstanceStatus.DELETED)
"""What is deleted has a page of its own."""
SORTS = {
    "name": "Name",
    "status": "Status",
    "template": "DatabaseTemplate",
    "changed": "LastModifiedDate",
}
"""The words of the page for the orders of the list."""
_DESCENDING = "-"


@dataclass(frozen=True)
class InstancesQuery:
    """What the user wants to see; what makes no sense is as if it were not there.

    Attributes:
        status: one of the statuses, `NEEDS_PERSON`, or empty.
        template: the name of a template, or empty.
        label: `key:value`, or empty.
        name: a part of the name, or empty.
        sort: one of `SORTS`; with a dash before it, descending.
        page: counts from 1.
    """

    status: str = ""
    template: str = ""
    label: str = ""
    name: str = ""
    sort: str = "name"
    page: int = 1

    @property
    def selection(self) -> Selection:
        """The part of the list."""
        return Selection(self.chosen, self._page)

    @property
    def chosen(self) -> InstanceFilter:
        """All instances that fulfil the filter."""
        statuses = FAILED if self.status == NEEDS_PERSON else [one for one in LISTED if one == self.status]
        key, _, value = self.label.replace("=", ":").partition(":")
        return InstanceFilter(
            statuses=statuses or LISTED,
            template=self.template or None,
            search=self.name.strip() or None,
            labels=[(key.strip(), value.strip())] if self.label.strip() else [],
        )

    @property
    def fields(self) -> dict[str, str]:
        """The fields of the address, without the number of the page."""
        return {
            "status": self.status,
            "template": self.template,
            "label": self.label,
            "name": self.name,
            "sort": self.sort if self.sort != "name" else "",
        }

    @property
    def number(self) -> int | None:
        """The number of the page in its address; the first one has none."""
        return self.page if self.page > 1 else None

    @property
    def is_filtered(self) -> bool:
        """Whether it leaves instances out."""
        return bool(self.status or self.template or self.label or self.name)

    def sorted_by(self, word: str) -> str:
        """What `sort` becomes when the column is chosen: the other direction, if it is chosen already."""
        return f"{_DESCENDING}{word}" if self.sort == word else word

    def direction(self, word: str) -> str:
        """How the list is sorted by the column, in the words of `aria-sort`."""
        if self.sort.removeprefix(_DESCENDING) != word:
            return "none"
        return "descending" if self.sort.startswith(_DESCENDING) else "ascending"

    @property
    def _page(self) -> Page:
        order = SORTS.get(self.sort.removeprefix(_DESCENDING), "Name")
        return Page(order, self.sort.startswith(_DESCENDING), (self.page - 1) * PER_PAGE, PER_PAGE)


async def _query(  # noqa: PLR0913, PLR0917 - the filters of a list
    page: PageNumber = 1,
    status: Annotated[str, Query()] = "",
    template: Annotated[str, Query()] = "",
    label: Annotated[str, Query()] = "",
    name: Annotated[str, Query()] = "",
    sort: Annotated[str, Query()] = "name",
) -> InstancesQuery:
    return InstancesQuery(status, template, label, name, sort or "name", page)


InstancesQueryDep = Annotated[InstancesQuery, Depends(_query)]


@dataclass(frozen=True)
class InstanceRow:
    """One line of the list.

    Attributes:
        id: the instance.
        name: its name.
        badge: its status.
        template: what it was made from.
        size_bytes: of its database; None if that is not known.
        changed_at: when it was changed last, in UTC.
        is_protected: whether its data can be neither deleted nor replaced.
        progress: what is under way; None if nothing is.
        error: why its last job has failed; None if it has not.
    """

    id: int
    name: str
    badge: Badge
    template: str
    size_bytes: int | None
    changed_at: datetime
    is_protected: bool
    progress: ProgressView | None
    error: str | None


@dataclass(frozen=True)
class InstancesPage:
    """What the page shows.

    Attributes:
        query: what the user wants to see.
        rows: the instances.
        paging: which part of the list they are.
        templates: the names of all templates.
    """

    query: InstancesQuery
    rows: Sequence[InstanceRow]
    paging: Paging
    templates: Sequence[str]

    @property
    def status_options(self) -> list[tuple[str, str]]:
        """What can be chosen in the filter by status, with its words."""
        return [(NEEDS_PERSON, t("filter.failed")), *((status, status) for status in LISTED)]


class InstancesView:
    """Reads what the page shows."""

    def __init__(
        self,
        service: InstanceServiceDep,
        queries: InstanceQueriesDep,
        usage: InstanceUsageDep,
        changes: RecentChangesDep,
        settings: SettingsDep,
    ) -> None:
        self._service = service
        self._queries = queries
        self._usage = usage
        self._changes = changes
        self._templates = list(settings.template_databases)

    async def page(self, query: InstancesQuery) -> InstancesPage:
        """The part of the list that the user wants to see."""
        rows = await self._service.rows(query.selection)
        total = await self._queries.count(query.chosen) if query.chosen.is_storable else 0
        return InstancesPage(
            query, await self._rows(rows), Paging(query.page, PER_PAGE, total), self._templates
        )

    async def _rows(self, rows: Sequence[DbInstance]) -> list[InstanceRow]:
        described = await self._service.described(rows)
        figures_of = await self._usage.of_page(rows)
        is_any_under_way = any(instance.progress for instance in described)
        jobs = await self._changes.jobs_under_way() if is_any_under_way else {}
        return [
            _row(row, instance, _size(figures_of(row)), jobs)
            for row, instance in zip(rows, described, strict=True)
        ]


InstancesViewDep = Annotated[InstancesView, Depends()]


def _row(
    row: DbInstance, instance: Instance, size_bytes: int | None, jobs: Mapping[str, JobState]
) -> InstanceRow:
    return InstanceRow(
        id=row.id,
        name=row.name,
        badge=instance_badge(row),
        template=row.database_template,
        size_bytes=size_bytes,
        changed_at=row.last_modified or row.last_refreshed,
        is_protected=row.is_protected,
        progress=progress_of(instance, jobs.get(instance.job_id or "")),
        error=row.error_message if row.status in FAILED else None,
    )


def _size(figures: InstanceFigures | str) -> int | None:
    return None if isinstance(figures, str) else figures.database.size_bytes
