"""Databases that carry the mark of an instance beside the one that the registry names."""

from collections import defaultdict
from collections.abc import Collection, Iterator

from ods.databases.inspection import Database, published_last
from ods.registry.storage.models import DbInstance
from ods.tenants.drift.findings import Drift, DriftKind
from ods.tenants.drift.own_databases import listed
from ods.tenants.drift.snapshot import Snapshot, expected_beside


def second_databases(seen: Snapshot, later: Collection[str]) -> Iterator[Drift]:
    """Instances whose mark several databases carry; of those, the registry does not know `later`."""
    names = defaultdict(list)
    expected = expected_beside(seen)
    for database in seen.databases.values():
        if database.name in expected or database.reset:
            continue
        if database.owner is not None and database.mark in seen.known_marks:
            names[database.mark].append(database.name)
    known = {str(row.mark): row for row in (*seen.instances, *seen.trashed)}
    for mark, several in names.items():
        if len(several) > 1:
            its = known.get(mark or "")
            words = (
                "They carry the mark of one instance, whose database the registry calls"
                f" '{_name_of(its)}'. Nothing is done to the others. Keep all until their data tell which one"
                " is the instance's: it may have had another one, such as before an adoption. When their"
                f" comments were written: {listed([seen.databases[name] for name in several])}."
                f" {_copies_among(seen, several, later, its)}"
            )
            if (
                its is not None
                and not its.is_in_trash
                and its.database_name in several
                and any(seen.databases[name].trash for name in several)
            ):
                words += f" {_recording(its)}"
            yield Drift(DriftKind.TWO_DATABASES_WITH_ONE_MARK, ", ".join(sorted(several)), words)


def _name_of(instance: DbInstance | None) -> str | None:
    """What the registry calls the instance's database, which may be in the trash."""
    if instance is None:
        return None
    return instance.trash_database if instance.is_in_trash else instance.database_name


def _copies_among(
    seen: Snapshot, several: Collection[str], later: Collection[str], its: DbInstance | None
) -> str:
    """What to do with copies among these databases, which must not be the data that only one of them has."""
    last = published_last([seen.databases[name] for name in several])
    known = {_name_of(its)} & {*several}
    kept = {name for name in several if name in later or seen.databases[name].trash}
    if last is not None:
        kept.add(last.name)
    elif not known:
        kept.update(several)  # their comments do not tell which is the instance's
    if its is not None:
        kept.update(name for name in several if not _may_be_copy(seen.databases[name], its))
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


def _may_be_copy(database: Database, instance: DbInstance) -> bool:
    """Whether it may be a copy of the instance's own; one that it had before a reset has another mark."""
    return database.owner is not None and database.owner.database_mark == instance.database_mark_text


def _quoted(names: Collection[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names))


def unknown_version(instance: DbInstance) -> str:
    """What to do with what a live instance had before a reset that the registry does not know."""
    return (
        f"It carries the mark of the instance {instance.id} {instance.name}, which has another database: the"
        f" registry was restored to before a reset, or lost rows. It is not dropped. {_recording(instance)}"
    )


def _recording(instance: DbInstance) -> str:
    """The request by which the registry gets to know what the instance had before resets."""
    return (
        f"`ods instance adopt {instance.id} --database {instance.database_name}` confirms the database of the"
        " instance, and records closed ones in the trash as those that it had before resets: they can come"
        f" back (`ods instance undo-reset {instance.id} --database NAME`), and are dropped when their time is"
        " over."
    )
