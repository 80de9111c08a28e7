"""Activities that request, start, begin and finish refreshes of education organizations."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from temporalio import activity

from activities.sweep import accepted
from ods.registry.education_organizations.refreshes import RefreshJobs, Scope
from ods.registry.instances.status import JobStatus


@dataclass(frozen=True)
class RefreshResult:
    """How a refresh job has ended: its status, and what could not be read, in words."""

    scope: Scope
    job_id: str
    status: JobStatus
    message: str | None


class RefreshActivities:
    """Requests, starts, begins and finishes refreshes.

    Args:
        jobs: the refresh jobs.
        start: starts the workflow of a scope, or signals the one that is open.
    """

    def __init__(self, jobs: RefreshJobs, start: Callable[[Scope], Awaitable[None]]) -> None:
        self._jobs = jobs
        self._start = start

    @activity.defn
    async def request_refresh(self) -> None:
        """Request a refresh of all ODS instances, unless one is waiting or running."""
        await self._jobs.request_unless_unfinished(Scope(None, self._jobs.tenant))
        await self.dispatch_refreshes()

    @activity.defn
    async def request_refresh_of(self, ods_instance_id: int) -> None:
        """Request a refresh of one ODS instance, unless one waits."""
        scope = Scope(ods_instance_id, self._jobs.tenant)
        await self._jobs.request(scope)
        await accepted(self._start(scope), scope.workflow_id)

    @activity.defn
    async def dispatch_refreshes(self) -> int:
        """Start the workflow of every scope with a job that is waiting, or whose workflow was lost.

        Returns how many scopes were dispatched; the next pass tries again what Temporal has refused.

        Raises:
            temporalio.service.RPCError: Temporal cannot be reached.
        """
        dispatched = 0
        for scope in await self._jobs.unfinished():
            dispatched += await accepted(self._start(scope), scope.workflow_id)
            activity.heartbeat(scope.ods_instance_id)
        return dispatched

    @activity.defn
    async def begin_refresh(self, scope: Scope) -> str | None:
        """Move the due job of `scope` to `InProgress`; returns its id, or None if no job is due."""
        return await self._jobs.begin(scope)

    @activity.defn
    async def finish_refresh(self, result: RefreshResult) -> None:
        """Record how a job has ended."""
        await self._jobs.finish(result.job_id, result.status, result.message)
