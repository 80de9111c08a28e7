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


def has_ended(program: psutil.Process) -> bool:
    """Whether the program does nothing any more, also while its parent has yet to ask how it ended."""
    try:
        return program.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def wait_until_ended(program: psutil.Process) -> None:
    """Wait until the program has ended: a moment passes between the death of its parent and its own.

    Raises:
        TimeoutError: it goes on after ten seconds.
    """
    async with asyncio.timeout(10):
        while not has_ended(program):
            await asyncio.sleep(0.01)
