"""What belongs to one tenant, composed once for a process: nothing of it is shared with another tenant."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self

from sqlalchemy.ext.asyncio import AsyncEngine

from activities.drift import DriftDetector
from databases.server import Server
from databases.stocking import SpareStock
from instances.catalog import Catalog
from instances.engine import create_registry_engine
from instances.jobs import ExecutionPolicy
from instances.refreshes import RefreshJobs
from instances.registry import Registry
from instances.secrets import OdsConnectionStrings, connection_strings
from settings import AnySettings, Settings

_READING_TIMEOUT = 30
"""Seconds that a statement of those who read ODS databases may take: they wait for one another."""


@dataclass(frozen=True)
class Tenant:
    """A tenant: its registry, the server of its ODS databases, and how the ODS/API connects to them."""

    name: str
    settings: Settings
    engine: AsyncEngine
    registry: Registry
    catalog: Catalog
    server: Server
    connection_strings: OdsConnectionStrings
    drift: DriftDetector
    spares: SpareStock
    refreshes: RefreshJobs
    reading_engine: AsyncEngine
    """Its connections are held while an ODS database is read, which may hang: status writes have others."""

    @classmethod
    def compose(cls, name: str, settings: Settings, connection_strings: OdsConnectionStrings) -> Self:
        """Put the parts together; nothing is connected to yet."""
        dsn = settings.admin_dsn.get_secret_value()
        engine = create_registry_engine(dsn)
        server, catalog = Server(settings.master_dsn.get_secret_value()), Catalog(engine)
        registry = Registry(engine, ExecutionPolicy.from_settings(settings), name)
        templates = set(settings.template_databases.values())
        return cls(
            name=name,
            settings=settings,
            engine=engine,
            registry=registry,
            catalog=catalog,
            server=server,
            connection_strings=connection_strings,
            drift=DriftDetector(name, server, catalog, templates, connection_strings),
            spares=SpareStock.from_settings(settings, server, registry.installation),
            refreshes=RefreshJobs(engine, name),
            reading_engine=create_registry_engine(dsn, settings.refresh_concurrency, _READING_TIMEOUT),
        )

    async def close(self) -> None:
        """Close the connections that are kept."""
        await asyncio.gather(self.engine.dispose(), self.reading_engine.dispose(), self.server.close())


@asynccontextmanager
async def composed(settings: AnySettings) -> AsyncIterator[list[Tenant]]:
    """All tenants; in the end their connections are closed.

    Raises:
        InvalidSettingsError: the settings of a tenant do not make connection strings.
    """
    strings = connection_strings(settings)
    tenants = [Tenant.compose(name, own, strings[name]) for name, own in settings.tenants.items()]
    try:
        yield tenants
    finally:
        await asyncio.gather(*(tenant.close() for tenant in tenants))
