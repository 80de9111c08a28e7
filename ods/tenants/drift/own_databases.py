"""Which of an instance's databases it had last, and which is one too many.

Also what the server has and the registry does not know, because it was restored to an earlier state.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from datetime import datetime

from ods.databases.errors import HOW_TO_RECOVER
from ods.databases.inspection.listing import Database, published_last
from ods.databases.ownership import Owner
from ods.registry.instances.jobs import StartedJob
from ods.registry.storage.models import DbInstance
from ods.tenants.drift.findings import RECOVER, Drift, DriftKind
from ods.tenants.drift.snapshot import Snapshot, expected_beside, published_later

_NAMED_AT_MOST = 200


def of_instance(databases: Iterable[Database], owner: Owner | None) -> list[Database]:
    """The databases that the owner's instance has or had; not one for a reset, nor a half dropped one."""
    its = (one for one in databases if owner and one.owner and owner.shares_instance(one.owner))
    return [one for one in its if not one.reset and not one.invalid]


def is_earlier(seen: Snapshot, database: Database) -> bool:
    """Whether another database of the instance was certainly published later."""
    last = published_last(of_instance(seen.databases.values(), database.owner))
    return last is not None and last is not database


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
            " tell which one is the instance's. When their comments were written:"
            f" {listed([seen.databases[name] for name in several])}. {HOW_TO_RECOVER} After that, remove"
            " the comment of a copy that is left (COMMENT ON DATABASE … IS NULL)."
        )
        yield Drift(DriftKind.TWO_DATABASES_WITH_ONE_MARK, ", ".join(sorted(several)), words, RECOVER)


def _name_of(instance: DbInstance | None) -> str | None:
    """What the registry calls the instance's database, which may be in the trash."""
    if instance is None:
        return None
    return instance.database.trash_name if instance.is_in_trash else instance.database_name


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
