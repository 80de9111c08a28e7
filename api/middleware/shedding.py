"""Load shedding: a process serves a number of costly requests at once, and refuses those that wait too long.

A costly request writes, or reads more than one thing. It takes a place once its client is known, and keeps
it until it has been answered: strangers, who may send as slowly as they like, have none. What is cheap (one
thing by its id, probes, what needs no client, open streams) needs no place, and is served whatever waits.

A download of a backup has a place of another kind. It lasts as long as its client reads: none is waited for.
"""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from http import HTTPStatus

from starlette.requests import HTTPConnection
from starlette.types import Scope

from api.http.audit_context import audit_context
from api.http.problems import ProblemError
from api.middleware.audit import READING
from api.middleware.route_table import RouteTable
from api.tenant_services import services_of
from ods.observability.metrics.catalog import REQUESTS_IN_WORK, REQUESTS_SHED
from ods.settings.settings import AnySettings

_WAIT_SECONDS = 5.0
"""How long a request waits for a place: of a hundred creates that are sent at once, all get one by then."""
_OF_ONE = re.compile(r"\{\w*id\}", re.IGNORECASE)
"""In the template of a path that names one thing by its id."""
_STREAM = "/console/live"
"""The stream of an open page, which lasts as long as the page."""
_DOWNLOAD = "/v2/backups/{backup_id}/dump"
"""Answers with a whole dump."""
_DOWNLOAD_ENDS = {"Retry-After": "30"}
"""Seconds: when a client that takes nothing is given up, and its place is free."""
_OF_SEVERAL = "/v2/dbInstances/bulk"
"""Below it, requests wait for each other first; the one whose turn it is takes a place (`api.bulk_route`)."""

_CHEAP, _COSTLY, _WAITING = "cheap", "costly", "waiting"
_OF_TENANT, _OF_PROCESS = "tenant", "process"
_HELD = "places"
"""In the state of a request: what it holds until it has ended."""


class CostlyRequests:
    """The places for costly requests of this process, and of each of its tenants.

    A tenant has a share of its own, so that one whose registry hangs does not keep others waiting.

    Args:
        settings: say how many places there are.
    """

    def __init__(self, settings: AnySettings) -> None:
        self._of_process = _places(settings.costly_requests)
        self._of_tenants = {name: _places(settings.costly_requests_per_tenant) for name in settings.tenants}
        for name in settings.tenants:
            for limit in (_OF_TENANT, _OF_PROCESS):
                REQUESTS_SHED.labels(limit, name)  # so that it is there, at 0

    @asynccontextmanager
    async def place(self, tenant: str) -> AsyncIterator[None]:
        """A place for a request of the tenant, as long as the block runs.

        Raises:
            ProblemError: 503, none was free within five seconds.
        """
        reached = _OF_TENANT
        async with AsyncExitStack() as held:
            try:
                with _counted_as(_WAITING):
                    async with asyncio.timeout(_WAIT_SECONDS):
                        await held.enter_async_context(self._of_tenants[tenant])
                        reached = _OF_PROCESS
                        await held.enter_async_context(self._of_process)
            except TimeoutError:
                REQUESTS_SHED.labels(reached, tenant).inc()
                raise ProblemError.unavailable(
                    "The service has more requests than it can serve",
                    "Nothing was done. Send the same request again in a few seconds.",
                ) from None
            with _counted_as(_COSTLY):
                yield


class Downloads:
    """The places for downloads of backups of this process, of which one client may have half.

    Args:
        limit: how many there are; 0 for any number.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._under_way = Counter[tuple[str, str | None]]()

    @contextmanager
    def place(self, tenant: str, client: str | None) -> Iterator[None]:
        """A place for a download by a client of the tenant, as long as the block runs.

        Raises:
            ProblemError: 429, the client has as many as it may have; 503, none is free.
        """
        its = (tenant, client)
        if self._limit:
            self._require_free(its)
        self._under_way[its] += 1
        try:
            yield
        finally:
            self._under_way[its] -= 1
            self._under_way += Counter()  # forgets those who have none

    def _require_free(self, its: tuple[str, str | None]) -> None:
        if self._under_way[its] >= (most := -(-self._limit // 2)):
            raise ProblemError(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"This client downloads {most} backups already, as many as it may at once",
                _DOWNLOAD_ENDS,
                detail="Send the same request again when one of these downloads has ended.",
            )
        if self._under_way.total() >= self._limit:
            raise ProblemError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "The service sends as many backups as it can send at once",
                _DOWNLOAD_ENDS,
                detail="Send the same request again when another download has ended.",
            )


@asynccontextmanager
async def counted_request(scope: Scope) -> AsyncIterator[None]:
    """Count the request as a cheap one while the block runs; then give back the place that it has taken."""
    with REQUESTS_IN_WORK.labels(_CHEAP).track_inprogress():
        async with AsyncExitStack() as held:
            scope["state"][_HELD] = held
            yield


async def admit(connection: HTTPConnection) -> None:
    """Let a request pass that is cheap; have another one take its place. Its client and its path are known.

    Raises:
        ProblemError: 503, no place was free within five seconds; or, for a download, at once; or 429, the
            client has too many downloads.
    """
    route_table: RouteTable = connection.app.state.route_table
    template = route_table.template_of(connection.scope) or ""
    if template == _DOWNLOAD:
        downloads: Downloads = connection.app.state.downloads
        place = downloads.place(services_of(connection).tenant.name, audit_context(connection).client)
        connection.scope["state"][_HELD].enter_context(place)
    is_cheap = connection.scope["method"] in READING and (template == _STREAM or _OF_ONE.search(template))
    if not is_cheap and not template.startswith(_OF_SEVERAL):
        await take_place(connection)


async def take_place(connection: HTTPConnection) -> None:
    """Have a request wait for a place, which it keeps until it has ended.

    Raises:
        ProblemError: 503, none was free within five seconds.
    """
    costly: CostlyRequests = connection.app.state.costly_requests
    held: AsyncExitStack = connection.scope["state"][_HELD]
    try:
        await held.enter_async_context(costly.place(services_of(connection).tenant.name))
    except ProblemError:
        audit_context(connection).is_shed = True
        raise


def _places(limit: int) -> AbstractAsyncContextManager[None]:
    """So many places; any number, if there is no limit."""
    return asyncio.Semaphore(limit) if limit else nullcontext()


@contextmanager
def _counted_as(kind: str) -> Iterator[None]:
    """Count the request otherwise than as a cheap one."""
    cheap, other = REQUESTS_IN_WORK.labels(_CHEAP), REQUESTS_IN_WORK.labels(kind)
    cheap.dec()
    other.inc()
    try:
        yield
    finally:
        other.dec()
        cheap.inc()
