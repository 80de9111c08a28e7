"""Sweeping what is pending, now instead of at the next interval."""

from http import HTTPStatus

from fastapi import APIRouter, Depends

from api.dependencies import SweepDep
from api.http import problems, temporal_calls
from api.idempotency import JobRoute
from api.schemas.base import Done
from api.security.tokens import bearer_token

router = APIRouter(
    prefix="/v2/sweep", tags=["Sweep"], dependencies=[Depends(bearer_token)], route_class=JobRoute
)


@router.post(
    "",
    status_code=HTTPStatus.ACCEPTED,
    responses=problems.documented(HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN),
)
async def sweep(begin_sweep: SweepDep) -> Done:
    """Start the jobs of all instances that are pending."""
    await temporal_calls.require_begun(begin_sweep(), "No worker has set up the schedule of the sweep yet")
    return Done(title="The sweep begins.", status=HTTPStatus.ACCEPTED)
