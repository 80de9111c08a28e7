"""The other tenants of a service: which installations their registries are.

Their databases may be on the same server. What a comment calls its tenant does not tell whose a database is:
it is the name that the tenant had when the comment was written.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg
from sqlalchemy.exc import SQLAlchemyError

from ods.databases.errors import LOST
from ods.registry.installation import InstallationState, InstallationStore
from ods.registry.storage.engine import create_registry_engine

_ANSWERED_WITHIN = 5
"""Seconds that another tenant's registry may take: this tenant's jobs wait meanwhile."""


@dataclass(frozen=True)
class SiblingInstallations:
    """What the registries of other tenants say.

    Attributes:
        states: of those that have answered, by the names of their tenants.
        away: the tenants whose registry has not answered.
    """

    states: Mapping[str, InstallationState]
    away: frozenset[str]

    @property
    def ids(self) -> frozenset[str]:
        """The installations that they are; not those of registries that may be copies."""
        return frozenset(state.id for state in self.states.values() if state.is_confirmed)

    @property
    def unknown(self) -> list[str]:
        """The tenants whose registry is away, or must be confirmed itself."""
        return sorted(self.away | {name for name, one in self.states.items() if not one.is_confirmed})


async def installations_of(siblings: Mapping[str, InstallationStore]) -> SiblingInstallations:
    """What the registries of these tenants, by their names, say now; nothing is recorded there."""
    answers = await asyncio.gather(*map(_answer, siblings.values()))
    found = dict(zip(siblings, answers, strict=True))
    states = {name: state for name, state in found.items() if state is not None}
    return SiblingInstallations(states, frozenset(found.keys() - states.keys()))


async def _answer(store: InstallationStore) -> InstallationState | None:
    try:
        async with asyncio.timeout(_ANSWERED_WITHIN):
            return await store.read()
    except (*LOST, SQLAlchemyError, asyncpg.PostgresError):
        return None


@asynccontextmanager
async def opened_siblings(dsns: Mapping[str, str]) -> AsyncIterator[Mapping[str, InstallationStore]]:
    """The registries with these DSNs, by the names of their tenants; no connection is opened yet."""
    engines = {name: create_registry_engine(dsn, pool_size=1) for name, dsn in dsns.items()}
    try:
        yield {name: InstallationStore(engine) for name, engine in engines.items()}
    finally:
        await asyncio.gather(*(engine.dispose() for engine in engines.values()))
