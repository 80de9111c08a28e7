"""Which installation a registry is, and whether it is where, and beside whom, it was confirmed to be."""

from collections.abc import Mapping, Sequence

import asyncpg
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from ods.databases.errors import DatabaseFaultError
from ods.databases.server import Server
from ods.doctor.findings import Finding, fault, ok, warning
from ods.registry.installation import InstallationStore
from ods.registry.storage.engine import create_registry_engine
from ods.registry.storage.models import Installation
from ods.registry.storage.sessions import RegistrySessions
from ods.settings.settings import Settings
from ods.tenants.installation_check import InstallationCheck, opened_siblings


async def examine_installation(
    subject: str, settings: Settings, tenant: str, others: Mapping[str, str]
) -> Sequence[Finding]:
    """The id of the installation, and what its operator must confirm.

    Args:
        subject: what the findings are about.
        settings: the tenant's own.
        tenant: the tenant's name.
        others: the DSNs of the registries of the other tenants, by their names.
    """
    engine = create_registry_engine(settings.admin_dsn.get_secret_value(), pool_size=1)
    server = Server(settings.master_dsn.get_secret_value())
    try:
        identifier, is_confirmed = await _identity(engine)
        if not is_confirmed:
            # To ask further would record where it is: that is for the service to do.
            return [ok(subject, f"{identifier}; it has not been used yet")]
        async with opened_siblings(others) as siblings, server.session() as session:
            check = InstallationCheck(
                InstallationStore(engine), tenant, siblings, shares_server=settings.shared_server
            )
            obstacle = await check.obstacle(session)
    except (SQLAlchemyError, asyncpg.PostgresError, OSError, DatabaseFaultError):
        return [warning(subject, "Not examined: registry or server cannot be asked")]
    finally:
        await engine.dispose()
        await server.close()
    if obstacle is not None:
        remedy = "ods recover --apply; with --as-new-installation, if this registry is a copy"
        return [fault(subject, obstacle, remedy)]
    return [ok(subject, f"{identifier}, confirmed for this registry and server")]


async def _identity(engine: AsyncEngine) -> tuple[str, bool]:
    """The installation's id, and whether it has been recorded where its registry and its server are."""
    query = select(Installation.id, Installation.registry_system, Installation.server_system)
    async with RegistrySessions(engine).statement() as session:
        identifier, registry, server = (await session.execute(query)).one()
    return str(identifier), registry is not None and server is not None
