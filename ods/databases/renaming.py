"""Renaming an instance's database, and giving it its old name back.

Its mark tells which name it has now, so that all of this may be repeated after any interruption. Only
databases with the two names of the rename are considered: another one with the mark is a copy, or the
registry is wrong about the name, and the job stops.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import asyncpg

from ods.databases.constants import (
    DIVISION_BY_ZERO,
    INSUFFICIENT_PRIVILEGE,
    NAME_IN_USE,
    OBJECT_IN_USE,
)
from ods.databases.errors import DatabaseFaultError, DisagreementError, NotOursError
from ods.databases.left_names import back, leaving, require_not_left
from ods.databases.lock_holders import name_holder
from ods.databases.lookup import (
    changed_meanwhile,
    choose,
    find,
    is_invalid,
    oid_of,
    refusal,
    still_the_same,
    version_in,
)
from ods.databases.ownership import KnownOwner, LeftName, Owner
from ods.databases.server import Server
from ods.databases.statements import execute, fetch_rows, server_clock

# Sessions of users: autovacuum and other workers of the server have none, and give way to DDL by themselves.
END_SESSIONS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = ANY($1::name[]) AND usesysid IS NOT NULL
"""
_STILL_THE_SAME = still_the_same("%2$L", "%4$L")
_PAUSE_SECONDS = 0.05


async def rename(
    server: Server, session: asyncpg.Connection, owner: KnownOwner, current: str, target: str
) -> None:
    """Give the instance's database the name `target`; sessions on it are ended.

    The name that it leaves is in its comment from then on, and reserved: see `ods.databases.left_names`.

    Args:
        server: the server.
        session: a fenced session.
        owner: the instance, at the attempt at the rename, which the database is marked with.
        current: the name that the registry knows.
        target: the name that the database shall have.

    Raises:
        NotOursError: a database has the target name and is not the instance's.
        NameLeftError: another instance's database has left the target name just now.
        DisagreementError: both names belong to databases with the mark, or only another one has it.
        DatabaseFaultError: the instance has no database, sessions cannot be ended, the server is away, …
    """
    found = await find(session, owner, current, target)
    if target in found and not owner.owns(found[target]["comment"]):
        raise refusal(found[target], owner)
    database = choose(found, owner, [current, target])
    if database is None and current in found:
        raise NotOursError(current, registered_for=owner.ods_instance_id)
    if database is None:
        way_back = "Restore it: `ods drift` tells what is left of it."
        if (version := version_in(found, owner)) is not None:
            way_back = (
                f"What it had before a reset is in the trash: `ods instance adopt {owner.ods_instance_id}"
                f" --database {version}` brings that back."
            )
        raise DatabaseFaultError(
            f"The instance's database does not exist, so there is none to rename. {way_back} Then retry."
        )
    left = leaving(owner_to_mark(owner, found[database]).left, current)
    if database == target:
        if current != target and left[-1] not in owner_to_mark(owner, found[database]).left:
            await _rename(server, session, owner, found[target], target, left)
        return
    if target in found:
        raise DisagreementError(
            target,
            f"Both '{current}' and '{target}' carry the mark of this instance. Nothing was renamed. Remove"
            " the comment of the one that is not the instance's (COMMENT ON DATABASE … IS NULL) and give it"
            " another name, then retry.",
        )
    not_left = await require_not_left(session, owner, target)
    await _rename(server, session, owner, found[current], target, left, not_left)


async def rename_back(
    server: Server, session: asyncpg.Connection, owner: KnownOwner, database: str, target: str
) -> None:
    """Undo a rename to `target` that failed: give the database the name `database` that the registry knows.

    Nothing is done if it does not have the name `target`, or a DROP of it was interrupted.

    Raises:
        NotOursError: a database has that name and is not the instance's.
        DisagreementError: it is another database of the instance.
        DatabaseFaultError: sessions cannot be ended, the server is away, …
    """
    found = await find(session, owner, database, target)
    its = {name: row for name, row in found.items() if owner.owns(row["comment"])}
    if target not in its or database in its or is_invalid(its[target]):
        return
    if database in found:
        raise refusal(found[database], owner)
    left = back(owner_to_mark(owner, found[target]).left, database)
    await _rename(server, session, owner, found[target], database, left)


