"""What the page *Trash* shows: deleted instances that can come back, and until when."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends
from sqlalchemy import Row

from api.database_sizes import database_sizes
from api.dependencies import InstanceQueriesDep, ServerDep, SettingsDep
from ods.console.views.paging import Paging
from ods.registry.storage.listing import Page

PER_PAGE = 25


@dataclass(frozen=True)
class TrashRow:
    """One thing in the trash.

    Attributes:
        row: a deleted instance, or a database that an instance had before a reset.
        size_bytes: of its database; None if that is not known.
    """

    row: Row[Any]
    size_bytes: int | None


@dataclass(frozen=True)
class TrashPage:
    """What the page shows.

    Attributes:
        rows: what was deleted last comes first.
        paging: which part of the trash they are.
        days: how long an instance can come back; 0 if none can.
    """

    rows: Sequence[TrashRow]
    paging: Paging
    days: int


class TrashView:
    """Reads what the page shows."""

    def __init__(self, queries: InstanceQueriesDep, server: ServerDep, settings: SettingsDep) -> None:
        self._queries = queries
        self._server = server
        self._days = settings.trash_days

    async def page(self, number: int) -> TrashPage:
        """A part of the trash."""
        page = Page("DeletedAt", descending=True, offset=(number - 1) * PER_PAGE, limit=PER_PAGE)
        rows = await self._queries.trash(page)
        sizes = await database_sizes(self._server, [row.trash_database for row in rows])
        shown = [TrashRow(row, sizes.get(row.trash_database)) for row in rows]
        return TrashPage(shown, Paging(number, PER_PAGE, await self._queries.trash_count()), self._days)


TrashViewDep = Annotated[TrashView, Depends()]
