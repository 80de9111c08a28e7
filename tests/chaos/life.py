"""What must be true of the life of instances: their rows of data, their attributes, the trash, protection.

Like the checker, it imports none of the product's code.
"""

from collections.abc import Iterator, Mapping, Sequence

from tests.chaos.evidence import DROPS_DATABASE, Database, Evidence, Instance, first_name
from tests.chaos.violations import DROPS, Attributes, Kind, Storm, Violation

_DELETED = ("Deleted", "Delete_Failed")


def judged(evidence: Evidence, storm: Storm) -> Iterator[Violation]:
    """All that can be told without the rows of data."""
    yield from _trash(evidence)
    yield from _purged_early(evidence, storm)
    yield from _attributes(evidence, storm)
    for database in sorted(storm.history.routed):
        yield Violation(Kind.ROUTED_TO_TRASH, database)


def _trash(evidence: Evidence) -> Iterator[Violation]:
    """Each instance in the trash has its database there, closed, with a comment that says so."""
    databases = {database.name: database for database in evidence.databases}
    for instance in evidence.instances:
        if not (instance.in_trash and instance.status == "Deleted"):
            continue
        database = databases.get(instance.trash_database or "")
        names = (instance.name, instance.trash_database or instance.database_name)
        if database is None or database.invalid or database.mark != instance.mark:
            found = f"has the comment {database.comment}" if database else "is missing"
            words = f"{instance}: {instance.trash_database} {found}"
            yield Violation(Kind.NO_DATABASE, words, instance.mark, names)
        elif database.open or not database.says_trash:
            words = f"{instance}: {database.name} is {'open' if database.open else 'not marked'}"
            yield Violation(Kind.OPEN_TRASH, words, instance.mark, names)


def _purged_early(evidence: Evidence, storm: Storm) -> Iterator[Violation]:
    """What was in use is dropped when a client has requested that, or its time in the trash is over."""
    for instance in evidence.instances:
        dropped = instance.status in _DELETED and instance.way in DROPS_DATABASE
        if dropped and instance.published and not may_be_dropped(instance, storm):
            yield Violation(Kind.PURGED_EARLY, f"{instance}, {instance.way}")


def may_be_dropped(instance: Instance, storm: Storm) -> bool:
    """Whether a client has requested that the instance's database is dropped, or its time is over."""
    requested = {request.name for request in storm.requests if request.operation in DROPS}
    return instance.mark in storm.history.due or first_name(instance.name) in requested


def _attributes(evidence: Evidence, storm: Storm) -> Iterator[Violation]:
    """Instances have what their clients were told, also in the trash, and the protected ones are there."""
    for instance in evidence.instances:
        told = storm.attributes.get((instance.id, first_name(instance.name)))
        if told is None or instance.mark in storm.history.changed:
            continue
        if told.protected and instance.status in _DELETED:
            yield Violation(Kind.PROTECTED_GONE, f"{instance}, {instance.way}")
        elif instance.is_complete or instance.in_trash:
            found = Attributes(instance.protected, instance.labels, instance.contexts)
            if found != told:
                yield Violation(Kind.WRONG_ATTRIBUTES, f"{instance}: {found} instead of {told}")


def with_rows(evidence: Evidence, storm: Storm) -> Sequence[Database]:
    """The databases in which clients can have written rows: those of instances, and those left to others."""
    detached = {instance.database_name for instance in evidence.instances if instance.is_detached}
    return [
        database
        for database in evidence.databases
        if (database.mark or database.name in detached)
        and not database.invalid
        and database.name not in storm.foreign
    ]


def rows_judged(
    evidence: Evidence, storm: Storm, rows: Mapping[str, Mapping[int, str]]
) -> Iterator[Violation]:
    """Each row that was confirmed is in its instance's database, and none is in another instance's.

    Args:
        evidence: what the servers hold.
        storm: what was written.
        rows: what each database holds, as `evidence.client_rows` tells it.
    """
    owners = _owners(evidence)
    kept: dict[str, set[int]] = {}
    for name, found in rows.items():
        mark = owners.get(name)
        kept.setdefault(mark or "", set()).update(found)
        marks = storm.history.keeps(mark).marks if mark else frozenset[str]()
        for stranger in sorted(set(found.values()) - marks):
            yield Violation(Kind.CROSSED, f"{name} of the mark {mark} has rows of the mark {stranger}")
    gone = may_be_gone(evidence, storm)
    for mark in storm.history.rows.keys() | storm.history.origins.keys():
        written = storm.history.keeps(mark).numbers
        missing = sorted(written - kept.get(mark, set()))
        # What could not be restored from a backup has no database.
        may_be_missing = mark in gone or mark not in storm.history.rows
        # Those that an instance had before resets stay when the one that it has is dropped.
        has_no_other = mark not in kept or mark in storm.history.resets
        if missing and not (may_be_missing and has_no_other):
            there = [str(instance) for instance in evidence.instances if instance.mark == mark]
            words = f"{len(missing)} of {len(written)} rows, such as {missing[0]}"
            yield Violation(Kind.LOST_ROWS, f"mark {mark} of {', '.join(there) or 'no instance'}: {words}")


def _owners(evidence: Evidence) -> dict[str, str]:
    """The mark of each database, by its name; of one that was left to others, the mark that it had."""
    left = {instance.database_name: instance.mark for instance in evidence.instances if instance.is_detached}
    return left | {database.name: database.mark for database in evidence.databases if database.mark}


def may_be_gone(evidence: Evidence, storm: Storm) -> set[str]:
    """Marks of the instances whose databases may be gone."""
    dropped = {it.mark for it in evidence.instances if it.way in DROPS_DATABASE or may_be_dropped(it, storm)}
    return dropped | storm.history.deleted | storm.history.outgrown
