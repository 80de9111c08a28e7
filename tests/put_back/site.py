"""A site of its own: a cluster for the registry, one for the ODS databases, Temporal, API and workers.

Its clusters can be copied at a moment, and put in the place of the present ones later. Temporal's state and
the store of backups are copied as well, so that several things can be tried from one moment on.
"""

import asyncio
import base64
import os
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from signal import SIGKILL, SIGQUIT

import httpx
from temporalio.client import Client
from temporalio.service import RPCError

from ods.embedded import seeding
from ods.embedded.polling import wait_until
from ods.embedded.ports import free_ports
from ods.embedded.postgres import EmbeddedPostgres
from ods.embedded.temporal_server import NAMESPACE, TemporalServer
from ods.programs import process
from ods.programs.process import Command
from tests import preloaded
from tests.chaos.evidence import Target, connected
from tests.chaos.passes import passed
from tests.put_back import stopping_worker
from tests.servers import (
    ENCRYPTION_KEY,
    MINIMAL_TEMPLATE,
    POSTGRES_VERSION,
    RESTORE_PASSWORD,
    SERVICE_PASSWORD,
    SUPERUSER_PASSWORD,
    TOKEN_KEY,
)

REGISTRY, SERVER, TEMPORAL, STORE = "registry", "server", "temporal", "store"
PARTS = (REGISTRY, SERVER, TEMPORAL, STORE)
PASSES = ("pending-sweep", "reconcile")
"""The schedules whose passes bring to an end what is left of jobs."""
_SECONDS = 120
_SETTINGS = {
    "fsync": "off",
    "autovacuum": "off",
    "scram_iterations": "1",
    "max_connections": "100",
    "shared_buffers": "16MB",
    "min_wal_size": "2MB",
    "max_wal_size": "64MB",
    "max_prepared_transactions": "2",
    "checkpoint_timeout": "1h",
}
"""Small and quick; nothing writes by itself while a copy is taken."""
_LIMIT_OF_COMMANDS = 60


