"""What a comparison of registry and server finds, and the requests that settle it."""

from collections.abc import Collection
from dataclasses import dataclass, field
from enum import StrEnum


class DriftKind(StrEnum):
    """The kinds of contradictions."""

    DATABASE_WITHOUT_INSTANCE = "DatabaseWithoutInstance"
    INSTANCE_WITHOUT_DATABASE = "InstanceWithoutDatabase"
    INSTANCE_WITHOUT_ODS_INSTANCE = "InstanceWithoutOdsInstance"
    ODS_INSTANCE_WITHOUT_DATABASE = "OdsInstanceWithoutDatabase"
    DERIVATIVE_OF_OTHER_INSTANCE = "DerivativeOfOtherInstance"
    ODS_INSTANCE_OF_OTHER_INSTANCE = "OdsInstanceOfOtherInstance"
    ODS_INSTANCE_ON_OTHER_SERVER = "OdsInstanceOnOtherServer"
    INVALID_DATABASE = "InvalidDatabase"
    TEMPLATE_MISSING = "TemplateMissing"
    TEMPLATE_OPEN = "TemplateOpen"
    ORPHAN_DIRECTORY = "OrphanDirectory"
    INSTALLATION_NOT_CONFIRMED = "InstallationNotConfirmed"
    REGISTRY_OLDER_THAN_SERVER = "RegistryOlderThanServer"
    TWO_DATABASES_WITH_ONE_MARK = "TwoDatabasesWithOneMark"
    TRASH_WITHOUT_DATABASE = "TrashWithoutDatabase"
    TRASH_WITHOUT_INSTANCE = "TrashWithoutInstance"
    TRASH_CHANGED = "TrashChanged"
    CLOCKS_DIFFER = "ClocksDiffer"
    TIME_GAP = "TimeGap"
    STORE_SHARED = "StoreShared"
    SNAPSHOT_WITHOUT_DATABASE = "SnapshotWithoutDatabase"
    SNAPSHOT_WITHOUT_ROW = "SnapshotWithoutRow"
    RESET_NOT_ENDED = "ResetNotEnded"
    ROW_NOT_ADOPTED = "RowNotAdopted"


_SUSPICIONS = {
    DriftKind.REGISTRY_OLDER_THAN_SERVER,
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


@dataclass(frozen=True)
class Remedy:
    """A request that settles a contradiction, and itself checks whether it may be granted."""

    action: RemedyAction
    instance_id: int | None = None  # None if it is for all instances
    database: str | None = None  # what the instance gets by an adoption; None if it keeps the name it has

    @property
    def command(self) -> str:
        """The same on the command line."""
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

        While databases are handed back, so does the subject of a registry that is older than the server.
        """
        older = self.kind is DriftKind.REGISTRY_OLDER_THAN_SERVER
        return self.kind, "" if older else self.subject


def is_suspect(found: Collection[Drift]) -> Drift | None:
    """The contradiction by which the registry may be wrong about what is due; None if there is none.

    The registry may be of yesterday, or a copy, or its clock wrong: nothing is done on its word alone then.
    """
    return next((drift for drift in found if drift.kind in _SUSPICIONS), None)
