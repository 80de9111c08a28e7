"""What a comparison of registry and server finds, and the requests that settle it."""

from collections.abc import Collection
from dataclasses import dataclass, field
from enum import StrEnum


class DriftKind(StrEnum):
    """The kinds of contradictions: eight about databases, and those of what is around them."""

    REGISTRY_PUT_BACK = "RegistryPutBack"  # one for all that the registry does not know
    SERVER_PUT_BACK = "ServerPutBack"  # the database is in an earlier state than the registry knows
    DATABASE_MISSING = "DatabaseMissing"
    DATABASE_WITHOUT_INSTANCE = "DatabaseWithoutInstance"
    CHANGED_BY_HAND = "ChangedByHand"
    TWO_DATABASES = "TwoDatabases"  # several carry the mark of one instance
    INTERRUPTED_DROP = "InterruptedDrop"
    INSTALLATION_NOT_CONFIRMED = "InstallationNotConfirmed"  # it may be a copy of another one

    ROUTE_BROKEN = "RouteBroken"  # an ODS instance without a database, or an instance without one of these
    ROUTED_ELSEWHERE = "RoutedElsewhere"  # to another server, or another instance's database
    TEMPLATE_UNUSABLE = "TemplateUnusable"
    ORPHAN_DIRECTORY = "OrphanDirectory"
    CLOCKS_DIFFER = "ClocksDiffer"
    TIME_GAP = "TimeGap"
    STORE_SHARED = "StoreShared"
    RESET_NOT_ENDED = "ResetNotEnded"
    ROW_NOT_ADOPTED = "RowNotAdopted"


_SUSPICIONS = {
    DriftKind.REGISTRY_PUT_BACK,
    DriftKind.INSTALLATION_NOT_CONFIRMED,
    DriftKind.CLOCKS_DIFFER,
    DriftKind.TIME_GAP,
    DriftKind.STORE_SHARED,
}


class RemedyAction(StrEnum):
    """What a request to this service can do about a contradiction."""

    ADOPT = "Adopt"
    RECOVER = "Recover"
    UNDELETE = "Undelete"
    PURGE = "Purge"
    RESTORE = "Restore"


@dataclass(frozen=True)
class Remedy:
    """A request that settles a contradiction, and itself checks whether it may be granted."""

    action: RemedyAction
    instance_id: int | None = None  # None if it is for all instances
    database: str | None = None  # what the instance gets by an adoption; None if it keeps the name it has

    @property
    def command(self) -> str:
        """The same on the command line."""
        if self.action is RemedyAction.RESTORE:
            return "ods recover --apply --restore-lost"
        named = "" if self.database is None else f" --database {self.database}"
        which = (
            "recover" if self.instance_id is None else f"instance {self.action.lower()} {self.instance_id}"
        )
        return f"ods {which}{named}"


RECOVER = Remedy(RemedyAction.RECOVER)


@dataclass(frozen=True, order=True)
class Drift:
    """One contradiction between registry and server."""

    kind: DriftKind
    subject: str  # the database, instance or directory that it is about
    explanation: str
    remedy: Remedy | None = field(default=None, compare=False)  # None if it must be settled by hand

    @property
    def identity(self) -> tuple[DriftKind, str]:
        """What it is about: the explanation may change with each look, as with a time in it.

        While a recovery works, so does the subject of a registry that was put back.
        """
        return self.kind, "" if self.kind is DriftKind.REGISTRY_PUT_BACK else self.subject


def is_suspect(found: Collection[Drift]) -> Drift | None:
    """The contradiction by which the registry may be wrong about what is due; None if there is none.

    The registry may be of yesterday, or a copy, or its clock wrong: nothing is done on its word alone then.
    """
    return next((drift for drift in found if drift.kind in _SUSPICIONS), None)
