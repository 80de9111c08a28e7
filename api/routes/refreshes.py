"""Requests to read the education organizations of ODS databases anew."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Response

from api.http import problems
from api.http.parsing import path_id
from api.http.problems import ProblemError
from api.middleware.audit import Deed, Noting
from api.schemas.base import Answer
from api.security.tokens import bearer_token
from api.services import Services, Serving
from registry.education_organizations.refreshes import Scope

router = APIRouter(prefix="/v2/odsInstances", tags=["OdsInstances"], dependencies=[Depends(bearer_token)])

_REFUSALS = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


class RefreshAnswer(Answer):
    """A refresh that was requested; its job goes on by itself."""

    job_id: str
    message: str


@router.post("/edOrgs/refresh", status_code=HTTPStatus.ACCEPTED, responses=problems.documented(*_REFUSALS))
async def refresh_all(services: Serving, noting: Noting, response: Response) -> RefreshAnswer:
    """Request that the education organizations of every ODS database are read."""
    job = await _requested(Scope(None, services.tenant), services, noting, response)
    message = "The education organizations of all ODS instances are about to be read."
    return RefreshAnswer(job_id=job, message=message)


@router.post(
    "/{instance_id}/edOrgs/refresh",
    status_code=HTTPStatus.ACCEPTED,
    responses=problems.documented(*_REFUSALS, HTTPStatus.NOT_FOUND),
)
async def refresh_one(
    instance_id: Annotated[int, path_id("odsInstance")],
    services: Serving,
    noting: Noting,
    response: Response,
) -> RefreshAnswer:
    """Request that the education organizations of one ODS database are read."""
    found = await services.catalog.ods_instance(instance_id)
    if found is None:
        raise ProblemError.not_found("odsInstance", instance_id)
    job = await _requested(Scope(instance_id, services.tenant), services, noting, response)
    return RefreshAnswer(
        job_id=job, message=f"The education organizations of '{found.name}' are about to be read."
    )


async def _requested(scope: Scope, services: Services, noting: Deed, response: Response) -> str:
    """Record the request and start it, as far as possible; returns the id of its job."""
    noting.job = await services.refreshes.request(scope)
    await services.launcher.launch_refresh(noting.job, scope)
    response.headers["Location"] = f"/v2/jobs/{noting.job}"
    return noting.job
