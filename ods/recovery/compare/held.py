"""Whether each database that an instance has, or has in the trash, is as the registry says."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from ods.databases.errors import HOW_TO_RECOVER
from ods.databases.inspection.listing import Database
from ods.databases.ownership import Owner
from ods.model.operations import AT_REST, InstanceStatus
from ods.model.revisions import Role
from ods.recovery.compare.findings import RECOVER, Drift, DriftKind, Remedy, RemedyAction
from ods.recovery.compare.snapshot import (
    Snapshot,
    expected_beside,
    has_known_revision,
    listed,
    must_be_usable,
    newest_version,
    published_later,
)
from ods.registry.backups.rows import without_zone
from ods.registry.instances.deletes import drops_at_retry
from ods.registry.storage.models import DbInstance, InstanceDatabase
from ods.tenants.cancelling import RETRY_DROPS

_KEPT = "It is not dropped."
_PUT_BACK = "is in an earlier state than the registry knows: the server was put back"


@dataclass(frozen=True)
class Held:
    """A database that an instance has by the registry.

    Attributes:
        name: what the registry calls it now.
        role: the instance's own, or one in the trash.
        is_version: whether a reset has replaced it.
        is_needed: whether it must be usable; false of one whose delete has failed or was called off.
    """

    instance: DbInstance
    record: InstanceDatabase
    name: str
    role: Role
    is_version: bool = False
    is_needed: bool = True

    @property
    def subject(self) -> str:
        """The instance."""
        return f"{self.instance.id} {self.instance.name}"

    @property
    def words(self) -> str:
        """What it is to the instance, as the subject of a sentence."""
        if self.is_version:
            return f"The database '{self.name}', which the instance had before a reset,"
        if self.role is Role.RETAINED:
            return f"The instance is in the trash. Its database '{self.name}'"
        return f"The instance is {self.instance.status}. Its database '{self.name}'"


def databases_not_as_recorded(seen: Snapshot) -> Iterator[Drift]:
    """What is wrong with the databases of instances; not of those that the registry does not know well.

    These are told at once, as `DriftKind.REGISTRY_PUT_BACK`.
    """
    later = {one.mark for one in published_later(seen)}
    for held in _held(seen):
        if str(held.instance.mark) in later:
            continue
        if (found := _contradiction(seen, held)) is not None:
            yield found


def _held(seen: Snapshot) -> Iterator[Held]:
    for row in seen.instances:
        has_failed = row.status == InstanceStatus.DELETE_FAILED and row.rules.to_trash
        if must_be_usable(row) and row.replacement is None:
            yield Held(row, row.database, row.database_name, Role.CURRENT)
        elif has_failed or row.is_delete_called_off:
            yield Held(row, row.database, row.database_name, Role.CURRENT, is_needed=False)
    for row in seen.trashed:
        if row.status in AT_REST:
            yield Held(row, row.database, row.database.trash_name, Role.RETAINED)
    rows = {row.id: row for row in seen.with_versions}
    for version in seen.versions:
        instance = rows.get(version.instance_id)
        if instance is not None and instance.status in AT_REST:
            yield Held(instance, version, version.trash_name, Role.RETAINED, is_version=True)


def _contradiction(seen: Snapshot, held: Held) -> Drift | None:
    """What is wrong with the database; None if nothing is."""
    database = seen.databases.get(held.name)
    if database is not None and _is_it(database, held):
        return _lost(seen, held, database) if database.invalid else _change(seen, held, database)
    if others := _under_other_names(seen, held):
        return _renamed(held, others)
    if database is not None:
        return _without_mark(seen, held, database) if held.is_needed else None
    is_dropped = held.is_version and held.record.purging_since is not None  # not recorded yet
    return None if is_dropped else _lost(seen, held, None)


def _renamed(held: Held, others: Collection[Database]) -> Drift:
    """A database that has another name than the registry says, or another one in its place."""
    reason = f"is not the one that the registry knows: its mark is on {listed(others)}"
    if held.is_version and not any(one.name == held.instance.database_name for one in others):
        then = f'Give it its name back (ALTER DATABASE … RENAME TO "{held.name}"), and close it.'
        return _told(held, DriftKind.CHANGED_BY_HAND, reason, then)
    return _told(held, DriftKind.CHANGED_BY_HAND, reason, HOW_TO_RECOVER, RECOVER)


def _is_it(database: Database, held: Held) -> bool:
    """Whether this one is a database of the instance, and not half of another one."""
    owner = database.owner
    if owner is None or owner.mark != str(held.instance.mark):
        return False
    return owner.database_id == str(held.record.database_id)


def _under_other_names(seen: Snapshot, held: Held) -> list[Database]:
    """Databases that may be this one, or the instance's later one, under names that are not recorded."""
    recorded = {one.trash_name for one in seen.versions} if held.is_version else expected_beside(seen)
    its = []
    for one in seen.databases.values():
        owner = one.owner
        if owner is None or one.invalid or one.name in recorded or owner.installation != seen.installation:
            continue
        if held.is_version:
            is_its = owner.database_id == str(held.record.database_id)
        else:
            is_its = not (one.reset or one.staging)
        if is_its and owner.mark == str(held.instance.mark):
            its.append(one)
    return its


