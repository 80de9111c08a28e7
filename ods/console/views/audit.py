"""What the page *Audit* shows, and the same entries as CSV."""

import csv
import io
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated

from fastapi import Depends, Query

from api.dependencies import AuditTrailDep
from ods.console.formats import iso
from ods.console.texts import t
from ods.console.views.ids import id_of
from ods.console.views.statuses import Badge
from ods.registry.audit import AuditFilter
from ods.registry.storage.models import AuditRow

PER_PAGE = 50
_COLUMNS: Mapping[str, Callable[[AuditRow], object]] = {
    "at": lambda row: iso(row.at),
    "client": lambda row: row.client,
    "address": lambda row: row.address,
    "method": lambda row: row.method,
    "path": lambda row: row.path,
    "instanceId": lambda row: row.instance_id,
    "jobId": lambda row: row.job_id,
    "status": lambda row: row.status,
    "title": lambda row: row.title,
    "omitted": lambda row: row.omitted,
    "sentBytes": lambda row: row.sent_bytes,
}
_BEGINS_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
_LINES_AT_ONCE = 200


@dataclass(frozen=True)
class AuditQuery:
    """What the user wants to see; what makes no sense is as if it were not there.

    Attributes:
        client: the id of a client, or empty.
        instance: the id of an instance as it was typed, or empty.
        refused: whether only refusals are shown.
        before: shows entries that are older than the one with this id; None for the newest.
    """

    client: str = ""
    instance: str = ""
    refused: bool = False
    before: int | None = None

    @property
    def chosen(self) -> AuditFilter:
        """All entries that fulfil the filter."""
        return AuditFilter(self.client, id_of(self.instance), self.refused)

    @property
    def fields(self) -> dict[str, str]:
        """The fields of the address, without the part of the list."""
        return {
            "client": self.client,
            "instance": self.instance,
            "refused": "true" if self.refused else "",
        }

    @property
    def is_filtered(self) -> bool:
        """Whether it leaves entries out."""
        return any(self.fields.values())


async def _query(
    client: Annotated[str, Query()] = "",
    instance: Annotated[str, Query()] = "",
    refused: Annotated[str, Query()] = "",
    before: Annotated[int | None, Query(ge=0, lt=2**63)] = None,
) -> AuditQuery:
    return AuditQuery(client.strip(), instance.strip(), refused == "true", before)


AuditQueryDep = Annotated[AuditQuery, Depends(_query)]


@dataclass(frozen=True)
class AuditLine:
    """One line of the list.

    Attributes:
        row: the entry.
        badge: how the request ended.
    """

    row: AuditRow
    badge: Badge


@dataclass(frozen=True)
class AuditPage:
    """What the page shows.

    Attributes:
        query: what the user wants to see.
        lines: the entries.
        older: of the page that follows, what its query has for `before`; None if this is the last one.
    """

    query: AuditQuery
    lines: Sequence[AuditLine]
    older: int | None


class AuditView:
    """Reads what the page shows."""

    def __init__(self, audit: AuditTrailDep) -> None:
        self._audit = audit

    async def page(self, query: AuditQuery) -> AuditPage:
        """A part of the trail."""
        rows = await self._audit.page(limit=PER_PAGE + 1, chosen=query.chosen, before=query.before)
        shown = rows[:PER_PAGE]
        older = shown[-1].id if len(rows) > PER_PAGE else None
        return AuditPage(query, [AuditLine(row, _badge(row.status)) for row in shown], older)

    async def csv(self, query: AuditQuery) -> AsyncIterator[str]:
        """All entries that fulfil the filter as CSV, piece by piece."""
        lines = [csv_line(list(_COLUMNS))]
        async for row in self._audit.all(query.chosen):
            lines.append(csv_line([column(row) for column in _COLUMNS.values()]))
            if len(lines) >= _LINES_AT_ONCE:
                yield "".join(lines)
                lines.clear()
        yield "".join(lines)


AuditViewDep = Annotated[AuditView, Depends()]


def csv_line(values: Sequence[object]) -> str:
    """One line of CSV, in which no program for spreadsheets finds a formula."""
    line = io.StringIO()
    csv.writer(line).writerow([_harmless(value) for value in values])
    return line.getvalue()


def _harmless(value: object) -> str:
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(_BEGINS_FORMULA) else text


def _badge(status: int) -> Badge:
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return Badge(t("audit.failed"), "bad", "▲")
    if status >= HTTPStatus.BAD_REQUEST:
        return Badge(t("audit.was_refused"), "bad", "▲")
    return Badge(t("audit.done"), "good", "●")
