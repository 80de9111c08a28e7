"""ODS instances: what the ODS/API routes to. Their connection strings are never shown."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends

from api import problems
from api.answers import Answer
from api.auth import bearer_token
from api.problems import ProblemError
from api.requests import Count, path_id
from api.services import Serving

router = APIRouter(prefix="/v2/odsInstances", tags=["OdsInstances"], dependencies=[Depends(bearer_token)])

OdsInstanceId = Annotated[int, path_id("odsInstance")]


class OdsInstanceAnswer(Answer):
    """One ODS instance of a list."""

    id: int
    name: str
    instance_type: str | None


class Context(Answer):
    """A key and value by which the ODS/API chooses the ODS instance."""

    id: int
    ods_instance_id: int
    context_key: str
    context_value: str


class Derivative(Answer):
    """A read replica or snapshot of the ODS instance."""

    id: int
    ods_instance_id: int
    derivative_type: str


class OdsInstanceDetails(OdsInstanceAnswer):
    """One ODS instance with all that belongs to it."""

    ods_instance_contexts: list[Context]
    ods_instance_derivatives: list[Derivative]


@router.get(
    "",
    responses=problems.documented(HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN),
)
async def list_ods_instances(
    services: Serving, offset: Count = 0, limit: Count = 25
) -> list[OdsInstanceAnswer]:
    """A page of ODS instances, by name."""
    rows = await services.catalog.ods_instances(offset=offset, limit=limit)
    return [
        OdsInstanceAnswer(id=row.odsinstanceid, name=row.name, instance_type=row.instancetype) for row in rows
    ]


@router.get(
    "/{instance_id}",
    responses=problems.documented(HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND),
)
async def get_ods_instance(instance_id: OdsInstanceId, services: Serving) -> OdsInstanceDetails:
    """One ODS instance, with its contexts and derivatives."""
    row = await services.catalog.ods_instance(instance_id)
    if row is None:
        raise ProblemError.not_found("odsInstance", instance_id)
    return OdsInstanceDetails(
        id=row.odsinstanceid,
        name=row.name,
        instance_type=row.instancetype,
        ods_instance_contexts=await _contexts(services, instance_id),
        ods_instance_derivatives=await _derivatives(services, instance_id),
    )


async def _contexts(services: Serving, ods_instance_id: int) -> list[Context]:
    return [
        Context(
            id=row.odsinstancecontextid,
            ods_instance_id=ods_instance_id,
            context_key=row.contextkey,
            context_value=row.contextvalue,
        )
        for row in await services.catalog.contexts(ods_instance_id)
    ]


async def _derivatives(services: Serving, ods_instance_id: int) -> list[Derivative]:
    return [
        Derivative(
            id=row.odsinstancederivativeid,
            ods_instance_id=ods_instance_id,
            derivative_type=row.derivativetype,
        )
        for row in await services.catalog.derivatives(ods_instance_id)
    ]
