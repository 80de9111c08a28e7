"""Dropping databases: an instance's, what a clone has left, and spares.

A published database is dropped by `drop`, for a delete that a client has requested, or from the trash by
`ods.databases.trash.purge` and `ods.databases.trash_backup.purge_backed_up`. Everything here runs on a
session that holds the fence of the instance, or the lock of the spare, and is safe to repeat after any
interruption.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from time import monotonic

import asyncpg

from ods.databases.constants import (
    DIVISION_BY_ZERO,
    INSUFFICIENT_PRIVILEGE,
    LOCK_NOT_AVAILABLE,
    OBJECT_IN_USE,
    PROGRAMS,
    WRONG_OBJECT_TYPE,
    program_name,
)
from ods.databases.errors import DatabaseFaultError, DisagreementError, NotOursError
from ods.databases.lock_holders import name_holder
from ods.databases.lookup import (
    DatabaseRows,
    changed_meanwhile,
    choose,
    find,
    is_invalid,
    oid_of,
    require_no_other,
    still_the_same,
)
from ods.databases.ownership import KnownOwner, Owner
from ods.databases.statements import execute, fetch_rows
from ods.registry.instances.naming import is_trash_name

_DROP = "DROP DATABASE IF EXISTS %I WITH (FORCE)"
_CLOSE = "ALTER DATABASE %1$I ALLOW_CONNECTIONS false"
_OPEN = "ALTER DATABASE %1$I ALLOW_CONNECTIONS true"
# Not those that replicate from it: PostgreSQL refuses to drop a database whose replication slot is in use.
_END_CLIENTS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = $1 AND backend_type = 'client backend'
"""
# For sessions to end, and for locks of other sessions: as long as PostgreSQL itself waits for the former.
_LONGEST_WAIT_SECONDS = 5
_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE = "5s"
"""How long a session may do nothing between the question whether to drop a database, and the DROP."""
# Those of the service's role, and of the one that restores, of which it is a member.
_END_PROGRAMS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE pg_has_role(usesysid, 'USAGE') AND application_name = ANY($1::text[])
"""


async def drop(  # noqa: PLR0913 - which database, and what must hold
    session: asyncpg.Connection,
    owner: KnownOwner,
    names: list[str],
    number: int,
    *,
    published: bool,
    before: Callable[[], Awaitable[object]],
) -> None:
    """Drop the instance's database with the sessions on it, and what a clone may have left.

    Only for a delete that a client has requested, and that the registry records under the instance's mark.

    Args:
        session: a fenced session.
        owner: the instance, at the attempt at the delete.
        names: what the registry calls the database, the name that decides first.
        number: the number of the delete.
        published: whether the instance ever had that database. If not, a database of the first name that does
            not carry the mark is the reason why the instance never came to be, and is left alone.
        before: as for `drop_database`.

    Raises:
        NotOursError: `published`, and the database of the first name is not the instance's.
        DisagreementError: the database was published, or put into the trash, later than the registry knows,
            or has another name; or the registry does not know that it was published.
        DatabaseFaultError: sessions cannot be ended, the server is away, …
    """
    found = await find(session, owner, *names, owner.staging_name)
    database = deletable(found, owner, names, published=published, dropped_by=number)
    await drop_found_staging(session, owner, found)
    if database is not None:
        row = found[database]
        await drop_database(session, database, invalid=is_invalid(row), oid=oid_of(row), before=before)


async def drop_obstacle(
    session: asyncpg.Connection, owner: KnownOwner, names: list[str], *, dropped_by: int | None = None
) -> str | None:
    """Why a delete would refuse the published database of these names; None if it would not.

    Args:
        session: a session on the maintenance database.
        owner: the instance, and the latest attempt that can have published its database.
        names: what the registry calls the database.
        dropped_by: the number of the delete if it drops the database; None if that can come back, or stays.

    Raises:
        DatabaseFaultError: the server is away, …
    """
    found = await find(session, owner, *names)
    try:
        deletable(found, owner, names, published=True, dropped_by=dropped_by)
    except (NotOursError, DisagreementError) as refusal:
        return refusal.reason
    return None


async def drop_staging(session: asyncpg.Connection, owner: Owner) -> None:
    """Drop what a clone for the instance has left, which was never published.

    Raises:
        DatabaseFaultError: the server is away, …
    """
    await drop_found_staging(session, owner, await find(session, owner, owner.staging_name))


async def drop_found_staging(session: asyncpg.Connection, owner: Owner, found: DatabaseRows) -> None:
    """Drop the instance's staging database if it is among those that were `found`.

    Raises:
        DatabaseFaultError: the server is away, …
    """
    if owner.staging_name in found:
        await end_programs(session, owner.staging_name)
        await execute(session, _DROP, owner.staging_name)


async def end_programs(session: asyncpg.Connection, label: str) -> None:
    """End the sessions of the programs that work for `label`, which nothing waits for any more.

    A worker that was suspended holds its programs up. PostgreSQL cannot drop any database of the server while
    a session waits for such a program to read what it is sent, or to send more.

    Raises:
        DatabaseFaultError: the server is away, …
    """
    await fetch_rows(session, _END_PROGRAMS, [program_name(program, label) for program in PROGRAMS])


async def drop_database(  # noqa: PLR0913 - which database, and what must hold
    session: asyncpg.Connection,
    database: str,
    *,
    invalid: bool,
    closed: bool = False,
    oid: str | None = None,
    before: Callable[[], Awaitable[object]] | None = None,
) -> None:
    """Close a database, end the sessions on it, and drop it.

    Args:
        session: a session on the maintenance database.
        database: the database's name.
        invalid: whether an earlier DROP of it was interrupted: then it is closed already.
        closed: whether it is closed, and shall not be changed by being closed once more.
        oid: its OID; None if the name is a private one, which no other database gets.
        before: raises if the database is not to be dropped any more; awaited before each try, when its
            sessions have ended. Not if an earlier DROP of it was interrupted.

    Raises:
        DatabaseFaultError: sessions cannot be ended, a right is missing, …
    """
    reasons = {
        OBJECT_IN_USE: f"Sessions on the database '{database}' do not end. Close them, then retry.",
        INSUFFICIENT_PRIVILEGE: "The role of ODS_MASTER_DSN may not remove the database"
        f" '{database}' or end the sessions on it. Make it the owner and grant it pg_signal_backend; close"
        " the sessions of superusers by hand. Then retry.",
        WRONG_OBJECT_TYPE: f"The database '{database}' is marked as a template. If it is not needed as one:"
        f' ALTER DATABASE "{database}" IS_TEMPLATE false. Then retry.',
    }
    async with name_holder(session, database):
        if not (invalid or closed):
            # Otherwise connection pools come back as fast as their sessions are ended.
            await _close(session, database, oid, reasons)
        if invalid or before is None:
            await execute(session, _DROP, database, reasons=reasons)
        else:
            await _end_clients(session, database, reasons)
            await _drop_if_due(session, database, oid, before, reasons)


async def _close(
    session: asyncpg.Connection, database: str, oid: str | None, reasons: Mapping[str, str]
) -> None:
    statements = [_CLOSE] if oid is None else [_CLOSE, still_the_same("%1$L", "%2$L")]
    await _execute_on_the_same(session, "; ".join(statements), database, oid, reasons)


async def _execute_on_the_same(
    session: asyncpg.Connection, statement: str, database: str, oid: str | None, reasons: Mapping[str, str]
) -> None:
    try:
        await execute(session, statement, database, oid or "", reasons=reasons)
    except DatabaseFaultError as fault:
        if fault.sqlstate != DIVISION_BY_ZERO:
            raise
        raise changed_meanwhile(database) from None


async def _end_clients(session: asyncpg.Connection, database: str, reasons: Mapping[str, str]) -> None:
    """End the sessions on a closed database, and wait for their ends."""
    waited_since = monotonic()
    while await fetch_rows(session, _END_CLIENTS, database, reasons=reasons):
        if monotonic() - waited_since > _LONGEST_WAIT_SECONDS:
            raise DatabaseFaultError(reasons[OBJECT_IN_USE], retryable=True, sqlstate=OBJECT_IN_USE)
        await asyncio.sleep(_PAUSE_SECONDS)


async def _drop_if_due(
    session: asyncpg.Connection,
    database: str,
    oid: str | None,
    before: Callable[[], Awaitable[object]],
    reasons: Mapping[str, str],
) -> None:
    """Drop a closed database without sessions, unless `before` raises, which is awaited before each try.

    A DROP that waits for a lock does not learn that its client cancels meanwhile, nor that the session that
    holds it gives the name to another database. So PostgreSQL waits for none. And it ends the session of a
    worker that was suspended after it had asked, before that goes on with the DROP.
    """
    # Until the session returns to its pool; after an error, it is closed. The shortest that there is.
    await execute(session, f"SET lock_timeout = '1ms'; SET idle_session_timeout = '{_LONGEST_PAUSE}'")
    waited_since = monotonic()
    while True:
        await before()
        if oid is not None:
            await _execute_on_the_same(session, still_the_same("%1$L", "%2$L"), database, oid, reasons)
        try:
            await execute(session, _DROP, database, reasons=reasons)
        except DatabaseFaultError as fault:
            is_over = monotonic() - waited_since > _LONGEST_WAIT_SECONDS
            if is_over or fault.sqlstate != LOCK_NOT_AVAILABLE:
                raise
        else:
            await execute(session, "SET idle_session_timeout = 0")  # what follows may have to wait
            return
        await asyncio.sleep(_PAUSE_SECONDS)


async def open_again(session: asyncpg.Connection, owner: Owner, names: list[str]) -> None:
    """Open the instance's database of one of these names, which a DROP has closed that was not done.

    Otherwise `pg_dumpall` would leave it out without a word.

    Raises:
        DatabaseFaultError: the server is away, …
    """
    for name, row in (await find(session, owner, *names)).items():
        its = name in names and owner.owns(row["comment"]) and not is_trash_name(name)
        if its and not row["datallowconn"] and not is_invalid(row):
            await execute(session, f"{_OPEN}; {still_the_same('%1$L', '%2$L')}", name, oid_of(row))


def deletable(
    found: DatabaseRows,
    owner: KnownOwner,
    names: list[str],
    *,
    published: bool,
    dropped_by: int | None = None,
) -> str | None:
    """The database that a delete may drop, move to the trash or let go; None if the instance has none.

    What is in the trash, under the very name that the registry has given it there, was put there by this
    delete or by one that failed before it. One that drops puts nothing there: if its number, or a later one,
    has done so, the registry was restored to before that.

    Args:
        found: the databases of these names, and all that carry the mark.
        owner: the instance, and the latest attempt that can have published its database.
        names: what the registry calls the database, the name that decides first.
        published: whether the instance ever had that database.
        dropped_by: the number of the delete if it drops the database; None if that can come back, or stays.

    Raises:
        NotOursError: `published`, and the database of the first name is not the instance's.
        DisagreementError: the database was published, or put into the trash, later than the registry knows,
            or has another name; or it shall be dropped, and the registry does not know that it was published.
    """
    database = choose(found, owner, names)
    if database is None:
        if published and names[0] in found:
            raise NotOursError(names[0], registered_for=owner.ods_instance_id)
        require_no_other(found, owner)
        return None
    latest = Owner.read(found[database]["comment"])
    if latest and latest.trashed_name is not None and is_trash_name(database):
        if dropped_by is not None and (latest.number >= dropped_by or latest.put_back):
            raise _is_later(database, latest, "moved to the trash")
        return database
    if latest and dropped_by is not None and not published:
        raise _is_unrecorded(database, latest)
    # A comment of version 1 does not contain the attempt: it may be later than the registry knows.
    is_outdated = latest and (latest.is_unknown_to(owner) or not (published or latest.attempt))
    if latest and is_outdated:
        raise _is_later(database, latest, "published")
    return database


def _is_later(database: str, latest: Owner, change: str) -> DisagreementError:
    return DisagreementError(
        database,
        f"The database '{database}' was {change} by {latest.job_id}, attempt {latest.attempt}, which is later"
        " than the registry knows: it was restored to an earlier state. Nothing was dropped. `ods drift`"
        f" tells more; `ods instance adopt {latest.ods_instance_id} --database {database}` makes the"
        " registry's word count again, then retry.",
    )


def _is_unrecorded(database: str, latest: Owner) -> DisagreementError:
    return DisagreementError(
        database,
        f"The database '{database}' was published by {latest.job_id}, attempt {latest.attempt}, but the"
        " registry knows nothing of that: the job failed when it was to be recorded, or the registry was"
        " restored to an earlier state, and the database may have been used since. Nothing was dropped."
        " Detach the instance, which leaves the database; or, unless ODS_TRASH_DAYS is 0, delete it without"
        " purge, which moves the database to the trash, where it can come back from.",
    )
