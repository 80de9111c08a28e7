"""Where the registry and the server of the ODS databases contradict each other."""

from http import HTTPStatus

from fastapi import APIRouter, Depends
from pydantic import Field

from api.dependencies import ServerLooksDep
from api.http import problems
from api.schemas.base import ResponseModel
from api.security.tokens import bearer_token
from ods.recovery.compare.findings import DriftKind, RemedyAction

router = APIRouter(prefix="/v2/drift", tags=["Drift"], dependencies=[Depends(bearer_token)])


class RemedyAnswer(ResponseModel):
    """A request of this service that settles a contradiction."""

    action: RemedyAction
    instance_id: int | None = Field(description="Null if it is for all instances.")
    database: str | None = Field(description="What the instance gets; null if it keeps the name it has.")
    command: str = Field(description="The same on the command line.")


class DriftAnswer(ResponseModel):
    """One contradiction between registry and server, for an operator to settle."""

    kind: DriftKind
    subject: str
    explanation: str
    remedy: RemedyAnswer | None = Field(description="Null if it is settled by hand, as the explanation says.")


@router.get(
    "",
    responses=problems.documented(
        HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, *problems.ODS_SERVER_REFUSALS
    ),
)
async def get_drift(looks: ServerLooksDep) -> list[DriftAnswer]:
    """Compare the registry with the server of the ODS databases; an empty list says that they agree."""
    seen = await looks.look_for_drift()
    return [DriftAnswer.model_validate(drift, from_attributes=True) for drift in seen.found]
