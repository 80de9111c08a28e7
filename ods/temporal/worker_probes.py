"""Whether a worker gets tasks, for the probes of whatever runs it."""

import asyncio
from collections.abc import Sequence

from temporalio.client import Client

from ods.observability.metrics.recently import Recently
from ods.registry.readiness import registry_obstacle
from ods.temporal import liveness
from ods.temporal.calls import answer_within, is_reachable
from ods.tenants.tenant import Tenant

_SECONDS = 2

_NOT_CONNECTED = "Temporal has not been reached yet."
_NOT_REACHABLE = "Temporal cannot be reached."
_STOPPING = "The worker is stopping: it takes no more tasks, and lets those end that it works on."


class WorkerProbes:
    """What a worker process says of itself.

    It has started once Temporal has seen it poll every task queue of every tenant. It is ready if, besides,
    Temporal answers and every registry can be written to, until it is told to stop.

    Args:
        stop: set as soon as the worker is told to stop.
    """

    def __init__(self, stop: asyncio.Event) -> None:
        self._stop = stop
        self._temporal: Client | None = None
        self._tenants: Sequence[Tenant] = ()
        self._polling: set[str] = set()
        self._starting = Recently(self._find_start_obstacles)
        self._readiness = Recently(self._find_obstacles)

    def serve(self, temporal: Client, tenants: Sequence[Tenant]) -> None:
        """Tell from now on of these tenants, whose queues this process polls by `temporal`."""
        self._temporal, self._tenants = temporal, tenants

    async def start_obstacles(self) -> Sequence[str]:
        """Which queues are not polled yet."""
        return await self._starting.found()

    async def obstacles(self) -> Sequence[str]:
        """Why the worker gets no tasks now, or could not do them."""
        return [_STOPPING] if self._stop.is_set() else await self._readiness.found()

    async def concerns(self) -> Sequence[str]:
        """None: a worker needs all that it uses."""
        return []

    async def close(self) -> None:
        """End what is still being asked."""
        await asyncio.gather(self._starting.close(), self._readiness.close())

    async def _find_start_obstacles(self) -> Sequence[str]:
        if self._temporal is None:
            return [_NOT_CONNECTED]
        temporal = self._temporal
        found = await asyncio.gather(*(self._unpolled(temporal, tenant) for tenant in self._tenants))
        return [reason for reasons in found for reason in reasons]

    async def _unpolled(self, temporal: Client, tenant: Tenant) -> list[str]:
        """The queues of a tenant that Temporal has not seen this process poll; asked until it has, once."""
        if tenant.name in self._polling:
            return []
        queues = liveness.task_queues(tenant.settings)
        asked = [(queue, kind) for queue, kinds in queues.items() for kind in kinds]
        try:
            found = await answer_within(
                asyncio.gather(*(liveness.pollers(temporal, queue, kind) for queue, kind in asked)), _SECONDS
            )
        except Exception:  # noqa: BLE001 - Temporal refuses, cannot be reached, does not answer
            return [f"Tenant {tenant.name}: {_NOT_REACHABLE}"]
        missing = {
            queue: None
            for (queue, _), pollers in zip(asked, found, strict=True)
            if temporal.identity not in {poller.identity for poller in pollers}
        }
        if not missing:
            self._polling.add(tenant.name)
        return [
            f"Tenant {tenant.name}: the task queue {queue} is not polled yet; the log of the worker says what"
            " it waits for."
            for queue in missing
        ]

    async def _find_obstacles(self) -> Sequence[str]:
        if self._temporal is None:
            return [_NOT_CONNECTED]
        registries = asyncio.gather(*map(_registry, self._tenants))
        found = await asyncio.gather(self._starting.found(), is_reachable(self._temporal), registries)
        starting, is_connected, obstacles = found
        temporal = [] if is_connected else [_NOT_REACHABLE]
        return [*temporal, *starting, *(obstacle for obstacle in obstacles if obstacle is not None)]


async def _registry(tenant: Tenant) -> str | None:
    obstacle = await registry_obstacle(tenant.engine)
    return None if obstacle is None else f"Tenant {tenant.name}: {obstacle}"
