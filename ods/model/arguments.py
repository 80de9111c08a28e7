"""The arguments of jobs: what each does beside its operation, and what distinguishes jobs by them."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias, assert_never, get_args

from ods.model.operations import BACK_TO_EARLIER, RULES, TO_TRASH, Operation, Product, Rules
from ods.model.origins import BackupOrigin, CopyOrigin, EarlierDatabase, Origin, read_any_origin, read_exactly


@dataclass(frozen=True)
class NoArguments:
    """The operation says all."""


@dataclass(frozen=True)
class MakeArguments:
    """What a create or a reset makes the instance's database of; a reset may bring an earlier one back."""

    origin: Origin | EarlierDatabase


@dataclass(frozen=True)
class DeleteArguments:
    """What becomes of the database of a deleted instance."""

    keep: bool  # it goes to the trash; otherwise it is dropped at once
    # A purge follows there that makes a backup first. Without `keep`, such a delete drops nothing: an Admin
    # API has requested it, and a pass has still to say that the database goes to the trash.
    backup_first: bool


@dataclass(frozen=True)
class PurgeArguments:
    """Whether a database in the trash is backed up, and the backup verified, before it is dropped."""

    backup_first: bool


Arguments: TypeAlias = NoArguments | MakeArguments | DeleteArguments | PurgeArguments

NO_ARGUMENTS = NoArguments()
DROP_AT_ONCE = DeleteArguments(keep=False, backup_first=False)
KEEP = DeleteArguments(keep=True, backup_first=False)


class Way(StrEnum):
    """What happens to the database of an instance that is deleted, in the words of plans."""

    TRASH = "Trash"
    DROP = "Delete"
    LEAVE = "Detach"


def kind_of_arguments(operation: Operation) -> type[Arguments]:
    """Which arguments a job of this operation has."""
    match operation:
        case Operation.CREATE | Operation.RESET:
            return MakeArguments
        case Operation.DELETE:
            return DeleteArguments
        case Operation.PURGE:
            return PurgeArguments
        case Operation.RENAME | Operation.DETACH | Operation.UNDELETE | Operation.BACKUP | Operation.SNAPSHOT:
            return NoArguments
        case _:
            assert_never(operation)


def rules_of(operation: Operation, arguments: Arguments) -> Rules:
    """What a job of this operation with these arguments may do."""
    require_fitting(operation, arguments)
    match arguments:
        case DeleteArguments(keep=True):
            return TO_TRASH
        case MakeArguments(origin=EarlierDatabase()):
            return BACK_TO_EARLIER
        case NoArguments() | MakeArguments() | DeleteArguments() | PurgeArguments():
            return RULES[operation]
        case _:
            assert_never(arguments)


def rules_of_way(way: Way) -> Rules:
    """What a delete of this way may do."""
    match way:
        case Way.TRASH:
            return TO_TRASH
        case Way.DROP:
            return RULES[Operation.DELETE]
        case Way.LEAVE:
            return RULES[Operation.DETACH]
        case _:
            assert_never(way)


def require_fitting(operation: Operation, arguments: Arguments) -> None:
    """Check that the arguments are those of this operation."""
    is_earlier = isinstance(arguments, MakeArguments) and isinstance(arguments.origin, EarlierDatabase)
    if type(arguments) is not kind_of_arguments(operation) or (is_earlier and operation is Operation.CREATE):
        raise ValueError(f"These are no arguments of the operation {operation}.")


def origin_in(arguments: Arguments) -> Origin | EarlierDatabase | None:
    """What the job makes the instance's database of; None if it makes none."""
    match arguments:
        case MakeArguments():
            return arguments.origin
        case NoArguments() | DeleteArguments() | PurgeArguments():
            return None
        case _:
            assert_never(arguments)


def backs_up_first(arguments: Arguments) -> bool:
    """Whether a backup is made before the job, or the purge that follows it by itself, drops the database."""
    match arguments:
        case DeleteArguments() | PurgeArguments():
            return arguments.backup_first
        case NoArguments() | MakeArguments():
            return False
        case _:
            assert_never(arguments)


def drops_database(operation: Operation, arguments: Arguments) -> bool:
    """Whether such a job, or the one that follows it by itself, drops the instance's database for good."""
    return rules_of(operation, arguments).drops or backs_up_first(arguments)


def takes_away(operation: Operation, arguments: Arguments) -> bool:
    """Whether such a job drops a database, or replaces it: that is dropped when its time is over."""
    return rules_of(operation, arguments).replaces or drops_database(operation, arguments)


def read_arguments(written: object) -> Arguments:
    """Arguments as rows and payloads hold them. Each kind has fields of its own, and none can be left out."""
    match read_exactly(written, get_args(Arguments)):
        case MakeArguments(origin=dict() as origin):
            return MakeArguments(read_any_origin(origin))
        case DeleteArguments(keep=bool(), backup_first=bool()) as delete:
            return delete
        case PurgeArguments(backup_first=bool()) as purge:
            return purge
        case NoArguments() as none:
            return none
        case _:
            raise ValueError("Arguments of a job have values of another type.")


def arguments_in(operation: Operation, column: Mapping[str, Any]) -> Arguments:
    """The arguments of a row's last job, from its column."""
    arguments = read_arguments(column)
    require_fitting(operation, arguments)
    return arguments


@dataclass(frozen=True)
class JobKind:
    """What distinguishes jobs by operation and arguments: see `Rules.name` and `Rules.work`."""

    name: str
    work: str
    is_of_template: bool = True  # they take about as long for all instances of one template


def job_kind(operation: Operation, arguments: Arguments) -> JobKind:
    """What distinguishes the jobs of this operation with these arguments."""
    rules = rules_of(operation, arguments)
    match arguments:
        case PurgeArguments(backup_first=True):
            work = "backing the database up, then dropping it"
            return JobKind("PurgeAfterBackup", work, is_of_template=False)
        case MakeArguments(origin=CopyOrigin()):
            name, work = "Copy", "copying an instance"
        case MakeArguments(origin=BackupOrigin()):
            name, work = "Restore", "restoring a backup"
        case _:
            return JobKind(rules.name, rules.work)
    if rules.makes is Product.REPLACEMENT:
        name, work = "Replace", "copying an instance or restoring a backup"
    return JobKind(name, work, is_of_template=False)
