"""Where the registry and the trash of the server differ."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

from ods.databases.errors import HOW_TO_RECOVER
from ods.databases.inspection.listing import Database
from ods.databases.ownership import Owner
from ods.model.operations import AT_REST
from ods.registry.backups.rows import without_zone
from ods.registry.storage.models import DbInstance, InstanceDatabase
from ods.tenants.drift.findings import (
    RECOVER,
    Drift,
    DriftKind,
    Remedy,
    RemedyAction,
)
from ods.tenants.drift.own_databases import (
    is_earlier,
    listed,
    unpublished_of,
    what_was_to_become_it,
)
from ods.tenants.drift.snapshot import (
    Snapshot,
    belongs_elsewhere,
    expected_beside,
    has_known_revision,
    must_be_usable,
    newest_version,
)

_KEPT = "It is not dropped."


def missing_from_trash(seen: Snapshot) -> Iterator[Drift]:
    """Instances in the trash whose databases do not have the names that the registry has for them.

    Or what has the name was replaced since, by a reset of which the registry does not know.
    """
    beside = expected_beside(seen)
    named = defaultdict(list)
    for name, database in seen.databases.items():
        if database.owner and name not in beside and not database.reset:
            named[database.mark].append(database)
    for row in seen.trashed:
        own = seen.databases.get(row.database.trash_name)
        if row.status not in AT_REST or (own is not None and not _was_replaced(seen, own)):
            continue
        others = [database for database in named[str(row.mark)] if database is not own]
        words, remedy = _missing(seen, row, others)
        yield Drift(DriftKind.TRASH_WITHOUT_DATABASE, f"{row.id} {row.name}", words, remedy)


def _was_replaced(seen: Snapshot, database: Database) -> bool:
    """Whether the instance has had another database after this one."""
    return not database.invalid and is_earlier(seen, database)


def _missing(seen: Snapshot, row: DbInstance, several: list[Database]) -> tuple[str, Remedy | None]:
    """What is wrong if the trash has no database of the name that the registry has, and what settles it.

    `several` are the databases of other names that carry the mark of the instance.
    """
    name = row.database.trash_name
    if several:
        words = (
            f"It is in the trash, but '{name}' is not, or has been replaced since. Its mark is on"
            f" {listed(several)}: registry or server was restored to an earlier state. Nothing is dropped."
            f" {HOW_TO_RECOVER}"
        )
        return words, RECOVER
    no_database = f"It is in the trash, but its database '{name}' does not exist"
    if (left := unpublished_of(seen, row)) is not None:
        return f"{no_database}. {what_was_to_become_it(left)} {_by_hand(row, left)}", None
    if (before := newest_version(seen, row)) is not None:
        return f"{no_database}. {_way_back(before)}", RECOVER
    remedy = Remedy(RemedyAction.PURGE, row.id)
    return f"{no_database}: it cannot come back. `{remedy.command}` removes it from the list.", remedy


def _way_back(version: InstanceDatabase) -> str:
    name = version.trash_name
    return (
        f"What it had before a reset is there, and no pass drops it: '{name}'. `ods recover --choose {name}`"
        " brings the instance back with that."
    )


def _by_hand(instance: DbInstance, database: str) -> str:
    """How the operator makes another database the one that the instance has in the trash."""
    return (
        f'To bring that back: ALTER DATABASE "{database}" RENAME TO "{instance.database.trash_name}";'
        f" write the comment that `ods drift` tells then; `ods instance undelete {instance.id}`. If nothing"
        f" is to come back, `ods instance purge {instance.id}` drops it, too."
    )


def unlisted_in_trash(seen: Snapshot) -> Iterator[Drift]:
    """Databases in the trash that the registry does not have there."""
    beside = expected_beside(seen)
    live = {str(row.mark): row for row in seen.instances}
    trashed = {str(row.mark) for row in seen.trashed}
    listed_there = {*(row.database.trash_name for row in seen.trashed), *beside}
    for database in seen.databases.values():
        if not database.trash or database.name in listed_there or belongs_elsewhere(database, seen):
            continue
        if database.mark in trashed:
            continue  # told with its instance, or with the other database of the mark
        its = live.get(database.mark or "")
        if its is not None and not must_be_usable(its):
            own = seen.databases.get(its.database_name)
            if own is None or own.mark != database.mark:
                continue
        remedy = (
            RECOVER if database.owner is not None and (its or database.mark not in seen.known_marks) else None
        )
        yield Drift(DriftKind.TRASH_WITHOUT_INSTANCE, database.name, _unlisted(seen, database, its), remedy)


def _unlisted(seen: Snapshot, database: Database, instance: DbInstance | None) -> str:
    """What a database in the trash is that the registry does not have there, and what to do with it."""
    if database.owner is None:
        return (
            "It has a name of the trash, but no mark. Nothing is done to it. Look at its data: give it"
            " another name, or drop it if they are of no use."
        )
    if instance is None and database.mark in seen.known_marks:
        return (
            "It is in the trash, but its instance was purged, or released. It is never dropped. Look at its"
            " data: remove its comment (COMMENT ON DATABASE … IS NULL), give it the name of an instance's"
            " (EdFi_Ods_NAME_TEMPLATE), open it (ALLOW_CONNECTIONS true), and adopt it for another instance;"
            " or drop it if they are of no use."
        )
    whose = "an instance that the registry does not know"
    if instance is not None:
        whose = f"the instance {instance.id} {instance.name}, which is not in the trash"
    return (
        f"It is in the trash, with the mark of {whose}: the registry was restored to an earlier state, or"
        f" lost rows. It is not dropped. {HOW_TO_RECOVER}"
    )


def changed_in_trash(seen: Snapshot) -> Iterator[Drift]:
    """Databases in the trash that were changed there, so that nothing is done to them by itself."""
    for row in seen.trashed:
        database = seen.databases.get(row.database.trash_name)
        if database is None or row.status not in AT_REST or _was_replaced(seen, database):
            continue  # of an earlier one, `missing_from_trash` tells
        if (words := _change_in_trash(seen, row, database)) is not None:
            remedy = None  # something must be done by hand before
            if database.mark == str(row.mark) and not database.invalid:
                remedy = Remedy(RemedyAction.UNDELETE, row.id)
            elif database.mark == str(row.mark) and newest_version(seen, row) is None:
                remedy = Remedy(RemedyAction.PURGE, row.id)
            yield Drift(DriftKind.TRASH_CHANGED, f"{row.id} {row.name}", words, remedy)


def _change_in_trash(seen: Snapshot, instance: DbInstance, database: Database) -> str | None:
    """How a database in the trash was changed, and what the operator can do; None if it was not."""
    name, owner = database.name, database.owner
    back = f"`ods instance undelete {instance.id}` brings it back; then delete it again if that is meant."
    its = _known_owner(seen, instance, instance.database)
    if owner is None or not its.owns(owner.comment):
        return (
            f"Its database '{name}' in the trash does not carry the mark of the instance: the comment was"
            " changed by hand. It is neither dropped nor brought back. If it is the instance's, write the"
            f" comment again: {_statement(name, its, instance.database.trashed_at)}. If it is not, rename it."
        )
    if database.invalid:
        words = f"A DROP of its database '{name}' in the trash was interrupted: it cannot come back."
        if (before := newest_version(seen, instance)) is not None:
            return f'{words} Drop it: DROP DATABASE "{name}". {_way_back(before)}'
        return f"{words} `ods instance purge {instance.id}` removes it."
    if (contradiction := _contradiction(seen, name, owner, instance)) is not None:
        return f"{contradiction} {_KEPT} {back}"
    if database.open and database.opened_by is None:  # what a job has left open, the pass closes
        return (
            f"Its database '{name}' in the trash was opened, and may be in use. {_KEPT} Close it (ALTER"
            f' DATABASE "{name}" ALLOW_CONNECTIONS false); or {back}'
        )
    return None


def _known_owner(seen: Snapshot, instance: DbInstance, had: InstanceDatabase) -> Owner:
    """The owner that the comment of a database in the trash must name, by the registry."""
    return Owner(
        *(seen.tenant, instance.ods_instance_id, "adopted", str(instance.mark), seen.installation),
        had.job_number,
        # Without one that is confirmed, the comment is one that nothing is done by.
        revision=seen.revisions.confirmed.get(str(had.database_id), str(had.database_id)),
        name=instance.name,
        template=had.database_template,
        trashed_name=instance.database_name,
        database_id=str(had.database_id),
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


def _contradiction(seen: Snapshot, name: str, owner: Owner, instance: DbInstance) -> str | None:
    """What the comment of a database in the trash says against its instance's row; None if nothing."""
    if owner.trashed_name is None:
        return f"The comment of its database '{name}' does not say that it is in the trash."
    if owner.put_back:
        return (
            f"Its database '{name}' was put back into the trash by an undelete that had opened it and did not"
            " end: if the registry was restored to an earlier state, it may have been used since."
        )
    if not has_known_revision(seen, owner, instance):
        return (
            f"Its database '{name}' was moved to the trash later than the registry knows, which was restored"
            " to an earlier state."
        )
    if owner.revision != seen.revisions.confirmed.get(owner.database_id):
        return (
            f"Its database '{name}' is not in the state that the registry knows: the server was restored to"
            " an earlier one."
        )
    return None


