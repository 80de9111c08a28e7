"""Whether the database of an instance is as it was when its last scheduled backup was made."""

import logging

from backups.errors import BackupFaultError
from databases.change_sign import is_quiet, read_sign
from databases.errors import DatabaseFaultError
from registry.backups.scheduled import LastBackup
from tenants.backup_store import is_whole, open_store
from tenants.tenant import Tenant

_logger = logging.getLogger(__name__)


async def is_unchanged(tenant: Tenant, last: LastBackup) -> bool:
    """Whether a backup that is made now would have the data of the last one, which is still stored.

    If that is not certain, it has changed: the server or the store is away, a session works in the database,
    PostgreSQL has lost its statistics, or backups shall be encrypted and this one is not.
    """
    backup = last.backup
    if backup.encrypted is not bool(tenant.settings.recipients):
        return False
    try:
        async with tenant.server.connected(last.database) as session:
            is_same = await is_quiet(session) and await read_sign(session) == backup.change_sign
        return is_same and await is_whole(open_store(tenant.settings), tenant.name, backup)
    except (DatabaseFaultError, BackupFaultError) as fault:
        _logger.info("Whether %s has changed is not known: %s", backup.name, fault.reason)
        return False
