"""What the service is, and how it is."""

from collections.abc import Sequence
from http import HTTPStatus
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse
from pydantic import BaseModel
from starlette.requests import HTTPConnection

from api.health import Health, HealthMonitorDep
from api.http.addresses import prefix_of, public_url
from api.http.parsing import JSON_TYPE
from api.middleware.tenancy import TenantsDep
from api.schemas.base import ResponseModel
from ods.settings.settings import AnySettings

router = APIRouter(tags=["Information"])

VERSION = version("ods-instance-management")
ADMIN_API_VERSION = "2.4.0"
"""The version of the Admin API that is spoken. Clients refuse one below 2."""
_APPLICATION = "ODS instance management"

_TENANCY = "/v2/tenancy"


class Tenancy(ResponseModel):
    """Which tenants the service has, for clients of the Admin API up to 2.3."""

    multitenant_mode: bool
    tenants: Sequence[str]


class Urls(ResponseModel):
    """Where there is more to read, as clients reach it."""

    open_api_metadata: str
    tenancy: str


class Information(ResponseModel):
    """What the service is."""

    version: str = ADMIN_API_VERSION
    build: str = VERSION
    specification_version: str = "v2"
    application_name: str = _APPLICATION
    informational_version: str = VERSION
    tenancy: Tenancy
    urls: Urls


class TenantNames(ResponseModel):
    """The names of the tenants; there are none if the service has one tenant, which needs no name."""

    tenants: Sequence[str]


class _NoTenants(BaseModel):
    message: str


async def _urls(connection: HTTPConnection) -> Urls:
    return Urls(
        open_api_metadata=public_url(connection, "/openapi.json"), tenancy=public_url(connection, _TENANCY)
    )


@router.head("/", response_model=Information, operation_id="head_information")
@router.get("/", response_model=Information)
async def get_information(
    request: Request, tenants: TenantsDep, urls: Annotated[Urls, Depends(_urls)]
) -> Information | Response:
    """Versions, tenancy and addresses; a browser is led to the console."""
    settings: AnySettings = request.app.state.settings
    if settings.console and "text/html" in request.headers.get("accept", ""):
        return RedirectResponse(f"{prefix_of(request.scope)}/console", HTTPStatus.SEE_OTHER)
    tenancy = Tenancy(multitenant_mode=tenants.multi_tenant, tenants=tenants.names)
    return Information(tenancy=tenancy, urls=urls)


@router.get(
    _TENANCY,
    response_model=TenantNames,
    responses={HTTPStatus.SERVICE_UNAVAILABLE.value: {"model": _NoTenants}},
)
async def get_tenancy(tenants: TenantsDep) -> TenantNames | Response:
    """The names of the tenants, without a token; 503 if the service is for several, and there are none."""
    if tenants.multi_tenant and not tenants.names:
        message = "This service is for several tenants, and none is configured. Add them to ODS_TENANTS."
        return JSONResponse({"message": message}, HTTPStatus.SERVICE_UNAVAILABLE)
    return TenantNames(tenants=tenants.names)


_UNHEALTHY: dict[int | str, dict[str, Any]] = {HTTPStatus.SERVICE_UNAVAILABLE.value: {"model": Health}}


@router.head("/health", response_model=Health, responses=_UNHEALTHY, operation_id="head_health")
@router.get("/health", response_model=Health, responses=_UNHEALTHY)
async def get_health(monitor: HealthMonitorDep) -> Response:
    """How registries, servers, Temporal, workers and passes are; 503 if no request can be accepted."""
    report = await monitor.report()
    return Response(report.body, report.status, media_type=JSON_TYPE)
