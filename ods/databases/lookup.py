"""Finding the database of an instance, why nothing is done to one, and what is left where it is lost.

A database is the instance's if two sides agree: the registry has its name, and the database carries the
instance's mark.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

import asyncpg

from ods.databases.constants import DIVISION_BY_ZERO, INVALID_CONNECTION_LIMIT
from ods.databases.errors import (
    HOW_TO_RECOVER,
    DatabaseFaultError,
    DisagreementError,
    NotOursError,
)
from ods.databases.ownership import KnownOwner, Owner, trashed_at
from ods.databases.statements import fetch_rows
from ods.model.revisions import RevisionState, Role
from ods.registry.instances.naming import is_reset_name

_LONG_AGO = datetime.min.replace(tzinfo=UTC)
"""Instead of a time that a comment lacks."""
_IS_LEFT = "The instance's database {}, but what it had before a reset is there, as '{}'."


@dataclass(frozen=True)
class FoundDatabase:
    """A database of the server, as it was found.

    Attributes:
        is_invalid: whether a DROP of it was interrupted: then it can only be dropped.
        state: differs once the row of `pg_database` was changed, as by a rename; not after an interrupted
            DROP, which writes `datconnlimit` in place.
    """

    name: str
    comment: str | None
    is_open: bool
    is_invalid: bool
    oid: str
    state: str

    @cached_property
    def marked(self) -> Owner | None:
        """What its comment says; None if that is none of ours."""
        return Owner.read(self.comment)

    @property
    def role(self) -> Role | None:
        """Its role by its comment; None if that is none of ours."""
        return None if self.marked is None else self.marked.role

    def is_of(self, owner: Owner) -> bool:
        """Whether its comment names the owner's instance, as this database of it or another."""
        return self.marked is not None and owner.shares_instance(self.marked)

    def is_unknown_to(self, owner: KnownOwner) -> bool:
        """Whether its comment is one of ours, with a revision that the registry does not know."""
        return self.marked is not None and self.marked.is_unknown_to(owner)


DatabaseRows = Mapping[str, FoundDatabase]
"""Databases of the server, by name."""

# The oldest first: a restored dump may carry the comment of the database that was dumped.
# Names are of the type `name`, which refuses what PostgreSQL would cut.
_FIND = """
SELECT datname AS name, description AS comment, datallowconn AS is_open, datconnlimit = $3 AS is_invalid,
       oid::text AS oid, oid || ' ' || pg_database.xmin AS state
FROM pg_database
LEFT JOIN pg_shdescription ON objoid = oid AND classoid = 'pg_database'::regclass
WHERE datname = ANY($1::name[]) OR position($2 IN description) > 0
ORDER BY pg_database.oid
"""


async def find(session: asyncpg.Connection, owner: Owner, *names: str) -> DatabaseRows:
    """The databases with these names, and all that carry the mark of the owner's instance."""
    rows = await fetch_rows(session, _FIND, names, owner.mark, INVALID_CONNECTION_LIMIT)
    return {row["name"]: FoundDatabase(**row) for row in rows}


def choose(found: DatabaseRows, owner: Owner, names: list[str]) -> str | None:
    """Which of `names` is the instance's database, the first one first; None if it has none.

    Others that carry the mark as well, such as a copy that was set aside, are left alone. But if another
    database of the instance has one of the names, no later name counts: what has that may be in the trash
    since a reset, of which the registry does not know.
    """
    for name in names:
        if name not in found:
            continue
        if owner.owns(found[name].comment):
            return name
        if found[name].is_of(owner):
            raise refusal(found[name], owner)
    for name, row in found.items():
        if name not in names and owner.owns(row.comment):
            raise DisagreementError(
                name,
                f"The registry calls the instance's database '{names[0]}', but '{name}' carries its mark."
                f" Nothing was done to it. {HOW_TO_RECOVER} Then request it again.",
            )
    return None


def refusal(
    row: FoundDatabase, owner: Owner, then: str = " Then request it again.", *, registered: bool = False
) -> DatabaseFaultError:
    """Why no job may touch this database: it is not the one that the instance has by the registry.

    If it is another one of the instance, it may be the only one that has its data.

    Args:
        then: what to do after a recovery.
        registered: whether the registry has its name for the instance's own.
    """
    name = row.name
    if not row.is_of(owner):
        return NotOursError(name, registered_for=owner.ods_instance_id if registered else None)
    if row.is_invalid:
        return DisagreementError(
            name,
            f"A DROP of the database '{name}' of this instance was interrupted. Nothing else can be done with"
            f' it: DROP DATABASE "{name}".{then}',
        )
    return DisagreementError(
        name,
        f"The database '{name}' carries the mark of this instance, but is not the one that it has by the"
        " registry: registry or server was restored to before a reset or its undo, or the comment was changed"
        f" by hand. Nothing was done to it. {HOW_TO_RECOVER}{then}",
    )


