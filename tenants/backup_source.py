"""Whether another backup can be made in place of one whose job has failed: its database must be there."""

from dataclasses import replace
from uuid import UUID

from databases.constants import INVALID_CONNECTION_LIMIT
from databases.errors import DatabaseFaultError
from databases.lookup import find
from databases.ownership import Owner
from tenants.tenant import Tenant
from tenants.usage import owner_of


async def find_source(tenant: Tenant, mark: UUID, installation: UUID, *, in_trash: bool) -> int | None:
    """The number of the job that has published an instance's database, or has put it into the trash.

    None if no backup can be made of it: the instance or its database is gone, is not where it should be,
    or a DROP of it was interrupted. Also if that cannot be told, for the server is away.

    Args:
        tenant: the tenant.
        mark: the instance's mark.
        installation: that of the registry.
        in_trash: whether the database must be in the trash, as for a final backup; if not, in use.
    """
    instance = await tenant.queries.kept_instance(str(mark))
    if instance is None or instance.is_in_trash != in_trash:
        return None
    name = (instance.trash_database if in_trash else instance.database_name) or ""
    owner = replace(owner_of(tenant, instance), installation=str(installation))
    try:
        async with tenant.server.session() as session:
            found = (await find(session, owner, name)).get(name)
    except DatabaseFaultError:
        return None
    if found is None or not owner.owns(found["comment"]) or found["datconnlimit"] == INVALID_CONNECTION_LIMIT:
        return None
    marked = Owner.read(found["comment"])
    is_there = marked is not None and (marked.trashed_name is not None) == in_trash
    return marked.number if marked is not None and is_there else None
