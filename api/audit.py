"""The audit trail, as it is read."""

from http import HTTPStatus

from fastapi import APIRouter, Depends

from api import problems
from api.answers import Answer, UtcTime
from api.auth import bearer_token
from api.requests import Count
from api.services import Serving
from instances.models import AuditRow

router = APIRouter(prefix="/v2/audit", tags=["Audit"], dependencies=[Depends(bearer_token)])


class AuditAnswer(Answer):
    """One request and how it ended."""

    id: int
    at: UtcTime
    client: str | None
    address: str
    method: str
    path: str
    instance_id: int | None
    job_id: str | None
    status: int
    title: str | None
    omitted: int


@router.get(
    "",
    responses=problems.documented(HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN),
)
async def list_audit(services: Serving, offset: Count = 0, limit: Count = 25) -> list[AuditAnswer]:
    """A page of what was asked, the newest first; `omitted` counts refusals before it that were not kept."""
    return [_answer(row) for row in await services.audit.page(offset=offset, limit=limit)]


def _answer(row: AuditRow) -> AuditAnswer:
    return AuditAnswer(
        id=row.id,
        at=row.at,
        client=row.client,
        address=row.address,
        method=row.method,
        path=row.path,
        instance_id=row.instanceid,
        job_id=row.jobid,
        status=row.status,
        title=row.title,
        omitted=row.omitted,
    )
