"""The activity that removes answers which no repeated request gets any more."""

from temporalio import activity

from activities.errors import as_application_error
from ods.registry.idempotency_keys import IdempotencyKeys


class IdempotencyKeyActivities:
    """Keeps the table of the answers small.

    Args:
        keys: the idempotency keys of the tenant's clients.
    """

    def __init__(self, keys: IdempotencyKeys) -> None:
        self._keys = keys

    @activity.defn
    async def remove_old_answers(self) -> None:
        """Remove all answers that are too old to count, some at a time."""
        with as_application_error():
            while await self._keys.prune():
                pass
