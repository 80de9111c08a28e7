"""What registry and server had when they were read, and what follows from that alone."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import attrgetter

from ods.databases.inspection.listing import Database
from ods.databases.ownership import Owner
from ods.model.operations import RULES, InstanceStatus, Operation, is_usable
from ods.registry.clock import TimeGap
from ods.registry.connection_strings.ods_connection_strings import OdsConnectionStrings
from ods.registry.instances.jobs import StartedJob
from ods.registry.instances.queries import RecordedRevisions
from ods.registry.storage import models
from ods.registry.storage.models import DbInstance, InstanceDatabase, OdsInstance, OdsInstanceDerivative


@dataclass(frozen=True)
class Snapshot:
    """Registry and server, read one after the other, and the settings that say what should be there."""

    installation: str
    tenant: str
    templates: Collection[str]
    strings: OdsConnectionStrings
    clock_lead: timedelta  # the registry's clock is ahead of the server's by this
    own_lead: timedelta  # the same of this process's: registry and server may be on one machine
    time_gap: TimeGap | None  # this shows a wrong clock where all runs on one machine
    shared_store: str | None  # URL of a store of backups that another registry of this installation cleans
    obstacle: str | None  # what the operator must confirm before anything is changed
    last_change: datetime | None  # when the registry last changed one of its instances
    databases: Mapping[str, Database]
    orphan_directories: Collection[str]
    instances: Collection[DbInstance]
    trashed: Collection[DbInstance]  # the instances in the trash
    versions: Collection[InstanceDatabase]  # databases in the trash that instances had before resets
    revisions: RecordedRevisions  # of the databases that instances have or had
    with_versions: Collection[DbInstance]  # the instances of the versions, also deleted and detached ones
    known_marks: Collection[str]  # also the marks of instances whose databases are gone
    ods_instances: Collection[OdsInstance]
    derivatives: Collection[OdsInstanceDerivative]
    copies: Collection[models.Snapshot]
    started: Sequence[StartedJob]


def has_known_revision(seen: Snapshot, owner: Owner | None, instance: DbInstance) -> bool:
    """Whether the registry knows the revision in the comment of one of the instance's databases."""
    return owner is not None and owner.revision in seen.revisions.of_instances.get(instance.id, ())


def published_later(seen: Snapshot) -> list[Database]:
    """Databases of this installation that were published later than the registry knows, by name.

    Or those of instances that it does not know at all, although it never removes an instance.
    """
    known = {str(row.mark): row for row in (*seen.instances, *seen.trashed)}
    return [
        database
        for database in sorted(seen.databases.values(), key=attrgetter("name"))
        if (owner := database.owner) is not None
        and not database.reset  # never the database of an instance
        and owner.installation == seen.installation
        and (
            _is_later(seen, database, owner, known[owner.mark])
            if owner.mark in known
            else owner.mark not in seen.known_marks
        )
    ]


def _is_later(seen: Snapshot, database: Database, owner: Owner, instance: DbInstance) -> bool:
    by_delete = owner.job_id.startswith(RULES[Operation.DELETE].word)  # not by a reset
    if database.trash and not by_delete and owner.database_id != str(instance.database_id):
        return False  # it was replaced before: what the instance has now tells whether that is known
    return not has_known_revision(seen, owner, instance)


def newest_version(seen: Snapshot, instance: DbInstance) -> InstanceDatabase | None:
    """The last database that the instance had before a reset and that is there; None if none is."""
    its = [version for version in seen.versions if version.instance_id == instance.id]
    usable = {name for name, database in seen.databases.items() if not database.invalid}
    there = [version for version in its if version.trash_name in usable]
    return max(there, key=lambda version: (version.trashed_at, version.id), default=None)


def expected_beside(seen: Snapshot) -> set[str]:
    """Names of databases in the trash from before resets, also of one that a reset is about to replace."""
    replaced = (row.database.trash_name for row in seen.instances if row.replacement is not None)
    return {*(version.trash_name for version in seen.versions), *replaced}


def belongs_elsewhere(database: Database, seen: Snapshot) -> bool:
    """Whether the database belongs to another installation, as that of another tenant."""
    owner = database.owner
    if owner is None or database.mark in seen.known_marks:
        return False
    return owner.installation != seen.installation


def must_be_usable(instance: DbInstance) -> bool:
    """Whether the instance must have its database and its ODS instance now."""
    return is_usable(InstanceStatus(instance.status), Operation(instance.operation))


def listed(databases: Collection[Database]) -> str:
    """Databases, and when their comments were written, the latest first."""
    ordered = sorted(databases, key=lambda one: moment(one.published_at), reverse=True)
    return "; ".join(f"'{one.name}' ({moment(one.published_at)})" for one in ordered)


def moment(at: datetime | None) -> str:
    """A time in words, to the second; also one that is not known."""
    return f"{at:%Y-%m-%d %H:%M:%S} UTC" if at else "an unknown time"