def versions_without_database(seen: Snapshot) -> Iterator[Drift]:
    """Databases that instances had before resets, and that are not in the trash as the registry says."""
    rows = {row.id: row for row in seen.with_versions}
    for version in seen.versions:
        instance, database = rows.get(version.instance_id), seen.databases.get(version.trash_name)
        if instance is None or instance.status not in AT_REST:
            continue
        if database is None or not _is_version(database.owner, version, instance):
            renamed = _renamed(seen, version, instance)
            if database is None and version.purging_since is not None and not renamed:
                continue  # it was dropped, which is not recorded yet
            fault = "does not exist" if database is None else "has another comment"
            words = (
                f"The instance had the database '{version.trash_name}' before a reset, but it {fault}: it"
                f" cannot be brought back.{renamed} It is told until its time in the trash is over, or name"
                " and comment are as they were."
            )
            if database is not None and not database.invalid and not renamed:
                its = _known_owner(seen, instance, version)
                comment = _statement(database.name, its, version.trashed_at)
                words += f" If it is that one by its data, write the comment again: {comment}."
            yield Drift(DriftKind.TRASH_WITHOUT_DATABASE, f"{instance.id} {instance.name}", words)
        elif (change := _change_of_version(seen, database, version, instance)) is not None:
            words = (
                f"The database '{database.name}', which the instance had before a reset, {change}. {_KEPT}"
            )
            yield Drift(DriftKind.TRASH_CHANGED, f"{instance.id} {instance.name}", words)


