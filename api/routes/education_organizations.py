"""Education organizations of ODS databases: those last read, and requests to read them anew."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Response

from api.dependencies import InstanceQueriesDep, TenantViewDep
from api.http import problems
from api.http.paging import page_of
from api.http.parsing import JSON_TYPE, MOST_ROWS, path_id
from api.http.problems import found
from api.idempotency import OF_ADMIN_API, STARTS_A_JOB, JobRoute
from api.schemas.base import ResponseModel
from api.schemas.education_organizations import OdsInstanceOrganizations, written_list
from api.schemas.instances import job_path
from api.security.tokens import bearer_token
from api.services.refreshes import RefreshServiceDep
from ods.registry.education_organizations.tenant_view import ViewedOrganizations
from ods.registry.instances.queries import ODS_INSTANCES
from ods.registry.ods_instances.store import ODS_INSTANCE
from ods.registry.storage.listing import Page

router = APIRouter(
    prefix="/v2/odsInstances",
    tags=["OdsInstances"],
    dependencies=[Depends(bearer_token), OF_ADMIN_API],
    route_class=JobRoute,
)

_REFUSALS = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)

OdsInstanceId = Annotated[int, path_id(ODS_INSTANCE)]
# Admin App asks without a limit, and means all.
EveryPage = Annotated[Page, page_of(ODS_INSTANCES, default_limit=MOST_ROWS)]


class RefreshAnswer(ResponseModel):
    """A refresh that was requested; its job goes on by itself."""

    job_id: str
    message: str


@router.get(
    "/edOrgs",
    response_model=list[OdsInstanceOrganizations],
    responses=problems.documented(HTTPStatus.BAD_REQUEST, *_REFUSALS),
)
async def list_organizations(view: TenantViewDep, page: EveryPage) -> Response:
    """ODS instances, each with the education organizations that the last refresh read."""
    return await _answer(await view.page(page))


@router.get(
    "/{instance_id}/edOrgs",
    response_model=list[OdsInstanceOrganizations],
    responses=problems.documented(*_REFUSALS, HTTPStatus.NOT_FOUND),
)
async def list_organizations_of_one(instance_id: OdsInstanceId, view: TenantViewDep) -> Response:
    """One ODS instance with its education organizations, as a list of one."""
    return await _answer([found(await view.one(instance_id), ODS_INSTANCE, instance_id)])


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
    instance_id: OdsInstanceId,
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


async def _answer(instances: Sequence[ViewedOrganizations]) -> Response:
    members = (
        ({"id": one.ods_instance_id, "name": one.name, "instanceType": one.instance_type}, one.organizations)
        for one in instances
    )
    return Response(await written_list(members), media_type=JSON_TYPE)
