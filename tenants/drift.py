"""Where registry and server contradict each other, for the operator: nothing is changed here."""

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from uuid import UUID

from databases import inspection
from databases.inspection import Database, published_last
from databases.ownership import KnownOwner, Owner
from databases.server import Server
from registry.backups.stores import BackupStores
from registry.clock import RegistryClock, TimeGap
from registry.connection_strings.ods_connection_strings import OdsConnectionStrings
from registry.instances.jobs import StartedJob
from registry.instances.naming import DATABASE_PREFIX, TRASH_PREFIX
from registry.instances.queries import InstanceQueries
from registry.instances.status import AT_REST, InstanceStatus, Operation, is_usable
from registry.snapshots.rows import SnapshotStatus
from registry.storage import models
from registry.storage.models import DbInstance, InstanceVersion, OdsInstance, OdsInstanceDerivative
from tenants.installation_check import InstallationCheck
from tenants.store_claims import SHARED_WAY_OUT, store_is_shared

_RECHECK_SECONDS = 0.5
_NAMED_AT_MOST = 200
_CLOCKS_MAY_DIFFER = timedelta(minutes=5)
"""Between reading one clock and the other, requests may have waited."""


class DriftKind(StrEnum):
    """The kinds of contradictions."""

    DATABASE_WITHOUT_INSTANCE = "DatabaseWithoutInstance"
    INSTANCE_WITHOUT_DATABASE = "InstanceWithoutDatabase"
    INSTANCE_WITHOUT_ODS_INSTANCE = "InstanceWithoutOdsInstance"
    ODS_INSTANCE_WITHOUT_DATABASE = "OdsInstanceWithoutDatabase"
    DERIVATIVE_OF_OTHER_INSTANCE = "DerivativeOfOtherInstance"
    ODS_INSTANCE_OF_OTHER_INSTANCE = "OdsInstanceOfOtherInstance"
    INVALID_DATABASE = "InvalidDatabase"
    TEMPLATE_MISSING = "TemplateMissing"
    TEMPLATE_OPEN = "TemplateOpen"
    ORPHAN_DIRECTORY = "OrphanDirectory"
    INSTALLATION_NOT_CONFIRMED = "InstallationNotConfirmed"
    REGISTRY_OLDER_THAN_SERVER = "RegistryOlderThanServer"
    TWO_DATABASES_WITH_ONE_MARK = "TwoDatabasesWithOneMark"
    TRASH_WITHOUT_DATABASE = "TrashWithoutDatabase"
    TRASH_WITHOUT_INSTANCE = "TrashWithoutInstance"
    INSTANCE_IN_TRASH = "InstanceInTrash"
    TRASH_CHANGED = "TrashChanged"
    CLOCKS_DIFFER = "ClocksDiffer"
    TIME_GAP = "TimeGap"
    STORE_SHARED = "StoreShared"
    SNAPSHOT_WITHOUT_DATABASE = "SnapshotWithoutDatabase"
    SNAPSHOT_WITHOUT_ROW = "SnapshotWithoutRow"
    RESET_NOT_ENDED = "ResetNotEnded"


_SUSPICIONS = {
    DriftKind.REGISTRY_OLDER_THAN_SERVER,
    DriftKind.INSTALLATION_NOT_CONFIRMED,
    DriftKind.CLOCKS_DIFFER,
    DriftKind.TIME_GAP,
    DriftKind.STORE_SHARED,
}


class RemedyAction(StrEnum):
    """What a request to this service can do about a contradiction."""

    ADOPT = "Adopt"
    UNDELETE = "Undelete"
    PURGE = "Purge"


@dataclass(frozen=True)
class Remedy:
    """A request that settles a contradiction. The request itself checks whether it may be granted.

    Attributes:
        action: what is requested.
        instance_id: of which instance.
        database: of an adoption, the database that the instance gets; None if it keeps the name it has.
    """

    action: RemedyAction
    instance_id: int
    database: str | None = None

    @property
    def command(self) -> str:
        """The same on the command line."""
        named = "" if self.database is None else f" --database {self.database}"
        return f"ods instance {self.action.lower()} {self.instance_id}{named}"


@dataclass(frozen=True, order=True)
class Drift:
    """One contradiction: `subject` is the database, instance or directory it is about.

    `remedy` is the request that settles it; None if the operator must do it by hand.
    """

    kind: DriftKind
    subject: str
    explanation: str
    remedy: Remedy | None = field(default=None, compare=False)

    @property
    def identity(self) -> tuple[DriftKind, str]:
        """What it is about. The explanation may change all the time, with a time that it tells.

        Of a registry that is older than the server, so does the subject, while databases are handed back.
        """
        older = self.kind is DriftKind.REGISTRY_OLDER_THAN_SERVER
        return self.kind, "" if older else self.subject


def is_suspect(found: Collection[Drift]) -> Drift | None:
    """The contradiction by which the registry may be wrong about what is due; None if there is none.

    It may be of yesterday, or a copy, or its clock may be wrong: nothing is done on its word alone then.
    """
    return next((drift for drift in found if drift.kind in _SUSPICIONS), None)


