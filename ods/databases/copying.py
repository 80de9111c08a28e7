"""Copies of instances: what is copied, and the copy of its files while no session uses it.

Nothing is changed at the source. While PostgreSQL copies the files of a database, it holds a lock for which
sessions that want to begin there wait. The lock ends with the copy, with the session that makes it, or with
the server: whatever dies, the source is as open as before. The fence is that of the copy.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

import asyncpg

from ods.databases.changing import end_sessions, end_sessions_until_done, name_holder, no_right
from ods.databases.constants import INSUFFICIENT_PRIVILEGE, OBJECT_IN_USE
from ods.databases.dropping import drop_staging
from ods.databases.errors import DatabaseFaultError
from ods.databases.locales import Locale, create_empty, read_locale
from ods.databases.lookup import choose, find, require_usable
from ods.databases.ownership import Owner
from ods.databases.provisioning import (
    CloneRequest,
    ProvisionedDatabase,
    already_made,
    copy_files,
    publish_filled,
    size_of,
)
from ods.databases.server import Server
from ods.databases.statements import execute, fetch_row, fetch_rows

_LONGEST_WAIT = "5s"
"""How long a session that wants to begin on the source waits for the copy, until it is ended.

Clients try again; without an end, waiting sessions would take all connections of the server.
"""
# In PostgreSQL 16 and 17, sessions that begin are not in pg_stat_activity yet.
_END_WAITING = f"""
SELECT pg_terminate_backend(pid) FROM pg_locks LEFT JOIN pg_stat_activity USING (pid)
WHERE locktype = 'object' AND classid = 'pg_database'::regclass
  AND objid = (SELECT oid FROM pg_database WHERE datname = $1)
  AND mode = 'RowExclusiveLock' AND NOT granted AND waitstart < clock_timestamp() - interval '{_LONGEST_WAIT}'
  AND coalesce(backend_type, 'client backend') = 'client backend'
"""  # noqa: S608 - a constant

_SITUATION = """
SELECT CASE WHEN has_tablespace_privilege(ts.oid, 'CREATE') THEN format(' TABLESPACE %I', spcname) ELSE '' END
    AS tablespace,
    CASE WHEN datacl IS NULL THEN '' ELSE format('REVOKE ALL ON DATABASE %I FROM PUBLIC; ', $2::text) END
    || format('ALTER DATABASE %I ALLOW_CONNECTIONS true', $2::text) AS open
FROM pg_database JOIN pg_tablespace AS ts ON ts.oid = dattablespace WHERE datname = $1
"""


@dataclass(frozen=True)
class Source:
    """The instance that is copied."""

    owner: Owner
    database: str


async def provision_copy(
    session: asyncpg.Connection,
    request: CloneRequest,
    source: Source,
    make_staging: Callable[[], Awaitable[None]],
) -> ProvisionedDatabase:
    """Make the database as a copy, or find that an earlier attempt has made it.

    The template of the `request` is the source, whose privileges and settings the copy gets. `make_staging`
    makes the staging database, with what the source holds.
    """
    if (made := await already_made(session, request)) is not None:
        return made
    found = await _found(session, source)
    await make_staging()
    if await _found(session, source) != found:
        await drop_staging(session, request.owner)
        raise DatabaseFaultError(
            f"Another database was named '{source.database}' while it was copied: nothing was published.",
            retryable=True,
        )
    _, generation = found
    return await publish_filled(session, request, generation)


async def copy_closed(server: Server, session: asyncpg.Connection, request: CloneRequest) -> None:
    """Make the staging database by copying the files of the source, whose sessions are ended."""
    source = request.template
    reasons = {
        OBJECT_IN_USE: f"Sessions on the database '{source}' do not end. Close them, or copy it online; then"
        " retry.",
        INSUFFICIENT_PRIVILEGE: no_right("copy", source, "CREATEDB and pg_signal_backend"),
    }
    size = await size_of(session, source) or 0
    async with server.session() as other, name_holder(other, source):

        async def keep_out() -> None:
            await end_sessions(other, source, reasons=reasons)
            with suppress(DatabaseFaultError):  # some of them only a superuser may end
                await fetch_rows(other, _END_WAITING, source)

        await end_sessions_until_done(copy_files(session, request.copy, size, reasons), keep_out)


async def create_like(
    session: asyncpg.Connection, source: str, database: str, locale: Locale | None = None
) -> None:
    """Make an empty database with the encoding and locale of another one, or with these.

    It is in the same tablespace, if the session's role may create there. If rights on the other one are
    restricted, only the session's role may connect to this one.
    """
    situation = await fetch_row(session, _SITUATION, source, database)
    locale = locale or await read_locale(session, source)
    if situation is None:
        raise DatabaseFaultError(f"There is no database '{source}'.", retryable=True)
    options = f"{situation['tablespace']} ALLOW_CONNECTIONS false".replace("%", "%%")
    await create_empty(session, database, locale, options)
    await execute(session, "%s", situation["open"])


async def _found(session: asyncpg.Connection, source: Source) -> tuple[str, int | None]:
    """The OID of the database of the source, and which generation of its template it is a copy of."""
    rows = await find(session, source.owner, source.database)
    if choose(rows, source.owner, [source.database]) is None:
        raise DatabaseFaultError(
            f"There is no database '{source.database}' with the mark of the instance that is copied. `ods"
            " drift` tells more."
        )
    row = rows[source.database]
    require_usable(row)
    owner = row.marked
    return row.oid, owner.template_generation if owner else None
