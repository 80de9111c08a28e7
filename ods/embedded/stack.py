"""The embedded stack: PostgreSQL, Temporal, the worker and the API, run by one process from one folder."""

import asyncio
import os
import sys
from collections.abc import Callable
from dataclasses import replace

import httpx

from ods.embedded import temporal_server
from ods.embedded.console_link import console_link_of
from ods.embedded.data_folder import DataFolder, Secrets, StackFile
from ods.embedded.errors import CommandError
from ods.embedded.existing_server import ExistingServer
from ods.embedded.health import HealthProbe
from ods.embedded.ports import Ports, free_port, free_ports, require_free
from ods.embedded.stack_server import POSTGRES_VARIABLE, OwnServer, PostgresChoice, StackServer
from ods.embedded.supervisor import Supervisor
from ods.embedded.temporal_server import TemporalServer
from ods.programs.process import Command
from ods.programs.wrapper import lower_priority
from ods.registry.clients.administration import ClientNotFoundError
from ods.settings.settings import InvalidSettingsError, Settings

_HOST = "127.0.0.1"
_INDENT = " " * 19
_LOOPBACK_HOSTS = f"{_HOST},localhost,[::1]"
_DDL_PREFETCH = "2"
"""There is one worker, so prefetching keeps no job from another, and saves waiting for Temporal."""
_WORKER_NICENESS = 5
"""Lower priority than the API, for whose answers clients wait."""
_API_STOP_SECONDS = 5
_EXTRA_STOP_SECONDS = 5
"""Seconds that a process may take to stop beyond the time that it gives its work in progress."""


_OTHER_PORT = (
    "PostgreSQL listens on port {port} from now on. The connection strings of instances still lead to port"
    " {earlier}, where another program may listen: do what `ods drift` says before an ODS/API uses them."
)


async def run(
    folder: DataFolder, ports: Ports, postgres: PostgresChoice, report: Callable[[str], None]
) -> None:
    """Start a stack in `folder` and keep it running until this task is cancelled.

    Args:
        folder: holds the stack's data, logs and secrets.
        ports: where it listens.
        postgres: the PostgreSQL that it works on.
        report: called with each message about the progress.

    Raises:
        CommandError: the stack cannot be started.
    """
    postgres.require_one(ports.postgres)
    with folder.locked():
        folder.withdraw()
        secrets = _load_or_generate_secrets(folder, ports, report, own_server=postgres.dsn is None)
        server = _server(folder, secrets, postgres, report)
        await _Stack(folder, ports, secrets, server, report).run()


def _load_or_generate_secrets(
    folder: DataFolder, ports: Ports, report: Callable[[str], None], *, own_server: bool
) -> Secrets:
    stored = folder.secrets()
    others = (ports.api, ports.temporal, ports.temporal_ui)
    port = ports.postgres or (stored.postgres_port if stored else free_port(besides=others))
    listeners = {
        "--api-port": ports.api,
        "--temporal-port": ports.temporal,
        "--temporal-ui-port": ports.temporal_ui,
    }
    require_free(listeners | {"--postgres-port": port} if own_server else listeners)
    if own_server and stored and stored.postgres_port != port:
        report(_OTHER_PORT.format(earlier=stored.postgres_port, port=port))
    secrets = replace(stored, postgres_port=port) if stored else Secrets.generate(port)
    folder.store_secrets(secrets)
    return secrets


def _server(
    folder: DataFolder, secrets: Secrets, choice: PostgresChoice, report: Callable[[str], None]
) -> StackServer:
    if choice.dsn is None:
        return OwnServer(folder, secrets, choice.version)
    return ExistingServer(choice.dsn, folder, secrets, report)


