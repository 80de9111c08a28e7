"""The life cycle of instances and jobs: operations, statuses, and the only steps from one to another."""

from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from ods.settings.settings import MINIMAL_TEMPLATE, SAMPLE_TEMPLATE


class Template(StrEnum):
    """The templates that every tenant has; its settings may name more (`Settings.template_databases`)."""

    MINIMAL = MINIMAL_TEMPLATE
    SAMPLE = SAMPLE_TEMPLATE


REFRESH = "Refresh"
"""`operation` of the jobs that read education organizations: those of no instance alone."""


class Operation(StrEnum):
    """What a job does to its instance.

    Clients know `TRASH`, `DELETE` and `DETACH` by one word (`Traits.word`): they are three ways of a delete.
    A worker of a release that drops at every delete does not know the first, and so leaves it alone. Nor does
    one that would clone the template know `COPY` and `RESTORE`, which to clients are creates, and `REPLACE`,
    which is a reset to a copy or a backup; or one that would drop without a backup know `PURGE_AFTER_BACKUP`,
    which to clients is a purge.
    """

    CREATE = "Create"
    DELETE = "Delete"
    RENAME = "Rename"
    TRASH = "Trash"
    DETACH = "Detach"
    UNDELETE = "Undelete"
    PURGE = "Purge"
    PURGE_AFTER_BACKUP = "PurgeAfterBackup"
    BACKUP = "Backup"
    SNAPSHOT = "Snapshot"
    COPY = "Copy"
    RESTORE = "Restore"
    RESET = "Reset"
    REPLACE = "Replace"
    UNDO_RESET = "UndoReset"


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


@dataclass(frozen=True)
class Step:
    """One edge of the life cycle: an instance in one of `sources` moves to `target`, its job to `job`."""

    sources: frozenset[InstanceStatus]
    target: InstanceStatus
    job: JobStatus


def _step(*sources: InstanceStatus, to: InstanceStatus, job: JobStatus) -> Step:
    return Step(frozenset(sources), to, job)


REQUEST_DELETE = _step(
    InstanceStatus.COMPLETED,
    InstanceStatus.ERROR,
    InstanceStatus.DELETE_FAILED,
    to=InstanceStatus.PENDING_DELETE,
    job=JobStatus.PENDING,
)
# From `Error` only after a failed rename: an instance that was never created has nothing to rename.
REQUEST_RENAME = _step(
    InstanceStatus.COMPLETED, InstanceStatus.ERROR, to=InstanceStatus.PENDING, job=JobStatus.PENDING
)
# For what is in the trash. From `Delete_Failed` only after a failed purge.
REQUEST_UNDELETE = _step(
    InstanceStatus.DELETED, InstanceStatus.DELETE_FAILED, to=InstanceStatus.PENDING, job=JobStatus.PENDING
)
REQUEST_PURGE = _step(
    InstanceStatus.DELETED,
    InstanceStatus.DELETE_FAILED,
    to=InstanceStatus.PENDING_DELETE,
    job=JobStatus.PENDING,
)
# What works beside an instance, and leaves it as it is whatever becomes of the job.
REQUEST_BESIDE = _step(InstanceStatus.COMPLETED, to=InstanceStatus.PENDING, job=JobStatus.PENDING)
# From `Error` only after a failed rename, as well: what carries the mark of a failed create is removed.
ADOPTABLE = frozenset({InstanceStatus.COMPLETED, InstanceStatus.ERROR, InstanceStatus.DELETE_FAILED})


def _steps(
    making: Step, deletion: Step, undelete: Step, beside: Step, purge: Step | None = None
) -> dict[Operation, Step]:
    """The step of each operation: a rename moves the instance as its creation did.

    So does a purge as its delete, if there is no step of its own.
    """

    def step_of(operation: Operation) -> Step:
        match operation:
            case Operation.CREATE | Operation.COPY | Operation.RESTORE | Operation.RENAME:
                return making
            case Operation.DELETE | Operation.TRASH | Operation.DETACH:
                return deletion
            case Operation.PURGE | Operation.PURGE_AFTER_BACKUP:
                return purge or deletion
            case Operation.UNDELETE:
                return undelete
            case Operation.BACKUP | Operation.SNAPSHOT:
                return beside
            case Operation.RESET | Operation.REPLACE | Operation.UNDO_RESET:
                return beside
            case _:
                assert_never(operation)

    return {operation: step_of(operation) for operation in Operation}


