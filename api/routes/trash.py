"""The trash: deleted instances that can come back, until they are purged."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Response

from api.database_sizes import database_sizes
from api.dependencies import InstanceQueriesDep, ServerDep
from api.final_backups import FinalBackup
from api.http import problems
from api.http.paging import page_of
from api.http.parsing import path_id
from api.idempotency import STARTS_A_JOB, JobRoute
from api.schemas.base import list_response, paced
from api.schemas.instances import Purge, TrashedInstance
from api.security.tokens import bearer_token
from api.services.instances import CHANGE_REFUSALS, InstanceServiceDep, require_instance_management
from ods.registry.instances.queries import TRASH
from ods.registry.storage.listing import Page

router = APIRouter(
    prefix="/v2/trash",
    tags=["DbInstances"],
    dependencies=[Depends(bearer_token), Depends(require_instance_management)],
    route_class=JobRoute,
)


@router.get(
    "",
    response_model=list[TrashedInstance],
    responses=problems.documented(HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN),
)
async def list_trash(
    queries: InstanceQueriesDep, server: ServerDep, page: Annotated[Page, page_of(TRASH)]
) -> Response:
    """A page of the deleted instances that can be undeleted, by id unless `orderBy` says otherwise."""
    rows = await queries.trash(page)
    sizes = await database_sizes(server, [row.trash_database for row in rows])
    return await list_response(
        TrashedInstance.model_validate(row).model_copy(update={"size_bytes": sizes.get(row.trash_database)})
        async for row in paced(rows)
    )


@router.delete(
    "/{instance_id}",
    status_code=HTTPStatus.ACCEPTED,
    dependencies=[STARTS_A_JOB],
    responses=problems.documented(*CHANGE_REFUSALS, HTTPStatus.CONFLICT),
)
async def purge_trash(
    instance_id: Annotated[int, path_id("dbInstance")],
    service: InstanceServiceDep,
    final_backup: FinalBackup = False,  # noqa: FBT002 - a parameter of the query
) -> Purge:
    """Request that the database of a deleted instance is dropped for good; 409 unless it is in the trash."""
    return Purge.model_validate(await service.purge(instance_id, final_backup=final_backup))
