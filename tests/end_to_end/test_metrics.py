"""Metrics and probes of API and worker, processes of their own, while they do their work."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import asyncpg
import httpx
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from temporalio.client import Client

from ods.embedded.polling import wait_until
from ods.embedded.ports import free_port, free_ports
from ods.embedded.postgres import EmbeddedPostgres
from ods.model.operations import InstanceStatus, Template
from ods.observability.metrics.catalog import DEFINITIONS, Source
from ods.registry.instances.naming import database_name
from ods.settings.settings import Settings
from tests import preloaded
from tests.api import server
from tests.api.service import NOBODY, bearer
from tests.servers import MINIMAL_TEMPLATE, environment, in_use, make_settings

INSTANCES = "/v2/dbInstances"
ONLY_LATER = {"ods_backups_total", "ods_backup_age_seconds", "ods_spares_ready", "ods_spares_wanted"}
"""What is told once there is a backup, or if spares are wanted."""
Families = dict[str, Metric]


@pytest.fixture
def settings(postgres: EmbeddedPostgres, registry_dsn: str) -> Settings:
    return make_settings(postgres, registry_dsn, rate_limiting=False, reconcile_interval=1, sweep_interval=1)


@dataclass
class Observed:
    """A process, seen through its port for metrics and probes."""

    client: httpx.AsyncClient
    process: preloaded.Process | None = None

    async def status(self, path: str) -> int:
        """The status of an answer; 0 if the port is not open."""
        try:
            return (await self.client.get(path)).status_code
        except httpx.TransportError:
            return 0

    async def is_ready(self) -> bool:
        return await self.status("/readyz") == 200

    async def reasons(self) -> str:
        return " ".join((await self.client.get("/readyz")).json().get("reasons", []))

    async def scrape(self) -> Families:
        answer = (await self.client.get("/metrics")).raise_for_status()
        return {family.name: family for family in text_string_to_metric_families(answer.text)}


@asynccontextmanager
async def observing(port: int) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        yield client


@asynccontextmanager
async def worker_of(settings: Settings, temporal_address: str, port: int) -> AsyncIterator[Observed]:
    """A worker process; it is killed in the end if it has not ended by then."""
    variables = environment(settings.model_copy(update={"metrics_port": port}))
    process = await preloaded.start(
        "worker", env={"PATH": os.environ["PATH"], **variables, "TEMPORAL_ADDRESS": temporal_address}
    )
    try:
        async with observing(port) as client:
            yield Observed(client, process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def api_of(
    settings: Settings, temporal_address: str, **changes: str
) -> AbstractAsyncContextManager[server.Server]:
    """An API process that gives the worker its jobs."""
    return server.serving(
        settings, TEMPORAL_ADDRESS=temporal_address, ODS_TASK_QUEUE=settings.task_queue, **changes
    )


def value(families: Families, name: str, **labels: str) -> float | None:
    """The sum of the samples with this name and these labels; None if there is none."""
    found = [
        it.value
        for family in families.values()
        for it in family.samples
        if it.name == name and labels.items() <= it.labels.items()
    ]
    return sum(found) if found else None


async def completed(api: httpx.AsyncClient, answer: httpx.Response) -> None:
    async def is_done() -> bool:
        return bool((await api.get(f"/v2/jobs/{answer.json()['jobId']}")).json()["status"] == "Completed")

    await wait_until(is_done, 30)


async def test_create_is_seen_when_api_and_worker_are_scraped(
    settings: Settings, own_temporal: Client, name: str
) -> None:
    address = own_temporal.service_client.config.target_host
    api_port, worker_port = free_ports(2)
    async with (
        api_of(settings, address, ODS_METRICS_PORT=str(api_port)) as serving,
        observing(api_port) as api_client,
        worker_of(settings, address, worker_port) as worker,
        httpx.AsyncClient(base_url=serving.url, headers=bearer(settings), trust_env=False) as api,
    ):
        observed = Observed(api_client)
        await wait_until(worker.is_ready, 30)
        assert await worker.status("/startupz") == await observed.status("/readyz") == 200
        created = await api.post(INSTANCES, json={"name": name, "databaseTemplate": "Minimal"})
        await completed(api, created)

        async def are_told() -> bool:
            """What is asked for at most every five seconds, and what the passes have found."""
            told, done = await observed.scrape(), await worker.scrape()
            return bool(
                value(told, "ods_instances", status=InstanceStatus.COMPLETED)
                and value(told, "ods_database_bytes")
                and value(told, "ods_schedule_age_seconds", schedule="reconcile") is not None
                and value(done, "ods_drift") is not None
            )

        await wait_until(are_told, 40, interval=0.5)
        told, done = await observed.scrape(), await worker.scrape()

    assert value(told, "ods_instances", status="Completed", tenant="default") == 1
    assert value(told, "ods_http_requests_total", route=INSTANCES, method="POST", status="202") == 1
    assert value(told, "ods_pool_connections", pool="registry") is not None
    assert value(told, "ods_schedule_age_seconds", schedule="reconcile") <= 40  # type: ignore[operator]
    assert value(done, "ods_jobs_total", operation="Create", outcome="completed", tenant="default") == 1
    for phase in ("queue", "clone", "publish", "verify", "record", "total"):
        name_of_count = "ods_job_duration_seconds_count"
        assert value(done, name_of_count, operation="Create", phase=phase) == 1, phase
    assert value(done, "ods_ddl_slots", state="free") == settings.ddl_concurrency
    for families in (told, done):
        assert [it for it in families if it.startswith("temporal_")]
        assert value(families, "ods_build_info") == 1
        assert not value(families, "ods_scrape_errors_total")
    assert value(done, "temporal_num_pollers")
    require_documented(told, Source.API)
    require_documented(done, Source.WORKER)
    ids = {str(created.json()["id"]), str(created.json()["odsInstanceId"])} if created.is_success else set()
    require_bounded(
        [told, done], {*ids, name, created.json()["jobId"], database_name(name, Template.MINIMAL)}
    )


def require_documented(families: Families, source: Source) -> None:
    """Check that the process tells what the documentation says, with these labels, and nothing else."""
    expected = {it.name: it for it in DEFINITIONS if it.source in {source, Source.BOTH}}
    for family in families.values():
        full = f"{family.name}_total" if family.type == "counter" else family.name
        if full.startswith("ods_") and full in expected:
            for it in family.samples:
                assert set(it.labels) - {"le"} == set(expected[full].labels), it
    counted = {it.name for it in DEFINITIONS if it.kind == "counter"}
    told = {f"{name}_total" if f"{name}_total" in counted else name for name in families}
    assert expected.keys() - told <= ONLY_LATER
    assert {name for name in told if name.startswith("ods_")} <= {it.name for it in DEFINITIONS}


def require_bounded(scraped: list[Families], names: set[str]) -> None:
    """Check that no label holds what clients have made."""
    values = {
        text
        for families in scraped
        for family in families.values()
        for it in family.samples
        for label, text in it.labels.items()
        if label not in {"le", "status"}  # a bound, or the number of an HTTP status, may be equal to an id
    }
    assert not names & values
    assert not [text for text in values if any(len(name) > 4 and name in text for name in names)]


@pytest.mark.long  # an answer is shown again for five seconds, twice here
async def test_gauges_are_absent_and_the_scrape_answers_when_the_registry_is_away(
    settings: Settings, admin: asyncpg.Connection, own_temporal: Client
) -> None:
    address, port = own_temporal.service_client.config.target_host, free_port()
    database = settings.admin_dsn.get_secret_value().rpartition("/")[2]
    async with api_of(settings, address, ODS_METRICS_PORT=str(port)) as serving, observing(port) as client:
        api = Observed(client)
        assert value(await api.scrape(), "ods_instances") == 0

        await admin.execute(f'ALTER DATABASE "{database}" ALLOW_CONNECTIONS false')
        await admin.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = $1", database
        )

        async def is_absent() -> bool:
            return value(await api.scrape(), "ods_instances") is None

        await wait_until(is_absent, 20, interval=0.5)
        scraped = await api.scrape()
        assert value(scraped, "ods_scrape_errors_total", source="registry")
        assert value(scraped, "ods_scrape_errors_total", source="server") == 0
        assert value(scraped, "ods_database_bytes") is not None
        await wait_until(lambda: _differs(api.is_ready), 10)
        assert "The registry cannot be reached." in await api.reasons()
        assert (await serving.ask("GET /readyz")).json() == {"status": "not ready"}
        assert await api.status("/livez") == (await serving.ask("GET /livez")).status == 200

        await admin.execute(f'ALTER DATABASE "{database}" ALLOW_CONNECTIONS true')
        await wait_until(api.is_ready, 10)

        async def is_back() -> bool:
            return value(await api.scrape(), "ods_instances") is not None

        await wait_until(is_back, 20, interval=0.5)


async def _differs(condition: object) -> bool:
    return not await condition()  # type: ignore[operator]


async def test_worker_is_not_ready_when_it_has_not_reached_temporal(settings: Settings) -> None:
    async with worker_of(settings, NOBODY, free_port()) as worker:

        async def is_alive() -> bool:
            return await worker.status("/livez") == 200

        await wait_until(is_alive, 20)
        assert await worker.status("/readyz") == await worker.status("/startupz") == 503
        assert await worker.reasons() == "Temporal has not been reached yet."
        assert value(await worker.scrape(), "ods_build_info") == 1


async def test_worker_is_not_ready_when_it_waits_for_the_operator(
    settings: Settings, own_temporal: Client, registry_dsn: str
) -> None:
    connection = await asyncpg.connect(registry_dsn)
    await connection.execute("UPDATE adminapi.installation SET registrysystem = '1', registrydatabase = 1")
    await connection.close()
    address = own_temporal.service_client.config.target_host
    async with worker_of(settings, address, free_port()) as worker:

        async def is_asked() -> bool:
            return await worker.status("/readyz") == 503 and "is not polled yet" in await worker.reasons()

        await wait_until(is_asked, 20)
        assert await worker.status("/startupz") == 503


async def test_worker_is_not_ready_but_ends_its_work_when_it_is_told_to_stop(
    settings: Settings,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    own_temporal: Client,
    name: str,
) -> None:
    address = own_temporal.service_client.config.target_host
    async with (
        api_of(settings, address) as serving,
        worker_of(settings, address, free_port()) as worker,
        httpx.AsyncClient(base_url=serving.url, headers=bearer(settings), trust_env=False) as api,
    ):
        assert worker.process is not None
        await wait_until(worker.is_ready, 30)
        async with in_use(admin, postgres, MINIMAL_TEMPLATE):
            created = await api.post(INSTANCES, json={"name": name, "databaseTemplate": "Minimal"})

            async def is_cloning() -> bool:
                return value(await worker.scrape(), "ods_ddl_slots", state="busy") == 1

            await wait_until(is_cloning, 20)
            worker.process.terminate()
            await wait_until(lambda: _differs(worker.is_ready), 5)
            assert "The worker is stopping" in await worker.reasons()
            assert await worker.status("/livez") == 200
        # The clone, which waited for the template, ends before the worker does.
        assert await asyncio.wait_for(worker.process.wait(), 20) == 0
        assert value_of_instance(await api.get(f"{INSTANCES}/{created.json()['id']}")) == "Completed"


def value_of_instance(answer: httpx.Response) -> str:
    status: str = answer.json()["status"]
    return status
