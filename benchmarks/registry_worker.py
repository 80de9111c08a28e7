"""A worker for workflows and status writes alone, which creates no databases."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ods.embedded.data_folder import DataFolder, StackFile
from ods.observability.logs import configure_logging
from ods.settings.settings import Settings
from ods.temporal import client
from ods.temporal.job_starter import JobStarter
from ods.tenants.tenant import open_tenants
from worker import registry_worker

TASK_QUEUE = "bench"
"""Prefix of its task queues; the stack's own worker serves others."""
_START = "start"
_MOST_JOBS = 10_000
_ROOT = Path(__file__).parents[1]


@contextmanager
def running(folder: DataFolder, stack: StackFile, *workflow_tasks: int) -> Iterator[int]:
    """Run the worker in another process, on the servers of `stack`; gives the process id.

    Args:
        folder: of the stack.
        stack: where its servers are.
        workflow_tasks: how many workflow tasks it has under way at most, if not as many as in production.
    """
    with (folder.logs / "registry-worker.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-m", "benchmarks.registry_worker", *map(str, workflow_tasks)],
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


def start_jobs(folder: DataFolder, stack: StackFile) -> None:
    """Start the workflows of all jobs that wait, in another process, while no worker runs them."""
    command = [sys.executable, "-m", "benchmarks.registry_worker", _START]
    env = os.environ | _settings(folder, stack)
    subprocess.run(command, cwd=_ROOT, env=env, check=True)  # noqa: S603 - our own command


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


async def _run(arguments: Sequence[str]) -> None:
    settings = Settings.load()
    temporal = await client.connect(settings)
    async with open_tenants(settings) as (tenant,):
        if _START in arguments:
            starter = JobStarter(temporal, settings.registry_queue)
            for job in await tenant.jobs.waiting_jobs(0, _MOST_JOBS):
                await starter.start(job)
        else:
            await registry_worker(temporal, tenant, *map(int, arguments)).run()


if __name__ == "__main__":
    configure_logging()
    asyncio.run(_run(sys.argv[1:]))
