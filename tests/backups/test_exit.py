"""A process that ends right after its last request to a store ends well."""

import asyncio
import sys
from pathlib import Path

from ods.backups.storage import BackupStore

ROOT = Path(__file__).parents[2]
PROCESSES = 16
"""At once, so that their threads wait for processors; without a remedy, a third of them was aborted."""


async def test_no_process_is_aborted_when_it_ends_right_after_a_request(folder_store: BackupStore) -> None:
    running = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.backups.streamer", folder_store.location(), "1"),
            cwd=ROOT,
            stdout=asyncio.subprocess.DEVNULL,
        )
        for _ in range(PROCESSES)
    ]
    assert [await process.wait() for process in running] == [0] * PROCESSES