@dataclass(frozen=True)
class Snapshot:
    """Registry and server, read one after the other.

    `trashed` are the instances in the trash, `versions` the databases there that instances had before
    resets, `with_versions` those instances, be they deleted or detached, and `known_marks` also those of
    instances whose databases are gone; `copies` are the snapshots; `last_change` is when the registry last
    changed one of its instances, and `obstacle` what the operator must confirm before anything is changed.
    `clock_lead` is by how much the registry's clock is ahead of the server's, and `own_lead` of that of this
    process: where registry and ODS databases are on one server, only that tells of a wrong one. `time_gap` is
    what tells of it where all run on one machine. `shared_store` is the URL of a store of backups that
    another registry of this installation cleans as well.
    """

    installation: str
    clock_lead: timedelta
    own_lead: timedelta
    time_gap: TimeGap | None
    shared_store: str | None
    obstacle: str | None
    last_change: datetime | None
    databases: Mapping[str, Database]
    orphan_directories: Collection[str]
    instances: Collection[DbInstance]
    trashed: Collection[DbInstance]
    versions: Collection[InstanceVersion]
    with_versions: Collection[DbInstance]
    known_marks: Collection[str]
    ods_instances: Collection[OdsInstance]
    derivatives: Collection[OdsInstanceDerivative]
    copies: Collection[models.Snapshot]
    started: Sequence[StartedJob]


class DriftDetector:
    """Compares a tenant's registry with its server, where databases of other tenants may be as well."""

    def __init__(  # noqa: PLR0913, PLR0917 - what is compared
        self,
        installation: InstallationCheck,
        server: Server,
        queries: InstanceQueries,
        templates: Collection[str],
        connection_strings: OdsConnectionStrings,
        clock: RegistryClock,
        stores: BackupStores,
    ) -> None:
        self._installation = installation
        self._tenant = installation.tenant
        self._server = server
        self._queries = queries
        self._templates = templates
        self._connection_strings = connection_strings
        self._clock = clock
        self._stores = stores

    async def detect(self, started: Sequence[StartedJob] = ()) -> list[Drift]:
        """Every contradiction that is there twice, half a second apart: others are those of a running job.

        Args:
            started: jobs whose workflows Temporal still has.

        Raises:
            DatabaseFaultError: the server cannot be read.
        """
        first = {drift.identity for drift in self._contradictions(await self._snapshot(started))}
        if not first:
            return []
        await asyncio.sleep(_RECHECK_SECONDS)
        again = self._contradictions(await self._snapshot(started))
        return sorted({drift for drift in again if drift.identity in first})

    async def _snapshot(self, started: Sequence[StartedJob]) -> Snapshot:
        async with self._server.session() as session:
            found = await inspection.databases(session)
            directories = await inspection.orphan_directories(session)
            obstacle = await self._installation.obstacle(session)
            server_time, registry_time = await inspection.now(session), await self._queries.now()
            own_time = _own_time()
        return Snapshot(
            installation=await self._installation.id(),
            clock_lead=registry_time - server_time,
            own_lead=registry_time - own_time,
            time_gap=await self._clock.gap(),
            shared_store=await self._stores.conflict(),
            obstacle=obstacle,
            last_change=await self._queries.last_change(),
            databases={database.name: database for database in found},
            orphan_directories=directories,
            instances=await self._queries.live_instances(),
            trashed=await self._queries.trashed_instances(),
            versions=await self._queries.versions(),
            with_versions=await self._queries.instances_with_versions(),
            known_marks=await self._queries.known_marks(
                [*(one.mark for one in found if one.mark is not None), *(job.mark for job in started)]
            ),
            ods_instances=await self._queries.all_ods_instances(),
            derivatives=await self._queries.all_derivatives(),
            copies=await self._queries.all_snapshots(),
            started=started,
        )

    def _contradictions(self, seen: Snapshot) -> Iterator[Drift]:
        if seen.obstacle is not None:
            yield Drift(DriftKind.INSTALLATION_NOT_CONFIRMED, seen.installation, seen.obstacle)
        if abs(seen.clock_lead) > _CLOCKS_MAY_DIFFER:
            yield _clocks_differ("registry and server", "the server of the ODS databases", seen.clock_lead)
        elif abs(seen.own_lead) > _CLOCKS_MAY_DIFFER:
            yield _clocks_differ("registry and process", "the machine that compares them", seen.own_lead)
        if seen.time_gap is not None:
            yield _time_gap(seen.time_gap)
        if seen.shared_store is not None:
            words = f"{store_is_shared(seen.shared_store)} {SHARED_WAY_OUT}"
            yield Drift(DriftKind.STORE_SHARED, seen.shared_store, words)
        later = _published_later(seen, self._tenant)
        jobs = _started_later(seen)
        if later or jobs:
            yield _registry_older(seen, later, jobs)
        yield from _changed_in_trash(seen, self._tenant)
        yield from _second_databases(seen, {database.name for database in later})
        yield from _missing_from_trash(seen)
        yield from _unlisted_in_trash(seen, self._tenant)
        yield from _snapshots_without(seen, self._tenant)
        yield from _versions_without_database(seen)
        yield from _resets_not_ended(seen)
        yield from _instances_without(seen, {database.mark for database in later})
        yield from self._ods_instances_without_database(seen)
        yield from self._derivatives_of_other_instances(seen)
        yield from self._ods_instances_of_other_instances(seen)
        yield from _unexpected_databases(
            seen, self._tenant, {*self._templates, *(database.name for database in later)}
        )
        yield from _wrong_templates(seen, self._templates)
        for directory in seen.orphan_directories:
            words = "This directory below base/ belongs to no database; a crashed server may have left it."
            yield Drift(DriftKind.ORPHAN_DIRECTORY, directory, words)

    def _ods_instances_without_database(self, seen: Snapshot) -> Iterator[Drift]:
        for ods_instance in seen.ods_instances:
            database = self._connection_strings.local_database(ods_instance.connection_string)
            if database is not None and database not in seen.databases:
                yield Drift(
                    DriftKind.ODS_INSTANCE_WITHOUT_DATABASE,
                    f"{ods_instance.ods_instance_id} {ods_instance.name}",
                    f"The ODS/API routes to the database '{database}', which does not exist.",
                )

    def _derivatives_of_other_instances(self, seen: Snapshot) -> Iterator[Drift]:
        names = {row.ods_instance_id: row.name for row in seen.instances}
        with_names = {row.database_name: row for row in seen.instances if row.has_names}
        for derivative in seen.derivatives:
            database = self._connection_strings.local_database(derivative.connection_string)
            other = with_names.get(database or "")
            own_name = names.get(derivative.ods_instance_id)
            # ODS instances that are no instances may lead where the operator wants.
            if other is None or own_name is None or other.ods_instance_id == derivative.ods_instance_id:
                continue
            yield Drift(
                DriftKind.DERIVATIVE_OF_OTHER_INSTANCE,
                f"{derivative.ods_instance_id} {own_name} {derivative.derivative_type}",
                f"The derivative {derivative.id} of this instance leads to '{database}', the database of the"
                f" instance {other.id} '{other.name}': clients of the one read the data of the other. Give it"
                f" another connection string, or remove it (PUT or DELETE"
                f" /v2/odsInstanceDerivatives/{derivative.id}).",
            )

    def _ods_instances_of_other_instances(self, seen: Snapshot) -> Iterator[Drift]:
        with_names = {row.database_name: row for row in seen.instances if row.has_names and row.published_at}
        for ods_instance in seen.ods_instances:
            database = self._connection_strings.local_database(ods_instance.connection_string)
            instance = with_names.get(database or "")
            if instance is None or instance.ods_instance_id == ods_instance.ods_instance_id:
                continue
            number = ods_instance.ods_instance_id
            yield Drift(
                DriftKind.ODS_INSTANCE_OF_OTHER_INSTANCE,
                f"{number} {ods_instance.name}",
                f"The ODS instance {number} '{ods_instance.name}' leads to '{database}', the database of the"
                f" instance {instance.id} '{instance.name}': its clients read and write its data. It may"
                " have been added for another instance that had the name. Unless that is meant, give it"
                f" another connection string, or delete it (PUT or DELETE /v2/odsInstances/{number}).",
            )


