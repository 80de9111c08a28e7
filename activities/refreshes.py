"""The life of refresh jobs, as activities."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from temporalio import activity

from activities.sweep import accepted
from registry.education_organizations.refreshes import RefreshJobs, Scope
from registry.instances.status import JobStatus


@dataclass(frozen=True)
class RefreshResult:
    """How a refresh job has ended."""

    scope: Scope
    job_id: str
    status: JobStatus
    message: str | None


class RefreshActivities:
    """Requests, starts, begins and finishes refreshes.

    Args:
        jobs: the refresh jobs.
        start: has the jobs of a scope carried out, whether or not somebody does so already.
    """

    def __init__(self, jobs: RefreshJobs, start: Callable[[Scope], Awaitable[None]]) -> None:
        self._jobs = jobs
        self._start = start

    @activity.defn
    async def request_refresh(self) -> None:
        """Request that everything is read, unless that is under way."""
        await self._jobs.request_unless_unfinished(Scope(None, self._jobs.tenant))
        await self.dispatch_refreshes()

    @activity.defn
    async def dispatch_refreshes(self) -> int:
        """Start what was requested and not started, or has lost the workflow that carried it out.

        Returns how many scopes were dispatched; what Temporal refuses is tried again by the next pass.
        """
        dispatched = 0
        for scope in await self._jobs.unfinished():
            dispatched += await accepted(self._start(scope), scope.workflow_id)
            activity.heartbeat(scope.ods_instance_id)
        return dispatched

    @activity.defn
    async def begin_refresh(self, scope: Scope) -> str | None:
        """Take the job of `scope` that is due, if there is one."""
        return await self._jobs.begin(scope)

    @activity.defn
    async def finish_refresh(self, result: RefreshResult) -> None:
        """Record how a job has ended."""
        await self._jobs.finish(result.job_id, result.status, result.message)
