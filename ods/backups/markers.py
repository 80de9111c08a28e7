"""The marker of a backup that is being written: by it, others know that its writer lives."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

from ods.backups.errors import BackupFaultError
from ods.backups.layout import marker_of
from ods.backups.manifest import BackupKey
from ods.backups.storage import BackupStore

LEASE = timedelta(minutes=5)
"""How long a writer goes on without having renewed its marker."""
_RENEWAL = timedelta(minutes=1)
_CONTENT = b"This backup is being written, or its writer has died. It is none until its manifest is here.\n"
_CLOCK = time.CLOCK_BOOTTIME if sys.platform == "linux" else time.CLOCK_MONOTONIC
"""On Linux it goes on while the machine is suspended."""


class Marker:
    """The marker of one backup."""

    def __init__(self, store: BackupStore, key: BackupKey) -> None:
        self._store = store
        self._path = marker_of(key)
        self._renewed = 0.0

    async def renew(self) -> None:
        """Write the marker, now."""
        began = time.clock_gettime(_CLOCK)
        await self._store.write(self._path, _CONTENT)
        self._renewed = began

    async def renew_always(self) -> None:
        """Renew the marker every minute, until this is cancelled."""
        while True:
            await asyncio.sleep(_RENEWAL.total_seconds())
            with suppress(BackupFaultError):  # `require_fresh` finds it
                await self.renew()

    def require_fresh(self) -> None:
        """Check that the backup may not have been taken for one whose writer has died.

        Raises:
            BackupFaultError: the marker was not renewed for too long.
        """
        if time.clock_gettime(_CLOCK) - self._renewed > LEASE.total_seconds():
            raise BackupFaultError(
                "The store could not be reached for minutes while the backup was written. It was given up.",
                outage=True,
            )


@asynccontextmanager
async def marked(store: BackupStore, key: BackupKey) -> AsyncIterator[Marker]:
    """Mark the backup as being written for as long as the body runs.

    The marker stays: with the manifest it says nothing, and without, that a writer was there.
    """
    marker = Marker(store, key)
    await marker.renew()
    renewing = asyncio.create_task(marker.renew_always())
    try:
        yield marker
    finally:
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)
