"""The one table of operations: what each may do, from which statuses, and what follows each end of a job.

Every step from one status to another is made here. All else that depends on an operation is made from this
table or asks it: guarded writes, refusals, indexes, the words for an Admin API, the console's buttons, and
the diagram and tables in `docs/architecture.md`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import assert_never


class Template(StrEnum):
    """The templates that every tenant has; its settings may name more (`Settings.template_databases`)."""

    MINIMAL = "Minimal"
    SAMPLE = "Sample"


REFRESH = "Refresh"
"""`operation` of the jobs that read education organizations: those of no instance alone."""


class Operation(StrEnum):
    """What a job does to its instance; its arguments (`ods.model.arguments`) say the rest.

    Clients know `DELETE` and `DETACH` by one word (`Rules.word`): both are ways of a delete.
    """

    CREATE = "Create"
    DELETE = "Delete"
    RENAME = "Rename"
    DETACH = "Detach"
    UNDELETE = "Undelete"
    PURGE = "Purge"
    BACKUP = "Backup"
    SNAPSHOT = "Snapshot"
    RESET = "Reset"


class InstanceStatus(StrEnum):
    """Statuses of `adminapi.dbinstances`, in the table and on the wire."""

    PENDING = "Pending"
    IN_PROGRESS = "InProgress"
    COMPLETED = "Completed"
    ERROR = "Error"
    PENDING_DELETE = "Pending_Delete"
    DELETED = "Deleted"
    DELETE_FAILED = "Delete_Failed"


class JobStatus(StrEnum):
    """Statuses of `adminapi.jobstatuses`."""

    PENDING = "Pending"
    IN_PROGRESS = "InProgress"
    COMPLETED = "Completed"
    ERROR = "Error"


_RUNS = frozenset({InstanceStatus.IN_PROGRESS})
_FAILED = frozenset({InstanceStatus.ERROR, InstanceStatus.DELETE_FAILED})
JOB_UNDER_WAY = (JobStatus.PENDING, JobStatus.IN_PROGRESS)  # a job waits or runs
WAITING = (InstanceStatus.PENDING, InstanceStatus.PENDING_DELETE)  # a job waits to begin
# A job waits for the instance or works on it, unless a delete waits, which has a status of its own.
UNDER_WAY = (InstanceStatus.PENDING, InstanceStatus.IN_PROGRESS)
# No job works on the instance, or is about to.
AT_REST = frozenset({InstanceStatus.COMPLETED, InstanceStatus.DELETED, *_FAILED})


@dataclass(frozen=True)
class Step:
    """One edge of the life cycle: an instance in one of `sources` moves to `target`, its job to `job`."""

    sources: frozenset[InstanceStatus]
    target: InstanceStatus
    job: JobStatus


class Undo(StrEnum):
    """What is undone after a job has given up; each may be repeated, also where nothing was done."""

    REMOVE_STAGING = "remove the staging database"
    RENAME_BACK = "give the database its old name back that a rename has taken from it"
    OPEN_AGAIN = "give the database its old name back, and open it, which is closed before it is dropped"
    BACK_TO_TRASH = "put the database into the trash again"
    CLOSE_TRASH = "close the database in the trash if the job has opened it, and end its pg_restore"
    REMOVE_SNAPSHOT = "remove the snapshot that was not recorded"
    END_BACKUP = "end the pg_dump that goes on"
    END_REPLACEMENT = "drop what was made in its place, or record that it has taken the place"


class Product(StrEnum):
    """What a job makes: for an instance that has none yet, in the place of the instance's, or beside it."""

    DATABASE = "database"
    REPLACEMENT = "replacement"
    BACKUP = "backup"
    SNAPSHOT = "snapshot"


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What the jobs of one operation may do: a row of the table."""

    word: str  # what clients call the operation, and its jobs
    name: str  # what metrics, plans and Temporal's pages call its jobs
    work: str  # what a worker does meanwhile, in words for clients
    requested: frozenset[InstanceStatus]  # in these statuses of an instance, clients can request it
    waits: InstanceStatus = InstanceStatus.PENDING  # the instance's status until the job begins
    done: InstanceStatus = InstanceStatus.COMPLETED  # its status once the job is done
    # Its status after a failure. If that says that a job has failed, the job can be retried; otherwise the
    # same is requested anew.
    failed: InstanceStatus
    cancelled: InstanceStatus | None = None  # its status after a cancel; None: as after a failure
    undo: Undo  # done when the job gives up, whichever step failed; it drops no published database
    publishes: bool = False  # such a job can publish the instance's database
    keeps_instance: bool = False  # the ODS/API uses the instance while the job waits, runs, or has failed
    # An instance that still works as before is `Completed` if the job ends before it has begun.
    is_kept: bool = False
    # A job that failed or was cancelled is recorded as done if the server shows that it has done its work.
    follows_server: bool = False
    is_live: bool = True  # the instance keeps its names meanwhile; false if the job removes a deleted one
    takes_data: bool = False  # it takes the data of the instance away, so that protection forbids it
    drops: bool = False  # it drops the instance's database for good
    to_trash: bool = False  # it moves the database to the trash; a purge may follow by itself
    releases: bool = False  # it leaves the database, without its mark, to those who use it
    brings_back: bool = False  # it brings an instance back from the trash
    renames: bool = False  # it is about the instance's name alone
    makes: Product | None = None

    @property
    def ends_use(self) -> bool:
        """Whether the use of the instance ends when the job begins."""
        return not self.publishes and not self.keeps_instance

    @property
    def replaces(self) -> bool:
        """Whether another database takes the place of the instance's."""
        return self.undo is Undo.END_REPLACEMENT

    @property
    def request(self) -> Step:
        """A client requests the job."""
        return Step(self.requested, self.waits, JobStatus.PENDING)

    @property
    def retry(self) -> Step:
        """A client has the failed job tried again."""
        return Step(_FAILED & {self.failed}, self.waits, JobStatus.PENDING)

    @property
    def begin(self) -> Step:
        """A worker takes the instance.

        Also after a failure: the signal `retry` of an operator goes to the workflow, not through the API. The
        number of the attempt keeps every other attempt from beginning there.
        """
        return Step(frozenset({self.waits, self.failed}), InstanceStatus.IN_PROGRESS, JobStatus.IN_PROGRESS)

    @property
    def finish(self) -> Step:
        """The job is done."""
        return Step(_RUNS, self.done, JobStatus.COMPLETED)

    @property
    def fail(self) -> Step:
        """The job gives up."""
        return Step(_RUNS, self.failed, JobStatus.ERROR)

    @property
    def cancel_running(self) -> Step:
        """A client has cancelled the job while it ran."""
        return Step(_RUNS, self.cancelled or self.failed, JobStatus.ERROR)

    @property
    def release(self) -> Step:
        """The job waits again: no workflow works on it, or a delete is tried again without the operator.

        Even a delete that was cancelled after its DROP had begun.
        """
        tried_again = {self.failed, self.cancelled or self.failed} if self.ends_use else set()
        return Step(_RUNS | tried_again, self.waits, JobStatus.PENDING)

    @property
    def refuse(self) -> Step:
        """The job must not begin: nothing was done for it."""
        return Step(frozenset({self.waits}), self.failed, JobStatus.ERROR)

    @property
    def cancel(self) -> Step:
        """A client has cancelled the job before it began."""
        return Step(frozenset({self.waits}), self.cancelled or self.failed, JobStatus.ERROR)

    @property
    def keep(self) -> Step:
        """The job was refused or cancelled before it began, and the instance works as before."""
        return Step(_only(self.waits, when=self.is_kept), InstanceStatus.COMPLETED, JobStatus.ERROR)

    @property
    def keep_later(self) -> Step:
        """The same of a delete that has ended, once what an earlier job had left was undone."""
        when = self.is_kept and self.ends_use
        return Step(_only(self.failed, when=when), InstanceStatus.COMPLETED, JobStatus.ERROR)

    @property
    def follow(self) -> Step:
        """The job has failed or was cancelled, and the server shows that it had done its work by then."""
        ended = self.cancelled or self.failed
        return Step(_only(ended, when=self.follows_server), self.done, JobStatus.COMPLETED)


