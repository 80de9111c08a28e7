"""A process that stores and reads an object: `python -m tests.backups.streamer URL MEGABYTES`.

It prints how many megabytes of memory it had at most, beyond what it had before.
"""

import asyncio
import os
import re
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

from ods.backups.storage import BackupStore

_MEGABYTE = 2**20


def _memory(field: str) -> float:
    """Megabytes, as the kernel counts them for this process."""
    found = re.search(rf"^{field}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


async def _chunks(megabytes: int) -> AsyncGenerator[bytes, None]:
    for _ in range(megabytes):
        yield os.urandom(_MEGABYTE)


async def _main(url: str, megabytes: int) -> None:
    store, path = BackupStore(url), "default/1/large"
    before, size = _memory("VmRSS"), 0
    await store.write_stream(path, _chunks(megabytes), megabytes * _MEGABYTE)
    async for chunk in store.read_stream(path):
        size += len(chunk)
    assert size == megabytes * _MEGABYTE
    print(_memory("VmHWM") - before)  # noqa: T201 - for the test


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], int(sys.argv[2])))
