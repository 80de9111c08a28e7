"""What is to be recorded so that the registry agrees with the databases that the server has; pure.

The comment of a database tells its instance, its role and its revision. A revision that the registry does not
know is later than the registry, which was put back; one that it knows and that is not the confirmed one is
earlier: the server was put back. No step drops, overwrites or closes a database.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from operator import attrgetter
from typing import assert_never

from ods.databases.inspection.listing import Database, published_last
from ods.databases.ownership import Owner
from ods.model.operations import AT_REST, RULES, Operation
from ods.model.revisions import Role
from ods.registry.storage.models import DbInstance
from ods.tenants.drift.snapshot import Snapshot, has_known_revision


class StepKind(StrEnum):
    """What one step of a recovery does."""

    DELETE = "Delete"  # an instance is recorded as deleted: the server has its database in the trash
    HAND_OVER = "HandOver"  # an instance gets the database, name and revision that the server has last
    TAKE_BACK = "TakeBack"  # an instance in the registry's trash is in use on the server
    RECORD = "Record"  # an instance that the registry has lost is recorded again
    RECORD_DELETED = "RecordDeleted"  # the same of one that is in the trash


@dataclass(frozen=True)
class RecoveryStep:
    """One change of the registry, for one instance and the database that it has, or had, last.

    Attributes:
        ods_instance_id: the instance's, by which it is known also where its row is lost.
        instance_id: the instance's id; None if the registry has lost it.
        name: the instance's name, as the server tells it.
        is_chosen: whether the operator has chosen the database among several.
    """

    kind: StepKind
    ods_instance_id: int
    instance_id: int | None
    name: str
    database: str
    is_chosen: bool = False

    @property
    def explanation(self) -> str:
        """In words, what is done and why."""
        match self.kind:
            case StepKind.DELETE:
                return f"'{self.name}' is deleted: its database is in the trash, as '{self.database}'."
            case StepKind.HAND_OVER:
                return f"'{self.name}' has the database '{self.database}', as it had last."
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
    """An instance of which the comments do not tell which database it had last: the operator says it."""

    ods_instance_id: int
    name: str
    databases: Sequence[Database]


@dataclass(frozen=True)
class Plan:
    """What a recovery does, in this order, and what it must ask before.

    Attributes:
        confirmation: what the operator must confirm before; None if nothing.
        highest_number: the highest OdsInstanceId that a database tells; none up to it is given again.
        waiting: names of instances whose jobs wait or run: they go on, and find what is there.
    """

    steps: Sequence[RecoveryStep]
    questions: Sequence[Question]
    confirmation: str | None
    highest_number: int
    waiting: Sequence[str]


_ORDER = tuple(StepKind)
"""Deletes free names that other instances may have got since."""


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
        if row is not None and any(_is_as_recorded(seen, row, one) for one in databases):
            continue
        if (last := _last(databases, chosen)) is None:
            questions.append(Question(*_whose(row, databases[0]), databases))
        elif (kind := _kind(seen, row, last)) is not None:
            number, name = _whose(row, last)
            instance_id = None if row is None else row.id
            is_chosen = last.name in chosen
            steps.append(RecoveryStep(kind, number, instance_id, name, last.name, is_chosen=is_chosen))
    ordered = sorted(steps, key=lambda step: (_ORDER.index(step.kind), step.ods_instance_id))
    numbers = (owner.ods_instance_id for _, owner in _ours(seen))
    return Plan(ordered, questions, seen.obstacle, max(numbers, default=0), sorted(waiting))


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


def _whose(row: DbInstance | None, database: Database) -> tuple[int, str]:
    """The OdsInstanceId and the name of an instance, as its database tells them."""
    owner = database.owner
    if owner is None:
        raise ValueError("the database has no comment of ours")
    return owner.ods_instance_id, owner.name or (database.name if row is None else row.name)


def _last(databases: Collection[Database], chosen: Collection[str]) -> Database | None:
    """Which of an instance's databases it had last; None if that is not known."""
    its = [one for one in databases if one.name in chosen]
    return its[0] if len(its) == 1 else published_last(databases)


def _is_as_recorded(seen: Snapshot, row: DbInstance, database: Database) -> bool:
    """Whether it is the instance's database, as the registry knows it."""
    owner = database.owner
    if owner is None or owner.database_id != str(row.database_id):
        return False
    name = row.database.trash_name if row.is_in_trash else row.database_name
    role = Role.RETAINED if row.is_in_trash else Role.CURRENT
    confirmed = seen.revisions.confirmed.get(owner.database_id)
    return (database.name, owner.role, owner.revision) == (name, role, confirmed)


def _kind(seen: Snapshot, row: DbInstance | None, last: Database) -> StepKind | None:
    """What is recorded of an instance whose last database this is; None if nothing can be by itself."""
    owner = last.owner
    if owner is None:
        return None
    is_current = owner.role is Role.CURRENT
    # What a reset has replaced is in the trash as well: its instance was not deleted.
    is_deleted = last.trash and not is_current and owner.job_id.startswith(RULES[Operation.DELETE].word)
    if row is None:
        return StepKind.RECORD if is_current else StepKind.RECORD_DELETED if is_deleted else None
    if has_known_revision(seen, owner, row):
        is_server_older = owner.revision in seen.revisions.void
        return StepKind.HAND_OVER if is_server_older and not row.is_in_trash else None
    if not is_current:
        return StepKind.DELETE if is_deleted else None
    return StepKind.TAKE_BACK if row.is_in_trash else StepKind.HAND_OVER
