"""What the server tells of its databases' sizes, as far as it tells it soon."""

import asyncio
from collections.abc import Collection

from ods.databases.errors import DatabaseFaultError
from ods.databases.inspection import listing
from ods.databases.inspection.listing import free_space
from ods.databases.server import Server

_SERVER_SECONDS = 2
"""How long a request waits for the server."""


async def database_sizes(server: Server, databases: Collection[str]) -> dict[str, int | None]:
    """Sizes in bytes of those of these databases that exist; none while the server is away."""
    if not databases:
        return {}
    try:
        async with asyncio.timeout(_SERVER_SECONDS), server.session() as session:
            return await listing.sizes(session, list(databases))
    except (DatabaseFaultError, TimeoutError):
        return {}


async def free_bytes(server: Server) -> int | None:
    """Bytes that are free for databases; None if that cannot be known from here, or the server is away."""
    try:
        async with asyncio.timeout(_SERVER_SECONDS), server.session() as session:
            return await free_space(session)
    except (DatabaseFaultError, TimeoutError):
        return None
