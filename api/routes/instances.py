"""`/v2/dbInstances`: instances, requested, looked at, changed, renamed, deleted, undeleted, retried."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from api.dependencies import InstanceStoreDep
from api.final_backups import FinalBackup
from api.http import problems
from api.http.parsing import JsonObject, path_id
from api.http.problems import ProblemError
from api.idempotency import OF_ADMIN_API, STARTS_A_JOB, JobRoute
from api.instance_attributes import CHANGED_ATTRIBUTES_BODY
from api.instance_origins import copy_notice
from api.schemas.base import list_response, paced
from api.schemas.instances import Accepted, Creation, Deletion, Instance, Reset
from api.schemas.usage import ListedInstance
from api.security.tokens import bearer_token
from api.services.bulk import BulkServiceDep
from api.services.instances import (
    CHANGE_REFUSALS,
    CREATE_REFUSALS,
    NEW_INSTANCE_BODY,
    READ_REFUSALS,
    RENAME_REFUSALS,
    RENAMED_INSTANCE_BODY,
    RESET_INSTANCE_BODY,
    UNDELETED_INSTANCE_BODY,
    UNDONE_RESET_BODY,
    USAGE,
    CreateRequestReaderDep,
    IncludedDep,
    InstanceServiceDep,
    SelectionDep,
    require_instance_management,
)
from api.services.plans import PLANNED, DryRunDep, PlanServiceDep, plan_response
from api.services.resets import ResetServiceDep
from ods.model.arguments import Way
from ods.registry.instances.deletes import Delete

router = APIRouter(
    prefix="/v2/dbInstances",
    tags=["DbInstances"],
    dependencies=[Depends(bearer_token), Depends(require_instance_management)],
    route_class=JobRoute,
)

InstanceId = Annotated[int, path_id("dbInstance")]


@router.post(
    "",
    status_code=HTTPStatus.ACCEPTED,
    response_model=Creation,
    dependencies=[STARTS_A_JOB, OF_ADMIN_API],
    openapi_extra=NEW_INSTANCE_BODY,
    responses={**PLANNED, **problems.documented(*CREATE_REFUSALS, HTTPStatus.CONFLICT)},
)
async def create_instance(  # noqa: PLR0913, PLR0917 - its dependencies
    body: JsonObject,
    dry_run: DryRunDep,
    reader: CreateRequestReaderDep,
    service: InstanceServiceDep,
    bulk: BulkServiceDep,
    response: Response,
) -> object:
    """Request an instance: a database cloned from a template, or a copy of another instance's."""
    if dry_run:
        return plan_response(await bulk.plan_create(body))
    requested = await service.create(await reader.read(body))
    response.headers["Location"] = f"{router.prefix}/{requested.instance.id}"
    notice = copy_notice(requested.job.origin)
    return Creation.model_validate(requested).model_copy(update={"notice": notice})


@router.get("", response_model=list[ListedInstance], responses=problems.documented(*READ_REFUSALS))
async def list_instances(
    selection: SelectionDep, included: IncludedDep, service: InstanceServiceDep
) -> Response:
    """A page of instances, by id unless `orderBy` says otherwise; deleted ones included.

    With `include=usage`, each has what the server of the ODS databases tells of its database.
    """
    if USAGE in included:
        return await list_response(service.select_with_usage(selection))
    return await list_response(paced(await service.select(selection)))


@router.get("/{instance_id}", responses=problems.documented(*CHANGE_REFUSALS))
async def get_instance(instance_id: InstanceId, service: InstanceServiceDep) -> Instance:
    """One live instance."""
    return await service.get(instance_id)


@router.put(
    "/{instance_id}",
    status_code=HTTPStatus.ACCEPTED,
    openapi_extra=RENAMED_INSTANCE_BODY,
    responses=problems.documented(*RENAME_REFUSALS, HTTPStatus.CONFLICT),
)
async def rename_instance(instance_id: InstanceId, body: JsonObject, service: InstanceServiceDep) -> Accepted:
    """Request that the instance gets another name, with its database and its ODS instance."""
    return Accepted.model_validate(await service.rename(instance_id, body))


@router.patch(
    "/{instance_id}",
    openapi_extra=CHANGED_ATTRIBUTES_BODY,
    responses=problems.documented(*RENAME_REFUSALS, HTTPStatus.CONFLICT),
)
async def change_instance(instance_id: InstanceId, body: JsonObject, service: InstanceServiceDep) -> Instance:
    """Change protection, description, labels and contexts of the instance; what is left out stays."""
    return await service.change_attributes(instance_id, body)