RETRY = _steps(
    _step(InstanceStatus.ERROR, to=InstanceStatus.PENDING, job=JobStatus.PENDING),
    _step(InstanceStatus.DELETE_FAILED, to=InstanceStatus.PENDING_DELETE, job=JobStatus.PENDING),
    # What is deleted is not live, so it is requested anew; so is what has left the instance as it was.
    _step(to=InstanceStatus.PENDING, job=JobStatus.PENDING),
    _step(to=InstanceStatus.PENDING, job=JobStatus.PENDING),
)
# The statuses after a failure are sources too because an operator's `retry` signal reaches the waiting
# workflow without passing the API; the attempt number keeps every other attempt from beginning there.
BEGIN = _steps(
    _step(
        InstanceStatus.PENDING,
        InstanceStatus.ERROR,
        to=InstanceStatus.IN_PROGRESS,
        job=JobStatus.IN_PROGRESS,
    ),
    _step(
        InstanceStatus.PENDING_DELETE,
        InstanceStatus.DELETE_FAILED,
        to=InstanceStatus.IN_PROGRESS,
        job=JobStatus.IN_PROGRESS,
    ),
    _step(
        InstanceStatus.PENDING,
        InstanceStatus.DELETED,
        to=InstanceStatus.IN_PROGRESS,
        job=JobStatus.IN_PROGRESS,
    ),
    _step(
        InstanceStatus.PENDING,
        InstanceStatus.COMPLETED,
        to=InstanceStatus.IN_PROGRESS,
        job=JobStatus.IN_PROGRESS,
    ),
)
FINISH = _steps(
    _step(InstanceStatus.IN_PROGRESS, to=InstanceStatus.COMPLETED, job=JobStatus.COMPLETED),
    _step(InstanceStatus.IN_PROGRESS, to=InstanceStatus.DELETED, job=JobStatus.COMPLETED),
    _step(InstanceStatus.IN_PROGRESS, to=InstanceStatus.COMPLETED, job=JobStatus.COMPLETED),
    _step(InstanceStatus.IN_PROGRESS, to=InstanceStatus.COMPLETED, job=JobStatus.COMPLETED),
)
_FAILED = (
    _step(InstanceStatus.IN_PROGRESS, to=InstanceStatus.ERROR, job=JobStatus.ERROR),
    _step(InstanceStatus.IN_PROGRESS, to=InstanceStatus.DELETE_FAILED, job=JobStatus.ERROR),
    # It is in the trash again.
    _step(InstanceStatus.IN_PROGRESS, to=InstanceStatus.DELETED, job=JobStatus.ERROR),
    _step(InstanceStatus.IN_PROGRESS, to=InstanceStatus.COMPLETED, job=JobStatus.ERROR),
)
FAIL = _steps(*_FAILED)
# A job that was cancelled while it ran: as after a failure. But what a client did not want purged is in the
# trash as before, where no retry of failed jobs drops it; only a new request does.
CANCEL_RUNNING = _steps(
    *_FAILED, purge=_step(InstanceStatus.IN_PROGRESS, to=InstanceStatus.DELETED, job=JobStatus.ERROR)
)
# Only for a job that no workflow works on, so that nothing will finish or fail it, and for a delete that is
# tried again without the operator. `Deleted` is a purge that was cancelled when a DROP had begun.
RELEASE = _steps(
    _step(InstanceStatus.IN_PROGRESS, to=InstanceStatus.PENDING, job=JobStatus.PENDING),
    _step(
        InstanceStatus.IN_PROGRESS,
        InstanceStatus.DELETE_FAILED,
        to=InstanceStatus.PENDING_DELETE,
        job=JobStatus.PENDING,
    ),
    _step(InstanceStatus.IN_PROGRESS, to=InstanceStatus.PENDING, job=JobStatus.PENDING),
    _step(InstanceStatus.IN_PROGRESS, to=InstanceStatus.PENDING, job=JobStatus.PENDING),
    purge=_step(
        InstanceStatus.IN_PROGRESS,
        InstanceStatus.DELETE_FAILED,
        InstanceStatus.DELETED,
        to=InstanceStatus.PENDING_DELETE,
        job=JobStatus.PENDING,
    ),
)
# Only for a job that has not begun: nothing was done for it.
_NOT_BEGUN = (
    _step(InstanceStatus.PENDING, to=InstanceStatus.ERROR, job=JobStatus.ERROR),
    _step(InstanceStatus.PENDING_DELETE, to=InstanceStatus.DELETE_FAILED, job=JobStatus.ERROR),
    _step(InstanceStatus.PENDING, to=InstanceStatus.DELETED, job=JobStatus.ERROR),
    _step(InstanceStatus.PENDING, to=InstanceStatus.COMPLETED, job=JobStatus.ERROR),
)
REFUSE = _steps(*_NOT_BEGUN)
CANCEL = _steps(
    *_NOT_BEGUN, purge=_step(InstanceStatus.PENDING_DELETE, to=InstanceStatus.DELETED, job=JobStatus.ERROR)
)
_KEEP_FROM_DELETE = _step(InstanceStatus.PENDING_DELETE, to=InstanceStatus.COMPLETED, job=JobStatus.ERROR)
# Such a job of an instance that works: the instance is what it was. A create has none, nor has what works on
# an instance in the trash; after a reset that is cancelled, the instance is what it was in any case.
KEEP = {
    Operation.RENAME: _step(InstanceStatus.PENDING, to=InstanceStatus.COMPLETED, job=JobStatus.ERROR),
    Operation.DELETE: _KEEP_FROM_DELETE,
    Operation.TRASH: _KEEP_FROM_DELETE,
    Operation.DETACH: _KEEP_FROM_DELETE,
}
# A create has failed after it had published the database, which nothing drops but a delete.
FOLLOW_DATABASE = _step(InstanceStatus.ERROR, to=InstanceStatus.COMPLETED, job=JobStatus.COMPLETED)
# A reset has failed after it had exchanged the databases, which nothing exchanges back but a client.
FOLLOW_EXCHANGE = _step(InstanceStatus.COMPLETED, to=InstanceStatus.COMPLETED, job=JobStatus.COMPLETED)
# A purge was cancelled after it had dropped the database, which nothing brings back.
FOLLOW_DROP = _step(InstanceStatus.DELETED, to=InstanceStatus.DELETED, job=JobStatus.COMPLETED)
# A job waits or runs.
JOB_UNDER_WAY = (JobStatus.PENDING, JobStatus.IN_PROGRESS)
# A job waits to begin.
WAITING = (InstanceStatus.PENDING, InstanceStatus.PENDING_DELETE)
# A job waits for the instance or works on it, unless a delete waits, which has a status of its own.
UNDER_WAY = (InstanceStatus.PENDING, InstanceStatus.IN_PROGRESS)
# No job works on the instance, or is about to.
AT_REST = frozenset(
    {InstanceStatus.COMPLETED, InstanceStatus.ERROR, InstanceStatus.DELETED, InstanceStatus.DELETE_FAILED}
)


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
    NOTHING = "nothing"


