"""What is to be recorded so that the registry agrees with the databases that the server has; pure.

The comment of a database tells its instance, its role and its revision. A revision that the registry does not
know is later than the registry, which was put back, and follows. One that it knows as void is earlier: the
server was put back, and its database is named, and opened or closed, as the registry says. No step drops or
overwrites a database.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from operator import attrgetter
from typing import assert_never

from ods.databases.inspection.listing import Database, published_last
from ods.databases.ownership import Owner
from ods.model.operations import AT_REST, ROWS
from ods.model.revisions import Role
from ods.recovery.compare.snapshot import Snapshot, has_known_revision, must_be_usable
from ods.registry.backups.rows import without_zone
from ods.registry.clock import CLOCKS_MAY_DIFFER
from ods.registry.storage.errors import require_valid
from ods.registry.storage.models import DbInstance


class StepKind(StrEnum):
    """What one step of a recovery does."""

    DELETE = "Delete"  # an instance is in the trash by the side that is later, and so gets there by the other
    HAND_OVER = "HandOver"  # a live instance gets the database and name that the later side has
    TAKE_BACK = "TakeBack"  # an instance in the registry's trash is in use on the server
    RECORD = "Record"  # an instance that the registry has lost is recorded again
    RECORD_DELETED = "RecordDeleted"  # the same of one that is in the trash


@dataclass(frozen=True)
class RecoveryStep:
    """One change of the registry, for one instance and the database that it has, or had, last.

    Attributes:
        name: the instance's name, as the server tells it.
        mark: its UUID.
        revision: that of the database.
        is_earlier: whether the server was put back, so that its database follows what the registry says.
        is_chosen: whether the operator has said it, so that others in use with the mark go to the trash.
    """

    kind: StepKind
    ods_instance_id: int
    name: str
    database: str
    mark: str
    revision: str | None
    is_earlier: bool
    is_chosen: bool

    @property
    def explanation(self) -> str:
        """In words, what is done and why."""
        match self.kind:
            case StepKind.DELETE:
                return f"'{self.name}' is in the trash, with its database '{self.database}'."
            case StepKind.HAND_OVER:
                return f"'{self.name}' is brought in step with its database '{self.database}'."
            case StepKind.TAKE_BACK:
                return f"'{self.name}' is not deleted any more: its database '{self.database}' is in use."
            case StepKind.RECORD:
                return f"'{self.name}' is recorded again, with its database '{self.database}'."
            case StepKind.RECORD_DELETED:
                return f"'{self.name}' is recorded again, as deleted: '{self.database}' is in the trash."
            case _:
                assert_never(self.kind)


@dataclass(frozen=True)
class Question:
    """An instance of which the comments do not tell which database it has: the operator says it."""

    ods_instance_id: int
    name: str
    databases: Sequence[Database]


@dataclass(frozen=True)
class InTheWay:
    """An instance that has names, by the registry, which another one has on the server.

    Attributes:
        revision: that of the database that it gets; None if there is none.
    """

    instance_id: int
    revision: str | None


@dataclass(frozen=True)
class Plan:
    """What a recovery does, in this order, and what it must ask before.

    Attributes:
        in_the_way: instances that give their names up before.
        held_names: steps of databases whose names others wait for: each gets a private name before.
        confirmation: what the operator must confirm before; None if nothing.
        highest_number: the highest OdsInstanceId that a database of our role tells; none up to it is given
            again.
        waiting: names of instances whose jobs wait or run: they go on, and find what is there.
    """

    steps: Sequence[RecoveryStep]
    questions: Sequence[Question]
    in_the_way: Sequence[InTheWay]
    held_names: Sequence[RecoveryStep]
    confirmation: str | None
    highest_number: int
    waiting: Sequence[str]

    @property
    def is_empty(self) -> bool:
        """Whether nothing is to be done, decided or waited for."""
        return not (self.steps or self.questions or self.waiting)


_RESETS = tuple({rules.word for _, rules in ROWS if rules.replaces})
_ORDER = tuple(StepKind)
"""Deletes free names that other instances may have got since."""


def require_known(seen: Snapshot, chosen: Collection[str]) -> None:
    """Check what the operator has chosen.

    Raises:
        InvalidError: one of them is no database of an instance.
    """
    known = {one.name for databases in _by_mark(seen).values() for one in databases}
    unknown = [f"'{name}' is no database of an instance." for name in chosen if name not in known]
    require_valid({"Choose": unknown})


def make_plan(seen: Snapshot, chosen: Collection[str] = ()) -> Plan:
    """What brings the registry in step with the server.

    Args:
        chosen: names of databases that the operator says were used last.
    """
    steps: list[RecoveryStep] = []
    questions: list[Question] = []
    waiting: list[str] = []
    rows = {str(row.mark): row for row in (*seen.instances, *seen.trashed)}
    for mark, databases in _by_mark(seen).items():
        row = rows.get(mark)
        if row is None and mark in seen.known_marks:
            continue  # purged or detached: the comparison tells of it, and nothing is done
        if row is not None and row.status not in AT_REST:
            waiting.append(row.name)
            continue
        recorded = [one for one in databases if row is not None and _is_as_recorded(seen, row, one)]
        beside = [] if row is None else _unknown_beside(seen, row, databases)
        its = [one for one in databases if one.name in chosen]
        others = [one for one in databases if _is_in_use(one) and one.manageable and one not in its]
        if recorded and (_stays(row, recorded, its, others) or not (its or beside)):
            continue
        last = published_last(databases) if not its else its[0] if len(its) == 1 else None
        if recorded and not its:
            last = None if any(map(_is_in_use, beside)) else recorded[0]
        elif row is not None and last is not None and not its:
            last = _without_other(seen, row, last, databases)
        is_chosen = its == [last]
        kind = None if last is None else _kind(seen, row, last, is_chosen=is_chosen)
        if kind is not None and last is not None:
            number, name = _whose(row, last)
            is_earlier = row is not None and _is_earlier(seen, row, last)
            facts = (number, name, last.name, mark, _revision(last), is_earlier)
            steps.append(RecoveryStep(kind, *facts, is_chosen=is_chosen))
        elif _is_to_be_asked(row, last):
            questions.append(Question(*_whose(row, databases[0]), databases))
    ordered = sorted(steps, key=lambda step: (_ORDER.index(step.kind), step.ods_instance_id))
    numbers = (owner.ods_instance_id for database, owner in _ours(seen) if database.manageable)
    highest = max(numbers, default=0)
    in_the_way, held = _in_the_way(seen, steps), _held_names(rows, ordered)
    return Plan(ordered, questions, in_the_way, held, seen.obstacle, highest, sorted(waiting))


def _in_the_way(seen: Snapshot, steps: Collection[RecoveryStep]) -> Sequence[InTheWay]:
    """Instances that have by the registry, but not on the server, a name which another one gets.

    They get another one themselves, by a revision that the registry does not know; or no database at all
    carries their mark.
    """
    known = {revision for its in seen.revisions.of_instances.values() for revision in its}
    in_use = (StepKind.HAND_OVER, StepKind.TAKE_BACK, StepKind.RECORD)
    followed = (step for step in steps if step.kind in in_use and not step.is_earlier)
    later = {step.mark: step for step in followed if step.revision not in known}
    there = {owner.mark for _, owner in _ours(seen)}
    found = []
    for row in seen.instances:
        mark, names = str(row.mark), {row.name, row.database_name}
        others = (step for step in later.values() if step.mark != mark)
        is_wanted = any(step.database == row.database_name or step.name in names for step in others)
        own = later.get(mark)
        if is_wanted and row.status in AT_REST and (own is not None or mark not in there):
            found.append(InTheWay(row.id, None if own is None else own.revision))
    return found


def _held_names(rows: Mapping[str, DbInstance], steps: Collection[RecoveryStep]) -> Sequence[RecoveryStep]:
    """The steps of databases whose names others wait for: the server was put back to before that."""
    earlier = [step for step in steps if step.kind is StepKind.HAND_OVER and step.is_earlier]
    wanted = {step.mark: rows[step.mark].database_name for step in earlier}
    return [
        step
        for step in earlier
        if any(name == step.database for mark, name in wanted.items() if mark != step.mark)
    ]


def _ours(seen: Snapshot) -> Iterator[tuple[Database, Owner]]:
    """The databases that this installation has made, by their comments."""
    for database in sorted(seen.databases.values(), key=attrgetter("name")):
        if database.owner is not None and database.owner.installation == seen.installation:
            yield database, database.owner


def _by_mark(seen: Snapshot) -> Mapping[str, list[Database]]:
    """The databases that instances have, or have in the trash, by the marks of the instances."""
    grouped = defaultdict(list)
    for database, owner in _ours(seen):
        if owner.role is not Role.STAGING and not database.reset and not database.invalid:
            grouped[owner.mark].append(database)
    return grouped


def _stays(
    row: DbInstance | None, recorded: list[Database], chosen: list[Database], others: list[Database]
) -> bool:
    """Whether the chosen one is as recorded, and no other is in use; one in the trash stays there."""
    return chosen == recorded and (not others or (row is not None and row.is_in_trash))


def _is_in_use(database: Database) -> bool:
    """Whether it is an instance's own, by its comment."""
    return database.owner is not None and database.owner.role is Role.CURRENT


