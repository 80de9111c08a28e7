"""The schedule of the refill: there is one once spares are wanted, and it also removes the last of them."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TypeAlias

import pytest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from ods.embedded.polling import wait_until
from ods.settings.settings import Settings
from ods.temporal import schedules
from ods.tenants.tenant import Tenant, open_tenants
from tests.servers import INSTALLATION, scheduled
from worker import WORKERS

ServicesDep: TypeAlias = Callable[[int], AbstractAsyncContextManager[Tenant]]


@pytest.fixture
def serving(temporal: Client, settings: Settings) -> ServicesDep:
    """Workers that have started with a number of spares to keep."""

    @asynccontextmanager
    async def serving(spares: int) -> AsyncIterator[Tenant]:
        own = settings.model_copy(update={"spares": spares})
        async with open_tenants(own) as (tenant,), AsyncExitStack() as stack:
            for worker in WORKERS:
                await stack.enter_async_context(worker(temporal, tenant))
            await schedules.ensure(temporal, own, INSTALLATION)
            yield tenant

    return serving


async def _reached(tenant: Tenant, expected: int) -> None:
    async def reached() -> bool:
        found = await tenant.spares.report()
        return [template.ready for template in found.templates] == [expected] * 2 and not found.unfinished

    await wait_until(reached, 30)


async def test_spares_are_removed_when_they_are_no_longer_wanted(
    serving: ServicesDep, temporal: Client, settings: Settings
) -> None:
    async with scheduled(temporal, settings):
        async with serving(1) as tenant:
            await _reached(tenant, 1)
        async with serving(0) as tenant:
            await _reached(tenant, 0)


async def test_there_is_no_refill_when_no_spares_were_ever_wanted(
    temporal: Client, settings: Settings
) -> None:
    async with scheduled(temporal, settings):
        with pytest.raises(RPCError) as missing:
            await temporal.get_schedule_handle(schedules.SPARE_REFILL).describe()
    assert missing.value.status is RPCStatusCode.NOT_FOUND
