"""Revisions: the states that this service has given to databases of instances, or means to give them.

Each has a UUID, which no other attempt at a job gives, and which the comment of the database carries from the
moment the state is reached. So a comment and a registry agree, or one of both was restored to an earlier
state.
"""

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID, uuid5


class Role(StrEnum):
    """What a database is to its instance.

    `STAGING`: it is being made, under a private name. `CURRENT`: it is the instance's. `RETAINED`: it was
    that; it is closed, under a private name, and can come back.
    """

    STAGING = "staging"
    CURRENT = "current"
    RETAINED = "retained"


class RevisionState(StrEnum):
    """Whether a database has the state of a revision, as far as the registry knows.

    `INTENDED`: a job was about to give it that state, and it is not known whether it did. `CONFIRMED`: it has
    it. `VOID`: it never got it, or has it no more.
    """

    INTENDED = "intended"
    CONFIRMED = "confirmed"
    VOID = "void"


@dataclass(frozen=True)
class Revision:
    """A state that a database of an instance has, had, or is to get.

    Attributes:
        id: its UUID.
        database_id: the UUID of the database.
        state: what the registry knows of it.
    """

    id: str
    database_id: str
    state: RevisionState


@dataclass(frozen=True)
class KnownRevisions:
    """What a registry knows of the states of an instance's databases.

    Attributes:
        revisions: all that it has recorded; at most one of each database is confirmed.
    """

    revisions: tuple[Revision, ...] = ()

    def state_of(self, database_id: str, revision: str | None) -> RevisionState | None:
        """What the registry knows of the revision in the comment of that database; None: nothing.

        If it knows nothing, the registry was restored to an earlier state; if the revision is void, the
        server was. What is there of a database that is gone by the registry is void, too.
        """
        its = {one.id: one.state for one in self.revisions if one.database_id == database_id}
        is_gone = bool(its) and set(its.values()) == {RevisionState.VOID}
        return its.get(revision or "", RevisionState.VOID if is_gone else None)

    def confirmed(self, database_id: str) -> str | None:
        """The revision that the database has, as far as the registry knows; None if it knows none."""
        its = (
            one.id
            for one in self.revisions
            if one.database_id == database_id and one.state is RevisionState.CONFIRMED
        )
        return next(its, None)


def revision_by(request: str, attempt: int, database_id: str) -> str:
    """The revision that this attempt at the job of this request gives a database.

    It follows from these, so that an attempt gives the same which a registry has forgotten that was restored
    since; and none that was undone is ever given again.
    """
    return str(uuid5(UUID(request), f"{attempt} {database_id}"))