def _lost(seen: Snapshot, held: Held, half_dropped: Database | None) -> Drift | None:
    """What is left to do where the database is gone, or only a DROP can be done with it."""
    kind = DriftKind.DATABASE_MISSING if half_dropped is None else DriftKind.INTERRUPTED_DROP
    state = "does not exist." if half_dropped is None else "is half dropped, by a DROP that was interrupted."
    number, remedy = held.instance.id, None
    version = None if held.is_version else newest_version(seen, held.instance)
    if held.is_version:
        if half_dropped is not None:
            return None  # the next pass goes on with the DROP
        then = "It cannot come back. This is told until its time in the trash is over."
    elif version is not None:
        first = "" if half_dropped is None else f' DROP DATABASE "{half_dropped.name}"; then'
        then = (
            f"What it had before a reset is kept:{first}"
            f" `{RECOVER.command} --apply --choose {version.trash_name}` makes that the instance's."
        )
        remedy = RECOVER if half_dropped is None else None
        if not held.is_needed and drops_at_retry(held.instance):
            then += f" {RETRY_DROPS}"
    elif not held.is_needed:
        return None  # the delete goes on
    elif (private := _unpublished(seen, held.instance)) is not None and half_dropped is None:
        adopt = f"`ods instance adopt {number}`"
        after = adopt if held.role is Role.CURRENT else "what `ods drift` says then, and undelete it"
        then = (
            f"What was to become it is there, perhaps not whole: '{private}'. The server was put back to"
            f' before it was published. {_KEPT} ALTER DATABASE "{private}" ALLOW_CONNECTIONS true, and'
            f" look at its data. To make it the instance's:"
            f' ALTER DATABASE "{private}" RENAME TO "{held.name}"; then {after}.'
            " If its data are not the instance's, drop it."
        )
    elif held.role is Role.RETAINED:
        remedy = Remedy(RemedyAction.PURGE, number)
        then = f"It cannot come back: `{remedy.command}` removes it from the list."
    else:
        remedy = Remedy(RemedyAction.RESTORE, number)
        then = (
            f"`{remedy.command}` restores what its newest verified backup holds. If nothing of it is wanted,"
            " delete the instance."
        )
    return Drift(kind, held.subject, f"{held.words} {state} {then}", remedy)


def _unpublished(seen: Snapshot, instance: DbInstance) -> str | None:
    """The private name of a database that became the instance's by the registry, but not on the server."""
    is_published, mark = instance.is_published, str(instance.mark)
    its = (one for one in seen.databases.values() if one.staging and not one.invalid and one.mark == mark)
    return next((one.name for one in its if is_published), None)


def _change(seen: Snapshot, held: Held, database: Database) -> Drift | None:
    """What is wrong with the database where that is there, and can be used."""
    if not held.is_needed or database.owner is None:
        return None
    compare = _change_of_current if held.role is Role.CURRENT else _change_in_trash
    return compare(seen, held, database, database.owner)


def _change_of_current(seen: Snapshot, held: Held, database: Database, owner: Owner) -> Drift | None:
    """What is wrong with the database of a live instance, where that is there."""
    if owner.revision in seen.revisions.void:
        return _told(held, DriftKind.SERVER_PUT_BACK, _PUT_BACK, HOW_TO_RECOVER, RECOVER)
    if database.open:
        return None
    then = f'Open it: ALTER DATABASE "{database.name}" ALLOW_CONNECTIONS true.'
    return _told(held, DriftKind.CHANGED_BY_HAND, "accepts no connections", then)


