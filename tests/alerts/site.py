"""What an operator has: two PostgreSQL servers, Temporal, API and workers, and `docker compose` for them.

There is no container: a program `docker` that is found before any other starts and stops processes of this
machine under the names of `docker-compose.yml`. All else is real.
"""

import asyncio
import os
import shlex
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from ods.embedded.polling import wait_until
from ods.embedded.ports import free_ports
from ods.embedded.postgres import EmbeddedPostgres
from ods.embedded.postgres_binaries import binaries_of, installed
from ods.embedded.seeding import (
    REGISTRY_DATABASE,
    SAMPLE_SCRIPTS,
    ensure_registry_database,
    ensure_template,
)
from ods.embedded.temporal_server import TemporalServer
from ods.programs import process
from ods.programs.process import Command
from ods.registry.clients.credentials import new_secret
from ods.registry.migrations import upgrade
from ods.settings.settings import Settings
from tests.alerts.docker import SOCKET_VARIABLE
from tests.alerts.prometheus import Prometheus
from tests.alerts.proxy import Proxy
from tests.api.server import command as api_module
from tests.servers import (
    POSTGRES_VERSION,
    SAMPLE_TEMPLATE,
    environment,
    make_settings,
    seeded,
    service_dsn,
    session,
    unsafe_postgres,
)

CLIENT = "operator"
_ROOT = Path(__file__).parents[2]
_COMMAND_SECONDS = 120
_READY_SECONDS = 60
_LOG_LINES = 50
_UNKNOWN = 125
"""The exit code of Docker for a command that it does not know."""
_ROOM_FOR_LOG = {"wal_init_zero": "on", "min_wal_size": "512MB"}
"""Servers that go on when their file system is full: files of the log have their room, and are kept."""
_PUBLIC_ADDRESS = "127.0.0.1:8000"
"""As runbooks have it."""


@dataclass(frozen=True)
class Printed:
    """What a command printed, and its exit code."""

    code: int
    text: str


@dataclass
class Service:
    """Processes under one name, as `docker compose` has them.

    Attributes:
        name: as in `docker-compose.yml`.
        module: what they run, with its arguments.
        variables: their environment.
        ports: of the metrics of each.
        running: the processes.
    """

    name: str
    module: tuple[str, ...]
    variables: dict[str, str]
    log: Path
    ports: list[int] = field(default_factory=list)
    running: list[tuple[Process, Command]] = field(default_factory=list)

    async def scale(self, number: int) -> None:
        """Have so many processes run."""
        self.running = [one for one in self.running if one[0].returncode is None]
        while len(self.running) > number:
            await process.stop(*self.running.pop())
        while len(self.running) < number:
            port = self.ports[len(self.running)]
            started = Command(
                self.name,
                (sys.executable, "-m", *self.module),
                self.variables | {"ODS_METRICS_PORT": str(port)},
            )
            self.running.append((await process.start(started, self.log), started))

    def beside(self, module: str, **variables: str) -> "Service":
        """Processes of another release of the same service, with further variables."""
        log = self.log.with_name(f"{self.name}-beside.log")
        return Service(self.name, (module,), self.variables | variables, log, free_ports(len(self.ports)))

    @property
    def pids(self) -> list[int]:
        """The processes that run."""
        return [child.pid for child, _ in self.running if child.returncode is None]


