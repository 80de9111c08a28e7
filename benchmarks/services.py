"""API and worker for tenants of the benchmark's own, beside those of a stack and on its servers."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic, sleep

import asyncpg
import httpx

from ods.embedded.data_folder import DataFolder, StackFile
from ods.embedded.registry import migrate

_ROOT = Path(__file__).parents[1]
_START_SECONDS = 60
_POLL_SECONDS = 0.2
_MIGRATED = "EdFi_Admin_migrated"


async def make_registries(stack: StackFile, names: Sequence[str]) -> dict[str, str]:
    """An empty registry for each of these tenants; returns their addresses, as the server's superuser."""
    admin_dsn = stack["postgres"]["admin_dsn"]
    server = admin_dsn.rpartition("/")[0]
    maintenance = await asyncpg.connect(stack["postgres"]["master_dsn"])
    try:
        await maintenance.execute(f'CREATE DATABASE "{_MIGRATED}"')
        await migrate(f"{server}/{_MIGRATED}")
        for name in names:
            await maintenance.execute(f'CREATE DATABASE "EdFi_Admin_{name}" TEMPLATE "{_MIGRATED}"')
    finally:
        await maintenance.close()
    addresses = {name: f"{server}/EdFi_Admin_{name}" for name in names}
    for address in addresses.values():
        registry = await asyncpg.connect(address)
        await registry.execute("UPDATE adminapi.installation SET id = gen_random_uuid()")
        await registry.close()
    return addresses


def settings(
    folder: DataFolder, stack: StackFile, registries: Mapping[str, str], **further: str
) -> dict[str, str]:
    """The variables of a process that serves tenants with these registries, on the servers of `stack`."""
    secrets = folder.secrets()
    if secrets is None:
        raise RuntimeError(f"There is no stack in {folder.path}.")
    own = {
        "master_dsn": stack["postgres"]["master_dsn"],
        "allow_superuser": "true",
        "instance_connection_string": "host=127.0.0.1;username=none;password=none;database=any",
        "encryption_key": secrets.encryption_key,
    }
    tenants = {name: {**own, "admin_dsn": address} for name, address in registries.items()}
    return {
        "ODS_TENANTS": json.dumps(tenants),
        "ODS_TOKEN_SIGNING_KEY": secrets.token_signing_key,
        "ODS_REGISTRATION": "true",
        "ODS_SHARED_SERVER": "true",
        "TEMPORAL_ADDRESS": stack["temporal"]["address"],
        "TEMPORAL_NAMESPACE": stack["temporal"]["namespace"],
        "TEMPORAL_CONFIG_FILE": os.devnull,
        "PGSSLMODE": "disable",
        **further,
    }


async def register(stack: StackFile, tenant: str, address: str) -> None:
    """Register the client of the stack with the tenant of an API at `address`."""
    entry = stack["client"]
    form = {"ClientId": entry["id"], "ClientSecret": entry["secret"], "DisplayName": "Measures"}
    headers = {"tenant": tenant}
    async with httpx.AsyncClient(base_url=address, trust_env=False, headers=headers) as http:
        (await http.post("/connect/register", data=form)).raise_for_status()


@contextmanager
def api(folder: DataFolder, port: int, variables: Mapping[str, str]) -> Iterator[str]:
    """Run an API process until the block ends, once it answers; gives its address."""
    arguments = ("-m", "uvicorn", "--factory", "api.app:create_app", "--port", str(port))
    timed = ("--http", "api.http.server_protocol:TimedProtocol")
    address = f"http://127.0.0.1:{port}"
    with _running(folder, f"api-{port}", (*arguments, *timed), variables):
        _wait_until_it_answers(f"{address}/readyz")
        yield address


@contextmanager
def worker(folder: DataFolder, metrics_port: int | None, variables: Mapping[str, str]) -> Iterator[None]:
    """Run a worker process until the block ends, once it is ready if there is a port to ask it."""
    port = {} if metrics_port is None else {"ODS_METRICS_PORT": str(metrics_port)}
    with _running(folder, f"worker-{metrics_port}", ("-m", "worker"), {**variables, **port}):
        if metrics_port is not None:
            _wait_until_it_answers(f"http://127.0.0.1:{metrics_port}/readyz")
        yield


@contextmanager
def _running(
    folder: DataFolder, name: str, arguments: Sequence[str], variables: Mapping[str, str]
) -> Iterator[None]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ODS_")}
    with ExitStack() as stack:
        log = stack.enter_context((folder.logs / f"{name}.log").open("wb"))
        process = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, *arguments],
            cwd=_ROOT,
            env={**environment, **variables},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            yield
        finally:
            process.terminate()
            process.wait()


def _wait_until_it_answers(address: str) -> None:
    until = monotonic() + _START_SECONDS
    while True:
        try:
            if httpx.get(address, trust_env=False).is_success:
                return
        except httpx.TransportError:
            pass
        if monotonic() > until:
            raise TimeoutError(f"{address} is not well within {_START_SECONDS} seconds.")
        sleep(_POLL_SECONDS)
