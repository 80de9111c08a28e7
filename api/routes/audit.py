"""The audit trail, as it is read."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response
from pydantic import Field

from api.dependencies import AuditTrailDep
from api.http import problems
from api.http.parsing import DEFAULT_LIMIT, Count, Limit, Offset
from api.schemas.base import ResponseModel, UtcTime, list_response, paced
from api.security.tokens import bearer_token
from ods.registry.audit import AuditFilter

router = APIRouter(prefix="/v2/audit", tags=["Audit"], dependencies=[Depends(bearer_token)])


class AuditAnswer(ResponseModel):
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
    sent_bytes: int | None = Field(description="Of a download that has ended: how many bytes were sent.")


async def _filter(
    client: Annotated[str, Query(description="The id of a client.")] = "",
    instance_id: Annotated[
        Count | None, Query(alias="instanceId", description="The `id` of an instance in `/v2/dbInstances`.")
    ] = None,
    *,
    refused: Annotated[bool, Query(description="Only requests that were refused.")] = False,
) -> AuditFilter:
    return AuditFilter(client, instance_id, refused)


@router.get(
    "",
    response_model=list[AuditAnswer],
    responses=problems.documented(HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN),
)
async def list_audit(
    audit: AuditTrailDep,
    chosen: Annotated[AuditFilter, Depends(_filter)],
    offset: Offset = 0,
    limit: Limit = DEFAULT_LIMIT,
) -> Response:
    """A page of what was asked, the newest first.

    Refusals of unauthenticated requests have one entry a minute and network of addresses:
    the last of them, and in `omitted` how many there were before it.
    """
    rows = await audit.page(offset=offset, limit=limit, chosen=chosen)
    return await list_response(
        AuditAnswer.model_validate(row, from_attributes=True) async for row in paced(rows)
    )
