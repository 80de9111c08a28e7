"""Whether a registry can be worked on: it can be written to, and has the tables that this release needs."""

import asyncio
from functools import cache
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from ods.registry.storage.connecting import READ_ONLY

_SECONDS = 2
_VERSIONS = Path(__file__).parent / "migrations" / "versions"
_MIGRATED = text("SELECT version_num FROM adminapi.ods_migrations")
_UNDEFINED = ("3F000", "42P01")
"""SQLSTATEs: there is no such schema, or table."""

_NOT_MIGRATED = "The registry lacks tables of this release: run `ods migrate`."
_READ_ONLY = "The registry is read-only, or a standby."
_AWAY = "The registry cannot be reached."


async def registry_obstacle(engine: AsyncEngine) -> str | None:
    """Why the registry cannot be worked on; None if it can.

    A registry that a later release has migrated can: migrations only add.

    Args:
        engine: its pool, which gives out connections that can write.
    """
    try:
        async with asyncio.timeout(_SECONDS), engine.connect() as connection:
            revision = await connection.scalar(_MIGRATED)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with it
        cause = error.orig if isinstance(error, DBAPIError) else error
        state = getattr(cause, "sqlstate", None)
        if state in _UNDEFINED:
            return _NOT_MIGRATED
        return _READ_ONLY if state == READ_ONLY else _AWAY
    known = known_revisions()
    return _NOT_MIGRATED if revision is None or revision in known[:-1] else None


@cache
def known_revisions() -> list[str]:
    """The revisions of the registry's tables, the oldest first, without loading the migrations."""
    return sorted(path.name.partition("_")[0] for path in _VERSIONS.glob("[0-9]*_*.py"))
