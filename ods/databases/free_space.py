"""How much room the server of the ODS databases has left.

PostgreSQL does not tell that by SQL. It is read from the file system if this process runs on the server's
machine and may see its data directory.
"""

import asyncio
import shutil
from pathlib import Path

import asyncpg

from ods.databases.statements import fetch_row

# Asked only if the role may see it, so that a role without the right leaves no error in the server's log.
_SERVER = """
SELECT CASE WHEN pg_has_role('pg_read_all_settings', 'USAGE')
            THEN current_setting('data_directory') END AS directory,
       extract(epoch FROM pg_postmaster_start_time())::bigint AS started
"""
_PID_FILE = "postmaster.pid"
_START_LINE = 2
"""The line of that file, counted from 0, with the time at which the server was started."""
_CLOCKS_DIFFER = 2
"""Seconds between the time in that file and the one that the server tells."""


async def free_space(session: asyncpg.Connection) -> int | None:
    """Bytes that are free where the server makes databases; None if that cannot be known from here.

    Raises:
        DatabaseFaultError: the server is away, …
    """
    server = await fetch_row(session, _SERVER)
    if server is None or server["directory"] is None:
        return None
    return await asyncio.to_thread(_free_in, Path(server["directory"]), server["started"])


def _free_in(directory: Path, started: int) -> int | None:
    """Free bytes in the data directory of the server that was started then; None if it is not there."""
    try:
        lines = (directory / _PID_FILE).read_text(encoding="ascii").splitlines()
        is_the_server = abs(int(lines[_START_LINE]) - started) <= _CLOCKS_DIFFER
        return shutil.disk_usage(directory).free if is_the_server else None
    except (OSError, ValueError, IndexError):
        return None
