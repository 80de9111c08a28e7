"""Other programs on the machine of the stack, which take the processors from it."""

import os
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from ods.programs import process
from ods.programs.process import Command

_FOR_EVER = "while True: pass"


@asynccontextmanager
async def busy(count: int) -> AsyncIterator[None]:
    """So many processes compute while the body runs, each of which would use up one processor."""
    command = Command("busy", (sys.executable, "-c", _FOR_EVER), os.environ)
    with tempfile.TemporaryDirectory() as folder:
        async with AsyncExitStack() as stack:
            for _ in range(count):
                child = await process.start(command, Path(folder) / "busy.log")
                stack.push_async_callback(process.stop, child, command)
            yield
