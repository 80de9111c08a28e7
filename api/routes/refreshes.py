"""Requests to read the education organizations of ODS databases anew."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Response

from api.http import problems
from api.http.parsing import path_id
from api.http.problems import ProblemError
from api.middleware.audit import AuditContext, AuditContextDep
from api.schemas.base import ResponseModel
from api.security.tokens import bearer_token
from api.services import Services, ServicesDep
from registry.education_organizations.refreshes import Scope

router = APIRouter(prefix="/v2/odsInstances", tags=["OdsInstances"], dependencies=[Depends(bearer_token)])

_REFUSALS = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


class RefreshAnswer(ResponseModel):
    """A refresh that was requested; its job goes on by itself."""

    job_id: str
    message: str


@router.post("/edOrgs/refresh", status_code=HTTPStatus.ACCEPTED, responses=problems.documented(*_REFUSALS))
async def refresh_all(services: ServicesDep, audit: AuditContextDep, response: Response) -> RefreshAnswer:
    """Request that the education organizations of every ODS database are read."""
    job = await _requested(Scope(None, services.tenant), services, audit, response)
    message = "The education organizations of all ODS instances are about to be read."
    return RefreshAnswer(job_id=job, message=message)


@router.post(
    "/{instance_id}/edOrgs/refresh",
    status_code=HTTPStatus.ACCEPTED,
    responses=problems.documented(*_REFUSALS, HTTPStatus.NOT_FOUND),
)
async def refresh_one(
    instance_id: Annotated[int, path_id("odsInstance")],
    services: ServicesDep,
    audit: AuditContextDep,
    response: Response,
) -> RefreshAnswer:
    """Request that the education organizations of one ODS database are read."""
    found = await services.queries.ods_instance(instance_id)
    if found is None:
        raise ProblemError.not_found("odsInstance", instance_id)
    job = await _requested(Scope(instance_id, services.tenant), services, audit, response)
    return RefreshAnswer(
        job_id=job, message=f"The education organizations of '{found.name}' are about to be read."
    )


async def _requested(scope: Scope, services: Services, audit: AuditContext, response: Response) -> str:
    """Record the request and start it, as far as possible; returns the id of its job."""
    audit.job = await services.refreshes.request(scope)
    await services.dispatcher.launch_refresh(audit.job, scope)
    response.headers["Location"] = f"/v2/jobs/{audit.job}"
    return audit.job
