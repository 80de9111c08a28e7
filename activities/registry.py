"""Status writes, as activities."""

from temporalio import activity
from temporalio.exceptions import ApplicationError

from instances.errors import NameTakenError
from instances.jobs import InstanceJob, JobFailure
from instances.registry import Begun, Registry
from instances.secrets import OdsConnectionStrings


class RegistryActivities:
    """The first and the last step of every job: each is one guarded transaction and may be repeated."""

    def __init__(self, registry: Registry, connection_strings: OdsConnectionStrings) -> None:
        self._registry = registry
        self._connection_strings = connection_strings

    @activity.defn
    async def begin(self, job: InstanceJob) -> Begun:
        """Take the instance for this attempt of the job."""
        return await self._registry.begin(job)

    @activity.defn
    async def finish_create(self, job: InstanceJob) -> bool:
        """Record `Completed` and route the ODS/API to the new database."""
        try:
            return await self._registry.finish_create(job, self._connection_strings.encrypted(job.database))
        except NameTakenError as error:
            raise ApplicationError(str(error), type="NameTaken", non_retryable=True) from None

    @activity.defn
    async def finish_delete(self, job: InstanceJob) -> bool:
        """Record `Deleted`."""
        return await self._registry.finish_delete(job)

    @activity.defn
    async def fail(self, failure: JobFailure) -> bool:
        """Record `Error` or `Delete_Failed`, with the reason."""
        return await self._registry.fail(failure.job, failure.reason)
