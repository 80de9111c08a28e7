"""pg_dump and pg_restore as a worker runs them: which are at work, and one of them held in the middle."""

import asyncio
from contextlib import suppress

import psutil


def at_work(program: str, worker: int | None = None) -> list[psutil.Process]:
    """The processes of the program that a worker has started; not one that is only asked for its version.

    Args:
        program: its name.
        worker: the process id of the worker; by default, this process runs it.
    """
    found = []
    for child in psutil.Process(worker).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if child.name() == program and any(it.startswith("--dbname=") for it in child.cmdline()):
                found.append(child)
    return found


async def suspended(program: str, worker: int | None = None) -> psutil.Process:
    """The first one that is seen, held in the middle; it goes on with SIGCONT. The same arguments.

    Raises:
        TimeoutError: none was seen within a minute.
    """
    async with asyncio.timeout(60):
        while True:
            for process in at_work(program, worker):
                with suppress(psutil.NoSuchProcess):
                    process.suspend()
                    return process
            await asyncio.sleep(0.005)