@router.delete(
    "/{instance_id}",
    status_code=HTTPStatus.ACCEPTED,
    response_model=Deletion,
    dependencies=[STARTS_A_JOB, OF_ADMIN_API],
    responses={**PLANNED, **problems.documented(*CHANGE_REFUSALS, HTTPStatus.CONFLICT)},
)
async def delete_instance(  # noqa: PLR0913, PLR0917 - its dependencies and parameters
    instance_id: InstanceId,
    dry_run: DryRunDep,
    service: InstanceServiceDep,
    plans: PlanServiceDep,
    purge: Annotated[bool, Query(description="Drop its database for good, also from the trash.")] = False,  # noqa: FBT002 - a parameter of the query
    detach: Annotated[bool, Query(description="Leave its database, which this service forgets.")] = False,  # noqa: FBT002 - as above
    final_backup: FinalBackup = False,  # noqa: FBT002 - as above
) -> object:
    """Request that the instance is deleted: its database goes to the trash, from which it can come back."""
    if purge and detach:
        raise ProblemError.invalid({"Detach": ["'Detach' and 'Purge' exclude each other."]})
    if final_backup and not purge:
        raise ProblemError.invalid({"FinalBackup": ["'Final Backup' is made before a purge: purge=true."]})
    way = Way.DROP if purge else Way.LEAVE if detach else None
    if dry_run:
        return plan_response(await plans.of_delete(instance_id, Delete(way, final_backup=final_backup)))
    requested = await service.delete(instance_id, way, final_backup=final_backup)
    deletion = Deletion.model_validate(requested)
    follows = requested.job.following_purge
    # What never had a database has nothing to come back, unless the registry is wrong about that.
    stays = requested.job.rules.to_trash and requested.job.published and follows is None
    outcome = {"purge_job_id": follows} if stays else {"purge_job_id": follows, "purge_after": None}
    return deletion.model_copy(update=outcome)


@router.post(
    "/{instance_id}/undelete",
    status_code=HTTPStatus.ACCEPTED,
    dependencies=[STARTS_A_JOB],
    openapi_extra=UNDELETED_INSTANCE_BODY,
    responses=problems.documented(*RENAME_REFUSALS, HTTPStatus.CONFLICT),
)
async def undelete_instance(
    instance_id: InstanceId, body: JsonObject, service: InstanceServiceDep
) -> Accepted:
    """Request that the instance comes back from the trash, with all that belongs to its ODS instance."""
    return Accepted.model_validate(await service.undelete(instance_id, body))


@router.post(
    "/{instance_id}/reset",
    status_code=HTTPStatus.ACCEPTED,
    response_model=Reset,
    dependencies=[STARTS_A_JOB],
    openapi_extra=RESET_INSTANCE_BODY,
    responses={**PLANNED, **problems.documented(*RENAME_REFUSALS, HTTPStatus.CONFLICT)},
)
async def reset_instance(
    instance_id: InstanceId, body: JsonObject, dry_run: DryRunDep, service: ResetServiceDep
) -> object:
    """Request that another database takes the place of the instance's.

    A fresh clone of its template or another, a copy of another instance's, or one that a backup holds.
    """
    if dry_run:
        return plan_response(await service.plan(instance_id, body))
    requested = await service.reset(instance_id, body)
    replacement = requested.job.replacement
    notice = None if replacement is None else copy_notice(replacement.origin)
    return Reset.model_validate(requested).model_copy(update={"notice": notice})


@router.post(
    "/{instance_id}/reset/undo",
    status_code=HTTPStatus.ACCEPTED,
    dependencies=[STARTS_A_JOB],
    openapi_extra=UNDONE_RESET_BODY,
    responses=problems.documented(*RENAME_REFUSALS, HTTPStatus.CONFLICT),
)
async def undo_reset(instance_id: InstanceId, body: JsonObject, service: InstanceServiceDep) -> Accepted:
    """Request that a database which was replaced is the instance's again; by default, the last one."""
    return Accepted.model_validate(await service.undo_reset(instance_id, body))


@router.post(
    "/{instance_id}/retry",
    status_code=HTTPStatus.ACCEPTED,
    dependencies=[STARTS_A_JOB],
    responses=problems.documented(*CHANGE_REFUSALS, HTTPStatus.CONFLICT),
)
async def retry_instance(
    instance_id: InstanceId, service: InstanceServiceDep, instances: InstanceStoreDep
) -> Accepted:
    """Request that the failed job of the instance is tried again."""
    return Accepted.model_validate(await service.change(instance_id, instances.request_retry))
