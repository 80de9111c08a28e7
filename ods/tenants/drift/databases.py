"""Databases that no instance has, snapshots, and templates."""

from collections.abc import Collection, Iterator

from ods.databases.inspection import Database
from ods.registry.instances.naming import DATABASE_PREFIX
from ods.registry.instances.status import InstanceStatus
from ods.registry.snapshots.rows import SnapshotStatus
from ods.registry.storage.models import DbInstance
from ods.tenants.drift.findings import Drift, DriftKind
from ods.tenants.drift.snapshot import Snapshot, belongs_elsewhere


def unexpected_databases(seen: Snapshot, expected: Collection[str]) -> Iterator[Drift]:
    """Databases of instances, by mark or name, that no live instance has, nor what is `expected`."""
    live_names = {row.database_name for row in seen.instances if not _was_not_created(row)}
    live_marks = {str(row.mark) for row in seen.instances}
    trashed_marks = {str(row.mark) for row in seen.trashed if row.published_at}
    for database in seen.databases.values():
        if database.mark in live_marks or database.template or database.name in expected:
            continue
        if database.spare:
            continue  # those that are of no use are removed by the refill, and shown with the others
        if database.trash:
            continue  # see `unlisted_in_trash`
        if database.mark in trashed_marks:
            continue  # see `missing_from_trash`, and `second_databases`
        if database.snapshot is not None:
            continue  # see `snapshots_without`
        if belongs_elsewhere(database, seen):
            continue
        if database.invalid:
            words = "A DROP of this database was interrupted; all that can be done with it is to drop it."
            yield Drift(DriftKind.INVALID_DATABASE, database.name, words)
        # An unpublished database of an unknown instance is another registry's clone, at work.
        elif database.mark in seen.known_marks or (
            not database.staging and _looks_like_ods(database) and database.name not in live_names
        ):
            words = "No live instance of this tenant has this database."
            yield Drift(DriftKind.DATABASE_WITHOUT_INSTANCE, database.name, words)


def _was_not_created(instance: DbInstance) -> bool:
    """Whether its create has failed: a database of its name that is not its own is in its way."""
    return instance.status == InstanceStatus.ERROR and instance.published_at is None


def _looks_like_ods(database: Database) -> bool:
    return database.mark is not None or database.name.lower().startswith(f"{DATABASE_PREFIX}_".lower())


def snapshots_without(seen: Snapshot) -> Iterator[Drift]:
    """Where the snapshots of the registry and those of the server differ."""
    there = {database.snapshot.mark for database in seen.databases.values() if database.snapshot}
    for row in seen.copies:
        if row.status == SnapshotStatus.COMPLETED and str(row.mark) not in there:
            words = (
                f"The snapshot of the instance {row.instance_id} has lost its database '{row.database_name}'."
                " Delete it (`ods snapshot delete`), and make another one if it is to be read."
            )
            yield Drift(DriftKind.SNAPSHOT_WITHOUT_DATABASE, f"{row.id} {row.database_name}", words)
    known = {str(row.mark) for row in seen.copies}
    for database in seen.databases.values():
        mark = database.snapshot
        if mark is None or mark.mark in known:
            continue
        if mark.installation in {None, seen.installation}:
            words = (
                f"The registry does not know this snapshot of the OdsInstanceId {mark.ods_instance_id}: it"
                " was restored to an earlier state. It is never dropped; if no derivative leads to it, drop"
                " it by hand."
            )
            yield Drift(DriftKind.SNAPSHOT_WITHOUT_ROW, database.name, words)


def wrong_templates(seen: Snapshot, templates: Collection[str]) -> Iterator[Drift]:
    """Templates that do not exist, or accept connections."""
    for name in templates:
        template = seen.databases.get(name)
        if template is None:
            words = "This template does not exist; instances cannot be created from it."
            yield Drift(DriftKind.TEMPLATE_MISSING, name, words)
        elif template.open:
            words = (
                "Sessions on this template hold up every create; ALTER DATABASE … ALLOW_CONNECTIONS false."
                if template.mark is None
                else "Do not close it: it is the database of an instance, by its comment. Name another one in"
                " ODS_TEMPLATES (`ods template load` makes one of a dump of the instance)."
            )
            yield Drift(DriftKind.TEMPLATE_OPEN, name, words)
