"""Whether an API process may get traffic, for load balancers and whatever runs it."""

import asyncio
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection
from temporalio.client import Client

from api.middleware.tenancy import Tenancy
from ods.observability.metrics.recently import Recently
from ods.registry.readiness import registry_obstacle
from ods.temporal.calls import is_reachable

_STOPPING = "The process is stopping: it ends the requests that it has."
_NO_TEMPORAL = "Temporal cannot be reached: requests are accepted, and their jobs started later."
_NO_TENANTS = "No tenant is configured: add one to ODS_TENANTS."


class Readiness:
    """What an API process says of itself.

    It is ready while requests for any tenant can be accepted. Without Temporal, requests are accepted as
    well, and their jobs started later: that is a concern (docs/decisions/0053-metrics-and-probes.md).

    Args:
        tenants: the tenants that it serves.
        temporal: the client that starts their jobs.
    """

    def __init__(self, tenants: Tenancy, temporal: Client) -> None:
        self._tenants = tenants
        self._temporal = temporal
        self._is_stopping = False
        self._obstacles = Recently(self._find_obstacles)
        self._concerns = Recently(self._find_concerns)

    async def start_obstacles(self) -> Sequence[str]:
        """None: a process that can be asked serves requests."""
        return []

    async def obstacles(self) -> Sequence[str]:
        """Why the process must get no traffic."""
        return [_STOPPING] if self._is_stopping else await self._obstacles.found()

    async def concerns(self) -> Sequence[str]:
        """What is away without which requests are accepted all the same."""
        return await self._concerns.found()

    async def close(self) -> None:
        """End what is still being asked."""
        await asyncio.gather(self._obstacles.close(), self._concerns.close())

    @contextmanager
    def stopped_by_signals(self) -> Iterator[None]:
        """While the body runs, be not ready as soon as a signal tells the process to stop.

        The server that runs the API handles these signals, and goes on doing so: it tells the application
        only after the last request has ended.
        """
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread hears of signals
            return
        handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

        def handle(number: int, frame: FrameType | None) -> None:
            self._is_stopping = True
            handler = handlers[signal.Signals(number)]
            if callable(handler):
                handler(number, frame)

        chained = [number for number, handler in handlers.items() if callable(handler)]
        for number in chained:
            signal.signal(number, handle)
        try:
            yield
        finally:
            for number in chained:
                signal.signal(number, handlers[number])

    async def _find_concerns(self) -> Sequence[str]:
        return [] if await is_reachable(self._temporal) else [_NO_TEMPORAL]

    async def _find_obstacles(self) -> Sequence[str]:
        """The obstacles of all tenants, if no tenant is without one; they are asked until one is."""
        reasons = []
        for services in self._tenants:
            tenant = services.tenant
            obstacle = await registry_obstacle(tenant.engine)
            if obstacle is None:
                return []
            reasons.append(f"Tenant {tenant.name}: {obstacle}")
        return reasons or [_NO_TENANTS]


async def readiness(connection: HTTPConnection) -> Readiness:
    """That of this process."""
    found: Readiness = connection.app.state.readiness
    return found


ReadinessDep = Annotated[Readiness, Depends(readiness)]
