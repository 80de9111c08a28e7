"""Where registry and server contradict each other, on request."""

from http import HTTPStatus

from fastapi import APIRouter, Depends

from api.http import problems
from api.http.problems import ProblemError
from api.schemas.base import ResponseModel
from api.security.tokens import bearer_token
from api.services import ServicesDep
from databases.errors import DatabaseFaultError
from temporal.job_starter import started_jobs
from tenants.drift import DriftKind

router = APIRouter(prefix="/v2/drift", tags=["Drift"], dependencies=[Depends(bearer_token)])


class DriftAnswer(ResponseModel):
    """One contradiction, for a person to look at."""

    kind: DriftKind
    subject: str
    explanation: str


@router.get(
    "",
    responses=problems.documented(HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN),
)
async def get_drift(services: ServicesDep) -> list[DriftAnswer]:
    """Compare the registry with the server of the ODS databases; an empty list says that they agree."""
    try:
        found = await services.drift.detect(await started_jobs(services.temporal, services.tenant))
    except DatabaseFaultError as fault:
        raise ProblemError.unavailable(fault.reason) from None
    return [
        DriftAnswer(kind=drift.kind, subject=drift.subject, explanation=drift.explanation) for drift in found
    ]
