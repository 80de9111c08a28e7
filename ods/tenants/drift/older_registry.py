"""What the server has, and the registry does not know, because it was restored to an earlier state."""

from collections.abc import Collection, Iterator, Sequence

from ods.databases.inspection import Database
from ods.registry.instances.jobs import StartedJob
from ods.tenants.drift.findings import Drift, DriftKind
from ods.tenants.drift.own_databases import is_earlier, moment, taking_back
from ods.tenants.drift.snapshot import Snapshot, published_later

_NAMED_AT_MOST = 200


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
