"""Jobs, as clients poll them."""

from http import HTTPStatus

from fastapi import APIRouter, Depends

from api.dependencies import InstanceQueriesDep
from api.http import problems
from api.http.problems import found
from api.schemas.base import ResponseModel, UtcTime, Waiting
from api.security.tokens import bearer_token
from registry.storage.rules import is_storable

router = APIRouter(prefix="/v2/jobs", tags=["Jobs"], dependencies=[Depends(bearer_token)])


class JobAnswer(ResponseModel):
    """One job."""

    job_id: str
    status: str
    created_at: UtcTime
    finished_at: UtcTime | None
    error_message: str | None
    waiting: Waiting | None


@router.get(
    "/{jobId}",
    responses=problems.documented(HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND),
)
async def get_job(jobId: str, queries: InstanceQueriesDep) -> JobAnswer:  # noqa: N803 - the path's own word
    """How far a job is."""
    job = found(await queries.job(jobId) if is_storable(jobId) else None, "job", jobId)
    return JobAnswer.model_validate(job)
