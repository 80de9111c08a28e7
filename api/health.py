"""Whether the parts that the service is made of are there.

Without the registry nothing works. Without Temporal or workers, requests are accepted and their jobs wait.
"""

import asyncio
import logging
from collections.abc import Awaitable, Iterator
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client

from api.answers import Answer
from api.services import Services
from api.temporal import PATIENCE, answer_of
from api.tenancy import Tenancy
from instances.catalog import Catalog
from logs import fault_name

_POLLER_MEMORY = timedelta(seconds=70)
"""A poll lasts up to a minute, and Temporal remembers pollers for five: older ones are gone."""

_WORKFLOWS = TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW
_ACTIVITIES = TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY

_logger = logging.getLogger(__name__)


class HealthStatus(StrEnum):
    """How well the service, or a part of it, is."""

    HEALTHY = "Healthy"
    DEGRADED = "Degraded"
    UNHEALTHY = "Unhealthy"


class Result(Answer):
    """How one part is."""

    name: str
    status: HealthStatus


class Health(Answer):
    """How the service is: unhealthy if no tenant's registry answers, degraded if any part is not healthy."""

    status: HealthStatus
    results: list[Result]


async def examine(tenants: Tenancy) -> Health:
    """Look at every part at once, for at most two seconds."""
    registries, others = await asyncio.gather(
        asyncio.gather(*(_registry(services, several=tenants.multi_tenant) for services in tenants)),
        asyncio.gather(*_others(tenants)),
    )
    if all(registry.status is HealthStatus.UNHEALTHY for registry in registries):
        status = HealthStatus.UNHEALTHY
    elif all(part.status is HealthStatus.HEALTHY for part in (*registries, *others)):
        status = HealthStatus.HEALTHY
    else:
        status = HealthStatus.DEGRADED
    return Health(status=status, results=[*registries, *others])


async def _registry(services: Services, *, several: bool) -> Result:
    name = f"database:{services.tenant}" if several else "database"
    return await _result(name, _answers(services.catalog), HealthStatus.UNHEALTHY)


def _others(tenants: Tenancy) -> Iterator[Awaitable[Result]]:
    """Temporal, and whether somebody polls the task queues of each tenant."""
    temporal = next(iter(tenants)).temporal
    yield _result("temporal", answer_of(temporal.service_client.check_health()), HealthStatus.DEGRADED)
    for settings in (services.settings for services in tenants):
        for queue, kinds in (
            (settings.registry_queue, (_WORKFLOWS, _ACTIVITIES)),
            (settings.ddl_queue, (_ACTIVITIES,)),
            (settings.refresh_queue, (_ACTIVITIES,)),
        ):
            polled = answer_of(_has_pollers(temporal, queue, *kinds))
            yield _result(f"taskQueue:{queue}", polled, HealthStatus.DEGRADED)


async def _result(name: str, check: Awaitable[bool], otherwise: HealthStatus) -> Result:
    try:
        healthy = await check
    except Exception as error:  # noqa: BLE001 - whatever is wrong with the part, it is not healthy
        _logger.warning("%s is not healthy: %s", name, fault_name(error))
        healthy = False
    return Result(name=name, status=HealthStatus.HEALTHY if healthy else otherwise)


async def _answers(catalog: Catalog) -> bool:
    async with asyncio.timeout(PATIENCE):
        await catalog.instances(offset=0, limit=0)  # no row, but it takes the table with all its columns
    return True


async def _has_pollers(temporal: Client, queue: str, *kinds: TaskQueueType.ValueType) -> bool:
    return all(await asyncio.gather(*(_has_poller(temporal, queue, kind) for kind in kinds)))


async def _has_poller(temporal: Client, queue: str, kind: TaskQueueType.ValueType) -> bool:
    described = await temporal.workflow_service.describe_task_queue(
        DescribeTaskQueueRequest(
            namespace=temporal.namespace, task_queue=TaskQueue(name=queue), task_queue_type=kind
        )
    )
    oldest = datetime.now(UTC) - _POLLER_MEMORY
    return any(poller.last_access_time.ToDatetime(tzinfo=UTC) > oldest for poller in described.pollers)
