"""Which of an instance's databases it had last, which request gives it that, and which is one too many.

Also what the server has and the registry does not know, because it was restored to an earlier state.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime

from ods.databases.inspection.listing import Database, published_last
from ods.databases.ownership import Owner
from ods.registry.instances.jobs import StartedJob
from ods.registry.storage.models import DbInstance
from ods.tenants.drift.findings import Drift, DriftKind, Remedy, RemedyAction
from ods.tenants.drift.snapshot import Snapshot, expected_beside, published_later

_NAMED_AT_MOST = 200


def of_instance(databases: Iterable[Database], owner: Owner | None) -> list[Database]:
    """The databases that the owner's instance has or had; not one for a reset, nor a half dropped one."""
    its = (one for one in databases if owner and one.owner and owner.shares_instance(one.owner))
    return [one for one in its if not one.reset and not one.invalid]


def taking_back(instance: DbInstance, database: Database) -> Remedy:
    """The request that takes an instance out of the trash with this database."""
    if _is_current(database, instance) and (database.trash or database.name == instance.database_name):
        return Remedy(RemedyAction.UNDELETE, instance.id)
    return Remedy(RemedyAction.ADOPT, instance.id, database.name)


def _is_current(database: Database, instance: DbInstance) -> bool:
    """Whether it is, by its comment, the database that the instance has by the registry, or a copy of it."""
    return database.owner is not None and database.owner.database_id == str(instance.database_id)


def is_earlier(seen: Snapshot, database: Database) -> bool:
    """Whether another database of the instance was certainly published later."""
    last = published_last(of_instance(seen.databases.values(), database.owner))
    return last is not None and last is not database


