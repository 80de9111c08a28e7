"""Sweeping what is pending, now instead of at the next interval."""

from http import HTTPStatus

from fastapi import APIRouter, Depends
from temporalio.service import RPCError, RPCStatusCode

from api import problems, temporal
from api.answers import Done
from api.auth import bearer_token
from api.problems import ProblemError
from api.services import Serving

router = APIRouter(prefix="/v2/sweep", tags=["Sweep"], dependencies=[Depends(bearer_token)])


@router.post(
    "",
    status_code=HTTPStatus.ACCEPTED,
    responses=problems.documented(HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN),
)
async def sweep(services: Serving) -> Done:
    """Start the jobs of all instances that are pending."""
    try:
        await temporal.answer_of(services.sweep())
    except temporal.FAULTS as error:
        raise _unavailable(error) from None
    return Done(title="The sweep begins.", status=HTTPStatus.ACCEPTED)


def _unavailable(error: Exception) -> ProblemError:
    if isinstance(error, RPCError) and error.status is RPCStatusCode.NOT_FOUND:
        return ProblemError.unavailable("No worker has set up the schedule of the sweep yet")
    return ProblemError.unavailable("Temporal cannot be reached")
