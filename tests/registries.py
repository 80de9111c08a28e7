"""Registry databases: one is migrated on each server, and the tests' own are copies of it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ods.embedded.postgres import EmbeddedPostgres
from ods.registry.migrations import upgrade
from tests.servers import NUMBERS, service_dsn, session

_MIGRATED = "EdFi_Admin_migrated"
TOKEN_HOLDER = "INSERT INTO adminapi.applications (clientid, generation) VALUES ('a-client', NULL)"
"""Adds the client for which tests issue tokens themselves: `a-client`, which has no secret."""

COMPLETE_ALL = """
UPDATE adminapi.databases SET publishedat = now();
UPDATE adminapi.managed_instances SET state = 'Completed', attempt = 1
"""
"""Lets each instance be as after its create."""


async def prepare(server: EmbeddedPostgres) -> None:
    """Make what `clone` copies: migrating takes ten times as long as copying."""
    async with session(service_dsn(server, "postgres")) as maintenance:
        await maintenance.execute(f'CREATE DATABASE "{_MIGRATED}"')
    await upgrade(service_dsn(server, _MIGRATED))
    async with session(service_dsn(server, _MIGRATED)) as registry:
        await registry.execute(TOKEN_HOLDER)


async def clone(server: EmbeddedPostgres, name: str | None = None) -> str:
    """The DSN of a new registry; its OdsInstanceIds and its installation are no other's."""
    number = next(NUMBERS)
    name = name or f"EdFi_Admin_{number}"
    async with session(service_dsn(server, "postgres")) as maintenance:
        await maintenance.execute(f'CREATE DATABASE "{name}" TEMPLATE "{_MIGRATED}" STRATEGY file_copy')
    dsn = service_dsn(server, name)
    async with session(dsn) as registry:
        await registry.execute(
            f"ALTER SEQUENCE dbo.odsinstances_odsinstanceid_seq RESTART WITH {number * 100_000};"
            f" ALTER SEQUENCE adminapi.dbinstances_id_seq RESTART WITH {number * 100_000}"
        )
        await registry.execute("UPDATE adminapi.installation SET id = gen_random_uuid()")
    return dsn


@asynccontextmanager
async def cloned(server: EmbeddedPostgres) -> AsyncIterator[str]:
    """The same, for as long as the block lasts."""
    dsn = await clone(server)
    yield dsn
    async with session(service_dsn(server, "postgres")) as maintenance:
        await maintenance.execute(f'DROP DATABASE "{dsn.rpartition("/")[2]}" WITH (FORCE)')