def require_known(row: FoundDatabase, owner: KnownOwner) -> None:
    """Check that the registry knows the revision of a database that a job is about to change."""
    if row.is_unknown_to(owner):
        raise DisagreementError(
            row.name,
            f"The database '{row.name}' was published, or put into the trash, later than the registry knows:"
            f" it was restored to an earlier state. Nothing was done. {HOW_TO_RECOVER}",
        )


def elsewhere(database: str, trash: str) -> DisagreementError:
    """Why nothing is done: not the database in the trash carries the mark, but another one."""
    return DisagreementError(
        database,
        f"The registry has the instance's database in the trash, as '{trash}', but '{database}' carries its"
        " mark. Nothing was done to it. `ods drift` tells how it comes back.",
    )


def half_dropped(trash: str) -> DisagreementError:
    """Why a database in the trash can no longer be backed up."""
    return DisagreementError(
        trash,
        f"A DROP of the database '{trash}' was interrupted: it cannot be backed up any more. If nothing of it"
        f' is wanted, remove it by hand (DROP DATABASE "{trash}"), then retry.',
    )


def require_one_carrier(found: DatabaseRows, owner: Owner, database: str) -> None:
    """Check that no other database carries the mark of the instance's own; a half-dropped one may."""
    for name, row in found.items():
        if name != database and owner.owns(row.comment) and not row.is_invalid:
            raise two_carriers(database, name)


def two_carriers(database: str, other: str) -> DisagreementError:
    """Why nothing is done to two databases that carry the mark of an instance's own."""
    return DisagreementError(
        other,
        f"Both '{database}' and '{other}' carry the mark of this instance. Nothing was done to either. Remove"
        " the comment of the one that is not the instance's (COMMENT ON DATABASE … IS NULL), then try again.",
    )


def changed_meanwhile(database: str) -> DatabaseFaultError:
    """Why nothing was done: the name belongs to another database than the one that was found."""
    return DatabaseFaultError(
        f"Another session has changed which database is named '{database}' meanwhile. Nothing was done.",
        retryable=True,
        sqlstate=DIVISION_BY_ZERO,
    )


def require_no_other(found: DatabaseRows, owner: Owner) -> None:
    """Check that an instance without its own database has no other one in use.

    A registry that was restored to before a reset does not know the database that the instance has.
    """
    for row in _others_in_use(found, owner):
        raise refusal(row, owner)


def require_none_since(found: DatabaseRows, owner: KnownOwner, own: Owner) -> None:
    """Check that the instance has got no other database since its `own` one was put into the trash.

    If registry and own database agree, another one is from before if the registry knows that it is not in
    use any more, whatever its comment says. A job that has put another one in its place may not be recorded.
    """
    for row in _others_in_use(found, owner):
        is_from_before = row.marked is not None and owner.state_of(row.marked) is RevisionState.VOID
        if not (own.agrees_with(owner) and is_from_before):
            raise refusal(row, owner)


def _others_in_use(found: DatabaseRows, owner: Owner) -> list[FoundDatabase]:
    """The other databases of the instance that are in use by their comments, and not half dropped.

    What resets have replaced is in the trash; what they are about to put in its place has a private name.
    """
    others = [row for row in found.values() if row.is_of(owner) and not owner.owns(row.comment)]
    return [
        row
        for row in others
        if row.role is not Role.RETAINED and not is_reset_name(row.name) and not row.is_invalid
    ]


async def find_own(session: asyncpg.Connection, owner: Owner) -> list[FoundDatabase]:
    """The databases that carry the mark of the instance's own, under whatever names."""
    return [row for row in (await find(session, owner)).values() if owner.owns(row.comment)]


async def revisions_of(session: asyncpg.Connection, owner: Owner) -> set[str]:
    """The revisions that the databases of the instance have, without those of an id that two carry."""
    its: dict[str, list[str | None]] = defaultdict(list)
    for row in (await find(session, owner)).values():
        if row.marked and row.is_of(owner):
            its[row.marked.database_id].append(row.marked.revision)
    return {one[0] for one in its.values() if len(one) == 1 and one[0] is not None}


