"""The health of the service and its parts: examined at most every two seconds, however many clients ask."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from itertools import chain
from time import monotonic
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from api.health_checks import Check, HealthStatus, Result, checks
from api.http.temporal_calls import TIMEOUT
from api.middleware.tenancy import Tenancy
from api.schemas.base import ResponseModel

_FRESH_SECONDS = 2.0
"""How long a report is given again."""


class Health(ResponseModel):
    """How the service is: unhealthy if no tenant's registry works, degraded if any part is not healthy."""

    status: HealthStatus
    results: list[Result]


@dataclass(frozen=True)
class Report:
    """The health of the service, as it is answered.

    Args:
        status: 503 if no tenant's requests can be accepted.
        body: a `Health` in JSON.
    """

    status: HTTPStatus
    body: bytes


class HealthMonitor:
    """Examines the parts of the service, once for all requests that ask meanwhile or shortly after.

    Args:
        tenants: the tenants whose parts are examined.
    """

    def __init__(self, tenants: Tenancy) -> None:
        self._tenants = tenants
        self._examining: asyncio.Task[Report] | None = None
        self._fresh_until = 0.0
        self._late: set[asyncio.Task[list[Result]]] = set()

    async def report(self) -> Report:
        """How the service is, or was two seconds ago."""
        if self._examining is None or (self._examining.done() and monotonic() >= self._fresh_until):
            self._examining = asyncio.create_task(self._examine())
        return await asyncio.shield(self._examining)  # other requests wait for it as well

    async def close(self) -> None:
        """Wait for checks that have not been answered."""
        examining = [self._examining] if self._examining else []
        await asyncio.gather(*examining, *self._late, return_exceptions=True)

    async def _examine(self) -> Report:
        """Check every part at once, for at most two seconds."""
        asked = {asyncio.create_task(check.results()): check for check in checks(self._tenants)}
        _, late = await asyncio.wait(asked, timeout=TIMEOUT) if asked else (set(), set())
        for task in late:
            self._abandon(task)
        results = chain.from_iterable(_results_of(task, check, late) for task, check in asked.items())
        report = _report(list(results))
        self._fresh_until = monotonic() + _FRESH_SECONDS
        return report

    def _abandon(self, task: asyncio.Task[list[Result]]) -> None:
        """Cancel `task` without waiting until it has closed its connections."""
        task.cancel()
        self._late.add(task)
        task.add_done_callback(self._late.discard)


def _results_of(
    task: asyncio.Task[list[Result]], check: Check, late: Iterable[asyncio.Task[list[Result]]]
) -> list[Result]:
    return check.unanswered() if task in late else task.result()


def _report(results: list[Result]) -> Report:
    # A registry is the only part that can be unhealthy.
    registries = [one for one in results if one.name.partition(":")[0] == "database"]
    if all(registry.status is HealthStatus.UNHEALTHY for registry in registries):
        status, code = HealthStatus.UNHEALTHY, HTTPStatus.SERVICE_UNAVAILABLE
    elif all(one.status is HealthStatus.HEALTHY for one in results):
        status, code = HealthStatus.HEALTHY, HTTPStatus.OK
    else:
        status, code = HealthStatus.DEGRADED, HTTPStatus.OK
    return Report(code, Health(status=status, results=results).model_dump_json(exclude_none=True).encode())


async def health_monitor(connection: HTTPConnection) -> HealthMonitor:
    """The monitor of this process."""
    monitor: HealthMonitor = connection.app.state.health
    return monitor


HealthMonitorDep = Annotated[HealthMonitor, Depends(health_monitor)]