def _renamed(seen: Snapshot, version: InstanceDatabase, instance: DbInstance) -> str:
    """What to do with a version that an operator has given another name; empty if there is none."""
    others = {one.trash_name for one in seen.versions}
    for database in seen.databases.values():
        if not _is_version(database.owner, version, instance) or database.name in others:
            continue
        if database.name == instance.database_name:
            return f" Its mark is on '{database.name}': do what is told of the instance's database."
        if not has_known_revision(seen, database.owner, instance):
            return (
                f" Its mark is on '{database.name}', by a job that the registry does not know: it was"
                " restored to an earlier state. First do what is told of that."
            )
        return f" Its mark is on '{database.name}': give that its name back, and close it."
    return ""


def _change_of_version(
    seen: Snapshot, database: Database, version: InstanceDatabase, instance: DbInstance
) -> str | None:
    """Why a version that was changed in the trash is not dropped when it is due; None if it was not."""
    if database.invalid or database.owner is None:
        return None  # a pass goes on with the DROP when its time is over
    known = replace(
        _known_owner(seen, instance, version), template_generation=database.owner.template_generation
    )
    # By a registry that was restored it may have been in use since, and come back after that.
    written = None if database.published_at is None else without_zone(database.published_at)
    since = max(filter(None, [version.trashed_at, written]))
    until = ""
    if version.purge_after is not None:
        until = f" until its time is over, at {version.purge_after:%Y-%m-%d %H:%M} UTC"
    write = (
        f"If nothing uses it, write that, and it can be brought back{until}:"
        f" {_statement(database.name, known, since)}"
    )
    if database.owner.trashed_name is None:
        return f"does not say in its comment that it is in the trash. {write}"
    if not has_known_revision(seen, database.owner, instance):
        return (
            "was put into the trash by a job that the registry does not know, which was restored to an"
            f" earlier state: its comment is another than the registry knows. {write}"
        )
    if seen.revisions.confirmed.get(database.owner.database_id) not in {None, database.owner.revision}:
        return (
            f"is not in the state that the registry knows: the server was put back to an earlier one. {write}"
        )
    if database.open:
        close = f'ALTER DATABASE "{database.name}" ALLOW_CONNECTIONS false'
        return f"was opened, and may be in use; close it when it is not ({close})"
    return None


def _is_version(owner: Owner | None, version: InstanceDatabase, instance: DbInstance) -> bool:
    its = str(instance.mark), str(version.database_id)
    return owner is not None and (owner.mark, owner.database_id) == its