async def has_database(session: asyncpg.Connection, owner: Owner) -> bool:
    """Whether the instance has its own database, under whatever name, and not half dropped."""
    return any(not row.is_invalid for row in await find_own(session, owner))


async def has_current(session: asyncpg.Connection, owner: KnownOwner, database: str) -> bool:
    """Whether the database of that name is the one that the instance has by the registry, and can be used.

    Not if another one carries its mark as well, or its revision is not the registry's.
    """
    match [row for row in await find_own(session, owner) if not row.is_invalid]:
        case [row]:
            is_current = row.name == database and row.role is Role.CURRENT and row.is_open
            return is_current and row.marked is not None and row.marked.agrees_with(owner)
        case _:
            return False


async def published_as(session: asyncpg.Connection, owner: Owner, database: str) -> Owner | None:
    """What the comment of the instance's database of that name says; None if it has none that is usable."""
    found = (await find(session, owner, database)).get(database)
    is_usable = found is not None and found.is_open and not found.is_invalid
    return found.marked if found and is_usable and owner.owns(found.comment) else None


def require_usable(found: FoundDatabase) -> None:
    """Refuse a published database that is closed, or whose DROP was interrupted."""
    name = found.name
    if found.is_invalid:
        raise DisagreementError(
            name,
            f"A DROP of the instance's database '{name}' was interrupted, so it cannot be used."
            " `ods drift` tells whether another one has its data.",
        )
    if not found.is_open:
        raise DisagreementError(
            name,
            f"The instance's database '{name}' is there, but accepts no connections. Open it (ALTER DATABASE"
            f' "{name}" ALLOW_CONNECTIONS true), then retry.',
        )


def version_in(found: DatabaseRows, owner: Owner) -> str | None:
    """The name of what the instance had before its last reset, which is retained; None if there is nothing.

    Times in the comments say which is the last: a restored registry gives numbers of jobs again.
    """
    its = {
        name: (trashed_at(row.comment) or _LONG_AGO, row.marked.number)
        for name, row in found.items()
        if row.role is Role.RETAINED and not row.is_invalid and row.marked and row.is_of(owner)
    }
    return max(its, key=its.__getitem__, default=None)


def what_is_left(found: DatabaseRows, owner: Owner) -> str | None:
    """In words, what else may have the data of an instance that has lost its own database; None: nothing."""
    version = version_in(found, owner)
    if owner.staging_name in found:
        words = f"what was to become it, before it was published, is there as '{owner.staging_name}'"
    elif version is not None:
        words = f"what the instance had before a reset is there, as '{version}'"
    else:
        return None
    return f"{words}. `ods drift` tells how that comes back. A purge of the instance would drop it as well."


def require_no_staging(found: DatabaseRows, owner: Owner) -> None:
    """Refuse a delete that keeps nothing while the instance's unpublished database is there."""
    if (staging := owner.staging_name) in found:
        raise DisagreementError(
            staging,
            f"The instance's database does not exist, but what was to become it is there, as '{staging}': the"
            " server was put back to before that was published. Nothing was done. `ods drift` tells how it"
            " comes back; or drop it as well: DELETE with ?purge=true, or `ods instance purge ID --live`.",
        )


def require_no_version(found: DatabaseRows, owner: Owner, half_dropped: str | None = None) -> None:
    """Refuse a delete that keeps nothing while there is what the instance had before a reset.

    Args:
        half_dropped: its own database, if a DROP has begun to remove that; None: there is none.
    """
    if (name := version_in(found, owner)) is not None:
        state, drop = "does not exist", ""
        if half_dropped is not None:
            state, drop = f"'{half_dropped}' is half dropped", f'DROP DATABASE "{half_dropped}" by hand, '
        raise DisagreementError(
            name,
            f"{_IS_LEFT.format(state, name)} Nothing was done. To keep that, {drop}give it back to"
            f" the instance (`ods recover --apply --choose {name}`), then request the delete again; or drop"
            " all that is left: DELETE with ?purge=true, or `ods instance purge ID --live`.",
        )


async def require_no_version_in_trash(session: asyncpg.Connection, owner: Owner) -> None:
    """Refuse a purge with a backup of a lost database while there is what the instance had before a reset."""
    if (name := version_in(await find(session, owner), owner)) is not None:
        raise DisagreementError(
            name,
            f"{_IS_LEFT.format('does not exist', name)} No backup can be made of it, and nothing was dropped."
            " `ods drift` tells how it comes back; or, unless ODS_FINAL_BACKUP is true, drop it as well:"
            " purge the instance without a backup.",
        )
