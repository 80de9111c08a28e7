"""ODS instances: what the ODS/API routes to."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel, Field

from api.dependencies import InstanceQueriesDep, OdsInstancesDep
from api.final_backups import FinalBackupsDep
from api.http import problems
from api.http.audit_context import AuditContextDep
from api.http.paging import page_of
from api.http.parsing import BODY_REFUSALS, Count, JsonObject, Texts, documented_body, path_id
from api.http.problems import found
from api.idempotency import OF_ADMIN_API, STARTS_A_JOB, JobRoute
from api.schemas.base import Done, list_response, paced
from api.schemas.ods_instances import (
    ApplicationAnswer,
    ContextAnswer,
    DerivativeAnswer,
    OdsInstanceAnswer,
    OdsInstanceDetails,
)
from api.security.tokens import bearer_token
from api.services.instances import InstanceServiceDep
from ods.registry.instances.queries import ODS_INSTANCES
from ods.registry.ods_instances.store import LONGEST_ODS_INSTANCE_TEXT, ODS_INSTANCE, OdsInstanceDraft
from ods.registry.storage.listing import Page
from ods.registry.storage.models import OdsInstance
from ods.registry.storage.rules import is_storable

router = APIRouter(
    prefix="/v2/odsInstances",
    tags=["OdsInstances"],
    dependencies=[Depends(bearer_token), OF_ADMIN_API],
    route_class=JobRoute,
)

_REFUSALS = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)

OdsInstanceId = Annotated[int, path_id(ODS_INSTANCE)]


class _OdsInstanceBody(BaseModel):
    name: str = Field(max_length=LONGEST_ODS_INSTANCE_TEXT)
    instanceType: str | None = Field(None, max_length=LONGEST_ODS_INSTANCE_TEXT)  # noqa: N815 - on the wire
    connectionString: str | None = Field(None, description="Left out, it stays as it is.")  # noqa: N815 - on the wire


class _NewOdsInstanceBody(_OdsInstanceBody):
    connectionString: str = Field(description="As Npgsql reads it. It is never shown.")  # noqa: N815 - on the wire


async def _draft(body: JsonObject) -> OdsInstanceDraft:
    texts = Texts(body)
    return OdsInstanceDraft(
        name=texts.get("name"),
        instance_type=texts.get("instanceType"),
        connection_string=texts.get("connectionString"),
        type_errors=texts.errors,
    )


Draft = Annotated[OdsInstanceDraft, Depends(_draft)]


@router.get(
    "",
    response_model=list[OdsInstanceAnswer],
    responses=problems.documented(HTTPStatus.BAD_REQUEST, *_REFUSALS),
)
async def list_ods_instances(
    queries: InstanceQueriesDep,
    page: Annotated[Page, page_of(ODS_INSTANCES)],
    id: Count | None = None,  # noqa: A002 - the query's own word
    name: str | None = None,
    instanceType: str | None = None,  # noqa: N803 - the query's own word
) -> Response:
    """A page of ODS instances; the filters are exact."""
    rows: Sequence[OdsInstance] = []
    if is_storable((name or "") + (instanceType or "")):
        rows = await queries.ods_instances(page, ods_instance_id=id, name=name, instance_type=instanceType)
    return await list_response(OdsInstanceAnswer.model_validate(row) async for row in paced(rows))


@router.post(
    "",
    status_code=HTTPStatus.CREATED,
    openapi_extra=documented_body(_NewOdsInstanceBody),
    responses=problems.documented(*BODY_REFUSALS, *_REFUSALS),
)
async def create_ods_instance(
    draft: Draft, ods_instances: OdsInstancesDep, response: Response
) -> OdsInstanceAnswer:
    """Record an ODS instance whose database another product looks after."""
    row = await ods_instances.create(draft)
    # Clients read the digits; the Admin API leaves its version out.
    response.headers["Location"] = f"/odsInstances/{row.ods_instance_id}"
    return OdsInstanceAnswer.model_validate(row)


@router.get("/{instance_id}", responses=problems.documented(*_REFUSALS, HTTPStatus.NOT_FOUND))
async def get_ods_instance(instance_id: OdsInstanceId, queries: InstanceQueriesDep) -> OdsInstanceDetails:
    """One ODS instance, with its contexts and derivatives."""
    row = found(await queries.ods_instance(instance_id), ODS_INSTANCE, instance_id)
    return OdsInstanceDetails(
        id=row.ods_instance_id,
        name=row.name,
        instance_type=row.instance_type,
        ods_instance_contexts=[
            ContextAnswer.model_validate(one) for one in await queries.contexts_of(instance_id)
        ],
        ods_instance_derivatives=[
            DerivativeAnswer.model_validate(one) for one in await queries.derivatives_of(instance_id)
        ],
    )


@router.put(
    "/{instance_id}",
    openapi_extra=documented_body(_OdsInstanceBody),
    responses=problems.documented(*BODY_REFUSALS, *_REFUSALS, HTTPStatus.NOT_FOUND),
)
async def update_ods_instance(
    instance_id: OdsInstanceId, draft: Draft, ods_instances: OdsInstancesDep
) -> OdsInstanceAnswer:
    """Replace name and type, and the connection string if there is one in the body."""
    return OdsInstanceAnswer.model_validate(await ods_instances.update(instance_id, draft))


@router.delete(
    "/{instance_id}",
    dependencies=[STARTS_A_JOB],
    responses=problems.documented(HTTPStatus.BAD_REQUEST, *_REFUSALS, HTTPStatus.NOT_FOUND),
)
async def delete_ods_instance(
    instance_id: OdsInstanceId,
    ods_instances: OdsInstancesDep,
    service: InstanceServiceDep,
    final_backups: FinalBackupsDep,
    audit: AuditContextDep,
) -> Done:
    """Remove the ODS instance; if this service made its database, its instance is deleted, too."""
    await service.require_may_delete_behind(instance_id)
    await final_backups.require_possible_behind(instance_id)
    requested = await ods_instances.delete(instance_id, audit.client)
    if requested is not None:
        await service.launched(requested)
    return Done(title="ODS instance deleted successfully.", status=HTTPStatus.OK)


@router.get("/{instance_id}/applications", responses=problems.documented(*_REFUSALS, HTTPStatus.NOT_FOUND))
async def list_applications(
    instance_id: OdsInstanceId, queries: InstanceQueriesDep
) -> list[ApplicationAnswer]:
    """The applications of the ODS/API that may use the ODS instance."""
    found(await queries.ods_instance(instance_id), ODS_INSTANCE, instance_id)
    return [ApplicationAnswer.model_validate(one) for one in await queries.applications(instance_id)]
