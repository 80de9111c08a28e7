"""The spare databases, and making those that are missing now instead of at the next interval."""

from http import HTTPStatus

from fastapi import APIRouter, Depends
from pydantic import Field

from api.dependencies import RefillDep, ServerLooksDep
from api.http import problems, temporal_calls
from api.idempotency import JobRoute
from api.schemas.base import Done, ResponseModel
from api.security.tokens import bearer_token

router = APIRouter(
    prefix="/v2/spares", tags=["Spares"], dependencies=[Depends(bearer_token)], route_class=JobRoute
)


class TemplateSpares(ResponseModel):
    """The spares of one template."""

    template: str = Field(description="Name of the template database.")
    wanted: int = Field(
        description="As many as the settings ask for and the limits allow; 0 while it is open."
    )
    ready: int
    stale: int = Field(description="Copies of a template that has changed since; they are removed.")
    bytes: int = Field(validation_alias="size_bytes", description="What these databases take on the disk.")


class Spares(ResponseModel):
    """All spares."""

    templates: list[TemplateSpares]
    unfinished: int = Field(description="Spares that are being made, or were left in the middle of it.")


@router.get(
    "",
    responses=problems.documented(
        HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, *problems.ODS_SERVER_REFUSALS
    ),
)
async def get_spares(looks: ServerLooksDep) -> Spares:
    """Show how many spare databases there are, and how many there shall be."""
    seen = await looks.look_at_spares()
    return Spares.model_validate(seen.found)


@router.post(
    "/refill",
    status_code=HTTPStatus.ACCEPTED,
    responses=problems.documented(HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN),
)
async def refill(begin_refill: RefillDep) -> Done:
    """Remove spares that are of no use, and make those that are missing."""
    await temporal_calls.require_begun(
        begin_refill(),
        "No worker has set up the schedule of the refill yet; one does if ODS_SPARES is not 0",
    )
    return Done(title="The refill begins.", status=HTTPStatus.ACCEPTED)
