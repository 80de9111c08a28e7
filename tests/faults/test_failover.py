"""Primary and standby change places under a running service: requests are accepted again, jobs go on."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus

import httpx
import pytest
from temporalio.client import Client

from ods.doctor.examination import examine
from ods.embedded import seeding
from ods.registry.clock import RegistryClock
from ods.registry.migrations import upgrade
from ods.registry.storage.engine import create_registry_engine
from ods.settings.settings import Settings
from tests.api.server import serving
from tests.faults.conftest import WorkerProcess
from tests.replication import ReplicatedPair, replicated_pair
from tests.servers import MINIMAL_TEMPLATE, SERVICE_PASSWORD, make_settings, service_dsn, session

_ACCEPTED_SECONDS = 5
_SECRET = "A-secret-of-32-characters-or-more-1!"


@pytest.fixture(scope="module")
async def pair() -> AsyncIterator[ReplicatedPair]:
    async with replicated_pair() as pair:
        await seeding.ensure_service_role(pair.primary.dsn(), SERVICE_PASSWORD)
        await seeding.ensure_template(
            service_dsn(pair.primary, "postgres"), MINIMAL_TEMPLATE, seeding.MINIMAL_SCRIPTS
        )
        yield pair


@pytest.fixture
async def settings(pair: ReplicatedPair) -> AsyncIterator[Settings]:
    """Both hosts in both addresses."""
    if pair.standby is None:
        await pair.rejoin()
    await seeding.ensure_registry_database(pair.primary.dsn())
    await upgrade(service_dsn(pair.primary, seeding.REGISTRY_DATABASE))
    yield make_settings(
        pair.primary,
        pair.dsn(seeding.REGISTRY_DATABASE, seeding.SERVICE_ROLE, SERVICE_PASSWORD),
        master_dsn=pair.dsn("postgres", seeding.SERVICE_ROLE, SERVICE_PASSWORD),
        ddl_attempts=8,
    )
    async with session(pair.primary.dsn()) as admin:
        await admin.execute(f'DROP DATABASE "{seeding.REGISTRY_DATABASE}" WITH (FORCE)')


@dataclass
class Api:
    """A client of the API."""

    client: httpx.AsyncClient

    async def create(self, name: str) -> str | None:
        """Ask for an instance; the address of its job if it was accepted."""
        answer = await self.client.post("/v2/dbInstances", json={"name": name, "databaseTemplate": "Minimal"})
        return answer.headers["location"] if answer.status_code == HTTPStatus.ACCEPTED else None

    async def accepted(self, name: str, seconds: float) -> str:
        """Ask for an instance until that is accepted, for at most so many seconds."""
        async with asyncio.timeout(seconds):
            while (location := await self.create(name)) is None:
                await asyncio.sleep(0.05)
        return location

    async def completed(self, location: str, seconds: float = 40) -> None:
        """Wait until the instance at `location` is there."""
        async with asyncio.timeout(seconds):
            while (await self.status(location)) != "Completed":
                await asyncio.sleep(0.1)

    async def status(self, location: str) -> str | None:
        answer = await self.client.get(location)
        status: str | None = answer.json().get("status")
        assert status != "Error", answer.text
        return status


@asynccontextmanager
async def _api(settings: Settings, temporal: Client) -> AsyncIterator[Api]:
    address = temporal.service_client.config.target_host
    async with (
        serving(settings, TEMPORAL_ADDRESS=address, ODS_TASK_QUEUE=settings.task_queue) as server,
        httpx.AsyncClient(base_url=server.url, timeout=20) as client,
    ):
        client_of = {"ClientId": "failover", "DisplayName": "Failover", "ClientSecret": _SECRET}
        assert (await client.post("/connect/register", data=client_of)).is_success
        token = await client.post(
            "/connect/token",
            data={
                "client_id": "failover",
                "client_secret": _SECRET,
                "grant_type": "client_credentials",
                "scope": "edfi_admin_api/full_access",
            },
        )
        client.headers["Authorization"] = f"Bearer {token.json()['access_token']}"
        yield Api(client)


_FAILOVERS: dict[str, Callable[[ReplicatedPair], Awaitable[None]]] = {
    "switchover": ReplicatedPair.switchover,
    "crash": ReplicatedPair.crash_and_promote,
    "demotion": ReplicatedPair.demote_in_place,
}


@pytest.mark.parametrize("failover", _FAILOVERS)
async def test_requests_are_accepted_and_jobs_go_on_when_the_standby_has_taken_over(
    failover: str,
    pair: ReplicatedPair,
    settings: Settings,
    own_temporal: Client,
    worker_process: WorkerProcess,
) -> None:
    await worker_process.start(settings)
    async with _api(settings, own_temporal) as api:
        before = [await api.accepted(f"{failover} before {number}", 5) for number in range(3)]
        await api.completed(before[0])
        queued = [await api.accepted(f"{failover} queued {number}", 5) for number in range(6)]
        await _FAILOVERS[failover](pair)
        began = time.monotonic()
        after = await api.accepted(f"{failover} after", _ACCEPTED_SECONDS)
        print(f"{failover}: accepted after {time.monotonic() - began:.2f} s")  # noqa: T201 - for the reader of -rP
        for location in [*before, *queued, after]:
            await api.completed(location)


async def test_registry_may_have_been_restored_as_soon_as_a_standby_has_taken_over(
    pair: ReplicatedPair, settings: Settings
) -> None:
    """Not only after the next checkpoint, until which most functions name the timeline of before."""
    engine = create_registry_engine(settings.admin_dsn.get_secret_value())
    clock = RegistryClock(engine, timedelta(minutes=5))
    try:
        await clock.observe()
        assert await clock.doubts() == (False, False)
        await pair.crash_and_promote()
        assert await clock.doubts() == (False, True)
        await clock.observe()
        assert await clock.doubts() == (False, False)
    finally:
        await engine.dispose()


async def test_doctor_lets_no_second_server_take_writes_while_the_primary_may_come_back(
    pair: ReplicatedPair, settings: Settings
) -> None:
    await pair.primary.stop()  # as its host does for an update: a minute later, it is there again
    try:
        by_standby = await _remedy(settings, "is a standby")
    finally:
        await pair.primary.start()
    former = make_settings(pair.primary, service_dsn(pair.primary, seeding.REGISTRY_DATABASE))
    await pair.demote_in_place()
    by_former = await _remedy(former, "is read-only")
    assert "the standby takes over only once the primary is dead and stays so" in by_standby
    assert "pg_promote" not in by_standby
    assert by_former.startswith("name the server that has taken over in ODS_ADMIN_DSN; only if none has:")


async def _remedy(settings: Settings, words: str) -> str:
    """What the doctor advises for the registry, of which it says `words`."""
    (found,) = [one for one in await examine(settings) if one.subject == "registry"]
    assert words in found.found
    assert found.remedy is not None
    return found.remedy
