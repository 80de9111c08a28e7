"""What the service is, and how it is."""

from http import HTTPStatus
from importlib.metadata import version

from fastapi import APIRouter, Response

from api.answers import Answer
from api.health import Health, HealthStatus, examine
from api.services import Serving

router = APIRouter(tags=["Information"])

VERSION = version("ods-instance-management")


class Tenancy(Answer):
    """Which tenants the service has."""

    multitenant_mode: bool = False
    tenants: tuple[str, ...] = ()


class Information(Answer):
    """What the service is."""

    version: str = VERSION
    build: str = VERSION
    specification_version: str = "v2"
    tenancy: Tenancy = Tenancy()


@router.get("/")
async def get_information() -> Information:
    """Versions and tenancy."""
    return Information()


@router.get("/health", responses={HTTPStatus.SERVICE_UNAVAILABLE.value: {"model": Health}})
async def get_health(services: Serving, response: Response) -> Health:
    """How the registry, Temporal and the workers are; 503 if requests cannot be accepted."""
    health = await examine(services)
    if health.status is HealthStatus.UNHEALTHY:
        response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
    return health
