"""What the service is, and how it is."""

from collections.abc import Sequence
from http import HTTPStatus
from importlib.metadata import version

from fastapi import APIRouter, Response

from api.answers import Answer
from api.health import Health, HealthStatus, examine
from api.tenancy import Tenants

router = APIRouter(tags=["Information"])

VERSION = version("ods-instance-management")


class Tenancy(Answer):
    """Which tenants the service has."""

    multitenant_mode: bool = False
    tenants: Sequence[str] = ()


class Information(Answer):
    """What the service is."""

    version: str = VERSION
    build: str = VERSION
    specification_version: str = "v2"
    tenancy: Tenancy = Tenancy()


@router.get("/")
async def get_information(tenants: Tenants) -> Information:
    """Versions and tenancy."""
    if not tenants.multi_tenant:
        return Information()
    return Information(tenancy=Tenancy(multitenant_mode=True, tenants=[one.tenant for one in tenants]))


@router.get("/health", responses={HTTPStatus.SERVICE_UNAVAILABLE.value: {"model": Health}})
async def get_health(tenants: Tenants, response: Response) -> Health:
    """How registries, Temporal and workers are; 503 if no tenant's requests can be accepted."""
    health = await examine(tenants)
    if health.status is HealthStatus.UNHEALTHY:
        response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
    return health
