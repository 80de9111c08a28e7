"""`python -m tests.faults.spare_worker`: fills and claims spares in a process of its own, until it is killed.

Prints a line for each claim: the name of the database, its oid and the mark it got.
"""

import asyncio
import itertools
import random
import sys
import uuid

import asyncpg

from ods.databases.errors import DatabaseFaultError
from ods.databases.ownership import Owner
from ods.databases.provisioning import CloneRequest, TemplateSizes, provision
from ods.databases.server import Server
from ods.databases.templates import spares
from ods.databases.templates.spare_pool import Limits, SparePool
from ods.settings.settings import CloneStrategy
from tests.postgres.owners import requesting

_SHARE_OF_CLAIMS = 0.7


async def main(dsn: str, installation: str, template: str) -> None:
    """Work for ever; what fails because others are at it is tried again."""

    async def identity() -> str:
        return installation

    server = Server(dsn)
    pool = SparePool(server, identity, [template], CloneStrategy.AUTO, Limits(3, 3, 10**12))
    rng = random.SystemRandom()
    for number in itertools.count():
        try:
            if rng.random() < _SHARE_OF_CLAIMS:
                await _claim(server, installation, template, number)
                continue
            for order in (await pool.prune()).missing:
                await pool.replenish(order)
        except DatabaseFaultError as fault:
            print(f"fault {fault.reason}", file=sys.stderr, flush=True)  # noqa: T201 - says why


async def _claim(server: Server, installation: str, template: str, number: int) -> None:
    its = ("default", number, f"job-{number}", str(uuid.uuid4()), installation)
    owner = requesting(Owner(*its, database_id=str(uuid.uuid4())))
    database = f"Claimed_{uuid.UUID(owner.mark).hex}"
    request = CloneRequest(owner, template, database, CloneStrategy.AUTO, installation)
    async with server.fenced(owner) as session:
        if not (await spares.list_spares(session, installation, [template])).ready(template):
            return  # clones take time, and are tested elsewhere
        made = await provision(session, request, TemplateSizes())
        oid = await _oid(session, database)
    if made.claimed:
        # A process that is killed may have written a part: the next one begins a line of its own.
        print(f"\n{database} {oid} {owner.mark} claimed", flush=True)  # noqa: T201 - the answer


async def _oid(session: asyncpg.Connection, database: str) -> int:
    return int(await session.fetchval("SELECT oid::int8 FROM pg_database WHERE datname = $1", database))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