class Cluster(EmbeddedPostgres):
    """A PostgreSQL server whose data can be copied, and put back.

    Args:
        folder: where its data are.
        port: TCP port.
    """

    def __init__(self, folder: Path, port: int) -> None:
        super().__init__(folder, port, SUPERUSER_PASSWORD, _SETTINGS, version=POSTGRES_VERSION)

    async def save(self, copy: Path) -> None:
        """Copy the data of the running server, as a snapshot of its disk; no session writes meanwhile."""
        async with connected(self.dsn()) as admin:
            await admin.execute("CHECKPOINT")
        await copied(self._cluster, copy)
        (copy / "postmaster.pid").unlink()

    async def put_back(self, copy: Path) -> None:
        """Put a copy in the place of the data; the server is not running."""
        await removed(self._cluster)
        await copied(copy, self._cluster)

    async def end(self) -> None:
        """End the server at once: what it has written last is not needed any more."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(SIGQUIT)
            await self._process.wait()
            self._process = None

    def _initdb(self, folder: Path, password: Path) -> Command:
        command = super()._initdb(folder, password)
        return replace(command, arguments=(*command.arguments, "--wal-segsize=1"))


class Site:
    """The servers and processes of one installation, in `folder`.

    Args:
        folder: which PostgreSQL's own account may enter.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._registry_port, self._server_port, self._temporal_port, ui_port, self._api_port = free_ports(5)
        self.registry = Cluster(folder / REGISTRY, self._registry_port)
        self.server = Cluster(folder / SERVER, self._server_port)
        self._temporal = TemporalServer(folder / TEMPORAL, self._temporal_port, ui_port)
        self._temporal_process: asyncio.subprocess.Process | None = None
        self._api: preloaded.Process | None = None
        self._workers: list[preloaded.Process] = []
        self._schedules: Sequence[str] = ()
        self.url = f"http://127.0.0.1:{self._api_port}"
        self.credentials = {"id": "put-back", "secret": f"Aa1!{secrets.token_urlsafe(32)}"}
        self.steps = folder / "steps.log"

    @property
    def target(self) -> Target:
        """Where the servers are, for those who look on."""
        return Target(
            admin_dsn=self.registry.dsn(seeding.REGISTRY_DATABASE),
            master_dsn=self.server.dsn(),
            temporal_address=self._temporal.address,
            namespace=NAMESPACE,
            encryption_key=base64.b64decode(ENCRYPTION_KEY),
        )

    async def create(self) -> None:
        """Make and start everything but API and workers, with an empty registry and a template."""
        (self.folder / STORE).mkdir()
        for cluster in (self.registry, self.server):
            await cluster.initialise()
            await cluster.start()
            await seeding.ensure_service_role(cluster.dsn(), SERVICE_PASSWORD)
            await seeding.ensure_restore_roles(cluster.dsn(), RESTORE_PASSWORD)
        await seeding.ensure_registry_database(self.registry.dsn())
        await self.command("migrate")
        await seeding.ensure_template(self._dsn(self._server_port), MINIMAL_TEMPLATE, seeding.MINIMAL_SCRIPTS)
        await self.serve()
        await self._register()
        worker = await self.start_worker()
        await wait_until(self._has_schedules, _SECONDS)
        await self.pass_by()
        await self.stop(worker)

    async def save(self, folder: Path, parts: Sequence[str]) -> None:
        """Copy these parts as they are now; Temporal's is copied when it has ended."""
        await asyncio.to_thread(partial(folder.mkdir, parents=True))
        clusters = {REGISTRY: self.registry, SERVER: self.server}
        async with asyncio.TaskGroup() as tasks:
            for part, cluster in clusters.items():
                if part in parts:
                    tasks.create_task(cluster.save(folder / part))
        if TEMPORAL in parts:
            await self._end_passes()
            await self._end_temporal()
        for part in (TEMPORAL, STORE):
            if part in parts:
                await copied(self.folder / part, folder / part)

    async def halt(self) -> None:
        """End all processes, as those that are of no use any more."""
        await self.stop_api()
        for worker in [*self._workers]:
            await self.stop(worker)
        await self.registry.end()
        await self.server.end()
        await self._end_temporal()

    async def load(self, places: Mapping[str, Path]) -> None:
        """End all processes; put the copy of each part in place that is named here, and start PostgreSQL."""
        await self.halt()
        async with asyncio.TaskGroup() as tasks:
            for part, place in places.items():
                match part:
                    case "registry":
                        tasks.create_task(self.registry.put_back(place))
                    case "server":
                        tasks.create_task(self.server.put_back(place))
                    case _:
                        await removed(self.folder / part)
                        await copied(place, self.folder / part)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.registry.start())
            tasks.create_task(self.server.start())

    async def serve(self) -> None:
        """Start Temporal and the API."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._start_temporal())
            tasks.create_task(self.start_api())

    async def start_api(self) -> None:
        """Start the API, and wait until it answers."""
        words = ("--factory", "api.app:create_app", "--port", str(self._api_port))
        self._api = await self._started("api", "uvicorn", *words)
        async with httpx.AsyncClient(base_url=self.url, trust_env=False) as client:
            await wait_until(partial(_answers, client), _SECONDS)

    async def stop_api(self) -> None:
        """End the API."""
        if self._api is not None:
            await _end(self._api)
            self._api = None

    async def start_worker(self, moment: str = "", *, has_passes: bool = True) -> preloaded.Process:
        """Start a worker.

        Args:
            moment: when it dies, as of `stopping_worker.STOP`.
            has_passes: whether it carries out passes.
        """
        self.steps.unlink(missing_ok=True)
        own = {
            stopping_worker.STOP: moment,
            stopping_worker.SCHEDULES: ",".join(self._schedules),
            stopping_worker.WITHOUT_PASSES: "" if has_passes else "yes",
            stopping_worker.LOG: str(self.steps),
        }
        worker = await self._started("worker", "tests.put_back.stopping_worker", **own)
        self._workers.append(worker)
        return worker

    async def stop(self, worker: preloaded.Process) -> None:
        """End a worker at once."""
        self._workers.remove(worker)
        await _end(worker)

    async def command(self, *words: str) -> str:
        """What `ods` prints with these words, given the settings of the service and of a client of its API.

        Raises:
            AssertionError: it has failed.
        """
        of_client = {
            "ODS_API_URL": self.url,
            "ODS_CLIENT_ID": self.credentials["id"],
            "ODS_CLIENT_SECRET": self.credentials["secret"],
        }
        environment = self._environment | of_client
        work = partial(preloaded.run, "ods.cli", *words, env=environment, seconds=_LIMIT_OF_COMMANDS)
        done = await asyncio.to_thread(work)
        assert done.returncode == 0, f"ods {' '.join(words)}: {done.stderr}"
        return done.stdout

    async def confirm(self, *, accepts_store: bool) -> None:
        """Confirm the registry, and its store of backups, as the operator does before a recovery."""
        words = ["--confirm", *(["--accept-store"] if accepts_store else [])]
        work = partial(preloaded.run, "tests.put_back.confirming", *words, env=self._environment)
        done = await asyncio.to_thread(work, seconds=_LIMIT_OF_COMMANDS)
        assert done.returncode == 0, done.stderr

    async def pass_by(self) -> None:
        """Have each pass come by that brings jobs to their ends."""
        temporal = await self.temporal()
        async with asyncio.timeout(_SECONDS), asyncio.TaskGroup() as tasks:
            for name in PASSES:
                tasks.create_task(passed(temporal.get_schedule_handle(name)))

    async def _end_passes(self) -> None:
        """End the passes that are open: Temporal misses what a dead worker had of one after a minute only."""
        temporal = await self.temporal()
        async for found in temporal.list_workflows("ExecutionStatus = 'Running'"):
            if self.is_pass(found.id):
                with suppress(RPCError):  # it has ended meanwhile
                    await temporal.get_workflow_handle(found.id).terminate()

    async def temporal(self) -> Client:
        """A client of Temporal."""
        return await Client.connect(self._temporal.address, namespace=NAMESPACE)

    def is_pass(self, workflow: str) -> bool:
        """Whether a schedule has started the workflow with this id."""
        return workflow.startswith(tuple(f"{name}-" for name in self._schedules))

    async def passes(self) -> int:
        """How many passes have been started; -1 while one goes on."""
        temporal = await self.temporal()
        found = [(await temporal.get_schedule_handle(name).describe()).info for name in PASSES]
        return -1 if any(it.running_actions for it in found) else sum(it.num_actions for it in found)

    async def _has_schedules(self) -> bool:
        self._schedules = [one.id async for one in await (await self.temporal()).list_schedules()]
        return set(PASSES) <= set(self._schedules)

    async def _register(self) -> None:
        form = {
            "ClientId": self.credentials["id"],
            "ClientSecret": self.credentials["secret"],
            "DisplayName": "The clients of a site",
        }
        async with httpx.AsyncClient(base_url=self.url, trust_env=False) as client:
            answer = await client.post("/connect/register", data=form)
        assert answer.is_success, answer.text

    async def _start_temporal(self) -> None:
        self._temporal_process = await process.start(self._temporal.command(), self._log("temporal"))
        await wait_until(self._temporal.serves, _SECONDS)

    async def _end_temporal(self) -> None:
        """End Temporal at once: what it has committed is in its files."""
        if (ended := self._temporal_process) is not None:
            self._temporal_process = None
            with suppress(ProcessLookupError):  # it has ended by itself: who waits for it fails
                ended.send_signal(SIGKILL)
            await ended.wait()

    async def _started(self, name: str, module: str, *words: str, **own: str) -> preloaded.Process:
        with self._log(name).open("ab") as log:
            return await preloaded.start(module, *words, env=self._environment | own, stdout=log, stderr=log)

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def _dsn(self, port: int, database: str = "postgres") -> str:
        return f"postgresql://{seeding.SERVICE_ROLE}:{SERVICE_PASSWORD}@127.0.0.1:{port}/{database}"

    @property
    def _environment(self) -> dict[str, str]:
        server = f"127.0.0.1:{self._server_port}"
        return {
            "PATH": os.environ["PATH"],
            "PGSSLMODE": "disable",
            "ODS_ADMIN_DSN": self._dsn(self._registry_port, seeding.REGISTRY_DATABASE),
            "ODS_MASTER_DSN": self._dsn(self._server_port),
            "ODS_RESTORE_DSN": f"postgresql://{seeding.RESTORE_ROLE}:{RESTORE_PASSWORD}@{server}/postgres",
            "ODS_INSTANCE_CONNECTION_STRING": f"host=127.0.0.1;port={self._server_port};"
            f"username={seeding.SERVICE_ROLE};password={SERVICE_PASSWORD};database=EdFi_Ods",
            "ODS_ENCRYPTION_KEY": ENCRYPTION_KEY,
            "ODS_TOKEN_SIGNING_KEY": TOKEN_KEY,
            "ODS_REGISTRATION": "true",
            "ODS_RATE_LIMITING": "false",
            "ODS_BACKUP_URL": (self.folder / STORE).as_uri(),
            "ODS_BACKUP_VERIFY": "never",
            "ODS_HEARTBEAT_TIMEOUT": "2",
            "TEMPORAL_ADDRESS": self._temporal.address,
            "TEMPORAL_NAMESPACE": NAMESPACE,
            "TEMPORAL_CONFIG_FILE": os.devnull,
        }


@asynccontextmanager
async def site_in(folder: Path) -> AsyncIterator[Site]:
    """A site that has begun to serve; its processes are ended in the end."""
    site = Site(folder)
    try:
        await site.create()
        yield site
    finally:
        await site.halt()


async def copied(source: Path, copy: Path) -> None:
    """Copy a folder with owners and times, to where none is."""
    await _ran("cp", "-a", str(source), str(copy))


async def removed(folder: Path) -> None:
    """Remove a folder, if it is there."""
    await _ran("rm", "-rf", str(folder))


async def _ran(*words: str) -> None:
    child = await asyncio.create_subprocess_exec(*words)
    assert await child.wait() == 0, " ".join(words)


async def _answers(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/")).is_success
    except httpx.TransportError:
        return False


async def _end(child: preloaded.Process) -> None:
    with suppress(ProcessLookupError):
        child.kill()
    await child.wait()