def _own_time() -> datetime:
    """The time by the clock of this process's machine."""
    return datetime.now(UTC)


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


def _time_gap(gap: TimeGap) -> Drift:
    return Drift(
        DriftKind.TIME_GAP,
        "registry",
        f"From {_minute(gap.last_seen)} to {_minute(gap.seen_again)}, by the registry's clock, no pass ran:"
        " no worker did, the registry was restored, or that clock was set ahead. Nothing is purged from the"
        f" trash, and no backup expires, before {_minute(gap.forgotten_at)}. Set the clock right before then,"
        " or undelete what must not go.",
    )


def _minute(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M} UTC"


def _published_later(seen: Snapshot, tenant: str) -> list[Database]:
    """Databases of this installation that were published later than the registry knows, by name.

    It knows an earlier publication of their instances, or not even the instances, which it never removes.
    """
    known = {str(row.mark): row for row in (*seen.instances, *seen.trashed)}
    versions = {row.database_name: (row.job_number, row.attempt) for row in seen.versions}
    requests = {mark: {None, *row.known_requests} for mark, row in known.items()}
    return [
        database
        for name, database in sorted(seen.databases.items())
        if (owner := database.owner) is not None
        and not database.reset  # never the database of an instance
        # It is recorded, perhaps by an adoption.
        and not (owner.publication == versions.get(name) and owner.request in requests.get(owner.mark, ()))
        and owner.tenant == tenant
        and owner.installation in {None, seen.installation}
        and (
            _is_later(database, owner, known[owner.mark])
            if owner.mark in known
            else owner.mark not in seen.known_marks and owner.installation == seen.installation
        )
    ]


def _is_later(database: Database, owner: Owner, instance: DbInstance) -> bool:
    """Whether a database was published, or moved to the trash, later than its instance's row knows."""
    number, attempt = instance.publication
    if database.name == instance.trash_database:  # by a delete that may not have recorded it
        number, attempt = instance.job_number, instance.attempt
    by_delete = database.name.startswith(f"{TRASH_PREFIX}{UUID(owner.mark).hex}_")  # not by a reset
    if database.trash and not by_delete and owner.database_mark != _database_mark(instance):
        return False  # it was replaced before: what the instance has now tells whether that is known
    known = replace(owner, number=number, attempt=attempt).knowing(instance.known_requests)
    return owner.is_unknown_to(known)


def _started_later(seen: Snapshot) -> list[StartedJob]:
    """Jobs of this installation that Temporal still has, and the registry does not know."""
    known = {str(row.mark): row.job_number for row in (*seen.instances, *seen.trashed)}
    return [
        job
        for job in seen.started
        if job.installation == seen.installation
        and (job.number > known[job.mark] if job.mark in known else job.mark not in seen.known_marks)
    ]