class Site:
    """A running installation, and what is done to it. `running` makes one."""

    def __init__(
        self, folder: Path, factor: float, ods: EmbeddedPostgres, registry: EmbeddedPostgres
    ) -> None:
        self.folder = folder
        self.factor = factor
        self.ods_server = ods
        self.registry_server = registry
        self.backups = folder / "backups"
        self.backups.mkdir()
        (folder / "logs").mkdir()
        self._temporal_port, ui_port, self._temporal_metrics_port, self.api_port = free_ports(4)
        self.temporal_options: tuple[str, ...] = ()
        self._temporal_server = TemporalServer(folder / "temporal", self._temporal_port, ui_port)
        self._temporal: tuple[Process, Command] | None = None
        self.prometheus = Prometheus(folder / "prometheus", factor)
        self.secret = new_secret()
        self.ods_data = folder / "ods" / "data" / "cluster"
        self.proxy = Proxy(folder, self.api_port)
        self._programs = folder / "programs"
        self.api: Service
        self.worker: Service
        self.others: list[Service] = []

    @property
    def api_url(self) -> str:
        """The public address of the API."""
        return f"http://127.0.0.1:{self.api_port}"

    @property
    def settings(self) -> Settings:
        """Of API and worker: the defaults, with intervals that are shorter by the factor."""
        defaults = {name: field.default for name, field in Settings.model_fields.items()}
        return make_settings(
            self.ods_server,
            service_dsn(self.registry_server, REGISTRY_DATABASE),
            task_queue=defaults["task_queue"],
            sweep_interval=defaults["sweep_interval"] / self.factor,
            reconcile_interval=defaults["reconcile_interval"] / self.factor,
            backup_url=self.backups.as_uri(),
            backup_cron="0 3 * * *",
            spares=1,
            shared_server=False,
        )

    async def start(self) -> None:
        """Start Temporal, API and worker, and wait until they serve."""
        await ensure_registry_database(self.registry_server.dsn())
        await upgrade(service_dsn(self.registry_server, REGISTRY_DATABASE))
        variables = {
            "PATH": os.environ["PATH"],
            **environment(self.settings),
            "TEMPORAL_ADDRESS": f"127.0.0.1:{self._temporal_port}",
            "TEMPORAL_CONFIG_FILE": os.devnull,
            "PYTHONPATH": str(_ROOT),  # other releases of the worker are among the tests
        }
        logs = self.folder / "logs"
        self.api = Service("api", api_module(self.api_port), variables, logs / "api.log", free_ports(1))
        self.worker = Service("worker", ("worker",), variables, logs / "worker.log", free_ports(3))
        self._make_programs()
        await self.up()
        await self.healthy()
        answer = await self.post(
            "/connect/register",
            data={"ClientId": CLIENT, "ClientSecret": self.secret, "DisplayName": "The operator's"},
        )
        assert answer.is_success, answer.text

    async def stop(self) -> None:
        """Stop all that `start` and `up` have started, but for the servers."""
        for service in (self.api, self.worker, *self.others):
            await service.scale(0)
        await self._stop_temporal()

    # What `docker compose` does.

    async def compose(self, words: Sequence[str]) -> Printed:
        """Do what `docker compose WORDS` does where `docker-compose.yml` runs."""
        told = ""
        match list(words):
            case ["up", *more]:
                numbers = [int(it.partition("=")[2]) for it in more if it.startswith("worker=")]
                names = [it for it in more if not it.startswith("--") and "=" not in it]
                await self.up(*names, workers=numbers[0] if numbers else None)
                if "--wait" in more:
                    await self.answering()
            case ["stop", *names]:
                await self.down(*names)
            case ["restart", name]:
                await self.down(name)
                await self.up(name)
            case ["ps", *_, name]:
                told = f"{name}: {len(self._service(name).pids)} running\n"
            case ["logs", *_, name]:
                logs = [one.log for one in self._alike(name)]
                told = "\n".join(it for log in logs for it in log.read_text().splitlines()[-_LOG_LINES:])
            case ["run", "--rm", "migrate" | "worker", *command]:  # no API is named there
                return await self.shell(shlex.join(["env", "-u", "ODS_API_URL", *command]))
            case ["exec", "api", *command]:
                return await self.shell(shlex.join(command))
            case _:
                return Printed(_UNKNOWN, f"unknown: {words}\n")
        return Printed(0, told)

    async def up(self, *names: str, workers: int | None = None) -> None:
        """Start what does not run of these services, or of all."""
        chosen = names or ("postgres", "temporal", "api", "worker")
        if "postgres" in chosen:
            for server in (self.ods_server, self.registry_server):
                if not await server.answers():
                    await server.start()
        if "temporal" in chosen and self._temporal is None:
            await self._start_temporal()
        for service in (self.api, self.worker):
            if service.name in chosen:
                wanted = workers if service is self.worker else None
                await service.scale(wanted or max(1, len(service.pids)))
        self._scrape()

    async def start_beside(self, other: Service) -> None:
        """Start another release of a service beside it; it is stopped with the site."""
        self.others.append(other)
        await other.scale(1)
        self._scrape()

    async def down(self, *names: str) -> None:
        """Stop these services."""
        for service in (self.api, self.worker):
            if service.name in names:
                await service.scale(0)
        if "temporal" in names:
            await self._stop_temporal()
        if "postgres" in names:
            await self.ods_server.stop()

    async def answering(self) -> None:
        """Wait until the API answers."""
        await self._until("/livez", "alive")

    async def healthy(self) -> None:
        """Wait until the API says that all is well."""
        await self._until("/health", "Healthy")

    async def _until(self, path: str, status: str) -> None:
        async def is_so() -> bool:
            try:
                answer = await self.get(path)
            except httpx.TransportError:
                return False
            return answer.is_success and answer.json()["status"] == status

        await wait_until(is_so, _READY_SECONDS)

    def _service(self, name: str) -> Service:
        return {"api": self.api, "worker": self.worker}[name]

    def _alike(self, name: str) -> list[Service]:
        """A service, and other releases of it that run beside."""
        return [self._service(name), *(other for other in self.others if other.name == name)]

    def _scrape(self) -> None:
        """Have Prometheus scrape the processes that there are; one that has ended is still looked for."""
        for service in (self.api, self.worker):
            ports = [port for one in self._alike(service.name) for port in one.ports[: max(1, len(one.pids))]]
            self.prometheus.watch(f"ods-{service.name}", [f"127.0.0.1:{port}" for port in ports])
        self.prometheus.watch("ods-temporal", [f"127.0.0.1:{self._temporal_metrics_port}"])

    async def _start_temporal(self) -> None:
        command = self._temporal_server.command()
        options = ("--metrics-port", str(self._temporal_metrics_port), *self.temporal_options)
        command = Command("temporal", (*command.arguments, *options), command.environment)
        self._temporal = await process.start(command, self.folder / "logs" / "temporal.log"), command
        await wait_until(self._temporal_server.serves, _READY_SECONDS)

    async def _stop_temporal(self) -> None:
        if self._temporal is not None:
            await process.stop(*self._temporal)
            self._temporal = None

    # What an operator does.

    @asynccontextmanager
    async def shells(self) -> AsyncIterator[None]:
        """Have `docker compose` of shells reach this site while the body runs."""

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            printed = await self.compose(shlex.split((await reader.readline()).decode()))
            writer.write(f"{printed.code}\n{printed.text}".encode())
            writer.close()

        async with await asyncio.start_unix_server(answer, self.folder / "docker.socket"):
            yield

    async def shell(self, script: str, answers: str = "") -> Printed:
        """Run commands as an operator would type them.

        Args:
            script: for bash.
            answers: what they are given when they ask.
        """
        child = await asyncio.create_subprocess_exec(
            *("bash", "-uo", "pipefail", "-c", script.replace(_PUBLIC_ADDRESS, f"127.0.0.1:{self.api_port}")),
            stdin=PIPE if answers else DEVNULL,
            stdout=PIPE,
            stderr=STDOUT,
            cwd=self.folder,
            env=self._shell_environment(),
        )
        async with asyncio.timeout(_COMMAND_SECONDS):
            output, _ = await child.communicate(answers.encode() if answers else None)
        return Printed(child.returncode or 0, output.decode())

    async def ods(self, *words: str) -> str:
        """Run `ods`.

        Raises:
            AssertionError: it failed.
        """
        return await self._run("ods", *words)

    async def temporal(self, *words: str) -> str:
        """Run `temporal`.

        Raises:
            AssertionError: it failed.
        """
        return await self._run("temporal", *words)

    async def _run(self, *command: str) -> str:
        printed = await self.shell(shlex.join(command))
        assert printed.code == 0, printed.text
        return printed.text

    async def get(self, path: str, **options: Any) -> httpx.Response:
        """A request without a token."""
        async with httpx.AsyncClient(base_url=self.api_url, trust_env=False, timeout=30) as client:
            return await client.get(path, **options)

    async def post(self, path: str, **options: Any) -> httpx.Response:
        """A request without a token."""
        async with httpx.AsyncClient(base_url=self.api_url, trust_env=False, timeout=30) as client:
            return await client.post(path, **options)

    async def bearer(self) -> dict[str, str]:
        """Headers of the operator's requests."""
        form = {"grant_type": "client_credentials", "client_id": CLIENT, "client_secret": self.secret}
        answer = await self.post("/connect/token", data=form | {"scope": "edfi_admin_api/full_access"})
        return {"Authorization": f"Bearer {answer.raise_for_status().json()['access_token']}"}

    async def rows(self, query: str) -> list[Any]:
        """The first column of what a query on the server of the ODS databases gives."""
        async with session(self.ods_server.dsn()) as admin:
            return [row[0] for row in await admin.fetch(query)]

    async def on_ods_server(self, statement: str, database: str = "postgres") -> Any:
        """Run a statement on the server of the ODS databases; returns the first value of its answer."""
        async with session(self.ods_server.dsn(database)) as admin:
            return await admin.fetchval(statement)

    async def on_registry(self, statement: str, *values: Any) -> Any:
        """Run a statement on the registry as a superuser; the first value of its answer."""
        connection = await asyncpg.connect(self.registry_server.dsn(REGISTRY_DATABASE))
        try:
            return await connection.fetchval(statement, *values)
        finally:
            await connection.close()

    def _make_programs(self) -> None:
        """The folder of programs that are found before others."""
        self._programs.mkdir()
        docker = self._programs / "docker"
        docker.write_text(f'#!/bin/sh\nexec {sys.executable} {_ROOT}/tests/alerts/docker.py "$@"\n')
        docker.chmod(0o755)

    def _shell_environment(self) -> Mapping[str, str]:
        postgres = installed(POSTGRES_VERSION) / binaries_of(POSTGRES_VERSION).programs
        path = (self._programs, Path(sys.executable).parent, postgres, os.environ["PATH"])
        return self.worker.variables | {
            "PATH": ":".join(map(str, path)),
            "HOME": str(self.folder),
            "ODS_API_URL": self.api_url,
            "ODS_CLIENT_ID": CLIENT,
            "ODS_CLIENT_SECRET": self.secret,
            "CURL_CA_BUNDLE": str(self.proxy.certificate),
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.ods_server.port),
            "PGUSER": "postgres",
            "PGPASSWORD": _password(self.ods_server),
            "SERVER": self.registry_server.dsn("").rstrip("/"),
            "ODS_SERVER": self.ods_server.dsn("").rstrip("/"),
            SOCKET_VARIABLE: str(self.folder / "docker.socket"),
        }


def _password(server: EmbeddedPostgres) -> str:
    return server.dsn().partition("@")[0].rpartition(":")[2]


@asynccontextmanager
async def running(folder: Path, factor: float) -> AsyncIterator[Site]:
    """A site in `folder` that serves, without Prometheus."""
    async with AsyncExitStack() as stack:
        servers = []
        for name in ("ods", "registry"):
            server = unsafe_postgres(folder / name / "data", f"superuser-of-{name}", _ROOM_FOR_LOG)
            await stack.enter_async_context(seeded(server))
            servers.append(server)
        await ensure_template(service_dsn(servers[0], "postgres"), SAMPLE_TEMPLATE, SAMPLE_SCRIPTS)
        site = Site(folder, factor, *servers)
        stack.push_async_callback(site.stop)
        await stack.enter_async_context(site.shells())
        await stack.enter_async_context(site.proxy.running())
        await site.start()
        yield site
