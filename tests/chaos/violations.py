"""What the checker is told, and what it finds: requests, violations, the verdict."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from tests.chaos.evidence import ForeignDatabase, History


class Kind(StrEnum):
    """What can be wrong."""

    LOST_REQUEST = "accepted request without a job"
    UNFINISHED = "instance that did not come to an end"
    UNFINISHED_JOB = "job that did not come to an end"
    DISAGREEMENT = "job and instance disagree"
    IN_PART = "request for several instances that was carried out for some of them"
    RETRACTED = "job that was told to be done and is not"
    UNREQUESTED = "job that no client requested"
    NO_DATABASE = "instance without its database"
    WRONG_MARK = "database with another mark than its instance"
    WRONG_CONTENTS = "database that is no whole copy of its template"
    SURPLUS_DATABASE = "database without a completed instance"
    UNMARKED_DATABASE = "unmarked database"
    STAGING_DATABASE = "staging database"
    INVALID_DATABASE = "invalid database"
    UNFINISHED_SPARE = "spare database that is not ready"
    STALE_SPARE = "spare database of a template that has changed"
    SURPLUS_SPARE = "spare database beyond the wanted number"
    FOREIGN_DATABASE = "foreign database that was touched"
    NO_ODS_INSTANCE = "completed instance without its ODS instance"
    SURPLUS_ODS_INSTANCE = "ODS instance without a completed instance"
    WRONG_ODS_INSTANCE = "ODS instance of another name or template"
    WRONG_CONNECTION_STRING = "connection string that does not lead to the database"
    OPEN_WORKFLOW = "open workflow that should be closed"
    DUPLICATE_WORKFLOW = "instance with several open workflows"
    DRIFT = "drift that the product itself reports"
    PUBLISHED_GONE = "published database is gone, and no client has requested that it is dropped"
    CROSSED = "instance is crossed with another"
    AWAY = "job ended in Error because something was away"
    UNREPORTED = "what a restore of the registry left, and the product does not report"
    LOST_ROWS = "rows that a client has written are gone"
    ROUTED_TO_TRASH = "the ODS/API was routed to a database in the trash"
    OPEN_TRASH = "database in the trash that is open, or not marked as being there"
    PURGED_EARLY = "instance that was purged before its time, and no client requested it"
    WRONG_ATTRIBUTES = "attributes of an instance are not those that its client was told"
    NO_FINAL_BACKUP = "instance that was purged without the backup that was to be made before"
    BROKEN_BACKUP = "backup that is told to be there and is not whole"
    UNKNOWN_BACKUP = "stored backup that the registry does not know"
    ORPHAN_PROCESS = "program of a backup that goes on without a job"
    PROTECTED_GONE = "protected instance that was deleted"


@dataclass(frozen=True)
class Violation:
    """One thing that is wrong, and the words for it.

    Attributes:
        kind: what it is.
        words: which instance, job or database it is about, and how it is.
        mark: of an instance whose database is not as it should be, perhaps because of a restore.
        names: of which a report of that must contain one.
    """

    kind: Kind
    words: str
    mark: str | None = None
    names: tuple[str, ...] = ()


BACKED_UP = "DropBackedUp"
"""A request after which a live instance is moved to the trash, and purged from there after a backup."""
JOBS_OF = {
    "Trash": {"Delete"},
    "Detach": {"Delete"},
    "Drop": {"Delete", "Purge"},
    BACKED_UP: {"Delete", "Purge"},
}
"""What the jobs of the ways to delete are called; those of other requests have the word of the request."""
DROPS = ("Drop", "Purge", BACKED_UP)
"""Requests after which the database of an instance may be dropped."""


@dataclass(frozen=True)
class Request:
    """A request as its client remembers it.

    Attributes:
        operation: what was requested: `Create`, `Rename`, `Backup`, `Undelete`, `Purge`, or one of `JOBS_OF`;
            a retry is a request for the job that had failed.
        name: that the instance was created under.
        job: what the answer said; None if the connection broke before there was an answer, so that no client
            knows whether the request was accepted.
        outcome: the last status of the job that the client was told.
    """

    operation: str
    name: str
    job: str | None = None
    outcome: str | None = None

    @property
    def jobs(self) -> set[str]:
        """What a job is called that the request can have led to."""
        return JOBS_OF.get(self.operation, {self.operation})


@dataclass(frozen=True)
class Together:
    """A request for several instances, of which all have the job or none has, whatever its answer was.

    Attributes:
        operation: what the jobs are called: `Create` or `Delete`.
        names: that the instances were created under; no other request has asked that of them.
    """

    operation: str
    names: frozenset[str]


@dataclass(frozen=True)
class Attributes:
    """What a client was last told that an instance has."""

    protected: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    contexts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Storm:
    """What the servers were asked to do, what was there before, and how many spares a template may have.

    `history` is what was seen on the servers meanwhile; `attributes` are those of instances, by id and the
    name that they were created under; `together` are the requests for several instances.
    """

    requests: Sequence[Request] = ()
    foreign: Mapping[str, ForeignDatabase] = field(default_factory=dict)
    spares: int = 0
    history: History = field(default_factory=History)
    attributes: Mapping[tuple[int, str], Attributes] = field(default_factory=dict)
    together: Sequence[Together] = ()


@dataclass(frozen=True)
class Verdict:
    """What is wrong, and what would be if a restore of the registry were not the cause.

    The product can only report these `leftovers`: which side is right, a person must say. It may also report
    what a restore has `touched`, in names of instances and databases, and what is in order again. Databases
    that were `detached` are there on purpose.
    """

    violations: Sequence[Violation] = ()
    leftovers: Sequence[Violation] = ()
    touched: Sequence[str] = ()
    detached: Collection[str] = ()