@dataclass(frozen=True)
class AfterFailure:
    """What follows when a job gives up, whichever of its steps failed.

    Attributes:
        undo: what is undone. It never drops a database that was published.
        usable: whether the instance works afterwards as it did before the job.
    """

    undo: Undo
    usable: bool


def after_failure(operation: Operation) -> AfterFailure:  # noqa: C901, PLR0911 - a table
    """What follows when a job of this kind gives up: the only place that decides it."""
    match operation:
        case Operation.CREATE | Operation.COPY | Operation.RESTORE:  # nothing is changed at what is copied
            return AfterFailure(Undo.REMOVE_STAGING, usable=False)
        case Operation.RENAME:
            return AfterFailure(Undo.RENAME_BACK, usable=True)
        # The ODS/API does not route to it any more, and a retry goes on. What is to be purged is in the
        # trash, closed, whole or half dropped. A session that is late is ended all the same.
        case Operation.PURGE:
            return AfterFailure(Undo.NOTHING, usable=False)
        # Also if it was refused before it began: it may have overtaken a rename, and the ODS/API goes on.
        case Operation.DELETE:
            return AfterFailure(Undo.OPEN_AGAIN, usable=False)
        case Operation.TRASH | Operation.DETACH:
            return AfterFailure(Undo.RENAME_BACK, usable=False)
        case Operation.UNDELETE:
            return AfterFailure(Undo.BACK_TO_TRASH, usable=False)
        case Operation.PURGE_AFTER_BACKUP:  # what was stored stays; the next try uses it, or makes another
            return AfterFailure(Undo.CLOSE_TRASH, usable=False)
        # What was stored is no backup without its manifest; the next try stores in another place.
        case Operation.BACKUP:
            return AfterFailure(Undo.END_BACKUP, usable=True)
        case Operation.SNAPSHOT:
            return AfterFailure(Undo.REMOVE_SNAPSHOT, usable=True)
        case Operation.RESET | Operation.REPLACE | Operation.UNDO_RESET:
            return AfterFailure(Undo.END_REPLACEMENT, usable=True)
        case _:
            assert_never(operation)


