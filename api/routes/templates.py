"""`/v2/templates`: what instances can be made of."""

from http import HTTPStatus

from fastapi import APIRouter, Depends
from pydantic import Field

from api.dependencies import TemplateInspectorDep
from api.http import problems
from api.schemas.base import ResponseModel, UtcTime
from api.security.tokens import bearer_token

router = APIRouter(prefix="/v2/templates", tags=["Templates"], dependencies=[Depends(bearer_token)])


class TemplateContents(ResponseModel):
    """What a template tells of itself."""

    tables: int
    data_standard: str | None = Field(description="As the journal of the deployment says.")
    extensions: dict[str, str] = Field(description="Versions of the Ed-Fi extensions, by name.")


class Template(ResponseModel):
    """A template, as the server of the ODS databases tells of it; what it does not tell is null."""

    name: str = Field(description="What `databaseTemplate` of an instance names.")
    database: str
    bytes: int | None = Field(validation_alias="size_bytes")
    contents: TemplateContents | None = Field(
        description="Null of a closed database whose comment does not tell them."
    )
    generation: int | None = Field(description="Counts the databases that were loaded as this template.")
    loaded_at: UtcTime | None
    spares: int = Field(description="Spare databases that are copies of it as it is now.")
    sessions: int | None = Field(description="Sessions on it, which hold up creates.")
    open: bool | None = Field(description="Whether the database accepts connections.")
    ready: bool = Field(description="Whether an instance can be made of it now.")
    obstacle: str | None = Field(description="If not, why, and what to do about it.")


@router.get(
    "",
    responses=problems.documented(
        HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, *problems.ODS_SERVER_REFUSALS
    ),
)
async def list_templates(templates: TemplateInspectorDep) -> list[Template]:
    """All templates of the tenant. None that is closed is opened for it."""
    return [Template.model_validate(one) for one in await templates.report()]
