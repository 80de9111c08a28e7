"""The address of the console that signs a client in once."""

from sqlalchemy.ext.asyncio import AsyncEngine

from ods.registry.sign_in_links import SignInLinks, address_of
from ods.registry.storage.engine import create_registry_engine
from ods.settings.settings import DEFAULT_TENANT


async def console_link(engine: AsyncEngine, api_url: str, client: str, tenant: str = DEFAULT_TENANT) -> str:
    """Make a link.

    Args:
        engine: of the registry.
        api_url: the address of the API.
        client: the id of the client that it signs in.
        tenant: the tenant of the registry.

    Raises:
        ClientNotFoundError: there is no such client, or it may not sign in.
    """
    return address_of(api_url, tenant, await SignInLinks(engine).create(client))


async def console_link_of(dsn: str, api_url: str, client: str) -> str:
    """As `console_link`, for the registry with this DSN, of a service for one tenant."""
    engine = create_registry_engine(dsn, pool_size=1)
    try:
        return await console_link(engine, api_url, client)
    finally:
        await engine.dispose()
