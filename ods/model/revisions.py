"""Revisions: the states that this service has given to databases of instances, or means to give them.

Each has a UUID that no other attempt at a job gives. The comment of the database carries it from the moment
the state is reached. So a comment and a registry agree, or one of both was restored to an earlier state.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID, uuid5


class Role(StrEnum):
    """What a database is to its instance."""

    STAGING = "staging"  # it is being made, under a private name
    CURRENT = "current"  # it is the instance's
    RETAINED = "retained"  # it was that; it is closed, under a private name, and can come back


class TrashReason(StrEnum):
    """Why a database is in the trash."""

    DELETED = "deleted"  # its instance is
    REPLACED = "replaced"  # a reset has given its instance another one


class RevisionState(StrEnum):
    """Whether a database has the state of a revision, as far as the registry knows."""

    INTENDED = "intended"  # a job was about to give it that state, and it is not known whether it did
    DUE = "due"  # a client has kept the database: its comment gets this revision, and nothing else changes
    CONFIRMED = "confirmed"  # it has it
    VOID = "void"  # it never got it, or has it no more


@dataclass(frozen=True)
class Revision:
    """A state that a database of an instance has, had, or is to get, by its UUID and the database's."""

    id: str
    database_id: str
    state: RevisionState


@dataclass(frozen=True)
class KnownRevisions:
    """What a registry has recorded of an instance's databases: their revisions, the oldest first.

    Attributes:
        revisions: at most one of a database is confirmed.
        is_protected: whether the instance is protected.
    """

    revisions: tuple[Revision, ...] = ()
    is_protected: bool = False

    def state_of(self, database_id: str, revision: str | None) -> RevisionState | None:
        """What the registry knows of the revision in the comment of that database; None: nothing.

        Then the registry was restored to an earlier state; if the revision is void, the server was. Any
        revision of a database is void if the registry knows that the database is gone.
        """
        its = {one.id: one.state for one in self.revisions if one.database_id == database_id}
        is_gone = bool(its) and set(its.values()) == {RevisionState.VOID}
        return its.get(revision or "", RevisionState.VOID if is_gone else None)

    def confirmed(self, database_id: str) -> str | None:
        """The revision that the database has, as far as the registry knows; None if it knows none."""
        its = (one for one in self.revisions if one.database_id == database_id)
        return next((one.id for one in its if one.state is RevisionState.CONFIRMED), None)

    @property
    def due(self) -> Sequence[Revision]:
        """Those that are to be written into comments: of each database, the last one."""
        return [one for one in self.revisions if one.state is RevisionState.DUE]


def revision_by(request: str, attempt: int, database_id: str) -> str:
    """The revision that this attempt at the job of this request gives a database.

    It follows from these: an attempt gives the same one again that a restored registry has forgotten, and one
    that was undone is never given again.
    """
    return str(uuid5(UUID(request), f"{attempt} {database_id}"))
