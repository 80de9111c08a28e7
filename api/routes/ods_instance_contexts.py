"""Contexts: keys and values by which the ODS/API chooses an ODS instance."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel, Field

from api.dependencies import ContextsDep, InstanceQueriesDep
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
from api.schemas.ods_instances import ContextAnswer
from api.security.tokens import bearer_token
from ods.registry.instances.contexts import LONGEST_CONTEXT_TEXT
from ods.registry.instances.queries import CONTEXTS
from ods.registry.ods_instances.parts import CONTEXT, ContextDraft
from ods.registry.storage.listing import Page

router = APIRouter(
    prefix="/v2/odsInstanceContexts",
    tags=["OdsInstanceContexts"],
    dependencies=[Depends(bearer_token), OF_ADMIN_API],
    route_class=JobRoute,
)

_REFUSALS = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
_CHANGE_REFUSALS = (*BODY_REFUSALS, *_REFUSALS, HTTPStatus.NOT_FOUND)

ContextId = Annotated[int, path_id(CONTEXT, "context_id")]


class _ContextBody(BaseModel):
    odsInstanceId: int = Field(ge=1, le=MAX_INT32)  # noqa: N815 - on the wire
    contextKey: str = Field(min_length=1, max_length=LONGEST_CONTEXT_TEXT)  # noqa: N815 - on the wire
    contextValue: str = Field(min_length=1, max_length=LONGEST_CONTEXT_TEXT)  # noqa: N815 - on the wire


async def _draft(body: JsonObject) -> ContextDraft:
    texts = Texts(body)
    return ContextDraft(
        ods_instance_id=whole_number(body.get("odsInstanceId")),
        key=texts.get("contextKey"),
        value=texts.get("contextValue"),
        type_errors=texts.errors,
    )


Draft = Annotated[ContextDraft, Depends(_draft)]


@router.get(
    "",
    response_model=list[ContextAnswer],
    responses=problems.documented(HTTPStatus.BAD_REQUEST, *_REFUSALS),
)
async def list_contexts(queries: InstanceQueriesDep, page: Annotated[Page, page_of(CONTEXTS)]) -> Response:
    """A page of the contexts of all ODS instances."""
    rows = await queries.contexts(page)
    return await list_response(ContextAnswer.model_validate(row) async for row in paced(rows))


@router.post(
    "",
    status_code=HTTPStatus.CREATED,
    openapi_extra=documented_body(_ContextBody),
    responses=problems.documented(*_CHANGE_REFUSALS),
)
async def create_context(draft: Draft, contexts: ContextsDep, response: Response) -> ContextAnswer:
    """Give an ODS instance a context."""
    row = await contexts.create(draft)
    response.headers["Location"] = f"/odsInstanceContexts/{row.id}"
    return ContextAnswer.model_validate(row)


@router.get("/{context_id}", responses=problems.documented(*_REFUSALS, HTTPStatus.NOT_FOUND))
async def get_context(context_id: ContextId, queries: InstanceQueriesDep) -> ContextAnswer:
    """One context."""
    return ContextAnswer.model_validate(found(await queries.context(context_id), CONTEXT, context_id))


@router.put(
    "/{context_id}",
    openapi_extra=documented_body(_ContextBody),
    responses=problems.documented(*_CHANGE_REFUSALS),
)
async def update_context(context_id: ContextId, draft: Draft, contexts: ContextsDep) -> ContextAnswer:
    """Replace all of a context."""
    return ContextAnswer.model_validate(await contexts.update(context_id, draft))


@router.delete("/{context_id}", responses=problems.documented(*_REFUSALS, HTTPStatus.NOT_FOUND))
async def delete_context(context_id: ContextId, contexts: ContextsDep) -> Done:
    """Remove a context."""
    await contexts.delete(context_id)
    return Done(title="ODS instance context deleted successfully.", status=HTTPStatus.OK)
