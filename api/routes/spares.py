"""The stock of spare databases, and refilling it now instead of at the next interval."""

from http import HTTPStatus

from fastapi import APIRouter, Depends
from pydantic import Field

from api.http import problems, temporal_calls
from api.http.problems import ProblemError
from api.schemas.base import Done, ResponseModel
from api.security.tokens import bearer_token
from api.services import ServicesDep
from databases.errors import DatabaseFaultError

router = APIRouter(prefix="/v2/spares", tags=["Spares"], dependencies=[Depends(bearer_token)])


class TemplateSpares(ResponseModel):
    """The spares of one template."""

    template: str = Field(description="Name of the template database.")
    wanted: int = Field(
        description="As many as the settings ask for and the limits allow; 0 while it is open."
    )
    ready: int
    stale: int = Field(description="Copies of a template that has changed since; they are removed.")
    bytes: int = Field(description="What these databases take on the disk.")


class Spares(ResponseModel):
    """All spares."""

    templates: list[TemplateSpares]
    unfinished: int = Field(description="Spares that are being made, or were left in the middle of it.")


@router.get("", responses=problems.documented(HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN))
async def get_spares(services: ServicesDep) -> Spares:
    """Show how many spare databases there are, and how many there shall be."""
    try:
        shelves = await services.spares.report()
    except DatabaseFaultError as fault:
        raise ProblemError.unavailable(fault.reason) from None
    return Spares(
        templates=[
            TemplateSpares(
                template=shelf.template,
                wanted=shelf.wanted,
                ready=shelf.ready,
                stale=shelf.stale,
                bytes=shelf.size_bytes,
            )
            for shelf in shelves.templates
        ],
        unfinished=shelves.unfinished,
    )


@router.post(
    "/refill",
    status_code=HTTPStatus.ACCEPTED,
    responses=problems.documented(HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN),
)
async def refill(services: ServicesDep) -> Done:
    """Remove spares that are of no use, and make those that are missing."""
    await temporal_calls.begun(
        services.refill(),
        "No worker has set up the schedule of the refill yet; one does if ODS_SPARES is not 0",
    )
    return Done(title="The refill begins.", status=HTTPStatus.ACCEPTED)
