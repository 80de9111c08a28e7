"""The activity that records how large the databases of instances are."""

from temporalio import activity

from activities.errors import as_application_error
from activities.heartbeats import heartbeats
from ods.tenants.sizes import record_sizes
from ods.tenants.tenant import Tenant


class SizeActivities:
    """Keeps the history of sizes.

    Args:
        tenant: the tenant.
    """

    def __init__(self, tenant: Tenant) -> None:
        self._tenant = tenant

    @activity.defn
    async def record_sizes(self) -> int:
        """Record today's sizes; returns of how many databases.

        Raises:
            ApplicationError: the registry or the server is away, a right is missing, …
        """
        with as_application_error():
            async with heartbeats():
                return await record_sizes(self._tenant)
