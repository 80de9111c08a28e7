"""Names that renames have taken from databases: no other instance on the server gets them for a while.

The ODS/API may have a connection string with such a name in its cache: if another instance got the name too
soon, clients of the renamed one would write into its database. The registry reserves such names for the
instances of one tenant (`ods.registry.instances.reservations`), the comment of the renamed database for all
tenants and installations of its server.
"""

import json
from datetime import datetime, timedelta

import asyncpg

from ods.databases.changing import MARK, change
from ods.databases.errors import FormerNameTakenError, NameLeftError
from ods.databases.lookup import find_own
from ods.databases.ownership import LeftName, Owner, with_left
from ods.databases.statements import fetch_rows, server_clock
from ods.registry.ods_api_cache import CACHED, in_minutes

_IS_NAMED = """
classoid = 'pg_database'::regclass AND position({name}::text IN description) > 0
    AND position({mark}::text IN description) = 0
"""
"""Comments that contain a name, as JSON has it, and not a mark: `Owner` parses them."""
# Fails by a division by zero.
_NO_OTHERS = f"""
SELECT 1 / (1 - least(count(*), 1)) FROM pg_shdescription
WHERE {_IS_NAMED.format(name="%1$L", mark="%2$L")} AND objoid || ' ' || xmin <> ALL (%3$L::text[])
"""  # noqa: S608 - literals
_READ = f"""
SELECT format($3, $1::text, $2::text, coalesce(array_agg(objoid || ' ' || about.xmin), '{{}}')) AS no_others,
    coalesce(array_agg(datname::text), '{{}}') AS databases,
    coalesce(array_agg(description), '{{}}') AS comments, clock_timestamp() AS now
FROM pg_shdescription AS about JOIN pg_database ON pg_database.oid = objoid
WHERE {_IS_NAMED.format(name="$1", mark="$2")}
"""  # noqa: S608 - constants

_NOT_TAKEN = "SELECT 1 / (1 - least(count(*), 1)) FROM pg_database WHERE datname = %1$L"
_READ_TAKEN = """
SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1) AS is_taken, format($2, $1::text) AS not_taken,
    clock_timestamp() AS now
"""


async def require_not_left(session: asyncpg.Connection, owner: Owner, name: str) -> str:
    """Refuse a name that the database of another instance than the owner's has left.

    Returns a statement that fails, by a division by zero, if a database has left the name since. In the
    message that gives the name to a database, it comes last: then a rename that takes it away has ended.
    """
    (read,) = await fetch_rows(session, _READ, json.dumps(name), owner.mark, _NO_OTHERS)
    for database, comment in zip(read["databases"], read["comments"], strict=True):
        other = Owner.read(comment)
        for left in other.left if other else ():
            if other and left.name == name and (wait := _wait(left, other, read["now"])) is not None:
                raise NameLeftError(name, database, wait)
    return str(read["no_others"])


async def require_not_taken(session: asyncpg.Connection, former: str, trashed: datetime | None) -> str:
    """Refuse an undelete under a new name while another database has the former name.

    The ODS/API may have that in its cache. Returns a statement that fails, by a division by zero, if a
    database has got the name since.
    """
    (read,) = await fetch_rows(session, _READ_TAKEN, former, _NOT_TAKEN)
    remaining = timedelta() if trashed is None else trashed + CACHED - read["now"]
    if remaining <= timedelta():
        return "SELECT 1"
    if read["is_taken"]:
        raise FormerNameTakenError(former, in_minutes(remaining))
    return str(read["not_taken"])


def _wait(left: LeftName, other: Owner, now: datetime) -> str | None:
    """For how long the name is reserved, in words; None if it is not any more."""
    if left.since is None:
        return (
            "That rename is not recorded yet, or failed and is not undone yet. Retry"
            f" {in_minutes(CACHED)} after the instance with the OdsInstanceId {other.ods_instance_id} of the"
            f" tenant {other.tenant} has been renamed. If nothing manages that database any more, remove its"
            " comment (COMMENT ON DATABASE … IS NULL)."
        )
    remaining = left.since + CACHED - now
    return None if remaining.total_seconds() <= 0 else f"Wait {in_minutes(remaining)}, then retry."


def leaving(left: tuple[LeftName, ...], current: str) -> tuple[LeftName, ...]:
    """What a database has left once it leaves its `current` name; the time is open until that is recorded."""
    return (*back(left, current), LeftName(current))


def back(left: tuple[LeftName, ...], name: str) -> tuple[LeftName, ...]:
    """What a database has left once it gets a name back."""
    return tuple(one for one in left if one.name != name)


async def record_left(session: asyncpg.Connection, owner: Owner, database: str | None) -> None:
    """Begin the time for which the names stay reserved that the instance's database has left.

    Not that of its name by the registry, `database`, which is None if the instance is deleted.
    """
    for row in await find_own(session, owner):
        marked = row.marked
        if marked is None or not marked.left or row.is_invalid:
            continue
        now = await server_clock(session)
        left = recorded(marked.left, row.name, database, now)
        if left != marked.left:
            comment = with_left(row.comment, left)
            await change(session, row.name, row.oid, MARK, comment=comment)


def recorded(
    left: tuple[LeftName, ...], name: str, registered: str | None, now: datetime
) -> tuple[LeftName, ...]:
    """What a database of that name has left by the registry, without names that are free or its own again.

    Args:
        left: what it has left by its comment.
        registered: its name by the registry, whose time does not begin; None if the ODS/API is led to none.
        now: when the time of the others begins, by the server's clock.
    """
    begun = (
        one if one.since is not None or one.name == registered else LeftName(one.name, now) for one in left
    )
    return tuple(one for one in begun if one.name != name and (one.since is None or one.since + CACHED > now))