def _registry_older(seen: Snapshot, later: Collection[Database], jobs: Collection[StartedJob]) -> Drift:
    times = [database.published_at for database in later if database.published_at is not None]
    times += [job.at for job in jobs]
    first, last = _time(min(times, default=None)), _time(max(times, default=None))
    return Drift(
        DriftKind.REGISTRY_OLDER_THAN_SERVER,
        f"{len(later)} databases, {len(jobs)} jobs",
        f"Databases were published, and jobs started, between {first} and {last}, of which the registry knows"
        f" nothing: it was restored to an earlier state, or lost rows; it was last changed at"
        f" {_time(seen.last_change)}. {_handing_back(seen, later)}",
    )


def _handing_back(seen: Snapshot, later: Collection[Database]) -> str:
    """What the operator can do about databases that the registry does not know."""
    if not later:
        return "No database is without its instance. This is told until Temporal forgets the jobs."
    in_trash = {str(row.mark): row for row in seen.trashed}
    replaced = [database for database in later if database.trash and _is_earlier(seen, database)]
    handed = [
        f"'{database.name}' (OdsInstanceId {database.owner and database.owner.ods_instance_id})"
        for database in later
        if database.mark not in in_trash and database not in replaced
    ]
    back = [
        f"`{_taking_back(in_trash[database.mark], database).command}` brings back '{database.name}'"
        for database in later
        if database.mark in in_trash and database not in replaced
    ]
    ways = ["None of the databases is dropped."]
    if handed:
        ways.append(
            "Hand each to its instance: `ods instance adopt ID --database NAME`."
            f" {_first(handed)}{'.' if back or replaced else ''}"
        )
    if back:
        ways.append(f"By the registry, these are in the trash: {_first(back)}.")
    if versions := [f"'{database.name}'" for database in replaced]:
        ways.append(
            "Resets have replaced these, which become versions of their instances once those have their own:"
            f" {_first(versions)}."
        )
    return " ".join(ways)


def of_instance(databases: Iterable[Database], owner: Owner | None) -> list[Database]:
    """What the owner's instance has and had: not what a reset was to give it, nor what is half dropped."""
    its = (one for one in databases if owner and one.owner and owner.shares_instance(one.owner))
    return [one for one in its if not one.reset and not one.invalid]


def _taking_back(instance: DbInstance, database: Database) -> Remedy:
    """The request that takes an instance in the trash back with this database, whichever it has by that."""
    marked = database.owner and database.owner.database_mark
    is_known = marked == _database_mark(instance)
    if is_known and (database.trash or database.name == instance.database_name):
        return Remedy(RemedyAction.UNDELETE, instance.id)
    return Remedy(RemedyAction.ADOPT, instance.id, database.name)


def _is_earlier(seen: Snapshot, database: Database) -> bool:
    """Whether another database of the instance was certainly published later."""
    last = published_last(of_instance(seen.databases.values(), database.owner))
    return last is not None and last is not database


def _first(named: Sequence[str]) -> str:
    """The first of these, and how many more there are."""
    unnamed = len(named) - _NAMED_AT_MOST
    return f"{'; '.join(named[:_NAMED_AT_MOST])}{f'; and {unnamed} more' if unnamed > 0 else ''}"


