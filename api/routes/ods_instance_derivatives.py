"""Derivatives: read replicas and snapshots of ODS instances."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel, Field

from api.dependencies import DerivativesDep, InstanceQueriesDep
from api.http import problems
from api.http.paging import page_of
from api.http.parsing import (
    BODY_REFUSALS,
    MAX_INT32,
    JsonObject,
    Texts,
    documented_body,
    path_id,
    whole_number,
)
from api.http.problems import found
from api.idempotency import OF_ADMIN_API, JobRoute
from api.schemas.base import Done, list_response, paced
from api.schemas.ods_instances import DerivativeAnswer
from api.security.tokens import bearer_token
from ods.registry.instances.queries import DERIVATIVES
from ods.registry.ods_instances.parts import DERIVATIVE, DERIVATIVE_TYPES, DerivativeDraft
from ods.registry.storage.listing import Page

router = APIRouter(
    prefix="/v2/odsInstanceDerivatives",
    tags=["OdsInstanceDerivatives"],
    dependencies=[Depends(bearer_token), OF_ADMIN_API],
    route_class=JobRoute,
)

_REFUSALS = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
_CHANGE_REFUSALS = (*BODY_REFUSALS, *_REFUSALS, HTTPStatus.NOT_FOUND)

DerivativeId = Annotated[int, path_id(DERIVATIVE, "derivative_id")]


class _DerivativeBody(BaseModel):
    odsInstanceId: int = Field(ge=1, le=MAX_INT32)  # noqa: N815 - on the wire
    derivativeType: str = Field(json_schema_extra={"enum": list(DERIVATIVE_TYPES)})  # noqa: N815 - on the wire
    connectionString: str | None = Field(None, description="Left out, it stays as it is.")  # noqa: N815 - on the wire


class _NewDerivativeBody(_DerivativeBody):
    connectionString: str = Field(description="As Npgsql reads it. It is never shown.")  # noqa: N815 - on the wire


async def _draft(body: JsonObject) -> DerivativeDraft:
    texts = Texts(body)
    return DerivativeDraft(
        ods_instance_id=whole_number(body.get("odsInstanceId")),
        type=texts.get("derivativeType"),
        connection_string=texts.get("connectionString"),
        type_errors=texts.errors,
    )


Draft = Annotated[DerivativeDraft, Depends(_draft)]


@router.get(
    "",
    response_model=list[DerivativeAnswer],
    responses=problems.documented(HTTPStatus.BAD_REQUEST, *_REFUSALS),
)
async def list_derivatives(
    queries: InstanceQueriesDep, page: Annotated[Page, page_of(DERIVATIVES)]
) -> Response:
    """A page of the derivatives of all ODS instances."""
    rows = await queries.derivatives(page)
    return await list_response(DerivativeAnswer.model_validate(row) async for row in paced(rows))


@router.post(
    "",
    status_code=HTTPStatus.CREATED,
    openapi_extra=documented_body(_NewDerivativeBody),
    responses=problems.documented(*_CHANGE_REFUSALS),
)
async def create_derivative(
    draft: Draft, derivatives: DerivativesDep, response: Response
) -> DerivativeAnswer:
    """Give an ODS instance a derivative."""
    row = await derivatives.create(draft)
    response.headers["Location"] = f"/odsInstanceDerivatives/{row.id}"
    return DerivativeAnswer.model_validate(row)


@router.get("/{derivative_id}", responses=problems.documented(*_REFUSALS, HTTPStatus.NOT_FOUND))
async def get_derivative(derivative_id: DerivativeId, queries: InstanceQueriesDep) -> DerivativeAnswer:
    """One derivative."""
    return DerivativeAnswer.model_validate(
        found(await queries.derivative(derivative_id), DERIVATIVE, derivative_id)
    )


@router.put(
    "/{derivative_id}",
    openapi_extra=documented_body(_DerivativeBody),
    responses=problems.documented(*_CHANGE_REFUSALS),
)
async def update_derivative(
    derivative_id: DerivativeId, draft: Draft, derivatives: DerivativesDep
) -> DerivativeAnswer:
    """Replace a derivative; its connection string only if there is one in the body."""
    return DerivativeAnswer.model_validate(await derivatives.update(derivative_id, draft))


@router.delete("/{derivative_id}", responses=problems.documented(*_REFUSALS, HTTPStatus.NOT_FOUND))
async def delete_derivative(derivative_id: DerivativeId, derivatives: DerivativesDep) -> Done:
    """Remove a derivative."""
    await derivatives.delete(derivative_id)
    return Done(title="ODS instance derivative deleted successfully.", status=HTTPStatus.OK)
