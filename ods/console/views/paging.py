"""Which part of a list a page shows."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Query

PageNumber = Annotated[int, Query(ge=1, le=10_000)]


@dataclass(frozen=True)
class Paging:
    """A part of a list.

    Attributes:
        number: of the page, which counts from 1.
        per_page: how many rows a page has.
        total: how many rows the list has.
    """

    number: int
    per_page: int
    total: int

    @property
    def first(self) -> int:
        """The number of the first row that is shown; 0 if there is none."""
        return min((self.number - 1) * self.per_page + 1, self.total)

    @property
    def last(self) -> int:
        """The number of the last row that is shown."""
        return min(self.number * self.per_page, self.total)

    @property
    def previous(self) -> int | None:
        """The page before; None if this is the first one."""
        return self.number - 1 if self.number > 1 else None

    @property
    def next(self) -> int | None:
        """The page after; None if this is the last one."""
        return self.number + 1 if self.last < self.total else None
