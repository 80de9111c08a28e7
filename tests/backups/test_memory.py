"""What flows to a store and back does not stay in memory."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from ods.backups.storage import BackupStore

ROOT = Path(__file__).parents[2]
MEGABYTES = 800
MOST = 100


@pytest.mark.large
async def test_memory_is_bounded_when_much_is_stored_and_read(store: BackupStore) -> None:
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.backups.streamer", store.location(), str(MEGABYTES)),
        cwd=ROOT,
        env=os.environ,
        stdout=PIPE,
    )
    answer, _ = await running.communicate()
    assert running.returncode == 0
    assert float(answer) < MOST
