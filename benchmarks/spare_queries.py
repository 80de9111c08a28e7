"""Spare databases as SQL shows them: nothing of the service's own code is asked."""

import asyncpg

from embedded.polling import wait_until

_PATIENCE_SECONDS = 180
_SPARES = "SELECT oid::int8 FROM pg_database WHERE starts_with(datname, 'ods_spare_')"
# The comment is written last: with it, a spare is ready.
_READY = f"{_SPARES} AND shobj_description(oid, 'pg_database')::json->>'template' = $1"
_OID = "SELECT oid::int8 FROM pg_database WHERE datname = $1"


async def spares(server: asyncpg.Connection) -> set[int]:
    """The oids of all spares, be they ready or not."""
    return {row[0] for row in await server.fetch(_SPARES)}


async def ready_spares(server: asyncpg.Connection, template: str) -> set[int]:
    """The oids of the spares that are ready copies of `template`."""
    return {row[0] for row in await server.fetch(_READY, template)}


async def until_ready(server: asyncpg.Connection, template: str, enough: int) -> set[int]:
    """Wait until so many spares of `template` are ready; returns their oids.

    Raises:
        TimeoutError: they are not made.
    """

    async def are_ready() -> bool:
        return len(await ready_spares(server, template)) >= enough

    await wait_until(are_ready, _PATIENCE_SECONDS)
    return await ready_spares(server, template)


async def oid_of(server: asyncpg.Connection, database: str) -> int | None:
    """What PostgreSQL knows the database by, whatever it is called."""
    oid: int | None = await server.fetchval(_OID, database)
    return oid