def _only(status: InstanceStatus, *, when: bool) -> frozenset[InstanceStatus]:
    return frozenset({status} if when else ())


_IN_TRASH = frozenset({InstanceStatus.DELETED, InstanceStatus.DELETE_FAILED})
_DELETE = Rules(
    word="Delete",
    name="Delete",
    work="dropping the database",
    requested=frozenset({InstanceStatus.COMPLETED, *_FAILED}),
    waits=InstanceStatus.PENDING_DELETE,
    done=InstanceStatus.DELETED,
    failed=InstanceStatus.DELETE_FAILED,
    # Also if it was refused before it began: it may have overtaken a rename, and the ODS/API goes on.
    undo=Undo.OPEN_AGAIN,
    is_kept=True,
    takes_data=True,
    drops=True,
)
# What works beside an instance, and leaves it as it is whatever becomes of the job.
_BACKUP = Rules(
    word="Backup",
    name="Backup",
    work="backing the database up",
    requested=frozenset({InstanceStatus.COMPLETED}),
    failed=InstanceStatus.COMPLETED,
    # What was stored is no backup without its manifest; the next try stores in another place.
    undo=Undo.END_BACKUP,
    keeps_instance=True,
    makes=Product.BACKUP,
)


def _rules(operation: Operation) -> Rules:  # noqa: PLR0911 - a table
    match operation:
        case Operation.CREATE:
            return Rules(
                word="Create",
                name="Create",
                work="cloning the template",
                requested=frozenset(),
                failed=InstanceStatus.ERROR,
                undo=Undo.REMOVE_STAGING,  # nothing is changed at what is copied
                publishes=True,
                follows_server=True,  # nothing drops a published database but a delete
                makes=Product.DATABASE,
            )
        case Operation.RENAME:
            return Rules(
                word="Rename",
                name="Rename",
                work="renaming the database",
                # From `Error` only after a failed rename: what was never created has nothing to rename.
                requested=frozenset({InstanceStatus.COMPLETED, InstanceStatus.ERROR}),
                failed=InstanceStatus.ERROR,
                undo=Undo.RENAME_BACK,
                publishes=True,
                keeps_instance=True,
                is_kept=True,
                renames=True,
            )
        case Operation.DELETE:
            return _DELETE
        # It takes the database away from those who use the instance.
        case Operation.DETACH:
            left = replace(_DELETE, name="Detach", work="removing the mark of the database")
            return replace(left, undo=Undo.RENAME_BACK, drops=False, releases=True)
        case Operation.UNDELETE:
            return Rules(
                word="Undelete",
                name="Undelete",
                work="taking the database out of the trash",
                requested=_IN_TRASH,  # from `Delete_Failed` only after a failed purge
                failed=InstanceStatus.DELETED,
                undo=Undo.BACK_TO_TRASH,
                publishes=True,
                brings_back=True,
            )
        case Operation.PURGE:
            return replace(
                _DELETE,
                word="Purge",
                name="Purge",
                requested=_IN_TRASH,
                # What a client did not want purged is in the trash as before, where no retry of failed jobs
                # drops it; only a new request does.
                cancelled=InstanceStatus.DELETED,
                # It is in the trash, whole or half dropped. A backup of it that was stored stays; the next
                # try uses it, or makes another. A session that is late is ended all the same.
                undo=Undo.CLOSE_TRASH,
                is_kept=False,
                follows_server=True,  # nothing brings back what was dropped
                is_live=False,
            )
        case Operation.BACKUP:
            return _BACKUP
        case Operation.SNAPSHOT:
            work = "copying the database for readers"
            snapshot = replace(_BACKUP, word="Snapshot", name="Snapshot", work=work)
            return replace(snapshot, makes=Product.SNAPSHOT, undo=Undo.REMOVE_SNAPSHOT)
        case Operation.RESET:
            return replace(
                _BACKUP,
                word="Reset",
                name="Reset",
                work="making a fresh database",
                undo=Undo.END_REPLACEMENT,
                publishes=True,
                follows_server=True,  # nothing exchanges the databases back but a client
                takes_data=True,
                makes=Product.REPLACEMENT,
            )
        case _:
            assert_never(operation)


