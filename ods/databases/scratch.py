"""Databases that are made to look at something, and dropped again: nothing in them is wanted.

The session that makes one holds the lock of its name for as long as it is used. What a dead process has left
has a private name of the installation, and its lock is free.
"""

import re
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import asyncpg

from ods.databases.constants import INSUFFICIENT_PRIVILEGE, SCRATCH_PREFIX, private_prefix
from ods.databases.dropping import DROP, end_programs
from ods.databases.errors import DatabaseFaultError
from ods.databases.locales import Locale, create_empty
from ods.databases.server import Server
from ods.databases.statements import execute, fetch_rows
from ods.databases.templates import spares

_NAMES = """
SELECT datname FROM pg_database WHERE starts_with(datname, $1) AND pg_has_role(datdba, 'USAGE')
ORDER BY datname
"""
_SUBJECT = re.compile(r"[0-9a-f]{16}")
_REASONS = {
    INSUFFICIENT_PRIVILEGE: "The role of ODS_MASTER_DSN may not end the sessions on this database. Grant it"
    " pg_signal_backend, and close the sessions of superusers by hand."
}
# All that is restored belongs to the service's role: if other roles could connect, their SECURITY DEFINER
# functions would run with its rights.
_OPEN = "REVOKE ALL ON DATABASE %1$I FROM PUBLIC; ALTER DATABASE %1$I ALLOW_CONNECTIONS true"


@asynccontextmanager
async def scratch_database(
    server: Server, installation: str, subject: uuid.UUID, locale: Locale
) -> AsyncIterator[str]:
    """The name of an empty database, to which only the service's role may connect; dropped after the body.

    The first half of the `subject` is in the name. An earlier use for it is ended, with its programs: uses
    that may go on at the same time need different subjects.
    """
    name = _name(installation, subject)
    async with server.locked(name) as session:
        await end_programs(session, name)
        await execute(session, DROP, name)
        try:
            await create_empty(session, name, locale, " ALLOW_CONNECTIONS false")
            await execute(session, _OPEN, name)
            yield name
        finally:
            with suppress(DatabaseFaultError):  # the reconcile pass does it later
                await execute(session, DROP, name)


async def end_scratch_programs(session: asyncpg.Connection, installation: str, subject: uuid.UUID) -> None:
    """End the programs of an earlier use for this subject, which was given up."""
    await end_programs(session, _name(installation, subject))


async def find_scratch(session: asyncpg.Connection, installation: str) -> list[str]:
    """The names of such databases of the installation."""
    prefix = private_prefix(SCRATCH_PREFIX, installation)
    names = [row["datname"] for row in await fetch_rows(session, _NAMES, prefix)]
    return [name for name in names if _SUBJECT.fullmatch(name.removeprefix(prefix))]


async def remove_scratch(session: asyncpg.Connection, name: str) -> bool:
    """Drop such a database, unless a session uses it; returns whether it is gone."""
    async with spares.locked(session, name) as acquired:
        if acquired:
            await execute(session, DROP, name, reasons=_REASONS)
        return acquired


def _name(installation: str, subject: uuid.UUID) -> str:
    return f"{private_prefix(SCRATCH_PREFIX, installation)}{subject.hex[:16]}"
