"""What the service is, and how it is."""

from collections.abc import Sequence
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Response

from api.health import Health, HealthMonitorDep
from api.http.parsing import JSON_TYPE
from api.middleware.tenancy import TenantsDep
from api.schemas.base import ResponseModel

router = APIRouter(tags=["Information"])

VERSION = version("ods-instance-management")


class Tenancy(ResponseModel):
    """Which tenants the service has."""

    multitenant_mode: bool = False
    tenants: Sequence[str] = ()


class Information(ResponseModel):
    """What the service is."""

    version: str = VERSION
    build: str = VERSION
    specification_version: str = "v2"
    tenancy: Tenancy = Tenancy()


@router.head("/", operation_id="head_information")
@router.get("/")
async def get_information(tenants: TenantsDep) -> Information:
    """Versions and tenancy."""
    if not tenants.multi_tenant:
        return Information()
    return Information(tenancy=Tenancy(multitenant_mode=True, tenants=[one.tenant.name for one in tenants]))


_UNHEALTHY: dict[int | str, dict[str, Any]] = {HTTPStatus.SERVICE_UNAVAILABLE.value: {"model": Health}}


@router.head("/health", response_model=Health, responses=_UNHEALTHY, operation_id="head_health")
@router.get("/health", response_model=Health, responses=_UNHEALTHY)
async def get_health(monitor: HealthMonitorDep) -> Response:
    """How registries, servers, Temporal, workers and passes are; 503 if no request can be accepted."""
    report = await monitor.report()
    return Response(report.body, report.status, media_type=JSON_TYPE)
