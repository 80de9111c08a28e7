"""Activities that record snapshots of instances, and drop those that are not wanted any more."""

from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.errors import as_application_error
from activities.heartbeats import heartbeats
from ods.registry.instances.jobs import InstanceJob
from ods.registry.storage.errors import DerivativeTakenError
from ods.tenants.snapshots import Snapshots


class SnapshotActivities:
    """What follows when the copy of an instance is made, and when its time is over.

    Args:
        snapshots: the snapshots of the tenant's instances.
    """

    def __init__(self, snapshots: Snapshots) -> None:
        self._snapshots = snapshots

    @activity.defn
    async def finish_snapshot(self, job: InstanceJob) -> bool:
        """Record the snapshot, and have the ODS/API read it.

        Raises:
            ApplicationError: the derivative of the ODS instance leads to another database by now, the
                registry is away, …
        """
        with as_application_error():
            try:
                return await self._snapshots.finish(job)
            except DerivativeTakenError as error:
                raise ApplicationError(str(error), type="DerivativeTaken", non_retryable=True) from None

    @activity.defn
    async def remove_snapshots(self) -> int:
        """Drop snapshots that are due and that no session uses; returns how many.

        Raises:
            ApplicationError: the registry or the server is away, …
        """
        with as_application_error():
            async with heartbeats():
                return await self._snapshots.remove_due()
