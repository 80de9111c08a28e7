"""`/v2/odsInstances/manage`: the instances of `/v2/dbInstances`, in words and answers of their own."""

from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Response

from api.dependencies import InstanceQueriesDep
from api.http import problems
from api.http.parsing import JsonObject, path_id
from api.http.problems import ProblemError, found
from api.idempotency import OF_ADMIN_API, STARTS_A_JOB, JobRoute
from api.schemas.base import list_response, paced
from api.schemas.instances import ManagedInstance
from api.schemas.managed_status import managed_status
from api.security.tokens import bearer_token
from api.services.instances import (
    CHANGE_REFUSALS,
    CREATE_REFUSALS,
    NEW_MANAGED_INSTANCE_BODY,
    READ_REFUSALS,
    RENAME_REFUSALS,
    RENAMED_INSTANCE_BODY,
    ExactSelectionDep,
    InstanceServiceDep,
    ManagedCreateRequestDep,
    require_instance_management,
)
from ods.backups.errors import BackupFaultError
from ods.registry.storage.errors import InstanceNotFoundError, RefusedError
from ods.registry.storage.models import DbInstance

_RESOURCE = "odsInstanceManage"


async def _refusals_in_own_words() -> AsyncIterator[None]:
    try:
        yield
    except InstanceNotFoundError as error:
        raise ProblemError.not_found(_RESOURCE, error.instance_id) from None
    except RefusedError as error:
        raise ProblemError.invalid({"id": [f"{error.reason} {error.next_step}"]}) from None
    except BackupFaultError as error:
        if error.outage:
            raise
        raise ProblemError.invalid({"id": [error.reason]}) from None


router = APIRouter(
    prefix="/v2/odsInstances/manage",
    tags=["OdsInstances"],
    dependencies=[
        Depends(bearer_token),
        Depends(require_instance_management),
        Depends(_refusals_in_own_words),
        OF_ADMIN_API,
    ],
    route_class=JobRoute,
)

ManagedId = Annotated[int, path_id(_RESOURCE)]


@router.post(
    "",
    status_code=HTTPStatus.ACCEPTED,
    dependencies=[STARTS_A_JOB],
    openapi_extra=NEW_MANAGED_INSTANCE_BODY,
    responses=problems.documented(*CREATE_REFUSALS),
)
async def create_managed_instance(
    new: ManagedCreateRequestDep, service: InstanceServiceDep, response: Response
) -> ManagedInstance:
    """Request an instance: a database cloned from a template."""
    requested = await service.create(new)
    response.headers["Location"] = f"/odsinstances/manage/{requested.instance.id}"
    return _managed(requested.instance)


@router.get("", response_model=list[ManagedInstance], responses=problems.documented(*READ_REFUSALS))
async def list_managed_instances(selection: ExactSelectionDep, service: InstanceServiceDep) -> Response:
    """A page of instances by id, deleted ones included."""
    rows = await service.rows(selection)
    return await list_response(_managed(row) async for row in paced(rows))


@router.get("/{instance_id}", responses=problems.documented(*CHANGE_REFUSALS))
async def get_managed_instance(instance_id: ManagedId, queries: InstanceQueriesDep) -> ManagedInstance:
    """One instance, also a deleted one."""
    return _managed(found(await queries.any_instance(instance_id), _RESOURCE, instance_id))


@router.put(
    "/{instance_id}",
    status_code=HTTPStatus.ACCEPTED,
    openapi_extra=RENAMED_INSTANCE_BODY,
    responses=problems.documented(*RENAME_REFUSALS),
)
async def rename_managed_instance(
    instance_id: ManagedId, body: JsonObject, service: InstanceServiceDep
) -> ManagedInstance:
    """Request that the instance gets another name, with its database and its ODS instance."""
    return _managed((await service.rename(instance_id, body)).instance)


@router.delete(
    "/{instance_id}",
    status_code=HTTPStatus.NO_CONTENT,
    dependencies=[STARTS_A_JOB],
    responses=problems.documented(*CHANGE_REFUSALS),
)
async def delete_managed_instance(instance_id: ManagedId, service: InstanceServiceDep) -> None:
    """Request that the instance is deleted: its database goes to the trash, if there is one."""
    await service.delete(instance_id)


def _managed(row: DbInstance) -> ManagedInstance:
    """The instance in this surface's words; the id of its ODS instance only once there is one."""
    exists = row.ods_instance_name is not None
    return ManagedInstance.model_validate(row).model_copy(
        update={
            "status": managed_status(row.status, row.operation),
            "ods_instance_id": row.ods_instance_id if exists else None,
        }
    )
