"""A worker for workflows and status writes alone, which creates no databases."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from embedded.data_folder import DataFolder, StackFile
from logs import configure_logging
from settings import Settings
from temporal import client
from tenants.tenant import open_tenants
from worker import registry_worker

TASK_QUEUE = "bench"
"""Prefix of its task queues; the stack's own worker serves others."""
_ROOT = Path(__file__).parents[1]


@contextmanager
def running(folder: DataFolder, stack: StackFile) -> Iterator[int]:
    """Run the worker in another process, on the servers of `stack`; gives the process id."""
    with (folder.logs / "registry-worker.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.registry_worker"],
            cwd=_ROOT,
            env=os.environ | _settings(folder, stack),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process.pid
    finally:
        process.kill()  # its workflows are not continued, so it need not end in good order
        process.wait()


def _settings(folder: DataFolder, stack: StackFile) -> dict[str, str]:
    secrets = folder.secrets()
    if secrets is None:
        raise RuntimeError(f"There is no stack in {folder.path}.")
    return {
        "ODS_ADMIN_DSN": stack["postgres"]["admin_dsn"],
        "ODS_MASTER_DSN": stack["postgres"]["master_dsn"],
        "ODS_INSTANCE_CONNECTION_STRING": "host=127.0.0.1;username=none;password=none;database=any",
        "ODS_ENCRYPTION_KEY": secrets.encryption_key,
        "ODS_TOKEN_SIGNING_KEY": secrets.token_signing_key,
        "ODS_TASK_QUEUE": TASK_QUEUE,
        "TEMPORAL_ADDRESS": stack["temporal"]["address"],
        "TEMPORAL_NAMESPACE": stack["temporal"]["namespace"],
        "TEMPORAL_CONFIG_FILE": os.devnull,
    }


async def _serve() -> None:
    settings = Settings.load()
    temporal = await client.connect(settings)
    async with open_tenants(settings) as (tenant,):
        await registry_worker(temporal, tenant).run()


if __name__ == "__main__":
    configure_logging()
    asyncio.run(_serve())