RULES: Mapping[Operation, Rules] = {operation: _rules(operation) for operation in Operation}
"""The table, without the rows of jobs that other arguments distinguish: see `rules_of`."""

TO_TRASH = replace(
    _DELETE,
    name="Trash",
    work="moving the database to the trash",
    undo=Undo.RENAME_BACK,
    drops=False,
    to_trash=True,
)
"""The row of deletes that keep the database: the ODS/API does not route to it any more, and a retry goes
on."""

BACK_TO_EARLIER = replace(
    RULES[Operation.RESET],
    word="UndoReset",
    name="UndoReset",
    work="taking the earlier database out of the trash",
    makes=None,
)
"""The row of resets to a database that the instance had before."""

ROWS: tuple[tuple[Operation, Rules], ...] = (
    *RULES.items(),
    (Operation.DELETE, TO_TRASH),
    (Operation.RESET, BACK_TO_EARLIER),
)
"""All rows of the table."""


def operations_that(have: Callable[[Rules], bool]) -> tuple[Operation, ...]:
    """The operations whose rules are such, whatever the arguments of a job are.

    Raises:
        ValueError: that depends on the arguments, so that no operation says it.
    """
    found = {operation: have(rules) for operation, rules in RULES.items()}
    if any(found[operation] is not have(rules) for operation, rules in ROWS):
        raise ValueError("What is asked for depends on the arguments of jobs.")
    return tuple(operation for operation, is_such in found.items() if is_such)


