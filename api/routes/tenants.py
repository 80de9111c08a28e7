"""The tenants, and where the databases of each are; never how to log in there."""

from http import HTTPStatus

from fastapi import APIRouter, Depends, Response

from api.dependencies import TenantNameDep
from api.http import problems
from api.http.problems import ProblemError
from api.middleware.tenancy import TenantsDep
from api.schemas.base import ResponseModel
from api.security.tokens import bearer_token
from settings import Address
from tenants.tenant import Tenant

router = APIRouter(prefix="/v2/tenants", tags=["Tenants"], dependencies=[Depends(bearer_token)])

_REFUSALS = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


class Connection(ResponseModel):
    """Where a database is."""

    host: str
    database: str


class TenantAnswer(ResponseModel):
    """One tenant."""

    tenant_name: str
    admin_connection_string: Connection
    security_connection_string: Connection


@router.get("", responses=problems.documented(*_REFUSALS))
async def list_tenants(tenants: TenantsDep) -> list[TenantAnswer]:
    """All tenants of the service."""
    return [_answer(services.tenant) for services in tenants]


@router.get(
    "/{name}",
    response_model=TenantAnswer,
    responses=problems.documented(HTTPStatus.BAD_REQUEST, *_REFUSALS)
    | {HTTPStatus.NOT_FOUND.value: {"description": "Not Found"}},
)
async def get_tenant(name: str, own: TenantNameDep, tenants: TenantsDep) -> TenantAnswer | Response:
    """The tenant of that name, which must be the one that the request is for."""
    services = tenants.named(name)
    if services is None:
        return Response(status_code=HTTPStatus.NOT_FOUND)
    if services.tenant.name != own:
        raise ProblemError.invalid(
            {"Tenant": ["'Tenant' must be the tenant in the path. Send its name in the header 'tenant'."]}
        )
    return _answer(services.tenant)


def _answer(tenant: Tenant) -> TenantAnswer:
    admin = Address.of(tenant.settings.admin_dsn)
    return TenantAnswer(
        tenant_name=tenant.name,
        admin_connection_string=Connection(host=admin.host, database=admin.database),
        security_connection_string=Connection(host=admin.host, database=tenant.settings.security_database),
    )
