"""Making the database of a new instance as a copy of another instance's."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import assert_never

import asyncpg

from activities.following import Following, require_session, watched
from ods.backups.copying import copy_contents
from ods.backups.monitoring import program_log
from ods.backups.snapshots import Database
from ods.databases.analysis import analyze
from ods.databases.copying import Source, copy_closed, create_like, provision_copy
from ods.databases.errors import DatabaseFaultError
from ods.databases.inner_rights import give_rights, read_rights
from ods.databases.ownership import Owner
from ods.databases.provisioning import CloneRequest, ProvisionedDatabase
from ods.databases.server import Server
from ods.observability.metrics.job_phases import phase
from ods.registry.instances.origins import CopyMode, CopyOrigin
from ods.tenants.tenant import Tenant


async def provision_as_copy(  # noqa: PLR0913, PLR0917 - the parts of a step
    tenant: Tenant,
    session: asyncpg.Connection,
    request: CloneRequest,
    origin: CopyOrigin,
    following: Following,
    report: Callable[[], Awaitable[object]],
) -> ProvisionedDatabase:
    """Make the database as a copy, or find that an earlier attempt has made it.

    Args:
        tenant: the tenant.
        session: a fenced session. As soon as it has ended, the copy ends as well.
        request: what is made; of which database, `origin` says.
        origin: what is copied.
        following: told how far an online copy is.
        report: awaited each second while an online copy is made.

    Raises:
        NotOursError: a database has the wanted name and is not the instance's.
        DisagreementError: the copy or its source has a database of another name, or one that is closed or
            half dropped.
        BackupFaultError: pg_dump or pg_restore is missing, older than the server, or has failed.
        DatabaseFaultError: the source is gone, a right is missing, the server is away, …
    """
    source = await _source(tenant, origin)
    wanted = replace(request, template=source.database)

    async def make_staging() -> None:
        with phase("clone"):
            match origin.mode:
                case CopyMode.CLOSED:
                    await copy_closed(tenant.server, session, wanted)
                case CopyMode.ONLINE:
                    await create_like(session, source.database, wanted.owner.staging_name)
                    filling = _filled(tenant.server, wanted, following)
                    await watched(filling, require_session(session, report))
                case _:
                    assert_never(origin.mode)

    return await provision_copy(session, wanted, source, make_staging)


async def _filled(server: Server, request: CloneRequest, following: Following) -> None:
    staging = request.owner.staging_name
    with program_log() as log:
        await copy_contents(
            Database(server, request.template),
            Database(server, staging),
            replace(log, report=following.report),
            with_owners=True,
        )
    async with server.connected(request.template) as source:
        rights = await read_rights(source, server.restored_owner)
    async with server.connected(staging) as inside:
        await analyze(inside)
        await give_rights(inside, rights)


async def _source(tenant: Tenant, origin: CopyOrigin) -> Source:
    """The instance that is copied, which the registry holds: its database keeps its name.

    Raises:
        DatabaseFaultError: it is gone, for the registry was restored or its row changed by hand.
    """
    row = await tenant.queries.any_instance(origin.instance_id)
    if row is None or not row.is_live or str(row.mark) != origin.mark:
        raise DatabaseFaultError(f"The instance {origin.instance_id}, which is to be copied, is gone.")
    installation = tenant.jobs.installation.known_id
    owner = Owner(
        *(tenant.name, row.ods_instance_id, "", str(row.mark)),
        installation=installation,
        database_mark=None if row.database_mark is None else str(row.database_mark),
    )
    return Source(owner, row.database_name)
