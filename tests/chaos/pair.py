"""The stack on a primary with a standby, which change places while it works.

`ods up` has one PostgreSQL. Here, API and worker are given both servers in their addresses, as in production.
"""

import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial

import httpx

from ods.embedded.data_folder import DataFolder, Secrets, StackFile
from ods.embedded.ports import free_ports
from ods.embedded.registry import migrate
from ods.embedded.seeding import (
    MINIMAL_SCRIPTS,
    REGISTRY_DATABASE,
    RESTORE_ROLE,
    SAMPLE_SCRIPTS,
    SERVICE_ROLE,
    ensure_registry_database,
    ensure_restore_roles,
    ensure_service_role,
    ensure_template,
)
from ods.embedded.supervisor import Supervisor
from ods.embedded.temporal_server import NAMESPACE, TemporalServer
from ods.programs.process import Command
from tests.replication import ReplicatedPair
from tests.servers import MINIMAL_TEMPLATE, SAMPLE_TEMPLATE

_HOST = "127.0.0.1"
_SPARES = "2"
_SETTINGS = {"fsync": "off"}
_READ_WRITE = "?target_session_attrs=read-write"
"""For those who look on: whether the service finds the primary by itself is what is to be seen."""


@asynccontextmanager
async def serving_on_pair(folder: DataFolder) -> AsyncIterator[ReplicatedPair]:
    """Run API, worker and Temporal in `folder` like `ods up`, on a pair of PostgreSQL servers.

    Raises:
        CommandError: it does not serve within a minute.
    """
    with folder.locked():
        async with ReplicatedPair(folder.path / "pair", _SETTINGS) as pair:
            secrets = Secrets.generate(pair.primary.port)
            folder.store_secrets(secrets)
            await _prepare(pair, secrets)
            stack = _Stack(folder, pair, secrets)
            async with Supervisor(folder.logs, stack.restarted) as supervisor:
                await stack.start(supervisor)
                yield pair


async def _prepare(pair: ReplicatedPair, secrets: Secrets) -> None:
    superuser, port = pair.primary.dsn(), pair.primary.port
    service = f"postgresql://{SERVICE_ROLE}:{secrets.service_password}@{_HOST}:{port}"
    await ensure_service_role(superuser, secrets.service_password)
    await ensure_restore_roles(superuser, secrets.restore_password)
    await ensure_registry_database(superuser)
    await migrate(f"{service}/{REGISTRY_DATABASE}")
    await ensure_template(f"{service}/postgres", MINIMAL_TEMPLATE, MINIMAL_SCRIPTS)
    await ensure_template(f"{service}/postgres", SAMPLE_TEMPLATE, SAMPLE_SCRIPTS)


class _Stack:
    def __init__(self, folder: DataFolder, pair: ReplicatedPair, secrets: Secrets) -> None:
        api_port, temporal_port, ui_port = free_ports(3)
        self._folder = folder
        self._pair = pair
        self._secrets = secrets
        self._api_port = api_port
        self._url = f"http://{_HOST}:{api_port}"
        self._temporal = TemporalServer(folder.path / "temporal", temporal_port, ui_port)
        self._supervisor: Supervisor

    async def start(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        await supervisor.start(self._temporal.command())
        await supervisor.wait_until(self._temporal.serves, "answer from Temporal")
        listen = ("--host", _HOST, "--port", str(self._api_port))
        await supervisor.start(self._module("worker", "worker"))
        await supervisor.start(self._module("api", "uvicorn", "--factory", "api.app:create_app", *listen))
        async with httpx.AsyncClient(base_url=self._url, trust_env=False) as client:
            await supervisor.wait_until(partial(self._registers, client), "answer from the API")
        self._publish()

    def restarted(self, _name: str) -> None:
        self._publish()

    def _module(self, name: str, *words: str) -> Command:
        return Command(name, (sys.executable, "-m", *words), self._environment(), stop_deadline=30)

    def _environment(self) -> Mapping[str, str]:
        secrets = self._secrets
        own = {name: value for name, value in os.environ.items() if not name.startswith(("TEMPORAL_", "PG"))}
        return (
            {"ODS_SPARES": _SPARES}
            | own
            | {
                "ODS_ADMIN_DSN": self._pair.dsn(REGISTRY_DATABASE, SERVICE_ROLE, secrets.service_password),
                "ODS_MASTER_DSN": self._pair.dsn("postgres", SERVICE_ROLE, secrets.service_password),
                "ODS_RESTORE_DSN": self._pair.dsn("postgres", RESTORE_ROLE, secrets.restore_password),
                # Where an instance is when it is created, which Npgsql, and so this string, tells once.
                "ODS_INSTANCE_CONNECTION_STRING": f"host={_HOST};port={secrets.postgres_port};"
                f"username={SERVICE_ROLE};password={secrets.service_password};database=EdFi_Ods",
                "ODS_ENCRYPTION_KEY": secrets.encryption_key,
                "ODS_TOKEN_SIGNING_KEY": secrets.token_signing_key,
                "ODS_REGISTRATION": "true",
                "ODS_BACKUP_URL": self._folder.backups().as_uri(),
                "TEMPORAL_ADDRESS": self._temporal.address,
                "TEMPORAL_NAMESPACE": NAMESPACE,
                "TEMPORAL_CONFIG_FILE": os.devnull,
                "PGSSLMODE": "disable",
            }
        )

    async def _registers(self, client: httpx.AsyncClient) -> bool:
        form = {
            "ClientId": self._secrets.client_id,
            "ClientSecret": self._secrets.client_secret,
            "DisplayName": "The clients of a storm",
        }
        try:
            answer = await client.post("/connect/register", data=form)
        except httpx.TransportError:
            return False
        return answer.is_success or "already exists" in answer.text

    def _publish(self) -> None:
        pids = self._supervisor.pids
        self._folder.publish(
            StackFile(
                api={"url": self._url, "pid": pids["api"]},
                worker={"pid": pids["worker"]},
                temporal={
                    "address": self._temporal.address,
                    "ui": self._temporal.ui_url,
                    "namespace": NAMESPACE,
                    "pid": pids["temporal"],
                },
                postgres={
                    "admin_dsn": self._pair.dsn(REGISTRY_DATABASE) + _READ_WRITE,
                    "master_dsn": self._pair.dsn("postgres") + _READ_WRITE,
                    "pid": self._pair.primary.pid,
                },
                backups={"url": self._folder.backups().as_uri()},
                client={"id": self._secrets.client_id, "secret": self._secrets.client_secret},
                settings=dict(self._environment()),
            )
        )
