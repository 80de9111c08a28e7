"""Parts of lists, in the orders that clients may choose."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Select, SQLColumnExpression, String, func

Orders = Mapping[str, SQLColumnExpression[Any]]

_Row = TypeVar("_Row")


@dataclass(frozen=True)
class Page:
    """`limit` rows of a list after its first `offset`, in one of the list's orders."""

    order_by: str
    descending: bool = False
    offset: int = 0
    limit: int = 25


class Listing:
    """The orders of a list, by the names that clients choose them by; the first is the default.

    Args:
        key: orders the rows that are equal in the chosen order, so that pages neither overlap nor leave gaps.
        orders: the value to sort by, for each name.
    """

    def __init__(self, key: SQLColumnExpression[int], orders: Mapping[str, SQLColumnExpression[Any]]) -> None:
        self._key = key
        self._orders: dict[str, SQLColumnExpression[Any]] = {**orders, "Id": key}

    @property
    def words(self) -> list[str]:
        """The names of the orders."""
        return list(self._orders)

    def page_of(self, query: Select[_Row], page: Page) -> Select[_Row]:
        """The rows of `query` that belong to `page`; nulls come last, or first if it is descending."""
        return self.ordered(query, page).offset(page.offset).limit(page.limit)

    def ordered(self, query: Select[_Row], page: Page) -> Select[_Row]:
        """All rows of `query`, in the order of `page`."""
        order = self._orders[page.order_by]
        return query.order_by(order.desc() if page.descending else order.asc(), self._key)


def by_utf16(text: SQLColumnExpression[Any]) -> ColumnElement[str]:
    """What to sort by, for `text` to come in the order of its UTF-16 code units (migration 0007)."""
    # What a function returns is compared as its arguments would be: by the database's own collation.
    return func.adminapi.utf16_order(text, type_=String()).collate("C")