class _Stack:
    def __init__(
        self,
        folder: DataFolder,
        ports: Ports,
        secrets: Secrets,
        server: StackServer,
        report: Callable[[str], None],
    ) -> None:
        self._folder = folder
        self._secrets = secrets
        self._report = report
        self._api_port = ports.api
        self._api_url = f"http://{_HOST}:{ports.api}"
        self._temporal = TemporalServer(folder.temporal, ports.temporal, ports.temporal_ui)
        self._server = server
        besides = (ports.api, ports.temporal, ports.temporal_ui, secrets.postgres_port)
        self._api_metrics, self._worker_metrics = free_ports(2, besides)
        self._supervisor = Supervisor(folder.logs, self._restarted)
        self._is_serving = False

    async def run(self) -> None:
        settings = self._configure()
        async with self._supervisor:
            try:
                await self._start_postgres(settings)
                await self._start_temporal(settings)
                obstacle = await self._start_service(settings)
                self._announce(await self._console(settings), obstacle)
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
        os.environ.pop(POSTGRES_VARIABLE, None)  # what API and worker need of it is in the DSNs below
        os.environ.setdefault("ODS_SPARES", self._server.spares)
        os.environ.setdefault("ODS_DDL_PREFETCH", _DDL_PREFETCH)
        os.environ["ODS_BACKUP_URL"] = self._folder.backup_url()
        if not os.environ.keys().isdisjoint({"ODS_PAYLOAD_KEY", "ODS_PAYLOAD_KEY_FILE"}):
            os.environ.setdefault("ODS_CODEC_SERVER", "true")
        os.environ.setdefault("FORWARDED_ALLOW_IPS", "")  # else any local program may forge addresses
        further_hosts = os.environ.get("ODS_ALLOWED_HOSTS")
        own = {
            "ODS_ALLOWED_HOSTS": f"{_LOOPBACK_HOSTS},{further_hosts}" if further_hosts else _LOOPBACK_HOSTS,
            "ODS_TOKEN_SIGNING_KEY": self._secrets.token_signing_key,
            "ODS_REGISTRATION": "true",
            "ODS_TEMPORAL_UI_URL": self._temporal.ui_url,
            "ODS_METRICS_HOST": _HOST,
            "TEMPORAL_ADDRESS": self._temporal.address,
            "TEMPORAL_NAMESPACE": temporal_server.NAMESPACE,
            "TEMPORAL_CONFIG_FILE": os.devnull,
            **self._server.environment(),
        }
        for name in own:
            os.environ.pop(f"{name}_FILE", None)
        os.environ |= own
        return _load_settings()

    async def _start_postgres(self, settings: Settings) -> None:
        self._report(self._server.starting)
        await self._server.start(self._supervisor)
        self._report("Preparing the databases ...")
        await self._server.prepare(settings)

    async def _start_temporal(self, settings: Settings) -> None:
        self._report("Starting Temporal ...")
        codec = f"{self._api_url}/codec" if settings.codec_server else None
        await self._supervisor.start(self._temporal.command(codec))
        await self._supervisor.wait_until(self._temporal.serves, "answer from Temporal")

    async def _start_service(self, settings: Settings) -> str:
        """Start worker and API; returns what the operator must confirm first, or nothing."""
        self._report("Starting the worker and the API ...")
        await self._supervisor.start(_worker(settings.shutdown_timeout, self._worker_metrics))
        await self._supervisor.start(_api(self._api_port, self._api_metrics))
        async with httpx.AsyncClient(base_url=self._api_url, trust_env=False) as client:
            await self._supervisor.wait_until(lambda: self._registers(client), "answer from the API")
            health = HealthProbe(client)
            try:
                await self._supervisor.wait_until(health.is_started, "healthy service")
            except CommandError as error:
                raise CommandError(f"{error} {health.explanation}".strip()) from None
            return health.obstacle

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

    async def _console(self, settings: Settings) -> str:
        """The line that tells where the console is; empty if it is switched off."""
        if not settings.console:
            return ""
        dsn = settings.admin_dsn.get_secret_value()
        try:
            link = await console_link_of(dsn, self._api_url, self._secrets.client_id)
        except ClientNotFoundError:  # an operator has disabled it
            link = f"{self._api_url}/console"
        return f"  Console          {link}\n{_INDENT}(signs in once, within 5 minutes; later: ods console)\n"

    def _announce(self, console: str, obstacle: str) -> None:
        self._is_serving = True
        self._lower_priority_of_worker()
        if obstacle:
            self._report(obstacle)  # before the file that others wait for: then they find it told
        self._publish()
        self._report(
            f"The stack serves:\n"
            f"{console}"
            f"  API              {self._api_url}\n"
            f"  Temporal Web UI  {self._temporal.ui_url}\n"
            f"  Details          {self._folder.stack_file}\n"
            f"Stop it with Ctrl-C, or from elsewhere with `kill {os.getpid()}`."
        )

    def _restarted(self, name: str) -> None:
        if self._is_serving:
            self._lower_priority_of_worker()
            self._publish()
        self._report(f"{name} had ended and was started again; {self._folder.logs / name}.log may say why.")

    def _lower_priority_of_worker(self) -> None:
        """Have it yield to the API; not before it serves, which it would not in time on a busy machine."""
        lower_priority(self._supervisor.pids["worker"], _WORKER_NICENESS)

    def _publish(self) -> None:
        pids, secrets = self._supervisor.pids, self._secrets
        self._folder.publish(
            StackFile(
                api={
                    "url": self._api_url,
                    "metrics": _metrics_url(self._api_metrics),
                    "pid": pids["api"],
                },
                worker={"metrics": _metrics_url(self._worker_metrics), "pid": pids["worker"]},
                temporal={
                    "address": self._temporal.address,
                    "ui": self._temporal.ui_url,
                    "namespace": temporal_server.NAMESPACE,
                    "pid": pids["temporal"],
                },
                postgres=self._server.entry(pids),
                backups={"url": self._folder.backup_url()},
                client={"id": secrets.client_id, "secret": secrets.client_secret},
                settings={
                    name: value
                    for name, value in os.environ.items()
                    if name.startswith(("ODS_", "TEMPORAL_", "FORWARDED_"))
                },
            )
        )


def _load_settings() -> Settings:
    try:
        return Settings.load()
    except InvalidSettingsError as error:
        raise CommandError(str(error)) from None


def _metrics_url(port: int) -> str:
    return f"http://{_HOST}:{port}/metrics"


def _service_environment(metrics_port: int) -> dict[str, str]:
    """What a process of the service inherits; each has a port of its own for its metrics."""
    return os.environ | {"ODS_METRICS_PORT": str(metrics_port)}


def _worker(shutdown_timeout: float, metrics_port: int) -> Command:
    return Command(
        name="worker",
        arguments=(sys.executable, "-m", "worker"),
        environment=_service_environment(metrics_port),
        stop_deadline=shutdown_timeout + _EXTRA_STOP_SECONDS,
    )


def _api(port: int, metrics_port: int) -> Command:
    server = (
        *("--host", _HOST, "--port", str(port), "--http", "api.http.server_protocol:TimedProtocol"),
        *("--timeout-graceful-shutdown", str(_API_STOP_SECONDS)),
    )
    return Command(
        name="api",
        arguments=(sys.executable, "-m", "uvicorn", "--factory", "api.app:create_app", *server),
        environment=_service_environment(metrics_port),
        stop_deadline=_API_STOP_SECONDS + _EXTRA_STOP_SECONDS,
    )
