"""What is known of a backup before it is made, and once it is stored."""

import hmac
import json
import logging
from dataclasses import asdict
from uuid import UUID, uuid4

import asyncpg

from ods.backups.errors import BackupFaultError
from ods.backups.layout import folder_of
from ods.backups.manifest import BackupKey, BackupKind, BackupRequest, Manifest
from ods.backups.storage import BackupStore
from ods.databases.errors import DatabaseFaultError
from ods.databases.inspection.change_sign import read_sign
from ods.databases.locales import Locale, parse_locale, read_locale
from ods.databases.rights.inner import Rights, read_rights
from ods.registry.backups.stored import LostBackup, StoredBackup
from ods.registry.storage.models import Backup
from ods.tenants.tenant import Tenant

_SIGN = "changeSign"
_ID = "backupId"
_RIGHTS = "rights"
_RIGHTS_HMAC = "rightsHmac"
"""Proves that a service of this registry has written the rights: no other knows the key, and others may write
to the store."""
_LOCALE = "locale"
_ADDED = {_ID, "instanceId", _RIGHTS, _RIGHTS_HMAC, _LOCALE, _SIGN}
"""The members of a manifest's details that a row does not have."""

_logger = logging.getLogger(__name__)


async def backup_request(tenant: Tenant, backup: Backup, database: str) -> BackupRequest:
    """The request for one try at a backup of an open database, which stores under an id of its own."""
    async with tenant.server.connected(database) as inside:
        # Before the snapshot of the dump: what is committed after that changes the sign.
        sign = await _sign(inside) if backup.kind == BackupKind.SCHEDULED else None
        rights = await read_rights(inside, tenant.server.restored_owner)
        locale = await read_locale(inside, database)
    rights_hmac = await _hmac_of(tenant, str(backup.id), backup.mark, rights)
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
            _RIGHTS_HMAC: rights_hmac,
            _LOCALE: asdict(locale),
            **({_SIGN: sign} if sign is not None else {}),
        },
    )


async def rights_of(tenant: Tenant, made: Manifest) -> Rights:
    """The rights that a restore gives within the database that was backed up.

    If a service of this registry has not written them, only those that take something away from PUBLIC.
    """
    rights = _rights_in(made)
    if await has_own_rights(tenant, made):
        return rights
    _logger.warning(
        "The rights of roles in the manifest of %s are not given: this service has not written them. Give"
        " them by hand, if you trust all who may write to the store.",
        made.backup_id,
    )
    return [one for one in rights if isinstance(one, dict) and not one.get("privileges")]


def locale_of(made: Manifest) -> Locale:
    """The encoding and the locale of the database that was backed up."""
    try:
        return parse_locale(made.details.get(_LOCALE))
    except ValueError:
        raise BackupFaultError(
            f"The manifest of {made.backup_id} is damaged: it does not say in which encoding and locale the"
            " database was."
        ) from None


async def has_own_rights(tenant: Tenant, made: Manifest) -> bool:
    """Whether a service of this registry has written the rights in a manifest, or there are none."""
    if not (rights := _rights_in(made)):
        return True
    rights_hmac = await _hmac_of(tenant, str(made.details.get(_ID)), made.mark, rights)
    return hmac.compare_digest(rights_hmac.encode(), str(made.details.get(_RIGHTS_HMAC)).encode())


def _rights_in(made: Manifest) -> Rights:
    rights = made.details.get(_RIGHTS)
    return rights if isinstance(rights, list) else []


async def _hmac_of(tenant: Tenant, backup_id: str, mark: UUID, rights: Rights) -> str:
    """What only the services of this registry can write beside these rights of a backup."""
    key = (await tenant.jobs.installation.state()).backup_key
    content = json.dumps([backup_id, str(mark), rights], sort_keys=True)
    return hmac.digest(key, content.encode(), "sha256").hex()


def stored_backup(made: Manifest, store: BackupStore) -> StoredBackup:
    """What the registry records of a backup in the store."""
    sign = made.details.get(_SIGN)
    return StoredBackup(
        stored_id=str(made.backup_id),
        location=store.location(folder_of(made.key)),
        size_bytes=made.size_bytes,
        database_size_bytes=made.database_size_bytes,
        sha256=made.sha256,
        manifest_sha256=made.own_sha256,
        postgres_version=made.postgres_version,
        encrypted=made.encrypted,
        taken_at=made.created_at,
        finished_at=made.finished_at,
        change_sign=sign if isinstance(sign, str) else None,
    )


def lost_backup(made: Manifest, store: BackupStore, installation: UUID) -> LostBackup | None:
    """What a registry records of a backup whose row it has lost; None if the manifest has no id of it."""
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
        stored=stored_backup(made, store),
    )


async def _sign(inside: asyncpg.Connection) -> str | None:
    """The change sign of the database; None if it cannot be read."""
    try:
        return await read_sign(inside)
    except DatabaseFaultError as fault:
        if fault.outage:
            raise
        return None
