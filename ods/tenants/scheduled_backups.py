"""Whether the database of an instance is as it was when its last scheduled backup was made."""

import logging

from ods.backups.errors import BackupFaultError
from ods.databases.change_sign import is_quiet, read_sign
from ods.databases.errors import DatabaseFaultError
from ods.registry.backups.scheduled import LastBackup
from ods.tenants.backup_store import load_whole, open_store
from ods.tenants.tenant import Tenant

_logger = logging.getLogger(__name__)


async def is_unchanged(tenant: Tenant, last: LastBackup) -> bool:
    """Whether a backup that is made now would have the data of the last one, which is still stored.

    If that is not certain, it has changed: the server or the store is away, a session works in the database,
    PostgreSQL has lost its statistics, or the last one is not encrypted to the recipients of now.
    """
    backup = last.backup
    try:
        async with tenant.server.connected(last.database) as session:
            if not await is_quiet(session) or await read_sign(session) != backup.change_sign:
                return False
        stored = await load_whole(await open_store(tenant.settings), tenant.name, backup)
        return stored is not None and stored.is_encrypted_to(tenant.settings.recipients)
    except (DatabaseFaultError, BackupFaultError) as fault:
        _logger.info("Whether %s has changed is not known: %s", backup.name, fault.reason)
        return False
