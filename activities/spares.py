"""Activities that keep the pool of spare databases full, and the requests for it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from temporalio.service import RPCError

from activities.errors import step
from activities.following import heartbeats
from activities.job_fence import ConcurrencyLimit
from ods.databases.templates.spare_pool import PruneResult, SpareOrder, SparePool

_logger = logging.getLogger(__name__)


class SpareActivities:
    """The steps of a refill."""

    def __init__(self, pool: SparePool, limit: ConcurrencyLimit) -> None:
        self._pool = pool
        self._limit = limit

    @step
    async def prune_spares(self) -> PruneResult:
        """Remove spares that are stale, unfinished or beyond the limits, and find out which are missing."""
        async with heartbeats(), self._limit.slot():
            return await self._pool.prune()

    @step
    async def replenish_spare(self, order: SpareOrder) -> None:
        """Make one spare."""
        async with heartbeats(), self._limit.slot():
            await self._pool.replenish(order)


class RefillRequests:
    """Requests refills and is not awaited: after each call one begins, and calls close together share one."""

    def __init__(self, request: Callable[[], Awaitable[None]]) -> None:
        self._request = request
        self._due = False
        self._task: asyncio.Task[None] | None = None

    def __call__(self) -> None:
        """Request a refill."""
        self._due = True
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._send())

    async def _send(self) -> None:
        while self._due:
            self._due = False
            try:
                await self._request()
            except RPCError as error:
                _logger.warning("Spares are refilled at the next interval only (%s).", error.status.name)
