"""Requests to read the education organizations of ODS databases anew."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Response

from api.dependencies import InstanceQueriesDep
from api.http import problems
from api.http.parsing import path_id
from api.http.problems import found
from api.idempotency import OF_ADMIN_API, STARTS_A_JOB, JobRoute
from api.refresh_service import RefreshServiceDep
from api.schemas.base import ResponseModel
from api.schemas.instances import job_path
from api.security.tokens import bearer_token
from registry.ods_instances.store import ODS_INSTANCE

router = APIRouter(
    prefix="/v2/odsInstances",
    tags=["OdsInstances"],
    dependencies=[Depends(bearer_token), OF_ADMIN_API],
    route_class=JobRoute,
)

_REFUSALS = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


class RefreshAnswer(ResponseModel):
    """A refresh that was requested; its job goes on by itself."""

    job_id: str
    message: str


@router.post(
    "/edOrgs/refresh",
    status_code=HTTPStatus.ACCEPTED,
    dependencies=[STARTS_A_JOB],
    responses=problems.documented(*_REFUSALS),
)
async def refresh_all(refreshes: RefreshServiceDep, response: Response) -> RefreshAnswer:
    """Request that the education organizations of every ODS database are read."""
    job = await refreshes.request(None)
    response.headers["Location"] = job_path(job)
    message = "The education organizations of all ODS instances are about to be read."
    return RefreshAnswer(job_id=job, message=message)


@router.post(
    "/{instance_id}/edOrgs/refresh",
    status_code=HTTPStatus.ACCEPTED,
    dependencies=[STARTS_A_JOB],
    responses=problems.documented(*_REFUSALS, HTTPStatus.NOT_FOUND),
)
async def refresh_one(
    instance_id: Annotated[int, path_id(ODS_INSTANCE)],
    queries: InstanceQueriesDep,
    refreshes: RefreshServiceDep,
    response: Response,
) -> RefreshAnswer:
    """Request that the education organizations of one ODS database are read."""
    ods_instance = found(await queries.ods_instance(instance_id), ODS_INSTANCE, instance_id)
    job = await refreshes.request(instance_id)
    response.headers["Location"] = job_path(job)
    message = f"The education organizations of '{ods_instance.name}' are about to be read."
    return RefreshAnswer(job_id=job, message=message)
