"""The embedded stack: PostgreSQL, Temporal, the worker and the API, run by one process from one folder."""

import asyncio
import os
import sys
from collections.abc import Callable
from dataclasses import replace

import asyncpg
import httpx

from embedded import temporal_server
from embedded.data_folder import DataFolder, Secrets, StackFile
from embedded.errors import CommandError
from embedded.ports import Ports, free_port, require_free
from embedded.postgres import EmbeddedPostgres
from embedded.process import Command
from embedded.registry import migrate
from embedded.seeding import (
    MINIMAL_SCRIPTS,
    REGISTRY_DATABASE,
    SAMPLE_SCRIPTS,
    SERVICE_ROLE,
    ensure_registry_database,
    ensure_service_role,
    ensure_template,
)
from embedded.supervisor import Supervisor
from embedded.temporal_server import TemporalServer
from settings import InvalidSettingsError, Settings

_HOST = "127.0.0.1"
_LOOPBACK_HOSTS = f"{_HOST},localhost,[::1]"
_MAINTENANCE_DATABASE = "postgres"
_SPARES = "2"
"""Unlike in production, their disk space does not matter: the templates are small."""
_DDL_PREFETCH = "2"
"""There is one worker, so prefetching keeps no job from another, and saves waiting for Temporal."""
_WORKER_NICENESS = 15
"""Lower priority than the API, for whose answers clients wait."""
_API_STOP_SECONDS = 5
_EXTRA_STOP_SECONDS = 5
"""Seconds that a process may take to stop beyond the time that it gives its work in progress."""


async def run(folder: DataFolder, ports: Ports, report: Callable[[str], None]) -> None:
    """Start a stack in `folder` and keep it running until this task is cancelled.

    Args:
        folder: holds the stack's data, logs and secrets.
        ports: where it listens.
        report: called with each message about the progress.

    Raises:
        CommandError: the stack cannot be started.
    """
    with folder.locked():
        folder.withdraw()
        secrets = _load_or_generate_secrets(folder, ports)
        await _Stack(folder, ports, secrets, report).run()


def _load_or_generate_secrets(folder: DataFolder, ports: Ports) -> Secrets:
    stored = folder.secrets()
    others = (ports.api, ports.temporal, ports.temporal_ui)
    port = ports.postgres or (stored.postgres_port if stored else free_port(besides=others))
    require_free(
        {
            "--api-port": ports.api,
            "--temporal-port": ports.temporal,
            "--temporal-ui-port": ports.temporal_ui,
            "--postgres-port": port,
        }
    )
    secrets = replace(stored, postgres_port=port) if stored else Secrets.generate(port)
    folder.store_secrets(secrets)
    return secrets


