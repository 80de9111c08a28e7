"""The first step of a delete asks the server, which may say nothing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.errors import OUTAGE
from activities.statuses import StatusActivities
from databases.server import Server
from registry.instances.job_store import JobStore
from registry.instances.store import InstanceStore
from tenants.tenant import Tenant
from tests.postgres.instance_states import bring_to


@pytest.fixture
async def silent_server() -> AsyncIterator[Server]:
    """A host that accepts connections and says nothing."""
    held: list[asyncio.StreamWriter] = []
    listener = await asyncio.start_server(lambda _, writer: held.append(writer), "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    server = Server(f"postgresql://anyone@127.0.0.1:{port}/postgres")
    yield server
    await server.close()
    for writer in held:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
    listener.close()


async def test_outage_is_told_soon_and_the_delete_waits_when_the_server_says_nothing(
    tenant: Tenant, instances: InstanceStore, job_store: JobStore, silent_server: Server, name: str
) -> None:
    created = await bring_to(instances, job_store, "Completed", name)
    job = (await instances.request_delete(created.instance_id)).job
    activities = StatusActivities(job_store, tenant.connection_strings, silent_server)
    async with asyncio.timeout(5):
        with pytest.raises(ApplicationError) as raised:
            await ActivityEnvironment().run(activities.begin, job)
    assert (raised.value.type, raised.value.non_retryable) == (OUTAGE, False)
    assert await job_store.is_due(job)