def _revision(database: Database) -> str | None:
    return None if database.owner is None else database.owner.revision


def _whose(row: DbInstance | None, database: Database) -> tuple[int, str]:
    """The OdsInstanceId and the name of an instance, as its database tells them."""
    owner = database.owner
    if owner is None:
        raise ValueError("the database has no comment of ours")
    return owner.ods_instance_id, owner.name or (database.name if row is None else row.name)


def _is_as_recorded(seen: Snapshot, row: DbInstance, database: Database) -> bool:
    """Whether it is the instance's database, as the registry knows it."""
    owner = database.owner
    if owner is None or owner.database_id != str(row.database_id):
        return False
    name = row.database.trash_name if row.is_in_trash else row.database_name
    role = Role.RETAINED if row.is_in_trash else Role.CURRENT
    confirmed = seen.revisions.confirmed.get(owner.database_id)
    return (database.name, owner.role, owner.revision) == (name, role, confirmed)


def _unknown_beside(seen: Snapshot, row: DbInstance, databases: Collection[Database]) -> list[Database]:
    """What the registry does not know to be beside the instance's own: other ones in use, and versions.

    A version of an instance in the trash goes with that.
    """
    known = {str(row.database_id), *(str(one.database_id) for one in seen.versions)}
    unknown = []
    for one in databases:
        if (owner := one.owner) is None:
            continue
        is_version = owner.role is Role.RETAINED and one.trash and not one.open and not row.is_in_trash
        is_later = owner.role is Role.CURRENT and not has_known_revision(seen, owner, row)
        if is_later or (is_version and owner.database_id not in known):
            unknown.append(one)
    return unknown