class _Stack:
    def __init__(
        self, folder: DataFolder, ports: Ports, secrets: Secrets, report: Callable[[str], None]
    ) -> None:
        self._folder = folder
        self._secrets = secrets
        self._report = report
        self._api_port = ports.api
        self._api_url = f"http://{_HOST}:{ports.api}"
        self._temporal = TemporalServer(folder.path / "temporal", ports.temporal, ports.temporal_ui)
        self._postgres = EmbeddedPostgres(
            folder.path / "postgres",
            secrets.postgres_port,
            secrets.superuser_password,
            log=folder.logs / "postgres.log",
        )
        self._supervisor = Supervisor(folder.logs, self._restarted)
        self._is_serving = False

    async def run(self) -> None:
        settings = self._configure()
        async with self._supervisor:
            try:
                await self._start_postgres(settings)
                await self._start_temporal()
                await self._start_service(settings)
                self._announce()
                await asyncio.Event().wait()
            finally:
                self._is_serving = False
                self._folder.withdraw()
                self._report("Stopping ...")

    def _configure(self) -> Settings:
        """Set the environment that the API and the worker inherit, and check it."""
        for name in [name for name in os.environ if name.startswith("TEMPORAL_")]:
            del os.environ[name]  # the caller's certificates and keys are for another server
        for name in ("ODS_TENANTS", "ODS_TENANTS_FILE"):
            os.environ.pop(name, None)  # the stack is for one tenant
        secrets = self._secrets
        os.environ.setdefault("ODS_SPARES", _SPARES)
        os.environ.setdefault("ODS_DDL_PREFETCH", _DDL_PREFETCH)
        os.environ.setdefault("FORWARDED_ALLOW_IPS", "")  # else any local program may forge addresses
        further_hosts = os.environ.get("ODS_ALLOWED_HOSTS")
        own = {
            "ODS_ALLOWED_HOSTS": f"{_LOOPBACK_HOSTS},{further_hosts}" if further_hosts else _LOOPBACK_HOSTS,
            "ODS_ADMIN_DSN": self._service_dsn(REGISTRY_DATABASE),
            "ODS_MASTER_DSN": self._service_dsn(_MAINTENANCE_DATABASE),
            "ODS_INSTANCE_CONNECTION_STRING": f"host={_HOST};port={secrets.postgres_port};"
            f"username={SERVICE_ROLE};password={secrets.service_password};database=EdFi_Ods",
            "ODS_ENCRYPTION_KEY": secrets.encryption_key,
            "ODS_TOKEN_SIGNING_KEY": secrets.token_signing_key,
            "ODS_REGISTRATION": "true",
            "ODS_TEMPORAL_UI_URL": self._temporal.ui_url,
            "TEMPORAL_ADDRESS": self._temporal.address,
            "TEMPORAL_NAMESPACE": temporal_server.NAMESPACE,
            "TEMPORAL_CONFIG_FILE": os.devnull,
            "PGSSLMODE": "disable",  # else each connection tries TLS first
        }
        for name in own:
            os.environ.pop(f"{name}_FILE", None)
        os.environ |= own
        return _load_settings()

    async def _start_postgres(self, settings: Settings) -> None:
        self._report("Starting PostgreSQL ...")
        await self._postgres.initialise()
        await self._supervisor.start(self._postgres.command())
        await self._supervisor.wait_until(self._postgres.answers, "answer from PostgreSQL")
        self._report("Preparing the databases ...")
        try:
            await self._prepare_databases(settings)
        except (OSError, asyncpg.PostgresError):
            raise CommandError(
                f"The databases cannot be prepared; {self._folder.logs / 'postgres.log'} says why."
            ) from None

    async def _prepare_databases(self, settings: Settings) -> None:
        superuser_dsn, service_dsn = self._postgres.dsn(), self._service_dsn(_MAINTENANCE_DATABASE)
        await ensure_service_role(superuser_dsn, self._secrets.service_password)
        await ensure_registry_database(superuser_dsn)
        await migrate(self._service_dsn(REGISTRY_DATABASE))
        await ensure_template(service_dsn, settings.minimal_template, MINIMAL_SCRIPTS)
        await ensure_template(service_dsn, settings.sample_template, SAMPLE_SCRIPTS)

    async def _start_temporal(self) -> None:
        self._report("Starting Temporal ...")
        await self._supervisor.start(self._temporal.command())
        await self._supervisor.wait_until(self._temporal.serves, "answer from Temporal")

    async def _start_service(self, settings: Settings) -> None:
        self._report("Starting the worker and the API ...")
        await self._supervisor.start(_worker(settings.shutdown_timeout))
        await self._supervisor.start(_api(self._api_port))
        async with httpx.AsyncClient(base_url=self._api_url, trust_env=False) as client:
            await self._supervisor.wait_until(lambda: self._registers(client), "answer from the API")
            await self._supervisor.wait_until(lambda: _is_healthy(client), "healthy service")

    async def _registers(self, client: httpx.AsyncClient) -> bool:
        form = {
            "ClientId": self._secrets.client_id,
            "ClientSecret": self._secrets.client_secret,
            "DisplayName": "The stack's own client",
        }
        try:
            answer = await client.post("/connect/register", data=form)
        except httpx.TransportError:
            return False
        return answer.is_success or "already exists" in answer.text

    def _announce(self) -> None:
        self._is_serving = True
        self._publish()
        self._report(
            f"The stack serves:\n"
            f"  API              {self._api_url}\n"
            f"  Temporal Web UI  {self._temporal.ui_url}\n"
            f"  Details          {self._folder.stack_file}\n"
            f"Stop it with Ctrl-C, or from elsewhere with `kill {os.getpid()}`."
        )

    def _restarted(self, name: str) -> None:
        if self._is_serving:
            self._publish()
        self._report(f"{name} had ended and was started again; {self._folder.logs / name}.log may say why.")

    def _publish(self) -> None:
        pids, secrets = self._supervisor.pids, self._secrets
        self._folder.publish(
            StackFile(
                api={"url": self._api_url, "pid": pids["api"]},
                worker={"pid": pids["worker"]},
                temporal={
                    "address": self._temporal.address,
                    "ui": self._temporal.ui_url,
                    "namespace": temporal_server.NAMESPACE,
                    "pid": pids["temporal"],
                },
                postgres={
                    "admin_dsn": self._postgres.dsn(REGISTRY_DATABASE),
                    "master_dsn": self._postgres.dsn(_MAINTENANCE_DATABASE),
                    "pid": pids["postgres"],
                },
                client={"id": secrets.client_id, "secret": secrets.client_secret},
            )
        )

    def _service_dsn(self, database: str) -> str:
        secrets = self._secrets
        return f"postgresql://{SERVICE_ROLE}:{secrets.service_password}@{_HOST}:{secrets.postgres_port}/{database}"


async def _is_healthy(client: httpx.AsyncClient) -> bool:
    try:
        answer = await client.get("/health")
    except httpx.TransportError:
        return False
    return answer.is_success and answer.json()["status"] == "Healthy"


def _load_settings() -> Settings:
    try:
        return Settings.load()
    except InvalidSettingsError as error:
        raise CommandError(str(error)) from None


def _worker(shutdown_timeout: float) -> Command:
    return Command(
        name="worker",
        arguments=(sys.executable, "-m", "worker"),
        environment=os.environ,
        stop_deadline=shutdown_timeout + _EXTRA_STOP_SECONDS,
        niceness=_WORKER_NICENESS,
    )


def _api(port: int) -> Command:
    server = (
        *("--host", _HOST, "--port", str(port), "--http", "api.http.server_protocol:TimedProtocol"),
        *("--timeout-graceful-shutdown", str(_API_STOP_SECONDS)),
    )
    return Command(
        name="api",
        arguments=(sys.executable, "-m", "uvicorn", "--factory", "api.app:create_app", *server),
        environment=os.environ,
        stop_deadline=_API_STOP_SECONDS + _EXTRA_STOP_SECONDS,
    )