def _change_in_trash(seen: Snapshot, held: Held, database: Database, owner: Owner) -> Drift | None:
    """What is wrong with a database in the trash, where that is there."""
    confirmed = seen.revisions.confirmed.get(owner.database_id)
    if owner.trashed_name is None:
        reason = "does not say in its comment that it is in the trash"
    elif owner.put_back and not held.is_version:
        reason = "was put back into the trash by an undelete that had opened it, and may have been used since"
    elif not has_known_revision(seen, owner, held.instance):
        reason = "has the comment of a job that the registry does not know"
    elif confirmed not in {None, owner.revision}:
        if not held.is_version:
            return _told(held, DriftKind.SERVER_PUT_BACK, _PUT_BACK, HOW_TO_RECOVER, RECOVER)
        reason = _PUT_BACK
    elif database.open and database.opened_by is None:  # what a job has left open, the pass closes
        then = f'If nothing uses it, close it: ALTER DATABASE "{database.name}" ALLOW_CONNECTIONS false.'
        undelete = None if held.is_version else Remedy(RemedyAction.UNDELETE, held.instance.id)
        then += "" if undelete is None else f" Or `{undelete.command}` brings it back."
        return _told(held, DriftKind.CHANGED_BY_HAND, "was opened, and may be in use", then, undelete)
    else:
        return None
    if not held.is_version:
        remedy = Remedy(RemedyAction.UNDELETE, held.instance.id)
        then = f"`{remedy.command}` brings it back; then delete it again if that is meant."
        return _told(held, DriftKind.CHANGED_BY_HAND, reason, then, remedy)
    # By a registry that was put back it may have been in use since, and come back after that.
    since = max(filter(None, [held.record.trashed_at, _written(database)]))
    comment = _statement(database.name, _known_owner(seen, held, owner.template_generation), since)
    then = f"If nothing uses it, write its comment again, and it can be brought back: {comment}."
    return _told(held, DriftKind.CHANGED_BY_HAND, reason, then)


def _told(held: Held, kind: DriftKind, reason: str, then: str, remedy: Remedy | None = None) -> Drift:
    return Drift(kind, held.subject, f"{held.words} {reason}. {_KEPT} {then}", remedy)


def _without_mark(seen: Snapshot, held: Held, database: Database) -> Drift:
    """A database of the right name that is not the instance's, by its comment."""
    words = f"{held.words} does not carry the instance's mark: it is another one, or its comment was changed."
    number, remedy = held.instance.id, None
    if held.role is Role.CURRENT:
        adopt = Remedy(RemedyAction.ADOPT, number)
        words += f" If it is the instance's, `{adopt.command}` makes it so again."
        remedy = adopt if database.open and not database.invalid else None
    else:
        comment = _statement(held.name, _known_owner(seen, held), held.record.trashed_at)
        words += f" {_KEPT} If it is that one by its data, write the comment again: {comment}."
    return Drift(DriftKind.CHANGED_BY_HAND, held.subject, words, remedy)


def _known_owner(seen: Snapshot, held: Held, template_generation: int | None = None) -> Owner:
    """The owner that the comment of a database in the trash must name, by the registry."""
    instance, record = held.instance, held.record
    return Owner(
        *(seen.tenant, instance.ods_instance_id, "adopted", str(instance.mark), seen.installation),
        number=record.job_number,
        # Without one that is confirmed, the comment is one that nothing is done by.
        revision=seen.revisions.confirmed.get(str(record.database_id), str(record.database_id)),
        name=instance.name,
        template=record.database_template,
        template_generation=template_generation,
        trashed_name=instance.database_name,
        database_id=str(record.database_id),
        is_protected=instance.is_protected,
    )


def _statement(database: str, owner: Owner, since: datetime | None) -> str:
    """What writes the comment of an owner on a database in the trash.

    `since` is when it came there, in UTC without a zone (None: now). These times show which database was in
    use last.
    """
    at = datetime.now(UTC) if since is None else since.replace(tzinfo=UTC)
    comment = owner.comment_at(at).replace("'", "''")
    return f"COMMENT ON DATABASE \"{database}\" IS '{comment}'"


def _written(database: Database) -> datetime | None:
    return None if database.published_at is None else without_zone(database.published_at)
