"""Finding the database of an instance.

A database is the instance's if two sides say so: the registry, which has its name, and the database, which
carries the instance's mark. Where they disagree, nothing is done to it.
"""

from collections.abc import Mapping
from datetime import UTC, datetime

import asyncpg

from ods.databases.constants import DIVISION_BY_ZERO, INVALID_CONNECTION_LIMIT
from ods.databases.errors import DatabaseFaultError, DisagreementError, NotOursError
from ods.databases.ownership import Owner, trashed_at
from ods.databases.statements import fetch_rows
from ods.registry.instances.naming import is_reset_name, is_trash_name

DatabaseRows = Mapping[str, asyncpg.Record]
"""Databases of the server, by name: `datname`, `comment`, `datallowconn`, `datconnlimit`, and `state`.

The state is another one if the row of `pg_database` was changed, as by a rename; not by a DROP that was
interrupted, which writes `datconnlimit` in place.
"""

# The oldest first: a restored dump may carry the comment of the database that it was taken of.
# Names are of the type `name`, which refuses what PostgreSQL would cut.
_FIND = """
SELECT datname, description AS comment, datallowconn, datconnlimit, oid || ' ' || pg_database.xmin AS state
FROM pg_database
LEFT JOIN pg_shdescription ON objoid = oid AND classoid = 'pg_database'::regclass
WHERE datname = ANY($1::name[]) OR position($2 IN description) > 0
ORDER BY oid
"""

_LONG_AGO = datetime.min.replace(tzinfo=UTC)
"""Instead of the time that a comment does not tell."""


async def find(session: asyncpg.Connection, owner: Owner, *names: str) -> DatabaseRows:
    """The databases with these names, and all that carry the mark of the owner's instance.

    Raises:
        DatabaseFaultError: the server is away, …
    """
    rows = await fetch_rows(session, _FIND, names, owner.mark)
    return {row["datname"]: row for row in rows}


def choose(found: DatabaseRows, owner: Owner, names: list[str]) -> str | None:
    """Which of `names` is the instance's database; None if it has none.

    The registry's name for it decides. Others that carry the mark as well, such as a copy that was set aside,
    are left alone.

    Raises:
        DisagreementError: only databases of other names carry the mark, or one of these names is another
            database of the instance.
    """
    for name in names:
        if name in found and owner.owns(found[name]["comment"]):
            return name
    for name in names:
        if name in found and shares_instance(found[name], owner):
            raise refusal(found[name], owner)
    for name, row in found.items():
        if name not in names and owner.owns(row["comment"]):
            raise DisagreementError(
                name,
                f"The registry calls the instance's database '{names[0]}', but '{name}' carries its mark."
                f" Nothing was done to it. {handing_back(owner, name)} Then retry.",
            )
    return None


def handing_back(owner: Owner, name: str) -> str:
    """How the owner's instance gets its database of this name, which the registry calls otherwise."""
    return (
        "Give it the name that the registry has, or hand it to the instance: `ods instance adopt"
        f" {owner.ods_instance_id} --database {name}`."
    )


def refusal(
    row: asyncpg.Record, owner: Owner, then: str = ", then retry", *, registered: bool = False
) -> DatabaseFaultError:
    """Why no job may touch this database: it is not the one that the instance has by the registry.

    It may be another one of the instance, and the only one that has its data: then it must not be removed.

    Args:
        row: the database.
        owner: the instance.
        then: what to do when that database was adopted.
        registered: whether the instance's has that name by the registry.
    """
    name = row["datname"]
    if not shares_instance(row, owner):
        return NotOursError(name, registered_for=owner.ods_instance_id if registered else None)
    return DisagreementError(
        name,
        f"The database '{name}' carries the mark of this instance, but is not the one that it has by the"
        " registry: registry or server was restored to before a reset or its undo, or a worker of an earlier"
        " release has written the comment. Nothing was done to it. `ods instance adopt"
        f" {owner.ods_instance_id} --database {name}` makes it the instance's database{then}.",
    )


def is_invalid(row: asyncpg.Record) -> bool:
    """Whether a DROP of the database was interrupted: then it can only be dropped."""
    return bool(row["datconnlimit"] == INVALID_CONNECTION_LIMIT)


