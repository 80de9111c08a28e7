"""Databases of instances that another product made: inspecting them, and handing them over."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field

from api.dependencies import DatabaseAdoptionDep
from api.http import problems
from api.http.audit_context import AuditContextDep
from api.http.parsing import (
    BODY_REFUSALS,
    JsonObject,
    Properties,
    documented_body,
    path_id,
    unknown_members,
)
from api.http.problems import ProblemError
from api.idempotency import JobRoute
from api.schemas.base import ResponseModel
from api.security.tokens import FULL_ACCESS, bearer_token, needs_scope
from api.services.instances import CHANGE_REFUSALS, require_instance_management
from ods.settings.settings import MAX_DATABASE_NAME_BYTES

router = APIRouter(
    prefix="/v2/dbInstances",
    tags=["DbInstances"],
    dependencies=[Depends(bearer_token), Depends(require_instance_management)],
    route_class=JobRoute,
)

_REFUSALS = (*CHANGE_REFUSALS, *problems.ODS_SERVER_REFUSALS)

InstanceId = Annotated[int, path_id("dbInstance")]


class InstanceDatabase(ResponseModel):
    """The database that has the name of an instance's, and whether it is the instance's."""

    id: int
    name: str
    status: str
    ods_instance_id: int
    database_name: str
    owner: str
    size_bytes: int | None
    sessions: int
    comment: str | None
    adopted: bool
    obstacle: str | None


class _AdoptionBody(BaseModel):
    databaseName: str | None = Field(  # noqa: N815 - on the wire
        None, description="The database, if it has another name than the registry says."
    )


@router.get(
    "/{instance_id}/database",
    dependencies=[needs_scope(FULL_ACCESS, "Inspecting a database")],
    responses=problems.documented(*_REFUSALS),
)
async def get_instance_database(
    instance_id: InstanceId,
    adoption: DatabaseAdoptionDep,
    database_name: Annotated[str | None, Query(alias="databaseName")] = None,
) -> InstanceDatabase:
    """The database of an instance, or one that it might get: whether it carries the mark, or could.

    Another instance's, role's or product's is answered as one that is not there.
    """
    found = await adoption.inspect(instance_id, database_name)
    return InstanceDatabase.model_validate(found, from_attributes=True)


@router.post(
    "/{instance_id}/adopt",
    openapi_extra=documented_body(_AdoptionBody),
    responses=problems.documented(*_REFUSALS, *BODY_REFUSALS),
)
async def adopt_instance_database(
    instance_id: InstanceId, body: JsonObject, adoption: DatabaseAdoptionDep, audit: AuditContextDep
) -> InstanceDatabase:
    """Write the instance's mark on its database, so that the database is deleted with the instance.

    With a `databaseName`, the registry calls it that from now on, and the ODS/API is routed there as to a new
    one. One that carries the mark of the instance, but not as the registry knows it, is refused: `POST
    /v2/recovery` brings both in step.
    """
    audit.instance = instance_id
    if errors := unknown_members(body, _AdoptionBody.model_fields):
        raise ProblemError.invalid(errors)
    adopted = await adoption.adopt(instance_id, _database_name(body))
    return InstanceDatabase.model_validate(adopted, from_attributes=True)


def _database_name(body: Properties[Any]) -> str | None:
    name = body.get("databaseName")
    if name is None or (isinstance(name, str) and 1 <= len(name.encode()) <= MAX_DATABASE_NAME_BYTES):
        return name
    raise ProblemError.invalid(
        {"DatabaseName": [f"'Database Name' must have 1 to {MAX_DATABASE_NAME_BYTES} bytes."]}
    )
