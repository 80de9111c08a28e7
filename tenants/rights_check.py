"""Which rights the service's role lacks on a tenant's registry and server, for `/health`."""

import time
from collections.abc import Collection

from sqlalchemy.ext.asyncio import AsyncEngine

from databases.errors import DatabaseFaultError
from databases.rights import missing_on_server
from databases.server import Server
from registry.rights.missing import missing_in_registry

_KNOWN_SECONDS = 30
"""How long the rights are not asked again after all were there."""


class RightsCheck:
    """Asks registry and server which rights are missing.

    Args:
        engine: connections to the registry.
        server: the server of the ODS databases.
        templates: the databases that are cloned.
        owner: the role that new databases are given to, if they are.
    """

    def __init__(
        self, engine: AsyncEngine, server: Server, templates: Collection[str], owner: str | None
    ) -> None:
        self._engine = engine
        self._server = server
        self._templates = templates
        self._owner = owner
        self._complete_until = 0.0

    async def missing(self) -> list[str]:
        """The statements that give what is missing; while the server is away, those on the registry.

        If all was there within the last 30 seconds, it is not asked again.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: the registry cannot be asked.
            OSError: it cannot be reached.
            asyncpg.PostgresError: it refuses the connection.
        """
        if time.monotonic() < self._complete_until:
            return []
        missing = await missing_in_registry(self._engine)
        try:
            async with self._server.session() as session:
                missing += await missing_on_server(session, self._templates, self._owner)
        except DatabaseFaultError:
            return missing
        if not missing:
            self._complete_until = time.monotonic() + _KNOWN_SECONDS
        return missing
