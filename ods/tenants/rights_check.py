"""Which rights the service's role lacks on a tenant's registry and server, for `/health`."""

import time
from collections.abc import Awaitable, Callable, Collection
from functools import partial

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from ods.databases.rights.service_role import missing_on_server
from ods.registry.rights.missing import missing_in_registry

_KNOWN_SECONDS = 30
"""How long the rights are not asked again after all were there."""


class RightsCheck:
    """Asks registry and server which rights are missing; if none were within 30 seconds, not again."""

    def __init__(self, engine: AsyncEngine, templates: Collection[str], groups: tuple[str, ...]) -> None:
        self._engine = engine
        self._templates = templates
        self._groups = groups
        self._complete_until = {"registry": 0.0, "server": 0.0}

    @property
    def on_server(self) -> tuple[frozenset[str], tuple[str, ...]]:
        """What the rights on the server depend on: tenants that share it are often asked once."""
        return frozenset(self._templates), self._groups

    async def missing_in_registry(self) -> list[str]:
        """The statements that give what is missing in the registry."""
        return await self._missing("registry", partial(missing_in_registry, self._engine))

    async def missing_on_server(self, session: asyncpg.Connection) -> list[str]:
        """The statements that give what is missing on the server, asked on a session there."""
        ask = partial(missing_on_server, session, self._templates, self._groups)
        return await self._missing("server", ask)

    async def _missing(self, where: str, ask: Callable[[], Awaitable[list[str]]]) -> list[str]:
        if time.monotonic() < self._complete_until[where]:
            return []
        missing = await ask()
        if not missing:
            self._complete_until[where] = time.monotonic() + _KNOWN_SECONDS
        return missing
