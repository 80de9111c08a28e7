"""The same with workers that are killed, and a Temporal that loses its store; API and clients go on."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import httpx
import pytest
from hypothesis import given
from temporalio.client import Client

from ods.settings.settings import Settings
from ods.temporal.client import DATA_CONVERTER
from ods.temporal.job_starter import JobStarter
from ods.temporal.namespace import register_search_attributes
from ods.tenants.tenant import Tenant
from tests import preloaded
from tests.api.service import bearer, client_of, running
from tests.end_to_end.conftest import Operator
from tests.faults.conftest import OwnTemporal, WorkerProcess, outage, worker_process
from tests.recovery.walking import RULES, Walk, as_many, take, walks
from tests.recovery.world import World

__all__ = ["outage", "worker_process"]

pytestmark = pytest.mark.faults


@pytest.fixture
async def own_temporal(outage: OwnTemporal) -> Client:
    client = await Client.connect(outage.address, data_converter=DATA_CONVERTER)
    await register_search_attributes(client)
    return client


@pytest.fixture
def operator(tenant: Tenant, settings: Settings, own_temporal: Client) -> Operator:
    starter = JobStarter(own_temporal, settings.registry_queue)
    return Operator(tenant.instances, tenant.jobs, tenant.queries, starter, own_temporal)


@pytest.fixture
async def api(settings: Settings, outage: OwnTemporal) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        running(settings, outage.address) as app,
        client_of(app, headers=bearer(settings)) as client,
    ):
        yield client


class KilledWorld(World):
    """A world with a worker in a process of its own."""

    def __init__(self, *world: Any, workers: WorkerProcess, temporal: OwnTemporal) -> None:
        super().__init__(*world)
        self._workers = workers
        self._temporal = temporal
        self._worker: preloaded.Process | None = None

    async def begin(self) -> None:
        """The same, with a worker."""
        await super().begin()
        await self._start()

    async def end(self) -> None:
        """The same, without one."""
        await self._kill()
        await super().end()

    async def _start(self) -> None:
        self._worker = await self._workers.start(self._tenant.settings)

    async def _kill(self) -> None:
        if self._worker is not None:
            self._worker.kill()
            await self._worker.wait()
            self._worker = None

    async def kill_worker(self, which: int, moment: int) -> None:
        """The worker dies in the midst of a job; another one goes on."""
        async with self._in_the_midst(which, moment):
            await self._kill()
            await self._start()

    async def lose_temporal(self, which: int, moment: int) -> None:
        """Temporal loses its store in the midst of a job, with the worker; both start again."""
        async with self._in_the_midst(which, moment):
            await self._kill()
            await self._temporal.lose()
            await register_search_attributes(self._operator.client)
            await self._start()

    @asynccontextmanager
    async def _stopped(self) -> AsyncIterator[None]:
        await self._kill()
        yield
        await self._start()

    async def _finish_jobs(self) -> None:
        if is_stopped := self._worker is None:
            await self._start()
        await super()._finish_jobs()
        if is_stopped:
            await self._kill()


@pytest.mark.timeout(24 * 3600)
@given(walk=walks((*RULES, KilledWorld.kill_worker.__name__, KilledWorld.lose_temporal.__name__)))
@as_many(5)
async def test_registry_and_server_agree_when_workers_were_killed(
    operator: Operator,
    tenant: Tenant,
    rows: asyncpg.Connection,
    admin: asyncpg.Connection,
    api: httpx.AsyncClient,
    outage: OwnTemporal,
    worker_process: WorkerProcess,
    walk: Walk,
) -> None:
    world = KilledWorld(operator, tenant, rows, admin, api, workers=worker_process, temporal=outage)
    await take(world, walk)
