"""Databases that no instance has by the registry, and registries that know too little."""

from collections import defaultdict
from collections.abc import Collection, Iterator

from ods.databases.constants import STAGING_PREFIX, private_prefix
from ods.databases.inspection.listing import Database
from ods.model.operations import InstanceStatus
from ods.recovery.compare.findings import RECOVER, Drift, DriftKind
from ods.recovery.compare.snapshot import (
    Snapshot,
    belongs_elsewhere,
    expected_beside,
    listed,
    moment,
    published_later,
)
from ods.registry.instances.jobs import StartedJob
from ods.registry.instances.naming import DATABASE_PREFIX
from ods.registry.snapshots.rows import SnapshotStatus
from ods.registry.storage.models import DbInstance

_NAMED_AT_MOST = 200
_WITHOUT_INSTANCE = (
    "No instance of this tenant has this database, and it is never dropped. Look at its data. To keep it for"
    " an instance, remove its comment (COMMENT ON DATABASE … IS NULL), open it (ALLOW_CONNECTIONS true), give"
    " it the name of an instance's (EdFi_Ods_NAME_TEMPLATE), and adopt it (`ods instance adopt`). Drop it by"
    " hand if its data are of no use, and nothing leads to it."
)


def put_back_registry(seen: Snapshot) -> Iterator[Drift]:
    """That the registry does not know databases, or jobs that Temporal has; one finding for all."""
    later, jobs = published_later(seen), _started_later(seen)
    if not (later or jobs):
        return
    times = [database.published_at for database in later if database.published_at is not None]
    times += [job.at for job in jobs]
    first, last = moment(min(times, default=None)), moment(max(times, default=None))
    yield Drift(
        DriftKind.REGISTRY_PUT_BACK,
        f"{len(later)} databases, {len(jobs)} jobs",
        f"Databases were published, and jobs started, between {first} and {last}, of which the registry knows"
        f" nothing: it was restored to an earlier state, or lost rows; it was last changed at"
        f" {moment(seen.last_change)}. {_way_forward(later)}",
        RECOVER if later else None,
    )


def _started_later(seen: Snapshot) -> list[StartedJob]:
    """Jobs of this installation that Temporal still has, and the registry does not know."""
    known = {str(row.mark): row.job_number for row in (*seen.instances, *seen.trashed)}
    return [
        job
        for job in seen.started
        if job.installation == seen.installation
        and (job.number > known[job.mark] if job.mark in known else job.mark not in seen.known_marks)
    ]


def _way_forward(later: Collection[Database]) -> str:
    """What the operator can do about databases that the registry does not know."""
    if not later:
        return "No database is without its instance. This is told until Temporal forgets the jobs."
    unnamed = len(later) - _NAMED_AT_MOST
    named = ", ".join(f"'{database.name}'" for database in [*later][:_NAMED_AT_MOST])
    return (
        f"None of the databases is dropped: {named}{f' and {unnamed} more' if unnamed > 0 else ''}."
        f" `{RECOVER.command}` has the registry record them."
    )


def two_databases(seen: Snapshot) -> Iterator[Drift]:
    """Instances whose mark several databases carry."""
    names = defaultdict(list)
    expected = expected_beside(seen)
    for database in seen.databases.values():
        is_other = database.name not in expected and not database.reset
        if is_other and database.owner is not None and database.mark in seen.known_marks:
            names[database.mark].append(database.name)
    known = {str(row.mark): row for row in (*seen.instances, *seen.trashed)}
    for mark, several in names.items():
        if len(several) == 1:
            continue
        words = (
            "They carry the mark of one instance, whose database the registry calls"
            f" '{_name_of(known.get(mark or ''))}'. Nothing is done to the others. Keep all until their data"
            f" tell which one is the instance's: `{RECOVER.command} --apply --choose NAME` makes it that, and"
            " puts the others into the trash. When their comments were written:"
            f" {listed([seen.databases[name] for name in several])}."
        )
        yield Drift(DriftKind.TWO_DATABASES, ", ".join(sorted(several)), words, RECOVER)


def _name_of(instance: DbInstance | None) -> str | None:
    """What the registry calls the instance's database, which may be in the trash."""
    if instance is None:
        return None
    return instance.database.trash_name if instance.is_in_trash else instance.database_name


def without_instance(seen: Snapshot) -> Iterator[Drift]:
    """Databases that may be an instance's, by mark or name, and that no instance has.

    Not those with the mark of one that has a database: `held` and `two_databases` tell of these.
    """
    expected = {*seen.templates, *_served_without_mark(seen), *(one.name for one in published_later(seen))}
    expected |= {*expected_beside(seen), *(row.database.trash_name for row in seen.trashed)}
    # A database in the way of a create that has failed is not that instance's.
    created = (row for row in seen.instances if row.status != InstanceStatus.ERROR or row.is_published)
    live_names = {row.database_name for row in created}
    had = {str(row.mark) for row in seen.instances}
    had |= {str(row.mark) for row in seen.trashed if row.is_published}
    copies = {str(row.mark) for row in seen.copies}
    for database in seen.databases.values():
        if (snapshot := database.snapshot) is not None:
            is_lost = snapshot.installation == seen.installation and snapshot.mark not in copies
        elif database.name in expected or database.template or database.spare:  # a refill removes spares
            is_lost = False
        else:
            is_known = database.mark in seen.known_marks or database.trash
            is_lost = is_known or database.invalid or _seems_to_be_ours(database, seen, live_names)
            is_lost = is_lost and database.mark not in had and not belongs_elsewhere(database, seen)
        if is_lost and database.invalid:
            words = "A DROP of this database was interrupted; all that can be done with it is to drop it."
            yield Drift(DriftKind.INTERRUPTED_DROP, database.name, words)
        elif is_lost:
            yield Drift(DriftKind.DATABASE_WITHOUT_INSTANCE, database.name, _WITHOUT_INSTANCE)


def _seems_to_be_ours(database: Database, seen: Snapshot, live_names: Collection[str]) -> bool:
    """Whether a database of an instance that the registry does not know is this installation's matter."""
    if database.staging:  # that of another installation is a clone at work there
        return database.name.startswith(private_prefix(STAGING_PREFIX, seen.installation))
    is_named_so = database.name.lower().startswith(f"{DATABASE_PREFIX}_".lower())
    return (database.mark is not None or is_named_so) and database.name not in live_names


def snapshots_without_database(seen: Snapshot) -> Iterator[Drift]:
    """Snapshots of the registry that the server does not have any more."""
    there = {database.snapshot.mark for database in seen.databases.values() if database.snapshot}
    for row in seen.copies:
        if row.status == SnapshotStatus.COMPLETED and str(row.mark) not in there:
            words = (
                f"The snapshot of the instance {row.instance_id} has lost its database '{row.database_name}'."
                " Delete it (`ods snapshot delete`), and make another one if it is to be read."
            )
            yield Drift(DriftKind.DATABASE_MISSING, f"{row.id} {row.database_name}", words)


def _served_without_mark(seen: Snapshot) -> set[str]:
    """Databases without a mark to which ODS instances or their derivatives lead, such as detached ones."""
    served = [one.connection_string for one in seen.ods_instances]
    served += [derivative.connection_string for derivative in seen.derivatives]
    led_to = {seen.strings.local_database(connection_string) for connection_string in served}
    return {one.name for one in seen.databases.values() if one.mark is None and one.name in led_to}
