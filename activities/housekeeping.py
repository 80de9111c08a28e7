"""What passes record and remove that is no job's: snapshots that are due, sizes, old answers."""

from activities.errors import step
from activities.following import heartbeats
from ods.registry.idempotency_keys import IdempotencyKeys
from ods.tenants.tenant import Tenant
from ods.tenants.usage import record_sizes


class Housekeeping:
    """Keeps what one tenant has small, and the history of its sizes."""

    def __init__(self, tenant: Tenant) -> None:
        self._tenant = tenant

    @step
    async def remove_snapshots(self) -> int:
        """Drop snapshots that are due and that no session uses; returns how many."""
        async with heartbeats():
            return await self._tenant.snapshots.remove_due()

    @step
    async def record_sizes(self) -> int:
        """Record today's sizes; returns of how many databases."""
        async with heartbeats():
            return await record_sizes(self._tenant)

    @step
    async def remove_old_answers(self) -> None:
        """Remove the answers that no repeated request gets any more, some at a time."""
        keys = IdempotencyKeys(self._tenant.engine)
        while await keys.prune():
            pass
