"""A process that makes a backup, and stops in the middle for ever: `python -m tests.backups.writer`.

Its arguments are the DSN of the maintenance database, the database, the URL of the store, the path of the log
and the id of the backup.
"""

import asyncio
import signal
import sys
import uuid
from pathlib import Path

from ods.backups.backing_up import back_up
from ods.backups.manifest import BackupKey, BackupKind, BackupRequest
from ods.backups.monitoring import Monitor, Progress
from ods.backups.snapshots import Database
from ods.backups.storage import BackupStore
from ods.databases.server import Server

_ENOUGH_BYTES = 20 * 2**20


def _stop_in_the_middle(progress: Progress) -> None:
    if progress.bytes > _ENOUGH_BYTES:
        print("in the middle", flush=True)  # noqa: T201 - for the test
        signal.pause()


async def _main(dsn: str, database: str, url: str, log: str, backup_id: str) -> None:
    key = BackupKey("default", 1, uuid.UUID(backup_id))
    request = BackupRequest(key, uuid.uuid4(), "Killed", BackupKind.SCHEDULED)
    monitor = Monitor(Path(log), _stop_in_the_middle)
    await back_up(Database(Server(dsn), database), BackupStore(url), request, monitor)


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
