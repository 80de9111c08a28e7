"""The machine and the servers that the figures were measured on."""

import os
import platform
import subprocess
from pathlib import Path

import asyncpg
from temporalio.api.workflowservice.v1 import GetSystemInfoRequest
from temporalio.client import Client

_POSTGRES_SETTINGS = (
    "shared_buffers",
    "max_wal_size",
    "wal_level",
    "wal_init_zero",
    "fsync",
    "file_copy_method",
)


def describe() -> dict[str, str]:
    """The machine, without its servers."""
    return {
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.1f} GiB",
        "system": platform.platform(),
        "python": platform.python_version(),
        "commit": _commit(),
    }


async def describe_postgres(dsn: str) -> dict[str, str]:
    """The server's version, its settings that affect a clone, and the file system of its data."""
    connection = await asyncpg.connect(dsn)
    settings = await connection.fetch(
        "SELECT name, current_setting(name) AS value FROM pg_settings WHERE name = ANY($1) ORDER BY name",
        _POSTGRES_SETTINGS,
    )
    version = await connection.fetchval("SHOW server_version")
    folder = await connection.fetchval("SHOW data_directory")
    await connection.close()
    chosen = ", ".join(f"{row['name']}={row['value']}" for row in settings)
    return {"file system": _file_system(Path(folder)), "postgresql": f"{version} ({chosen})"}


async def describe_temporal(address: str) -> dict[str, str]:
    """The server's version."""
    temporal = await Client.connect(address)
    info = await temporal.workflow_service.get_system_info(GetSystemInfoRequest())
    return {"temporal": info.server_version}


def _processor() -> str:
    """The name of the first processor, as Linux has it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _file_system(folder: Path) -> str:
    """The file system that holds `folder`, that of the longest mount point above it, with its options."""
    try:
        mounts = [line.split()[1:4] for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return "unknown"
    above = [
        (len(point), f"{kind} ({options})")
        for point, kind, options in mounts
        if folder.resolve().is_relative_to(point)
    ]
    return max(above, default=(0, "unknown"))[1]


def _commit() -> str:
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty"],  # noqa: S607 - whichever git there is
        check=False,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
    )
    return git.stdout.strip() or "unknown"
