"""Spare databases, read with SQL and without the service's own code."""

import asyncpg

from ods.embedded.polling import wait_until

_TIMEOUT_SECONDS = 180
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
        TimeoutError: they are not ready within three minutes.
    """

    async def are_ready() -> bool:
        return len(await ready_spares(server, template)) >= enough

    await wait_until(are_ready, _TIMEOUT_SECONDS)
    return await ready_spares(server, template)


async def oid_of(server: asyncpg.Connection, database: str) -> int | None:
    """The oid of the database, which a rename does not change; None if there is no such database."""
    oid: int | None = await server.fetchval(_OID, database)
    return oid
