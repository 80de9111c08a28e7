"""The tenants by name, and where the databases of the caller's own are; never how to log in there."""

from http import HTTPStatus

from fastapi import APIRouter, Depends, Response

from api.dependencies import TenantNameDep
from api.http import problems
from api.http.problems import ProblemError
from api.middleware.tenancy import TenantsDep
from api.schemas.base import ResponseModel
from api.security.tokens import bearer_token
from ods.settings.settings import Address
from ods.tenants.tenant import Tenant

router = APIRouter(prefix="/v2/tenants", tags=["Tenants"], dependencies=[Depends(bearer_token)])

_REFUSALS = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


class Connection(ResponseModel):
    """Where a database is; null for a tenant that is not the caller's."""

    host: str | None
    database: str | None


class TenantAnswer(ResponseModel):
    """One tenant."""

    tenant_name: str
    admin_connection_string: Connection
    security_connection_string: Connection


@router.get("", responses=problems.documented(*_REFUSALS))
async def list_tenants(own: TenantNameDep, tenants: TenantsDep) -> list[TenantAnswer]:
    """All tenants of the service by name; where the databases are, of the caller's own only."""
    listed = (services.tenant for services in tenants)
    return [_answer(tenant) if tenant.name == own else _name_only(tenant) for tenant in listed]


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
    address = Address.of(tenant.settings.admin_dsn)
    return TenantAnswer(
        tenant_name=tenant.name,
        admin_connection_string=Connection(host=address.host, database=address.database),
        security_connection_string=Connection(host=address.host, database=tenant.settings.security_database),
    )


def _name_only(tenant: Tenant) -> TenantAnswer:
    """What clients of other tenants are shown: every member that a client of the Admin API expects."""
    hidden = Connection(host=None, database=None)
    return TenantAnswer(
        tenant_name=tenant.name, admin_connection_string=hidden, security_connection_string=hidden
    )
