"""Jobs, as clients list, poll, cancel and abandon them."""

from http import HTTPStatus
from typing import Self

from fastapi import APIRouter, Depends, Response
from pydantic import Field

from api.dependencies import JobListDep, ObstacleDep
from api.http import problems
from api.http.parsing import DEFAULT_LIMIT, Limit, Offset
from api.idempotency import JobRoute
from api.schemas.base import ResponseModel, UtcTime, Waiting, list_response, paced
from api.schemas.instances import job_path
from api.security.tokens import bearer_token
from api.services.jobs import JobFilterDep, JobServiceDep
from ods.registry.storage.models import Job

router = APIRouter(
    prefix="/v2/jobs", tags=["Jobs"], dependencies=[Depends(bearer_token)], route_class=JobRoute
)

_REFUSALS = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
_OF_CHANGES = problems.documented(
    HTTPStatus.BAD_REQUEST, *_REFUSALS, HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT
)


class JobAnswer(ResponseModel):
    """One job, and what it waits for."""

    job_id: str
    status: str
    operation: str | None
    instance_id: int | None
    created_at: UtcTime
    started_at: UtcTime | None
    finished_at: UtcTime | None
    error_message: str | None = Field(
        description="Why it has failed; or, while the status is Pending or InProgress, what it waits for."
    )
    waiting: Waiting | None
    percent: int | None = Field(description="How far it is; null if it does not tell, or has ended.")
    eta_seconds: int | None = Field(description="About how long it will take.")

    @classmethod
    def of(cls, job: Job, obstacle: str | None) -> Self:
        """The answer for `job`, while that is the obstacle for all jobs of instances."""
        answer, wait = cls.model_validate(job), job.wait_under(obstacle)
        if wait is None:
            return answer
        shown = {"waiting": Waiting.model_validate(wait), "error_message": wait.message}
        return answer.model_copy(update=shown)


@router.get(
    "", response_model=list[JobAnswer], responses=problems.documented(HTTPStatus.BAD_REQUEST, *_REFUSALS)
)
async def list_jobs(
    jobs: JobListDep,
    chosen: JobFilterDep,
    obstacle: ObstacleDep,
    offset: Offset = 0,
    limit: Limit = DEFAULT_LIMIT,
) -> Response:
    """A page of jobs, the newest first."""
    rows = await jobs.page(chosen, offset=offset, limit=limit)
    return await list_response(JobAnswer.of(row, obstacle) async for row in paced(rows))


@router.get("/{jobId}", responses=problems.documented(*_REFUSALS, HTTPStatus.NOT_FOUND))
async def get_job(jobId: str, service: JobServiceDep, obstacle: ObstacleDep) -> JobAnswer:  # noqa: N803 - the path's own word
    """How far a job is."""
    return JobAnswer.of(await service.get(jobId), obstacle)


@router.post("/{jobId}/cancel", status_code=HTTPStatus.ACCEPTED, responses=_OF_CHANGES)
async def cancel_job(jobId: str, service: JobServiceDep, response: Response) -> JobAnswer:  # noqa: N803 - as above
    """Cancel a job that waits or runs: what it has done is undone, and it ends in `Error`."""
    job = await service.cancel(jobId)
    response.headers["Location"] = job_path(job.job_id)
    return JobAnswer.of(job, None)  # no request is accepted while there is an obstacle


@router.post("/{jobId}/abandon", status_code=HTTPStatus.ACCEPTED, responses=_OF_CHANGES)
async def abandon_job(jobId: str, service: JobServiceDep, response: Response) -> JobAnswer:  # noqa: N803 - as above
    """Have the workflow of a failed job wait for no retry any longer; the instance stays as it is."""
    job = await service.abandon(jobId)
    response.headers["Location"] = job_path(job.job_id)
    return JobAnswer.of(job, None)  # no request is accepted while there is an obstacle