def _without_other(
    seen: Snapshot, row: DbInstance, last: Database, databases: Collection[Database]
) -> Database | None:
    """The one it had last, unless the server, which was put back, has the registry's own beside it.

    Then the operator says which one it has; but if all are in the trash, with their instance, the own stays.
    """
    own = [one for one in databases if _is_own(row, one)]
    if not own or last in own or not _is_earlier(seen, row, last):
        return last
    return own[0] if row.is_in_trash and not any(map(_is_in_use, databases)) else None


def _is_own(row: DbInstance, database: Database) -> bool:
    """Whether it is the one that the instance has by the registry."""
    return database.owner is not None and database.owner.database_id == str(row.database_id)


def _is_earlier(seen: Snapshot, row: DbInstance, database: Database) -> bool:
    """Whether the registry knows of something later than the comment says: the server was put back.

    Also if the registry has learnt of that by a recovery, and never knew the revision.
    """
    owner, at = database.owner, seen.revisions.confirmed_at.get(str(row.database_id))
    if owner is not None and has_known_revision(seen, owner, row):
        return owner.revision in seen.revisions.void
    if owner is None or at is None or database.published_at is None:
        return False
    return without_zone(database.published_at) < at - CLOCKS_MAY_DIFFER


def _kind(seen: Snapshot, row: DbInstance | None, last: Database, *, is_chosen: bool) -> StepKind | None:
    """What is recorded of an instance whose last database this is; None if nothing is by itself."""
    match Role.CURRENT if is_chosen else _role(seen, row, last):
        case Role.CURRENT:
            in_trash = row is not None and row.is_in_trash
            return StepKind.RECORD if row is None else StepKind.TAKE_BACK if in_trash else StepKind.HAND_OVER
        case Role.RETAINED:
            return StepKind.RECORD_DELETED if row is None else StepKind.DELETE
        case Role.STAGING | None:
            return None
        case other:
            assert_never(other)


def _role(seen: Snapshot, row: DbInstance | None, last: Database) -> Role | None:
    """What the database is recorded as: the instance's own, or that of a deleted one; None: as neither."""
    owner = last.owner
    told = None if owner is None or _is_replaced(owner) else owner.role
    if owner is None or row is None:
        return told
    is_earlier = _is_earlier(seen, row, last)
    if not (is_earlier or has_known_revision(seen, owner, row)):
        return told  # the registry was put back
    if row.undo_due or row.replacement is not None:
        return None  # a pass undoes what the failed job has done
    if not is_earlier:
        # A DBA has given it another name, or another comment; or what is beside it is not known.
        is_its = (owner.database_id, owner.revision) in seen.revisions.confirmed.items()
        is_its = (is_its or last.name == row.database_name) and not row.is_in_trash
        return Role.CURRENT if told is Role.CURRENT and is_its else None
    if told is None or row.is_in_trash:  # the server was put back: it follows the registry
        return Role.RETAINED if told or (row.is_in_trash and _is_own(row, last)) else None
    return Role.CURRENT if told is Role.CURRENT or must_be_usable(row) else None


def _is_replaced(owner: Owner) -> bool:
    """Whether a reset has put the database into the trash: its instance goes on, with another one."""
    return owner.role is Role.RETAINED and owner.job_id.startswith(_RESETS)


def _is_to_be_asked(row: DbInstance | None, last: Database | None) -> bool:
    """Whether the operator says which database the instance has.

    Several may be the last one; or it has none but what resets have replaced.
    """
    if last is None or last.owner is None:
        return True
    return _is_replaced(last.owner) and (row is None or row.is_in_trash or must_be_usable(row))
