"""Which of an instance's databases it had last, and which request gives it that."""

from collections.abc import Collection, Iterable
from datetime import datetime

from ods.databases.inspection import Database, published_last
from ods.databases.ownership import Owner
from ods.registry.storage.models import DbInstance
from ods.tenants.drift.findings import Remedy, RemedyAction
from ods.tenants.drift.snapshot import Snapshot


def of_instance(databases: Iterable[Database], owner: Owner | None) -> list[Database]:
    """What the owner's instance has and had: not what a reset was to give it, nor what is half dropped."""
    its = (one for one in databases if owner and one.owner and owner.shares_instance(one.owner))
    return [one for one in its if not one.reset and not one.invalid]


def taking_back(instance: DbInstance, database: Database) -> Remedy:
    """The request that takes an instance in the trash back with this database, whichever it has by that."""
    is_known = _mark_of(database) == instance.database_mark_text
    if is_known and (database.trash or database.name == instance.database_name):
        return Remedy(RemedyAction.UNDELETE, instance.id)
    return Remedy(RemedyAction.ADOPT, instance.id, database.name)


def _mark_of(database: Database) -> str | None:
    """The mark of the database alone; None also if it has no owner."""
    return None if database.owner is None else database.owner.database_mark


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
    """What the operator does who must find out which of several databases is the instance's."""
    return (
        f"Which was in use last, the comments do not tell: {listed(several)}. Look at their data, and remove"
        " the comment of a copy (COMMENT ON DATABASE … IS NULL). `ods instance adopt"
        f" {instance.id} --database NAME --earlier` hands over the one that you choose; closed ones in the"
        " trash are versions of the instance then."
    )


def put_in_place_by_registry(seen: Snapshot, instance: DbInstance) -> str | None:
    """The database that a reset has given the instance by the registry, but not on the server.

    It has its private name there, since the server was put back to before the exchange.
    """
    for one in seen.databases.values():
        is_its = one.owner is not None and one.mark == str(instance.mark)
        if is_its and one.reset and not one.invalid and _mark_of(one) == instance.database_mark_text:
            return one.name
    return None


def not_exchanged(instance: DbInstance, waiting: str) -> str:
    """What the operator does if a reset is done by the registry, but not on the server.

    Args:
        instance: the instance, whose former database has its name on the server.
        waiting: the database that the reset has given it by the registry, under its private name.
    """
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
    """The private name of what was to become the database that the instance has by the registry."""
    for one in seen.databases.values():
        is_its = one.staging and not one.invalid and one.mark == str(instance.mark)
        if is_its and instance.published_at is not None:
            return one.name
    return None


def what_was_to_become_it(unpublished: str) -> str:
    """What a database under a private name is, whose instance has had one by the registry."""
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