def choice_of(
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
    return which_last(instance, several)


def which_last(instance: DbInstance, several: Collection[Database]) -> str:
    """What an operator does to find out which of several databases is the instance's."""
    return (
        f"Which was in use last, the comments do not tell: {listed(several)}. Look at their data, and remove"
        " the comment of a copy (COMMENT ON DATABASE … IS NULL). `ods instance adopt"
        f" {instance.id} --database NAME --earlier` hands over the one that you choose; closed ones in the"
        " trash are versions of the instance then."
    )


def put_in_place_by_registry(seen: Snapshot, instance: DbInstance) -> str | None:
    """The database that a reset has given the instance by the registry, but not on the server.

    It still has its private name: the server was put back to before the exchange.
    """
    for one in seen.databases.values():
        is_its = one.mark == str(instance.mark) and _is_current(one, instance)
        if is_its and one.reset and not one.invalid:
            return one.name
    return None


def not_exchanged(instance: DbInstance, waiting: str) -> str:
    """What the operator does if a reset is done by the registry, but `waiting` has not taken the place."""
    name, then = instance.database_name, f"`ods instance adopt {instance.id}`"
    if instance.is_in_trash:
        then = "`ods drift`, which tells how the instance comes back"
    return (
        f"By the registry, a reset has put '{waiting}' in its place: the server was put back to before that."
        " Neither is dropped; their data tell which one is wanted. To have the instance use"
        f' \'{waiting}\': ALTER DATABASE "{name}" RENAME TO "before_{waiting}"; ALTER DATABASE "{waiting}"'
        f' RENAME TO "{name}"; ALTER DATABASE "{name}" ALLOW_CONNECTIONS true; then {then}. To have it use'
        f" '{name}' as it is: COMMENT ON DATABASE \"{waiting}\" IS NULL; then {then}."
    )


def unpublished_of(seen: Snapshot, instance: DbInstance) -> str | None:
    """The private name of a database that became the instance's by the registry, but not on the server."""
    is_published, mark = instance.is_published, str(instance.mark)
    its = (one for one in seen.databases.values() if one.staging and not one.invalid and one.mark == mark)
    return next((one.name for one in its if is_published), None)


def what_was_to_become_it(unpublished: str) -> str:
    """What such a database under a private name is, and what to do with it."""
    return (
        f"What was to become it is there, perhaps not whole: '{unpublished}'. The server was put back to"
        f' before it was published, and it is not dropped. ALTER DATABASE "{unpublished}" ALLOW_CONNECTIONS'
        " true, and look at its data; drop it if they are not the instance's."
    )


def listed(databases: Collection[Database]) -> str:
    """Databases, and when their comments were written, the latest first."""
    ordered = sorted(databases, key=lambda one: moment(one.published_at), reverse=True)
    return "; ".join(f"'{one.name}' ({moment(one.published_at)})" for one in ordered)


def moment(at: datetime | None) -> str:
    """A time in words, to the second; also one that is not known."""
    return f"{at:%Y-%m-%d %H:%M:%S} UTC" if at else "an unknown time"


def second_databases(seen: Snapshot) -> Iterator[Drift]:
    """Instances whose mark several databases carry."""
    later = {one.name for one in published_later(seen)}
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
        its = known.get(mark or "")
        words = (
            f"They carry the mark of one instance, whose database the registry calls '{_name_of(its)}'."
            " Nothing is done to the others. Keep all until their data tell which one is the instance's: it"
            " may have had another one, such as before an adoption. When their comments were written:"
            f" {listed([seen.databases[name] for name in several])}."
            f" {_copies_among(seen, several, later, its)}"
        )
        is_live = its is not None and not its.is_in_trash and its.database_name in several
        if its is not None and is_live and any(seen.databases[name].trash for name in several):
            words += f" {_recording(its)}"
        yield Drift(DriftKind.TWO_DATABASES_WITH_ONE_MARK, ", ".join(sorted(several)), words)


def _name_of(instance: DbInstance | None) -> str | None:
    """What the registry calls the instance's database, which may be in the trash."""
    if instance is None:
        return None
    return instance.database.trash_name if instance.is_in_trash else instance.database_name


def _copies_among(
    seen: Snapshot, several: Collection[str], later: Collection[str], its: DbInstance | None
) -> str:
    """What to do with copies among these databases; none may be removed that alone has its data."""
    last = published_last([seen.databases[name] for name in several])
    known = {_name_of(its)} & {*several}
    kept = {name for name in several if name in later or seen.databases[name].trash}
    if last is not None:
        kept.add(last.name)
    elif not known:
        kept.update(several)  # their comments do not tell which is the instance's
    if its is not None:
        kept.update(name for name in several if not _is_current(seen.databases[name], its))
    copy = "remove the comment of a copy (COMMENT ON DATABASE … IS NULL)."
    if kept <= known:
        if its is None or its.is_in_trash:
            return f"Then {copy}"
        return (
            f"If it is another one, `ods instance adopt {its.id} --database NAME` hands it over. Then {copy}"
        )
    words = (
        f"Do not drop {_quoted(kept)}, which the instance may have had last, or before a reset: the registry"
        " was restored to an earlier state, or a database was renamed by hand. Hand to the instance what it"
        " had last: `ods instance adopt ID --database NAME`."
    )
    return f"{words} Of {_quoted(others)}, {copy}" if (others := {*several} - kept - known) else words


def _quoted(names: Collection[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names))


def unknown_version(instance: DbInstance) -> str:
    """What to do with a live instance's database from before a reset that the registry does not know."""
    return (
        f"It carries the mark of the instance {instance.id} {instance.name}, which has another database: the"
        f" registry was restored to before a reset, or lost rows. It is not dropped. {_recording(instance)}"
    )


def _recording(instance: DbInstance) -> str:
    """The request that has the registry record what the instance had before resets."""
    return (
        f"`ods instance adopt {instance.id} --database {instance.database_name}` confirms the database of the"
        " instance, and records closed ones in the trash as those that it had before resets: they can come"
        f" back (`ods instance undo-reset {instance.id} --database NAME`), and are dropped when their time is"
        " over."
    )


def older_than_server(seen: Snapshot) -> Iterator[Drift]:
    """That the registry does not know databases, or jobs that Temporal has; one finding for all."""
    later, jobs = published_later(seen), _started_later(seen)
    if not (later or jobs):
        return
    times = [database.published_at for database in later if database.published_at is not None]
    times += [job.at for job in jobs]
    first, last = moment(min(times, default=None)), moment(max(times, default=None))
    yield Drift(
        DriftKind.REGISTRY_OLDER_THAN_SERVER,
        f"{len(later)} databases, {len(jobs)} jobs",
        f"Databases were published, and jobs started, between {first} and {last}, of which the registry knows"
        f" nothing: it was restored to an earlier state, or lost rows; it was last changed at"
        f" {moment(seen.last_change)}. {_handing_back(seen, later)}",
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


def _handing_back(seen: Snapshot, later: Collection[Database]) -> str:
    """What the operator can do about databases that the registry does not know."""
    if not later:
        return "No database is without its instance. This is told until Temporal forgets the jobs."
    in_trash = {str(row.mark): row for row in seen.trashed}
    replaced = [database for database in later if database.trash and is_earlier(seen, database)]
    handed = [
        f"'{database.name}' (OdsInstanceId {database.owner and database.owner.ods_instance_id})"
        for database in later
        if database.mark not in in_trash and database not in replaced
    ]
    back = [
        f"`{taking_back(in_trash[database.mark], database).command}` brings back '{database.name}'"
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


def _first(named: Sequence[str]) -> str:
    """The first of these, and how many more there are."""
    unnamed = len(named) - _NAMED_AT_MOST
    return f"{'; '.join(named[:_NAMED_AT_MOST])}{f'; and {unnamed} more' if unnamed > 0 else ''}"