@dataclass(frozen=True)
class Traits:
    """What distinguishes the jobs of an operation.

    Attributes:
        publishes: whether such a job can publish the instance's database.
        keeps_instance: whether the ODS/API uses the instance while the job waits, runs, and after it failed.
        work: what a worker does meanwhile, in words for clients.
        word: what clients call the operation, and its jobs.
        is_live: whether the instance is live meanwhile, and keeps its names: not if the job removes what is
            left of a deleted one.
    """

    publishes: bool
    keeps_instance: bool
    work: str
    word: str
    is_live: bool = True


def traits(operation: Operation) -> Traits:  # noqa: C901, PLR0912 - a table
    """What distinguishes the jobs of this operation."""
    match operation:
        case Operation.CREATE:
            kind = Traits(publishes=True, keeps_instance=False, work="cloning the template", word="Create")
        case Operation.COPY:
            kind = Traits(publishes=True, keeps_instance=False, work="copying an instance", word="Create")
        case Operation.RESTORE:
            kind = Traits(publishes=True, keeps_instance=False, work="restoring a backup", word="Create")
        case Operation.RENAME:
            kind = Traits(publishes=True, keeps_instance=True, work="renaming the database", word="Rename")
        case Operation.DELETE:
            kind = Traits(publishes=False, keeps_instance=False, work="dropping the database", word="Delete")
        case Operation.TRASH:
            work = "moving the database to the trash"
            kind = Traits(publishes=False, keeps_instance=False, work=work, word="Delete")
        case Operation.DETACH:
            work = "removing the mark of the database"
            kind = Traits(publishes=False, keeps_instance=False, work=work, word="Delete")
        case Operation.UNDELETE:
            work = "taking the database out of the trash"
            kind = Traits(publishes=True, keeps_instance=False, work=work, word="Undelete")
        case Operation.PURGE:
            work = "dropping the database"
            kind = Traits(publishes=False, keeps_instance=False, work=work, word="Purge", is_live=False)
        case Operation.PURGE_AFTER_BACKUP:
            work = "backing the database up, then dropping it"
            kind = Traits(publishes=False, keeps_instance=False, work=work, word="Purge", is_live=False)
        case Operation.BACKUP:
            kind = Traits(publishes=False, keeps_instance=True, work="backing the database up", word="Backup")
        case Operation.SNAPSHOT:
            work = "copying the database for readers"
            kind = Traits(publishes=False, keeps_instance=True, work=work, word="Snapshot")
        case Operation.RESET:
            kind = Traits(publishes=True, keeps_instance=True, work="making a fresh database", word="Reset")
        case Operation.REPLACE:
            work = "copying an instance or restoring a backup"
            kind = Traits(publishes=True, keeps_instance=True, work=work, word="Reset")
        case Operation.UNDO_RESET:
            work = "taking the earlier database out of the trash"
            kind = Traits(publishes=True, keeps_instance=True, work=work, word="UndoReset")
        case _:
            assert_never(operation)
    return kind


