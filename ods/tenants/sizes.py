"""Recording how large the databases of a tenant's instances are: what needs registry and server together."""

from ods.databases.usage import read_sizes
from ods.tenants.tenant import Tenant
from ods.tenants.usage import may_have_database, owner_of


async def record_sizes(tenant: Tenant) -> int:
    """Record today's size of each instance's database that carries its mark; returns how many there are.

    Raises:
        DatabaseFaultError: the server is away, a right is missing, …
        sqlalchemy.exc.SQLAlchemyError: the registry is away.
    """
    rows = [row for row in await tenant.queries.live_instances() if may_have_database(row)]
    async with tenant.server.session() as session:
        found = await read_sizes(session, {row.database_name for row in rows})
    sizes = {
        row.id: size.bytes
        for row in rows
        if (size := found.get(row.database_name)) and owner_of(tenant, row).owns(size.comment)
    }
    await tenant.sizes.record(sizes, forget=await tenant.clock.is_steady())
    return len(sizes)
