"""Databases that no instance has, snapshots, templates, and clocks."""

from collections.abc import Collection, Iterator
from datetime import datetime, timedelta

from ods.databases.constants import STAGING_PREFIX, private_prefix
from ods.databases.inspection.listing import Database
from ods.model.operations import InstanceStatus
from ods.registry.clock import CLOCKS_MAY_DIFFER
from ods.registry.instances.naming import DATABASE_PREFIX
from ods.registry.snapshots.rows import SnapshotStatus
from ods.tenants.drift.findings import Drift, DriftKind
from ods.tenants.drift.instances import served_without_mark
from ods.tenants.drift.snapshot import Snapshot, belongs_elsewhere, published_later


def unexpected_databases(seen: Snapshot) -> Iterator[Drift]:
    """Databases of instances, by mark or name, that no live instance has."""
    expected = {*seen.templates, *served_without_mark(seen), *(one.name for one in published_later(seen))}
    # A database in the way of a create that has failed is not that instance's.
    created = (row for row in seen.instances if row.status != InstanceStatus.ERROR or row.is_published)
    live_names = {row.database_name for row in created}
    live_marks = {str(row.mark) for row in seen.instances}
    trashed_marks = {str(row.mark) for row in seen.trashed if row.is_published}
    for database in seen.databases.values():
        if database.mark in live_marks or database.template or database.name in expected:
            continue
        # Those in the trash and snapshots have comparisons of their own; a refill removes useless spares.
        if database.spare or database.trash or database.snapshot is not None:
            continue
        if database.mark in trashed_marks:
            continue  # see `missing_from_trash`, and `second_databases`
        if belongs_elsewhere(database, seen):
            continue
        if database.invalid:
            words = "A DROP of this database was interrupted; all that can be done with it is to drop it."
            yield Drift(DriftKind.INVALID_DATABASE, database.name, words)
        elif database.mark in seen.known_marks or _seems_to_be_ours(database, seen, live_names):
            words = "No live instance of this tenant has this database."
            yield Drift(DriftKind.DATABASE_WITHOUT_INSTANCE, database.name, words)


def _seems_to_be_ours(database: Database, seen: Snapshot, live_names: Collection[str]) -> bool:
    """Whether a database of an instance that the registry does not know is this installation's matter."""
    if database.staging:  # that of another installation is a clone at work there
        return database.name.startswith(private_prefix(STAGING_PREFIX, seen.installation))
    is_named_so = database.name.lower().startswith(f"{DATABASE_PREFIX}_".lower())
    return (database.mark is not None or is_named_so) and database.name not in live_names


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
        if mark is not None and mark.mark not in known and mark.installation == seen.installation:
            words = (
                f"The registry does not know this snapshot of the OdsInstanceId {mark.ods_instance_id}: it"
                " was restored to an earlier state. It is never dropped; if no derivative leads to it, drop"
                " it by hand."
            )
            yield Drift(DriftKind.SNAPSHOT_WITHOUT_ROW, database.name, words)


def wrong_templates(seen: Snapshot) -> Iterator[Drift]:
    """Templates that do not exist, or accept connections."""
    for name in seen.templates:
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


def wrong_clocks(seen: Snapshot) -> Iterator[Drift]:
    """Clocks that differ by more than five minutes, and a time in which no pass ran."""
    if abs(seen.clock_lead) > CLOCKS_MAY_DIFFER:
        yield _clocks_differ("registry and server", "the server of the ODS databases", seen.clock_lead)
    elif abs(seen.own_lead) > CLOCKS_MAY_DIFFER:
        yield _clocks_differ("registry and process", "the machine that compares them", seen.own_lead)
    if (gap := seen.time_gap) is not None:
        yield Drift(
            DriftKind.TIME_GAP,
            "registry",
            f"From {_minute(gap.last_seen)} to {_minute(gap.seen_again)}, by the registry's clock, no pass"
            " ran: no worker did, the registry was restored, or that clock was set ahead. Nothing is purged"
            f" from the trash, and no backup expires, before {_minute(gap.forgotten_at)}. Set the clock right"
            " before then, or undelete what must not go.",
        )


def _clocks_differ(subject: str, other: str, lead: timedelta) -> Drift:
    by = timedelta(seconds=round(abs(lead).total_seconds()))
    which = "ahead of" if lead > timedelta() else "behind"
    return Drift(
        DriftKind.CLOCKS_DIFFER,
        subject,
        f"The registry's clock is {by} (hours, minutes, seconds) {which} that of {other}. It decides when an"
        " instance in the trash is due: nothing is purged before both agree within five minutes. Let both"
        " take the time from one source (NTP).",
    )


def _minute(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M} UTC"
