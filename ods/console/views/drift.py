"""What the page *Drift* shows: where registry and server contradict each other, and what can be done."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, assert_never

from fastapi import Depends

from api.dependencies import ServerLooksDep
from ods.console.texts import t
from ods.tenants.drift.findings import Drift, DriftKind, Remedy, RemedyAction


@dataclass(frozen=True)
class RemedyLink:
    """How a contradiction is settled by a request.

    Attributes:
        path: the page of the console for it; None if its data would be lost, which takes the command.
        database: the field of the page's query; None if it has none.
        button: what is written on the link to the page.
        command: the same on the command line.
    """

    path: str | None
    database: str | None
    button: str
    command: str


@dataclass(frozen=True)
class Finding:
    """One contradiction.

    Attributes:
        drift: what was found.
        title: its kind, in words.
        registry: what the registry says.
        server: what the server says.
        remedy: the request that settles it; None if the operator must do it by hand.
        by_hand: what the operator can do by hand.
    """

    drift: Drift
    title: str
    registry: str
    server: str
    remedy: RemedyLink | None
    by_hand: str


@dataclass(frozen=True)
class DriftPage:
    """What the page shows.

    Attributes:
        at: when registry and server were compared, in UTC.
        findings: the contradictions.
    """

    at: datetime
    findings: Sequence[Finding]


class DriftView:
    """Reads what the page shows."""

    def __init__(self, looks: ServerLooksDep) -> None:
        self._looks = looks

    async def page(self) -> DriftPage:
        """The last look; one begins now if there was none yet.

        Raises:
            DatabaseFaultError: the server cannot be read.
        """
        seen = self._looks.drift or await self._looks.look_for_drift()
        return DriftPage(seen.at, [_finding(drift) for drift in seen.found])

    async def look_again(self) -> None:
        """Compare registry and server now.

        Raises:
            DatabaseFaultError: the server cannot be read.
        """
        await self._looks.look_for_drift()


DriftViewDep = Annotated[DriftView, Depends()]


def _finding(drift: Drift) -> Finding:
    kind = drift.kind
    return Finding(
        drift,
        t(f"drift.{kind}"),
        t(f"drift.{kind}.registry"),
        t(f"drift.{kind}.server"),
        None if drift.remedy is None else _link(drift.remedy),
        _by_hand(kind),
    )


def _by_hand(kind: DriftKind) -> str:
    if kind is DriftKind.DATABASE_WITHOUT_INSTANCE:
        return t("drift.by_hand.DatabaseWithoutInstance")
    return t("drift.by_hand")


def _link(remedy: Remedy) -> RemedyLink:
    return RemedyLink(_path(remedy), remedy.database, t(f"drift.remedy.{remedy.action}"), remedy.command)


def _path(remedy: Remedy) -> str | None:
    match remedy.action:
        case RemedyAction.ADOPT:
            return f"/instances/{remedy.instance_id}/adopt"
        case RemedyAction.UNDELETE:
            return f"/trash/{remedy.instance_id}/undelete"
        case RemedyAction.PURGE | RemedyAction.RECOVER:
            return None
        case _:
            assert_never(remedy.action)
