"""Real servers for the whole run: PostgreSQL with templates, and the Temporal development server."""

import gc
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg
import hypothesis
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

from ods.embedded import seeding
from ods.embedded.postgres import EmbeddedPostgres
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.queries import InstanceQueries
from ods.registry.instances.store import InstanceStore
from ods.settings.settings import Settings
from ods.temporal.job_starter import JobStarter
from ods.temporal.namespace import register_search_attributes
from ods.tenants.tenant import Tenant, open_tenants
from tests import registries
from tests.secret_search import SEARCH
from tests.servers import (
    INSTANCE_PASSWORD,
    NUMBERS,
    SAMPLE_TEMPLATE,
    development_server,
    make_settings,
    seeded_postgres,
    service_dsn,
)
from worker import WORKERS

# How long something takes says nothing where other tests take the processors meanwhile.
hypothesis.settings.register_profile(
    "beside others", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("beside others")

_SLOWEST_FIRST = (
    *(
        "put_back",
        "recovery",
        "alerts",
        "embedded",
        "chaos",
        "faults",
        "end_to_end",
        "console",
        "api",
        "backups",
    ),
    *("deployment", "postgres", "benchmarks", "workflows", "unit"),
)
"""Folders, so that in the end no process of pytest waits for long for another."""

_MARKED = ("faults", "console")
"""Folders whose tests have the marker of that name: commands of their own run them."""

_TOLD = "secrets that were told"
"""What processes of pytest hand to the one that started them."""

_SNAPSHOTS = """
SELECT datname FROM pg_database WHERE shobj_description(oid, 'pg_database') LIKE '%"kind": "snapshot"%'
"""


class _Folder(pytest.Package):
    """A folder of tests: a fixture of the scope "package" ends when the process goes on to another folder."""

    def setup(self) -> None:
        """Run nothing: the folder is no package of Python."""


def pytest_collect_directory(path: Path, parent: pytest.Collector) -> _Folder:
    return _Folder.from_parent(parent, path=path)


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their markers
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if (folder := item.path.parent.name) in _MARKED:
            item.add_marker(folder)
    if hasattr(config, "workerinput"):
        order = {folder: place for place, folder in enumerate(_SLOWEST_FIRST)}
        items.sort(key=lambda item: order.get(item.path.parent.name, len(order)))


def pytest_collection_finish() -> None:
    """Tests and modules stay: to search them for garbage takes a third of a second each time."""
    gc.collect()
    gc.freeze()


class _Scheduling(LoadFileScheduling):  # type: ignore[misc]  # xdist has no types
    """A file's tests run in one process; those that share the embedded stack, too; some are dealt out."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        if file in _DEALT_OUT:
            return nodeid
        return _STACK if file in _STACK_FILES else file


_DEALT_OUT = ("tests/put_back/test_matrix.py",)
"""Files whose tests take minutes together, and share nothing that is dear."""
_STACK = "tests/embedded"
_STACK_FILES = {
    f"{_STACK}/test_{name}.py"
    for name in (
        *("audit_command", "client_command", "command_line", "console_command", "demo"),
        *("embedded_stack", "school_year"),
    )
}


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling:
    return _Scheduling(config, log)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    for title, text in report.sections:
        if title.startswith("Captured std"):  # records of logging are formatted by pytest, not by the product
            SEARCH.search(text, f"{report.nodeid}, {title.lower()}")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    SEARCH.search_metrics()
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput[_TOLD] = SEARCH.findings
    elif SEARCH.findings:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_testnodedown(node: WorkerController) -> None:
    SEARCH.add_findings(getattr(node, "workeroutput", {}).get(_TOLD, ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if SEARCH.findings:
        terminalreporter.section("secrets that were told", red=True)
        for finding in SEARCH.findings:
            terminalreporter.line(finding)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", action="store_true", help="record what new workflow tests run")


@pytest.fixture(scope="session")
async def postgres() -> AsyncIterator[EmbeddedPostgres]:
    """PostgreSQL with the service role and both templates."""
    async with seeded_postgres(autovacuum="off") as server:
        await seeding.ensure_template(
            service_dsn(server, "postgres"), SAMPLE_TEMPLATE, seeding.SAMPLE_SCRIPTS
        )
        yield server


@pytest.fixture
async def admin(postgres: EmbeddedPostgres) -> AsyncIterator[asyncpg.Connection]:
    """A superuser's session, to look and to interfere."""
    connection = await asyncpg.connect(postgres.dsn())
    yield connection
    await connection.close()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """An empty folder, for backups."""
    path = tmp_path / "backups"
    path.mkdir()
    return path


@pytest.fixture
async def ods_api(admin: asyncpg.Connection) -> AsyncIterator[None]:
    """The role that the ODS/API connects as."""
    if not await admin.fetchval("SELECT 1 FROM pg_roles WHERE rolname = 'ods_api'"):
        await admin.execute(f"CREATE ROLE ods_api LOGIN PASSWORD '{INSTANCE_PASSWORD}'")
    yield
    for row in await admin.fetch(_SNAPSHOTS):
        await admin.execute(f'DROP DATABASE "{row["datname"]}" WITH (FORCE)')
    await admin.execute("DROP ROLE ods_api")


@pytest.fixture(scope="session")
async def prepared_postgres(postgres: EmbeddedPostgres) -> EmbeddedPostgres:
    """The server, ready for `registries.clone`."""
    await registries.prepare(postgres)
    return postgres


@pytest.fixture
async def registry_dsn(prepared_postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    """A registry of the test's own; its OdsInstanceIds and its spares are no other test's."""
    async with registries.cloned(prepared_postgres) as dsn:
        yield dsn


@pytest.fixture
def settings(postgres: EmbeddedPostgres, registry_dsn: str) -> Settings:
    """Settings as an operator would give them, with task queues of the test's own and short timeouts."""
    return make_settings(postgres, registry_dsn)


@pytest.fixture
async def tenant(settings: Settings) -> AsyncIterator[Tenant]:
    """The only tenant."""
    async with open_tenants(settings) as (tenant,):
        yield tenant


@pytest.fixture
def engine(tenant: Tenant) -> AsyncEngine:
    """A pool of connections to the test's registry."""
    return tenant.engine


@pytest.fixture
def instances(tenant: Tenant) -> InstanceStore:
    """What clients request of the test's registry."""
    return tenant.instances


@pytest.fixture
def job_store(tenant: Tenant) -> JobStore:
    """The jobs of the test's registry, as workers see them."""
    return tenant.jobs


@pytest.fixture
def queries(tenant: Tenant) -> InstanceQueries:
    """What the test's registry shows."""
    return tenant.queries


@pytest.fixture(scope="session")
async def temporal() -> AsyncIterator[Client]:
    """A client of a real Temporal development server."""
    async with development_server() as client:
        await register_search_attributes(client)
        yield client


@pytest.fixture
async def own_temporal() -> AsyncIterator[Client]:
    """Unlike the shared one, this server has no schedule, and no sweep that another test left behind."""
    async with development_server() as client:
        await register_search_attributes(client)
        yield client


@pytest.fixture
def starter(temporal: Client, settings: Settings) -> JobStarter:
    """Starts the test's jobs."""
    return JobStarter(temporal, settings.registry_queue)


@pytest.fixture
async def workers(temporal: Client, tenant: Tenant) -> AsyncIterator[None]:
    """All workers, in this process."""
    async with AsyncExitStack() as stack:
        for worker in WORKERS:
            await stack.enter_async_context(worker(temporal, tenant))
        yield


@pytest.fixture
def name() -> str:
    """A name for an instance that no other test uses."""
    return f"Test {next(NUMBERS)}"


@pytest.fixture
def hangup_heard() -> Iterator[None]:
    """SIGHUP counts, also if `nohup` has started the tests: processes inherit that it is ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)