def _time(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC" if at else "an unknown time"


def _second_databases(seen: Snapshot, later: Collection[str]) -> Iterator[Drift]:
    names = defaultdict(list)
    expected = _expected_beside(seen)
    for database in seen.databases.values():
        if database.name in expected or database.reset:
            continue
        if database.owner is not None and database.mark in seen.known_marks:
            names[database.mark].append(database.name)
    known = {str(row.mark): row for row in (*seen.instances, *seen.trashed)}
    for mark, several in names.items():
        if len(several) > 1:
            its = known.get(mark or "")
            name = its.database_name if its is not None else None
            name = its.trash_database if its is not None and its.is_in_trash else name
            words = (
                "They carry the mark of one instance, whose database the registry calls"
                f" '{name}'. Nothing is done to the others. {_copies_among(seen, several, later, name)}"
            )
            if (
                its is not None
                and not its.is_in_trash
                and its.database_name in several
                and any(seen.databases[name].trash for name in several)
            ):
                words += f" {_recording(its)}"
            yield Drift(DriftKind.TWO_DATABASES_WITH_ONE_MARK, ", ".join(sorted(several)), words)


def _copies_among(seen: Snapshot, several: Collection[str], later: Collection[str], name: str | None) -> str:
    """What to do with copies among these databases, which must not be the data that only one of them has."""
    last = published_last([seen.databases[name] for name in several])
    known = {name} & {*several}
    kept = {name for name in several if name in later or seen.databases[name].trash}
    if last is not None:
        kept.add(last.name)
    elif not known:
        kept.update(several)  # their comments do not tell which is the instance's
    drop = "remove the comment of a copy (COMMENT ON DATABASE … IS NULL), or drop it."
    if kept <= known:
        return f"{drop[0].upper()}{drop[1:]}"
    words = (
        f"Do not drop {_quoted(kept)}, which the instance may have had last, or before a reset: the registry"
        " was restored to an earlier state. Hand to the instance what it had last: `ods instance adopt ID"
        " --database NAME`."
    )
    return f"{words} Of {_quoted(others)}, {drop}" if (others := {*several} - kept - known) else words


def _quoted(names: Collection[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names))


def _expected_beside(seen: Snapshot) -> set[str]:
    """Names of databases in the trash that instances had before, also of such as a reset is exchanging."""
    replaced = (row.replacement["replaced"] for row in seen.instances if row.replacement is not None)
    return {*(version.database_name for version in seen.versions), *replaced}


def _instances_without(seen: Snapshot, published_later: Collection[str | None]) -> Iterator[Drift]:
    routed = {ods_instance.ods_instance_id for ods_instance in seen.ods_instances}
    for instance in seen.instances:
        if not _is_usable(instance) or str(instance.mark) in published_later:
            continue
        subject = f"{instance.id} {instance.name}"
        database = seen.databases.get(instance.database_name)
        if (fault := _fault(database, instance)) is not None:
            words = f"The instance is {instance.status}, but its database '{instance.database_name}' {fault}."
            if database is None and (before := _newest_version(seen, instance)) is not None:
                words += (
                    f" What it had before a reset is in the trash: `ods instance adopt {instance.id}"
                    f" --database {before.database_name}` brings that back."
                )
            remedy = None if database is None else _adoption_of(database, instance)
            yield Drift(DriftKind.INSTANCE_WITHOUT_DATABASE, subject, words, remedy)
        if instance.ods_instance_id not in routed:
            words = (
                f"The instance is {instance.status}, but there is no ODS instance {instance.ods_instance_id}."
            )
            yield Drift(DriftKind.INSTANCE_WITHOUT_ODS_INSTANCE, subject, words)


def _newest_version(seen: Snapshot, instance: DbInstance) -> InstanceVersion | None:
    """The database that the instance had last before a reset, and that is there; None if there is none."""
    its = [version for version in seen.versions if version.instance_id == instance.id]
    usable = {name for name, database in seen.databases.items() if not database.invalid}
    there = [version for version in its if version.database_name in usable]
    return max(there, key=lambda version: version.replaced_at, default=None)


def _missing_from_trash(seen: Snapshot) -> Iterator[Drift]:
    """Instances in the trash whose databases do not have the names there that the registry tells."""
    beside = _expected_beside(seen)
    named = defaultdict(list)
    for name, database in seen.databases.items():
        if database.owner and name not in beside and not database.reset:
            named[database.mark].append(database)
    for row in seen.trashed:
        if row.trash_database in seen.databases or row.status not in AT_REST:
            continue
        several, subject = named[str(row.mark)], f"{row.id} {row.name}"
        found, before = published_last(several), _newest_version(seen, row)
        if several and found is None:
            words = f"It is in the trash, but '{row.trash_database}' is not. {_which_last(row, several)}"
            yield Drift(DriftKind.TRASH_WITHOUT_DATABASE, subject, words)
        else:
            words, remedy = _missing_in_trash(row, found, before), _remedy_of_missing(row, found, before)
            yield Drift(DriftKind.TRASH_WITHOUT_DATABASE, subject, words, remedy)


def _unlisted_in_trash(seen: Snapshot, tenant: str) -> Iterator[Drift]:
    """Databases in the trash that the registry does not have there."""
    beside = _expected_beside(seen)
    live = {str(row.mark): row for row in seen.instances}
    trashed = {str(row.mark) for row in seen.trashed}
    listed = {*(row.trash_database for row in seen.trashed), *beside}
    for database in seen.databases.values():
        if not database.trash or database.name in listed or _belongs_elsewhere(database, seen, tenant):
            continue
        its = live.get(database.mark or "")
        if database.mark in trashed:
            continue  # told with its instance, or with the other database of the mark
        if its is None:
            words = _unknown_trash(database, is_known=database.mark in seen.known_marks)
            yield Drift(DriftKind.TRASH_WITHOUT_INSTANCE, database.name, words)
        elif (own := seen.databases.get(its.database_name)) is not None and own.mark == database.mark:
            words = _unknown_version(its)
            yield Drift(DriftKind.TRASH_WITHOUT_INSTANCE, database.name, words)
        elif _is_usable(its):
            yield _in_trash(seen, database, its)


def _in_trash(seen: Snapshot, database: Database, instance: DbInstance) -> Drift:
    """What is in the trash of a live instance without a database: what it had last, or had before a reset."""
    several = of_instance(seen.databases.values(), database.owner)
    last = published_last(several)
    if last is database and all(one.trash for one in several):
        words = (
            f"The instance is {instance.status}, but its database is in the trash: the registry was restored"
            f" to before the delete. `ods instance adopt {instance.id} --database {database.name}` brings it"
            " back."
        )
        remedy = Remedy(RemedyAction.ADOPT, instance.id, database.name)
        return Drift(DriftKind.INSTANCE_IN_TRASH, f"{instance.id} {instance.name}", words, remedy)
    words = (
        f"It carries the mark of the instance {instance.id} {instance.name}, whose database"
        f" '{instance.database_name}' does not exist: the registry was restored to an earlier state. It is"
        f" not dropped. {_choice_of(instance, several, last, database)}"
    )
    return Drift(DriftKind.TRASH_WITHOUT_INSTANCE, database.name, words)


def _choice_of(
    instance: DbInstance, several: Collection[Database], last: Database | None, database: Database
) -> str:
    """Which of several databases becomes the instance's, and what becomes of this one."""
    if last is not None and last is not database:
        adopt = f"`ods instance adopt {instance.id} --database"
        return (
            f"A reset has replaced it: '{last.name}' was published later. {adopt} {last.name}` hands that"
            " over. Then this one, if it is closed, is a version of the instance, and can come back until its"
            f" time is over: `ods instance undo-reset {instance.id} --database {database.name}`."
        )
    return _which_last(instance, several)


def _which_last(instance: DbInstance, several: Collection[Database]) -> str:
    """What the operator does who must find out which of several databases is the instance's."""
    return (
        f"Which was in use last, the comments do not tell: {listed(several)}. Look at their data, and remove"
        " the comment of a copy (COMMENT ON DATABASE … IS NULL). `ods instance adopt"
        f" {instance.id} --database NAME --earlier` hands over the one that you choose; closed ones in the"
        " trash are versions of the instance then."
    )


def listed(databases: Collection[Database]) -> str:
    """Databases, and when their comments were written, the latest first."""
    ordered = sorted(databases, key=lambda one: _time(one.published_at), reverse=True)
    return "; ".join(f"'{one.name}' ({_time(one.published_at)})" for one in ordered)


def _snapshots_without(seen: Snapshot, tenant: str) -> Iterator[Drift]:
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
        if mark.tenant == tenant and mark.installation in {None, seen.installation}:
            words = (
                f"The registry does not know this snapshot of the OdsInstanceId {mark.ods_instance_id}: it"
                " was restored to an earlier state. It is never dropped; if no derivative leads to it, drop"
                " it by hand."
            )
            yield Drift(DriftKind.SNAPSHOT_WITHOUT_ROW, database.name, words)


def _unknown_version(instance: DbInstance) -> str:
    return (
        f"It carries the mark of the instance {instance.id} {instance.name}, which has another database: the"
        f" registry was restored to before a reset, or lost rows. It is not dropped. {_recording(instance)}"
    )


def _recording(instance: DbInstance) -> str:
    return (
        f"`ods instance adopt {instance.id} --database {instance.database_name}` confirms the database of the"
        " instance, and records closed ones in the trash as those that it had before resets: they can come"
        f" back (`ods instance undo-reset {instance.id} --database NAME`), and are dropped when their time is"
        " over."
    )


def _versions_without_database(seen: Snapshot) -> Iterator[Drift]:
    """Databases that instances had before resets, and that are not in the trash as the registry says."""
    rows = {row.id: row for row in seen.with_versions}
    for version in seen.versions:
        instance, database = rows.get(version.instance_id), seen.databases.get(version.database_name)
        if instance is None or instance.status not in AT_REST:
            continue
        if database is None and version.purging_since is not None:
            continue  # it was dropped, which is not recorded yet
        if database is None or not _is_version(database.owner, version, instance):
            fault = "does not exist" if database is None else "has another comment"
            words = (
                f"The instance had the database '{version.database_name}' before a reset, but it {fault}: it"
                " cannot be brought back. It is told until its time in the trash is over, or the comment is"
                " as it was."
            )
            yield Drift(DriftKind.TRASH_WITHOUT_DATABASE, f"{instance.id} {instance.name}", words)
        elif (change := _change_of_version(database)) is not None:
            words = (
                f"The database '{database.name}', which the instance had before a reset, {change}. {_KEPT}"
            )
            yield Drift(DriftKind.TRASH_CHANGED, f"{instance.id} {instance.name}", words)


def _change_of_version(database: Database) -> str | None:
    """Why a version that was changed in the trash is not dropped when it is due; None if it was not."""
    if database.invalid:
        return None  # the next pass goes on with the DROP
    if database.owner is None or database.owner.trashed_name is None:
        return "does not say in its comment that it is in the trash"
    if database.open:
        close = f'ALTER DATABASE "{database.name}" ALLOW_CONNECTIONS false'
        return f"was opened, and may be in use; close it when it is not ({close})"
    return None


def _resets_not_ended(seen: Snapshot) -> Iterator[Drift]:
    """Instances that take no request, because a failed reset is neither undone nor recorded as done."""
    for instance in (*seen.instances, *seen.trashed):
        if instance.replacement is not None and instance.status in AT_REST:
            words = (
                "A reset has failed or was cancelled, and what it has done is not undone yet: the instance"
                " takes no request until then. The reconcile pass does it; if it cannot, its log says why,"
                f" and `ods instance adopt {instance.id} --database {instance.database_name}` ends it with"
                " the database that is there."
            )
            aside = [it.name for it in seen.databases.values() if it.trash and it.mark == str(instance.mark)]
            if aside:
                words += f" What it had before is in the trash: {', '.join(sorted(aside))}."
            remedy = Remedy(RemedyAction.ADOPT, instance.id, instance.database_name)
            yield Drift(DriftKind.RESET_NOT_ENDED, f"{instance.id} {instance.name}", words, remedy)


def _is_version(owner: Owner | None, version: InstanceVersion, instance: DbInstance) -> bool:
    mark = None if version.database_mark is None else str(version.database_mark)
    return owner is not None and (owner.mark, owner.database_mark) == (str(instance.mark), mark)


def _missing_in_trash(instance: DbInstance, database: Database | None, before: InstanceVersion | None) -> str:
    """What is wrong with an instance in the trash whose database, if there is one, has another name.

    Args:
        instance: the instance.
        database: its own database.
        before: what it had before a reset, and is there.
    """
    if database is None and before is not None:
        return (
            f"It is in the trash, but its database '{instance.trash_database}' does not exist."
            f" {_way_back(instance, before)}"
        )
    if database is None:
        return (
            f"It is in the trash, but its database '{instance.trash_database}' does not exist: it cannot come"
            f" back. `ods instance purge {instance.id}` removes it from the list."
        )
    remedy = _taking_back(instance, database)
    others = (
        " What is in the trash becomes a version of the instance by that."
        if remedy.action is RemedyAction.ADOPT
        else ""
    )
    return (
        f"It is in the trash, but '{database.name}' carries its mark: registry or server was restored to an"
        f" earlier state. Nothing is dropped. `{remedy.command}` brings it back; then delete it again if that"
        f" is meant.{others}"
    )


def _way_back(instance: DbInstance, version: InstanceVersion) -> str:
    """How a database that an instance in the trash had before a reset becomes its own."""
    return (
        f"What it had before a reset is there, and no pass drops it: '{version.database_name}'. To bring that"
        f' back: ALTER DATABASE "{version.database_name}" RENAME TO "{instance.trash_database}"; write the'
        f" comment that `ods drift` tells then; `ods instance undelete {instance.id}`. If nothing is to come"
        f" back, `ods instance purge {instance.id}` drops it, too."
    )


def _remedy_of_missing(
    instance: DbInstance, database: Database | None, before: InstanceVersion | None
) -> Remedy | None:
    """The request that settles it; None if a database must be renamed by hand before."""
    if database is None:
        return Remedy(RemedyAction.PURGE, instance.id) if before is None else None
    return _taking_back(instance, database)


def _changed_in_trash(seen: Snapshot, tenant: str) -> Iterator[Drift]:
    """Databases in the trash that were changed there, so that nothing is done to them by itself."""
    for row in seen.trashed:
        database = seen.databases.get(row.trash_database or "")
        if database is None or row.status not in AT_REST:
            continue
        if (words := _change_in_trash(seen, tenant, row, database)) is not None:
            remedy = _remedy_of_change(seen, row, database)
            yield Drift(DriftKind.TRASH_CHANGED, f"{row.id} {row.name}", words, remedy)


def _remedy_of_change(seen: Snapshot, instance: DbInstance, database: Database) -> Remedy | None:
    """The request that settles it; None if something must be done by hand before."""
    if database.mark != str(instance.mark):
        return None
    if not database.invalid:
        return Remedy(RemedyAction.UNDELETE, instance.id)
    return Remedy(RemedyAction.PURGE, instance.id) if _newest_version(seen, instance) is None else None


def _change_in_trash(seen: Snapshot, tenant: str, instance: DbInstance, database: Database) -> str | None:
    """How a database in the trash was changed, and what the operator can do; None if it was not."""
    name, owner = database.name, database.owner
    back = f"`ods instance undelete {instance.id}` brings it back; then delete it again if that is meant."
    number, attempt = instance.publication
    its = Owner(
        *(tenant, instance.ods_instance_id, "adopted", str(instance.mark), number, attempt),
        installation=seen.installation,
        trashed_name=instance.database_name,
        database_mark=_database_mark(instance),
    ).knowing(instance.known_requests)
    if owner is None or not its.owns(owner.comment):
        comment = its.comment.replace("'", "''")
        return (
            f"Its database '{name}' in the trash does not carry the mark of the instance: the comment was"
            " changed by hand. It is neither dropped nor brought back. If it is the instance's, write the"
            f" comment again: COMMENT ON DATABASE \"{name}\" IS '{comment}'. If it is not, rename it."
        )
    if database.invalid:
        words = f"A DROP of its database '{name}' in the trash was interrupted: it cannot come back."
        if (before := _newest_version(seen, instance)) is not None:
            return f'{words} Drop it: DROP DATABASE "{name}". {_way_back(instance, before)}'
        return f"{words} `ods instance purge {instance.id}` removes it."
    if (contradiction := _contradiction(name, owner, its)) is not None:
        return f"{contradiction} {_KEPT} {back}"
    if database.open and database.opened_by is None:  # what a job has left open, the pass closes
        return (
            f"Its database '{name}' in the trash was opened, and may be in use. {_KEPT} Close it (ALTER"
            f' DATABASE "{name}" ALLOW_CONNECTIONS false); or {back}'
        )
    return None


def _contradiction(name: str, owner: Owner, its: KnownOwner) -> str | None:
    """What the comment of a database in the trash says against its instance's row; None if nothing."""
    if owner.trashed_name is None:
        return f"The comment of its database '{name}' does not say that it is in the trash."
    if owner.put_back:
        return (
            f"Its database '{name}' was put back into the trash by an undelete that had opened it and did not"
            " end: if the registry was restored to an earlier state, it may have been used since."
        )
    if owner.is_unknown_to(its):
        return (
            f"Its database '{name}' was moved to the trash later than the registry knows, which was restored"
            " to an earlier state."
        )
    return None


_KEPT = "It is not dropped."


def _unknown_trash(database: Database, *, is_known: bool) -> str:
    """What to do with a database in the trash that no instance in the trash has."""
    owner = database.owner
    if owner is None:
        return "It has a name of the trash, but no mark. Nothing is done to it; rename it, or drop it."
    if is_known:
        return f"It is in the trash, but its instance was purged. It is never dropped. {KNOWN_BY_REGISTRY}"
    return (
        "No instance in the trash has this database: the registry was restored to an earlier state, or"
        f" lost rows. It is never dropped. {out_of_trash_by_hand(database.name, owner)} If it is of no use,"
        " drop it by hand."
    )


KNOWN_BY_REGISTRY = (
    "The registry knows its instance, under another id, or as deleted. If it is in the trash (`ods trash`),"
    " undelete it; if it is deleted, drop the database, or remove its comment (COMMENT ON DATABASE … IS"
    " NULL)."
)
"""Why a database cannot be adopted, although its comment names its instance, and what to do about it."""


def out_of_trash_by_hand(database: str, owner: Owner) -> str:
    """How the operator brings back a database in the trash whose instance the registry does not know."""
    name = owner.trashed_name or "EdFi_Ods_NAME_TEMPLATE"
    return (
        f'To bring it back: ALTER DATABASE "{database}" RENAME TO "{name}"; ALTER DATABASE "{name}"'
        f" ALLOW_CONNECTIONS true; then `ods instance adopt {owner.ods_instance_id} --database {name}`."
    )


def _fault(database: Database | None, instance: DbInstance) -> str | None:
    """What is wrong with the database that has the name of the instance's; None if nothing is."""
    if database is None:
        return "does not exist"
    if database.mark != str(instance.mark):
        return "does not carry the instance's mark"
    if database.invalid:
        return "cannot be used: a DROP of it was interrupted. Restore it, or delete the instance"
    if not database.open:
        return "accepts no connections (ALTER DATABASE … ALLOW_CONNECTIONS true)"
    return _other_database(database, instance)


def _adoption_of(database: Database, instance: DbInstance) -> Remedy | None:
    """The request that makes the database the instance's; None if that is no question of its comment."""
    is_whole = database.open and not database.invalid and instance.replacement is None
    return Remedy(RemedyAction.ADOPT, instance.id) if is_whole else None


def _other_database(database: Database, instance: DbInstance) -> str | None:
    """What is wrong if it is one that the instance had before a reset, or was to get by one."""
    if database.owner is None or database.owner.database_mark == _database_mark(instance):
        return None
    if instance.replacement is not None:
        return "is the one of a reset that was interrupted: the reconcile pass will record it"
    return f"is another one of the instance (`ods instance adopt {instance.id}` makes it the one)"


def _database_mark(instance: DbInstance) -> str | None:
    """The mark of the instance's database alone, as comments have it."""
    return None if instance.database_mark is None else str(instance.database_mark)


def _is_usable(instance: DbInstance) -> bool:
    """Whether the instance must have its database and its ODS instance now."""
    return is_usable(InstanceStatus(instance.status), Operation(instance.operation))


def _unexpected_databases(seen: Snapshot, tenant: str, expected: Collection[str]) -> Iterator[Drift]:
    live_names = {row.database_name for row in seen.instances if not _was_not_created(row)}
    live_marks = {str(row.mark) for row in seen.instances}
    for database in seen.databases.values():
        if database.mark in live_marks or database.template or database.name in expected:
            continue
        if database.spare:
            continue  # those that are of no use are removed by the refill, and shown with the others
        if database.trash:
            continue  # see `_unlisted_in_trash`
        if database.snapshot is not None:
            continue  # see `_snapshots_without`
        if _belongs_elsewhere(database, seen, tenant):
            continue
        if database.invalid:
            words = "A DROP of this database was interrupted; all that can be done with it is to drop it."
            yield Drift(DriftKind.INVALID_DATABASE, database.name, words)
        # An unpublished database of an unknown instance is another registry's clone, at work.
        elif database.mark in seen.known_marks or (
            not database.staging and _looks_like_ods(database) and database.name not in live_names
        ):
            words = "No live instance has this database."
            yield Drift(DriftKind.DATABASE_WITHOUT_INSTANCE, database.name, words)


def _was_not_created(instance: DbInstance) -> bool:
    """Whether its create has failed: a database of its name that is not its own is in its way."""
    return instance.status == InstanceStatus.ERROR and instance.published_at is None


def _belongs_elsewhere(database: Database, seen: Snapshot, tenant: str) -> bool:
    """Whether the database belongs to another tenant or installation."""
    owner = database.owner
    if owner is None or database.mark in seen.known_marks:
        return False
    return owner.tenant != tenant or owner.installation not in {None, seen.installation}


def _looks_like_ods(database: Database) -> bool:
    return database.mark is not None or database.name.lower().startswith(f"{DATABASE_PREFIX}_".lower())


def _wrong_templates(seen: Snapshot, templates: Collection[str]) -> Iterator[Drift]:
    for name in templates:
        template = seen.databases.get(name)
        if template is None:
            words = "This template does not exist; instances cannot be created from it."
            yield Drift(DriftKind.TEMPLATE_MISSING, name, words)
        elif template.open:
            words = (
                "Sessions on this template hold up every create; ALTER DATABASE … ALLOW_CONNECTIONS false."
            )
            yield Drift(DriftKind.TEMPLATE_OPEN, name, words)