def making(product: Product) -> tuple[Operation, ...]:
    """The operations that make this; a reset may as well bring back what was made earlier."""
    return tuple(operation for operation, rules in RULES.items() if rules.makes is product)


def quoted(operations: tuple[Operation, ...]) -> str:
    """A list of operations for an `IN` of SQL."""
    return ", ".join(f"'{operation}'" for operation in operations)


DELETABLE = RULES[Operation.DELETE].requested
# From `Error` only after a failed rename, as well: what carries the mark of a failed create is removed.
ADOPTABLE = DELETABLE
PURGEABLE = RULES[Operation.PURGE].requested
RESETTABLE = RULES[Operation.RESET].requested
CAN_BE_BACKED_UP = RULES[Operation.BACKUP].requested
FOLLOW = Step(AT_REST, InstanceStatus.COMPLETED, JobStatus.COMPLETED)
"""A recovery records that the server has the instance's database in use, whatever its last job was."""
FOLLOW_DELETE = Step(AT_REST, InstanceStatus.DELETED, JobStatus.COMPLETED)
"""A recovery records that the server has the instance's database in the trash, as after a delete."""
FORGET_TRASH = Step(_IN_TRASH | _RUNS | {_DELETE.waits}, InstanceStatus.DELETED, JobStatus.ERROR)
"""A copy of an installation forgets the trash, which is the original's; its jobs went with it."""

JOB_WORDS = tuple(dict.fromkeys((*(rules.word for _, rules in ROWS), REFRESH)))
"""What jobs do: `operation` of their rows, and the words by which clients choose them."""

NOT_LIVE = operations_that(lambda rules: not rules.is_live)
"""Operations by which an instance is not live, whatever its status is."""

BRINGING_BACK = operations_that(lambda rules: rules.brings_back)
"""Operations by which an instance comes back from the trash: until then, it is neither there nor whole."""


def is_usable(status: InstanceStatus, operation: Operation) -> bool:
    """Whether an instance in `status`, whose last job is an `operation`, must have a database and routing."""
    has_failed = status == InstanceStatus.ERROR
    return status == InstanceStatus.COMPLETED or (has_failed and RULES[operation].keeps_instance)


def next_step(status: InstanceStatus) -> str:  # noqa: PLR0911 - a table
    """What a client can do with an instance in `status`, which does not allow what was requested."""
    match status:
        case InstanceStatus.PENDING:
            return "Its job is about to start; wait until it is Completed or Error."
        case InstanceStatus.IN_PROGRESS:
            return "A job is running; ask again when it has ended."
        case InstanceStatus.COMPLETED:
            return "Nothing has failed; delete the instance if it is no longer needed."
        case InstanceStatus.ERROR:
            return (
                "Do what the error of its last job says, and retry that; or, if nothing of it is wanted,"
                " delete the instance."
            )
        case InstanceStatus.PENDING_DELETE:
            return "Its deletion is about to start; wait until it is Deleted."
        case InstanceStatus.DELETE_FAILED:
            return (
                "Retry the deletion. Or, to keep the database: delete the instance to the trash, and undelete"
                " it; or, where ODS_TRASH_DAYS is 0, detach it, which leaves the database."
            )
        case InstanceStatus.DELETED:
            return "Undelete or purge it if it is in the trash, or create another instance."
        case _:
            assert_never(status)
