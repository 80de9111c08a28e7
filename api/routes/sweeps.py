"""Sweeping what is pending, now instead of at the next interval."""

from http import HTTPStatus

from fastapi import APIRouter, Depends

from api.http import problems, temporal_calls
from api.schemas.base import Done
from api.security.tokens import bearer_token
from api.services import ServicesDep

router = APIRouter(prefix="/v2/sweep", tags=["Sweep"], dependencies=[Depends(bearer_token)])


@router.post(
    "",
    status_code=HTTPStatus.ACCEPTED,
    responses=problems.documented(HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN),
)
async def sweep(services: ServicesDep) -> Done:
    """Start the jobs of all instances that are pending."""
    await temporal_calls.begun(services.sweep(), "No worker has set up the schedule of the sweep yet")
    return Done(title="The sweep begins.", status=HTTPStatus.ACCEPTED)
