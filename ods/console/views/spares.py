"""What the page *Spares* shows: of each template, how many spares are ready and wanted."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from fastapi import Depends

from api.dependencies import ServerLooksDep
from ods.console.texts import t
from ods.console.views.statuses import BAD, BUSY, GONE, GOOD, Badge
from ods.databases.templates.spare_pool import TemplatePool


@dataclass(frozen=True)
class SpareRow:
    """The spares of one template, and how they are."""

    pool: TemplatePool
    badge: Badge


@dataclass(frozen=True)
class SparesPage:
    """What the page shows.

    Attributes:
        at: when the spares were counted, in UTC.
        rows: one for each template.
        unfinished: how many are being made, or were left in the middle of it.
        are_any: whether any are wanted, or there.
    """

    at: datetime
    rows: Sequence[SpareRow]
    unfinished: int
    are_any: bool


class SparesView:
    """Reads what the page shows."""

    def __init__(self, looks: ServerLooksDep) -> None:
        self._looks = looks

    async def page(self) -> SparesPage:
        """The spares as they are now.

        Raises:
            DatabaseFaultError: the server cannot be read.
        """
        seen = await self._looks.look_at_spares()
        report = seen.found
        rows = [SpareRow(pool, _badge(pool, report.unfinished)) for pool in report.templates]
        are_any = any(pool.wanted or pool.ready or pool.stale for pool in report.templates)
        return SparesPage(seen.at, rows, report.unfinished, are_any or bool(report.unfinished))


SparesViewDep = Annotated[SparesView, Depends()]


def _badge(pool: TemplatePool, unfinished: int) -> Badge:
    if pool.ready < pool.wanted:
        return Badge(t("spares.missing"), *(BUSY if unfinished else BAD))
    if pool.stale:
        return Badge(t("spares.stale"), *BUSY)
    return Badge(t("spares.full"), *GOOD) if pool.wanted else Badge(t("spares.none_wanted"), *GONE)