JOB_WORDS = tuple(dict.fromkeys((*(traits(operation).word for operation in Operation), REFRESH)))
"""What jobs do: `operation` of their rows, and the words by which clients choose them."""


CREATES = (Operation.CREATE, Operation.COPY, Operation.RESTORE)
"""Operations that make the instance's database, and publish it for the first time."""

REPLACEMENTS = (Operation.RESET, Operation.REPLACE, Operation.UNDO_RESET)
"""Operations that put another database in the place of the instance's."""

NOT_OF_TEMPLATE = (Operation.COPY, Operation.RESTORE, Operation.REPLACE, Operation.PURGE_AFTER_BACKUP)
"""What takes as long as another database is large, and tells nothing of the template."""

PURGES = (Operation.PURGE, Operation.PURGE_AFTER_BACKUP)
"""Operations that drop the database of a deleted instance from the trash."""

NOT_LIVE = tuple(operation for operation in Operation if not traits(operation).is_live)
"""Operations by which an instance is not live, whatever its status is."""


def drops_database(operation: Operation, *, purge_follows: bool) -> bool:
    """Whether such a job, or the one that follows it by itself, drops the instance's database for good."""
    match operation:
        case Operation.DELETE | Operation.PURGE | Operation.PURGE_AFTER_BACKUP:
            return True
        case Operation.TRASH:
            return purge_follows
        case (
            Operation.CREATE
            | Operation.RENAME
            | Operation.DETACH
            | Operation.UNDELETE
            | Operation.BACKUP
            | Operation.SNAPSHOT
            | Operation.COPY
            | Operation.RESTORE
            | Operation.RESET
            | Operation.REPLACE
            | Operation.UNDO_RESET
        ):
            return False
        case _:
            assert_never(operation)


def is_usable(status: InstanceStatus, operation: Operation) -> bool:
    """Whether an instance in `status`, whose last job is an `operation`, must have a database and routing."""
    match status:
        case InstanceStatus.COMPLETED:
            return True
        case InstanceStatus.ERROR:
            return after_failure(operation).usable
        case (
            InstanceStatus.PENDING
            | InstanceStatus.IN_PROGRESS
            | InstanceStatus.PENDING_DELETE
            | InstanceStatus.DELETED
            | InstanceStatus.DELETE_FAILED
        ):
            return False
        case _:
            assert_never(status)


def next_step(status: InstanceStatus) -> str:
    """What a client can do with an instance in `status`, which does not allow what was requested."""
    match status:
        case InstanceStatus.PENDING:
            step = "Its job is about to start; wait until it is Completed or Error."
        case InstanceStatus.IN_PROGRESS:
            step = "A job is running; ask again when it has ended."
        case InstanceStatus.COMPLETED:
            step = "Nothing has failed; delete the instance if it is no longer needed."
        case InstanceStatus.ERROR:
            step = (
                "Do what the error of its last job says, and retry that; or, if nothing of it is wanted,"
                " delete the instance."
            )
        case InstanceStatus.PENDING_DELETE:
            step = "Its deletion is about to start; wait until it is Deleted."
        case InstanceStatus.DELETE_FAILED:
            step = (
                "Retry the deletion. Or, to keep the database, unless ODS_TRASH_DAYS is 0: delete the"
                " instance to the trash, and undelete it."
            )
        case InstanceStatus.DELETED:
            step = "Undelete or purge it if it is in the trash, or create another instance."
        case _:
            assert_never(status)
    return step
