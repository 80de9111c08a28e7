"""What is known of a backup before it is made, and once it is stored."""

from dataclasses import asdict
from uuid import UUID, uuid4

import asyncpg

from backups.manifest import MONETARY_LOCALE, RECIPIENTS, BackupKey, BackupKind, BackupRequest, Manifest
from databases.change_sign import read_sign
from databases.errors import DatabaseFaultError
from databases.inner_rights import Rights, read_rights
from databases.locales import read_locale
from registry.backups.stored import LostBackup, StoredBackup
from registry.storage.models import Backup
from tenants.tenant import Tenant

_SIGN = "changeSign"
"""The member of a manifest's details that has the sign."""
_ID = "backupId"
_RIGHTS = "rights"
_ADDED = {_ID, "instanceId", _RIGHTS, "locale", _SIGN, RECIPIENTS, MONETARY_LOCALE}
"""The members of a manifest's details that are not among those of the row."""


async def backup_request(tenant: Tenant, backup: Backup, database: str) -> BackupRequest:
    """The request for one try at a backup, which stores under an id of its own.

    Args:
        tenant: the tenant.
        backup: the backup, as it was requested.
        database: the name of the database that it is of, which is open.

    Raises:
        DatabaseFaultError: the server is away, …
    """
    async with tenant.server.connected(database) as inside:
        # Before the snapshot of the dump: what is committed after that changes the sign.
        sign = await _sign(inside) if backup.kind == BackupKind.SCHEDULED else None
        rights = await read_rights(inside, tenant.server.restored_owner)
        locale = await read_locale(inside, database)
    return BackupRequest(
        BackupKey(tenant.name, backup.ods_instance_id, uuid4()),
        backup.mark,
        backup.name,
        BackupKind(backup.kind),
        backup.template,
        {
            **backup.details,
            _ID: str(backup.id),
            "instanceId": backup.instance_id,
            _RIGHTS: rights,
            "locale": None if locale is None else asdict(locale),
            **({_SIGN: sign} if sign is not None else {}),
        },
    )


def rights_of(made: Manifest) -> Rights:
    """The rights within the database that was backed up; none if an early release has made the backup."""
    rights = made.details.get(_RIGHTS)
    return rights if isinstance(rights, list) else []


def stored_backup(made: Manifest, location: str) -> StoredBackup:
    """What the registry records of a backup that is stored in the folder `location`."""
    sign = made.details.get(_SIGN)
    return StoredBackup(
        stored_id=str(made.backup_id),
        location=location,
        size_bytes=made.size_bytes,
        database_size_bytes=made.database_size_bytes,
        sha256=made.sha256,
        postgres_version=made.postgres_version,
        encrypted=made.encrypted,
        taken_at=made.created_at,
        finished_at=made.finished_at,
        change_sign=sign if isinstance(sign, str) else None,
    )


def lost_backup(made: Manifest, location: str, installation: UUID) -> LostBackup | None:
    """What a registry records of a backup whose row it has lost; None if it does not tell its id."""
    try:
        backup_id = UUID(str(made.details.get(_ID)))
    except ValueError:
        return None
    return LostBackup(
        id=backup_id,
        ods_instance_id=made.ods_instance_id,
        mark=made.mark,
        name=made.name,
        kind=made.kind,
        template=made.template,
        details={member: value for member, value in made.details.items() if member not in _ADDED},
        installation=installation,
        stored=stored_backup(made, location),
    )


async def _sign(inside: asyncpg.Connection) -> str | None:
    """What tells the database from one that has changed since; None if that cannot be told."""
    try:
        return await read_sign(inside)
    except DatabaseFaultError as fault:
        if fault.outage:
            raise
        return None