def oid_of(row: asyncpg.Record) -> str:
    """The OID of a database that was found: another database of its name has another one."""
    return str(row["state"].split()[0])


def still_the_same(name: str, oid: str) -> str:
    """The statement that undoes those before it in its message if another database has the name.

    By a division by zero.
    After one that has changed the database, or its name, no other session can give the name to another one.

    Args:
        name: the name, as a literal of `format`.
        oid: the OID of the database that was found, likewise.
    """
    return f"SELECT 1 / count(*) FROM pg_database WHERE datname = {name} AND oid = {oid}::oid"  # noqa: S608 - literals


def changed_meanwhile(database: str) -> DatabaseFaultError:
    """Why nothing was done to the database of this name: it is not the one that was found any more."""
    return DatabaseFaultError(
        f"Another session has changed which database is named '{database}' meanwhile. Nothing was done.",
        retryable=True,
        sqlstate=DIVISION_BY_ZERO,
    )


def require_no_other(found: DatabaseRows, owner: Owner) -> None:
    """Check that no database in use is one of the instance, before it passes for one that has none.

    A registry that was restored to before a reset does not know the mark of the database that the instance
    has. What resets have replaced is in the trash; what they are about to give it has a private name.

    Raises:
        DisagreementError: there is such a database.
    """
    for name, row in found.items():
        marked = Owner.read(row["comment"])
        if (
            marked
            and owner.shares_instance(marked)
            and marked.trashed_name is None
            and not is_reset_name(name)
        ):
            raise refusal(row, owner)


def shares_instance(row: asyncpg.Record, owner: Owner) -> bool:
    """Whether the comment of a database names the owner's instance, be it this database of it or another."""
    other = Owner.read(row["comment"])
    return other is not None and owner.shares_instance(other)


def version_in(found: DatabaseRows, owner: Owner) -> str | None:
    """The name in the trash of what the instance had before its last reset; None if there is nothing.

    The last one by the times of the comments: a registry that was restored gives numbers of jobs again.
    """
    its = {
        name: (trashed_at(row["comment"]) or _LONG_AGO, marked.publication)
        for name, row in found.items()
        if is_trash_name(name)
        and not is_invalid(row)
        and (marked := Owner.read(row["comment"]))
        and owner.shares_instance(marked)
    }
    return max(its, key=its.__getitem__, default=None)


async def find_own(session: asyncpg.Connection, owner: Owner) -> list[asyncpg.Record]:
    """The databases that carry the mark of the instance's own, whatever their names and states.

    Raises:
        DatabaseFaultError: the server is away, …
    """
    return [row for row in (await find(session, owner)).values() if owner.owns(row["comment"])]


async def has_database(session: asyncpg.Connection, owner: Owner) -> bool:
    """Whether the instance has its own database, under whatever name: not if a DROP of it was interrupted.

    Raises:
        DatabaseFaultError: the server is away, …
    """
    own = await find_own(session, owner)
    return any(not is_invalid(row) for row in own)


async def published_by(session: asyncpg.Connection, owner: Owner, database: str) -> Owner | None:
    """The attempt that published the instance's database of that name; None if it has none that is usable.

    Raises:
        DatabaseFaultError: the server is away, …
    """
    found = (await find(session, owner, database)).get(database)
    if found is None or not owner.owns(found["comment"]) or not _is_usable(found):
        return None
    return Owner.read(found["comment"])


def require_usable(found: asyncpg.Record) -> None:
    """Refuse a published database that is closed, or whose DROP was interrupted.

    Raises:
        DisagreementError: it is one of these.
    """
    name = found["datname"]
    if is_invalid(found):
        raise DisagreementError(
            name,
            f"A DROP of the instance's database '{name}' was interrupted, so it cannot be used."
            " `ods drift` tells whether another one has its data.",
        )
    if not found["datallowconn"]:
        raise DisagreementError(
            name,
            f"The instance's database '{name}' is there, but accepts no connections. Open it (ALTER DATABASE"
            f' "{name}" ALLOW_CONNECTIONS true), then retry.',
        )


def _is_usable(found: asyncpg.Record) -> bool:
    return bool(found["datallowconn"]) and not is_invalid(found)
