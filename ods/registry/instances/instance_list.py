"""The list of instances: its orders, its filters, and the query of one page."""

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Select, Text, func, select
from sqlalchemy.dialects.postgresql import ARRAY

from ods.model.operations import InstanceStatus
from ods.registry.storage.listing import Listing, Page, by_utf16
from ods.registry.storage.models import DbInstance
from ods.registry.storage.rules import is_storable

INSTANCES = Listing(
    DbInstance.id,
    {
        "Id": DbInstance.id,
        "Name": by_utf16(DbInstance.name),
        "Status": DbInstance.status,
        "DatabaseTemplate": DbInstance.database_template,
        "OdsInstanceId": DbInstance.ods_instance_id,
        "LastRefreshed": DbInstance.last_refreshed,
        "LastModifiedDate": DbInstance.last_modified,
    },
)

_INDEXED_LENGTH = 3
"""Letters of the shortest search that the index of migration 0012 helps."""


@dataclass(frozen=True)
class InstanceFilter:
    """Which instances are listed: those that fulfil everything that is given, deleted ones included.

    `id`, `name` and `template` are exact. The name contains `search`, in any case, without wildcards. An
    instance has all of the `labels`, each a key and a value, and one of the `statuses`.
    """

    id: int | None = None
    name: str | None = None
    statuses: Collection[InstanceStatus] = ()
    template: str | None = None
    search: str | None = None
    labels: Collection[tuple[str, str]] = ()

    @property
    def is_storable(self) -> bool:
        """Whether PostgreSQL can store these texts; if not, no row has them."""
        return is_storable("".join(text or "" for text in (self.name, self.template, self.search)))

    @property
    def conditions(self) -> list[ColumnElement[bool]]:
        """What must hold of an instance's row."""
        exact = {
            DbInstance.id: self.id,
            DbInstance.name: self.name,
            DbInstance.database_template: self.template,
        }
        conditions: list[ColumnElement[bool]] = [
            column == value for column, value in exact.items() if value is not None
        ]
        if self.statuses:
            conditions.append(DbInstance.status.in_(self.statuses))
        if self.search:
            conditions += _contains(self.search)
        # Each by itself: one object cannot hold two values of a key, which no instance has.
        conditions += [
            DbInstance.labels.contains(func.jsonb_build_object(key, value)) for key, value in self.labels
        ]
        return conditions


def page_of_instances(chosen: InstanceFilter, page: Page) -> Select[DbInstance]:
    # Found in an index alone, if there is one: a late page need not read the rows of all pages before it.
    """The query of a page of the chosen instances."""
    ids = INSTANCES.page_of(select(DbInstance.id).where(*chosen.conditions), page)
    return INSTANCES.ordered(select(DbInstance).where(DbInstance.id.in_(ids)), page)


def _contains(search: str) -> list[ColumnElement[bool]]:
    """Whether the name contains a text: the index finds candidates, by all runs of three letters."""
    contains = func.strpos(func.lower(DbInstance.name), func.lower(search)) > 0
    if len(search) < _INDEXED_LENGTH:
        return [contains]
    runs = func.adminapi.trigrams(DbInstance.name, type_=ARRAY(Text))
    return [contains, runs.contains(func.adminapi.trigrams(search))]


def number_of_instances(chosen: InstanceFilter) -> Select[int]:
    """The query of how many instances are chosen."""
    return select(func.count()).select_from(DbInstance).where(*chosen.conditions)
