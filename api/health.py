"""The health of the service and its parts: examined at most every two seconds, however many clients ask."""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
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

_LONGEST_SECONDS = 10.0
"""How long a check may go on, while reports are given without its answer."""

_Timed = tuple[list[Result], float]
"""The results of a check, and the seconds that it took."""


class Health(ResponseModel):
    """How the service is: unhealthy if no tenant's registry works, degraded if any part is not healthy."""

    status: HealthStatus
    results: list[Result]


@dataclass(frozen=True)
class Part:
    """How one part is.

    Attributes:
        result: as it is answered.
        seconds: within which it answered; None if it did not.
        since: when this process first saw it like that, in UTC.
    """

    result: Result
    seconds: float | None
    since: datetime


@dataclass(frozen=True)
class Report:
    """The health of the service, as it is answered.

    Args:
        status: 503 if no tenant's requests can be accepted.
        body: a `Health` in JSON.
        health: how the service is.
        parts: how each part is.
        at: when they were examined, in UTC.
    """

    status: HTTPStatus
    body: bytes
    health: HealthStatus
    parts: Sequence[Part]
    at: datetime


class HealthMonitor:
    """Examines the parts of the service, once for all requests that ask meanwhile or shortly after.

    Args:
        tenants: the tenants whose parts are examined.
    """

    def __init__(self, tenants: Tenancy) -> None:
        self._tenants = tenants
        self._examining: asyncio.Task[Report] | None = None
        self._fresh_until = 0.0
        self._under_way: dict[Sequence[str], asyncio.Task[_Timed]] = {}
        self._since: dict[str, tuple[HealthStatus, datetime]] = {}

    async def report(self) -> Report:
        """How the service is, or was two seconds ago."""
        if self._examining is None or (self._examining.done() and monotonic() >= self._fresh_until):
            self._examining = asyncio.create_task(self._examine())
        return await asyncio.shield(self._examining)  # other requests wait for it as well

    async def close(self) -> None:
        """Wait for a report that is being made, and end the checks that have not been answered."""
        if self._examining is not None:
            await asyncio.wait([self._examining])
        late = list(self._under_way.values())
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    async def _examine(self) -> Report:
        """Check every part at once, for at most two seconds."""
        asked = {self._asked(check): check for check in checks(self._tenants)}
        _, late = await asyncio.wait(asked, timeout=TIMEOUT) if asked else (set(), set())
        at = datetime.now(UTC)
        parts = [
            Part(result, seconds, self._seen_since(result, at))
            for task, check in asked.items()
            for result, seconds in _results_of(task, check, late)
        ]
        report = _report(parts, at)
        self._fresh_until = monotonic() + _FRESH_SECONDS
        return report

    def _seen_since(self, result: Result, now: datetime) -> datetime:
        """Since when the part has the status that it has now."""
        status, since = self._since.get(result.name, (None, now))
        if status is not result.status:
            since = now
        self._since[result.name] = result.status, since
        return since

    def _asked(self, check: Check) -> asyncio.Task[_Timed]:
        """The answer to `check`, which an earlier examination may be waiting for.

        A check that is late goes on for the next report. If it were ended, and asked anew, many tenants whose
        connections open more slowly than a report is given would never be connected.
        """
        names = tuple(check.names)
        if (task := self._under_way.get(names)) is None:
            task = self._under_way[names] = asyncio.create_task(_timed(check))
            task.add_done_callback(lambda _: self._under_way.pop(names))
        return task


async def _timed(check: Check) -> _Timed:
    begun = monotonic()
    try:
        async with asyncio.timeout(_LONGEST_SECONDS):
            results = await check.results()
    except TimeoutError:
        results = check.unanswered()
    return results, monotonic() - begun


def _results_of(
    task: asyncio.Task[_Timed], check: Check, late: Iterable[asyncio.Task[_Timed]]
) -> Iterator[tuple[Result, float | None]]:
    """Each result of a check, and within how many seconds it was there; None if it was not."""
    results, seconds = (check.unanswered(), None) if task in late else task.result()
    return ((result, seconds) for result in results)


def _report(parts: Sequence[Part], at: datetime) -> Report:
    results = [part.result for part in parts]
    # A registry is the only part that can be unhealthy.
    registries = [one for one in results if one.name.partition(":")[0] == "database"]
    if all(registry.status is HealthStatus.UNHEALTHY for registry in registries):
        status, code = HealthStatus.UNHEALTHY, HTTPStatus.SERVICE_UNAVAILABLE
    elif all(one.status is HealthStatus.HEALTHY for one in results):
        status, code = HealthStatus.HEALTHY, HTTPStatus.OK
    else:
        status, code = HealthStatus.DEGRADED, HTTPStatus.OK
    body = Health(status=status, results=results).model_dump_json(exclude_none=True).encode()
    return Report(code, body, status, parts, at)


async def health_monitor(connection: HTTPConnection) -> HealthMonitor:
    """The monitor of this process."""
    monitor: HealthMonitor = connection.app.state.health
    return monitor


HealthMonitorDep = Annotated[HealthMonitor, Depends(health_monitor)]
