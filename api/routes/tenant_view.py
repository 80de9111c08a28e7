"""The view of a tenant that Ed-Fi Admin App synchronises from."""

import json
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Depends, Response

from api.dependencies import TenantNameDep, TenantViewDep
from api.http import problems
from api.http.parsing import JSON_TYPE
from api.middleware.tenancy import TenantsDep
from api.schemas.base import ResponseModel
from api.schemas.education_organizations import TenantInstance, written_list
from api.schemas.managed_status import ManagedStatus, managed_status
from api.security.tokens import bearer_token
from ods.registry.education_organizations.tenant_view import ViewedInstance

router = APIRouter(prefix="/v2/tenants", tags=["Tenants"], dependencies=[Depends(bearer_token)])


class Tenant(ResponseModel):
    """A tenant with everything in it."""

    id: str
    name: str
    ods_instances: list[TenantInstance]


@router.get(
    "/{name}/odsInstances/edOrgs",
    response_model=Tenant,
    responses=problems.documented(HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
    | {HTTPStatus.NOT_FOUND.value: {"description": "No such tenant"}},
)
async def get_tenant_view(
    name: str, own: TenantNameDep, tenants: TenantsDep, view: TenantViewDep
) -> Response:
    """Every ODS instance, and every instance without one, with the education organizations last read."""
    named = tenants.named(name)
    if named is None or named.tenant.name != own:  # of another tenant, nothing is shown
        return Response(status_code=HTTPStatus.NOT_FOUND)
    return Response(await _written(own, await view.instances()), media_type=JSON_TYPE)


async def _written(tenant: str, instances: Sequence[ViewedInstance]) -> str:
    """The JSON of a `Tenant`."""
    name = json.dumps(tenant)
    listed = await written_list((_members(one), one.organizations) for one in instances)
    return f'{{"id":{name},"name":{name},"odsInstances":{listed}}}'


def _members(one: ViewedInstance) -> dict[str, Any]:
    return {
        "id": one.ods_instance_id,
        "odsInstanceManageId": one.row_id,
        "name": one.name,
        "instanceType": one.instance_type,
        "status": _status(one),
        "databaseTemplate": one.template,
        "databaseName": one.database,
    }


def _status(one: ViewedInstance) -> ManagedStatus:
    """An ODS instance that was made otherwise is simply there."""
    if one.status is None or one.operation is None:
        return ManagedStatus.CREATED
    return managed_status(one.status, one.operation)
