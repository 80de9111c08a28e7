"""Making the database of a new instance from a backup."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from uuid import UUID

import asyncpg

from activities.backup_requests import locale_of, rights_of
from activities.following import Following, require_session, watched
from ods.backups.manifest import Manifest
from ods.backups.monitoring import program_log
from ods.backups.restoring import restore
from ods.backups.snapshots import Database
from ods.backups.storage import BackupStore
from ods.databases.analysis import analyze
from ods.databases.copying import create_like
from ods.databases.errors import DatabaseFaultError
from ods.databases.inner_rights import give_rights
from ods.databases.provisioning import (
    CloneRequest,
    ProvisionedDatabase,
    already_made,
    publish_made,
    size_of,
)
from ods.databases.renaming import END_SESSIONS
from ods.databases.statements import fetch_rows
from ods.observability.metrics.job_phases import phase
from ods.registry.storage.errors import BackupNotFoundError, BackupRefusedError
from ods.registry.storage.models import Backup
from ods.tenants.backup_store import load_recorded, open_store
from ods.tenants.tenant import Tenant


async def provision_from_backup(  # noqa: PLR0913, PLR0917 - the parts of a step
    tenant: Tenant,
    session: asyncpg.Connection,
    request: CloneRequest,
    backup_id: str,
    following: Following,
    report: Callable[[], Awaitable[object]],
) -> ProvisionedDatabase:
    """Make the database from a backup, or find that an earlier attempt has made it.

    It is filled under its private name, with the encoding and the locale that was backed up, and gets the
    privileges and settings that its template has.

    Args:
        tenant: the tenant.
        session: a fenced session. As soon as it has ended, the restore ends as well.
        request: what is made.
        backup_id: the backup.
        following: told how far it is.
        report: awaited each second while it is restored.

    Raises:
        NotOursError: a database has the wanted name and is not the instance's.
        DisagreementError: the instance has a database of another name, or one that is closed or half dropped.
        BackupFaultError: the backup cannot be read or restored, or is damaged; the store is away.
        DatabaseFaultError: the backup is deleted, a right is missing, the server is away, …
    """
    if (made := await already_made(session, request)) is not None:
        return made
    backup = await _stored(tenant, backup_id)
    store = await open_store(tenant.settings)
    manifest = await load_recorded(store, tenant.name, backup)
    staging = request.owner.staging_name
    with phase("clone"):
        await create_like(session, request.template, staging, locale_of(manifest))
        filling = _filled(tenant, store, manifest, Database(tenant.server, staging), following)
        await watched(filling, require_session(session, report))
    await fetch_rows(session, END_SESSIONS, [staging])
    await publish_made(session, request, staging, None)
    return ProvisionedDatabase(await size_of(session, request.database) or 0, None)


async def _stored(tenant: Tenant, backup_id: str) -> Backup:
    try:
        return await tenant.backups.stored(UUID(backup_id))
    except BackupNotFoundError:
        raise DatabaseFaultError(f"The backup {backup_id} is deleted: nothing can be restored.") from None
    except BackupRefusedError as refusal:
        raise DatabaseFaultError(f"{refusal.reason} {refusal.next_step}") from None


async def _filled(
    tenant: Tenant, store: BackupStore, manifest: Manifest, database: Database, following: Following
) -> None:
    with program_log() as log:
        await restore(store, manifest, database, replace(log, report=following.report))
    async with database.server.connected(database.name) as inside:
        await analyze(inside)
        await give_rights(inside, await rights_of(tenant, manifest))