def owner_to_mark(owner: KnownOwner, found: asyncpg.Record) -> KnownOwner:
    """The owner that the renamed database is marked with.

    The publication in a comment never goes back: one that the registry does not know shows that it was
    restored to an earlier state, and keeps the database from being dropped until the operator has made
    registry and server agree.
    """
    marked = Owner.read(found["comment"])
    if marked is None:
        return owner
    owner = replace(owner, template_generation=marked.template_generation, left=marked.left)
    if not marked.is_unknown_to(owner):
        return owner
    number, attempt = marked.publication
    return replace(owner, job_id=marked.job_id, number=number, attempt=attempt, request=marked.request)


async def _rename(  # noqa: PLR0913, PLR0917 - what becomes of a database
    server: Server,
    session: asyncpg.Connection,
    owner: KnownOwner,
    found: asyncpg.Record,
    target: str,
    left: tuple[LeftName, ...],
    *guards: str,
) -> None:
    statements = ["COMMENT ON DATABASE %2$I IS %3$L", *(guard.replace("%", "%%") for guard in guards)]
    marked = replace(owner_to_mark(owner, found), left=left)
    comment = marked.comment_at(await server_clock(session))
    await change_name(server, session, found, target, statements, comment)


async def change_name(  # noqa: PLR0913, PLR0917 - what becomes of a database
    server: Server,
    session: asyncpg.Connection,
    found: asyncpg.Record,
    target: str,
    statements: Sequence[str],
    comment: str = "",
) -> None:
    """Rename a database and run further statements on it in the same message; a rename ends its sessions.

    Nothing is done if the name is another database's by then, as after names were exchanged by hand: a
    statement that waits for the end of the other session's transaction follows the name.

    Args:
        server: the server.
        session: a fenced session.
        found: the database, as `ods.databases.lookup.find` has found it.
        target: its name from now on; that may be the same.
        statements: what is done after the rename, with `%2$I` for the name and `%3$L` for the comment.
        comment: the comment.

    Raises:
        NotOursError: another database has the target name.
        DatabaseFaultError: sessions cannot be ended, the server is away, …
    """
    current = found["datname"]
    reasons = {
        OBJECT_IN_USE: f"Sessions on the database '{current}' do not end. Close them, then retry.",
        INSUFFICIENT_PRIVILEGE: "The role of ODS_MASTER_DSN may not rename the database"
        f" '{current}' or end the sessions on it. Make it the owner and grant it CREATEDB and"
        " pg_signal_backend; close the sessions of superusers by hand. Then retry.",
    }
    rename = [] if current == target else ["ALTER DATABASE %1$I RENAME TO %2$I"]
    message = "; ".join([*rename, *statements, _STILL_THE_SAME])
    try:
        async with server.session() as other, name_holder(other, current):
            renaming = execute(session, message, current, target, comment, oid_of(found), reasons=reasons)
            if not rename:
                await renaming
                return
            await end_sessions_until_done(
                renaming, partial(fetch_rows, other, END_SESSIONS, [current], reasons=reasons)
            )
    except DatabaseFaultError as fault:
        if fault.sqlstate == DIVISION_BY_ZERO:
            raise changed_meanwhile(current) from None
        if fault.sqlstate not in NAME_IN_USE:
            raise
        raise NotOursError(target) from None


async def end_sessions_until_done(
    statement: Coroutine[Any, Any, None], end_sessions: Callable[[], Awaitable[object]]
) -> None:
    """Run `statement`, which no session on its database may see, and end those sessions until it is done.

    While a rename, or a copy of its files, waits for them to end, PostgreSQL keeps new ones out. So the
    database is open before and after it, even if this process dies; to close it first, as before a DROP,
    could leave it closed.

    Args:
        statement: one message that renames or copies the database.
        end_sessions: ends the sessions on the database, on another session; called again and again.

    Raises:
        DatabaseFaultError: sessions cannot be ended, or the statement has failed.
    """
    running = asyncio.create_task(statement)
    try:
        while not running.done():
            await end_sessions()
            await asyncio.wait([running], timeout=_PAUSE_SECONDS)
    finally:
        running.cancel()
        await asyncio.wait([running])
    await running
