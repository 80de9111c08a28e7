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
from ods.registry.installation import InstallationStore
from ods.registry.storage.engine import create_registry_engine

_ANSWERED_WITHIN = 5
"""Seconds that another tenant's registry may take: this tenant's jobs wait meanwhile."""


@dataclass(frozen=True)
class SiblingInstallations:
    """What the registries of other tenants say.

    Attributes:
        ids: the installations that they are.
        unknown: the tenants whose registry is away, or must be confirmed itself.
    """

    ids: frozenset[str]
    unknown: list[str]


async def installations_of(siblings: Mapping[str, InstallationStore]) -> SiblingInstallations:
    """What the registries of these tenants, by their names, say now; nothing is recorded there."""
    ids = await asyncio.gather(*map(_confirmed_id, siblings.values()))
    found = dict(zip(siblings, ids, strict=True))
    return SiblingInstallations(
        frozenset(one for one in ids if one is not None),
        sorted(name for name, one in found.items() if one is None),
    )


async def _confirmed_id(store: InstallationStore) -> str | None:
    try:
        async with asyncio.timeout(_ANSWERED_WITHIN):
            return await store.confirmed_id()
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
