"""`/v2/dbInstances/bulk`: many instances at once."""

from http import HTTPStatus

from fastapi import APIRouter, Depends

from api.bulk_route import BulkRoute
from api.http import problems
from api.http.parsing import JsonObject, documented_list
from api.idempotency import STARTS_A_JOB
from api.schemas.instances import AllAccepted
from api.security.tokens import bearer_token
from api.services.bulk import BulkServiceDep
from api.services.instances import (
    CREATE_REFUSALS,
    MOST_AT_ONCE,
    NEW_INSTANCES_BODY,
    require_instance_management,
)
from api.services.plans import PLANNED, DryRunDep, plan_response

router = APIRouter(
    prefix="/v2/dbInstances/bulk",
    tags=["DbInstances"],
    dependencies=[Depends(bearer_token), Depends(require_instance_management)],
    route_class=BulkRoute,
)


@router.post(
    "",
    status_code=HTTPStatus.ACCEPTED,
    response_model=AllAccepted,
    dependencies=[STARTS_A_JOB],
    openapi_extra=NEW_INSTANCES_BODY,
    responses={**PLANNED, **problems.documented(*CREATE_REFUSALS)},
)
async def create_instances(body: JsonObject, dry_run: DryRunDep, bulk: BulkServiceDep) -> object:
    """Request up to 20 instances: all of them are accepted, or none, with everything that is wrong."""
    if dry_run:
        return plan_response(await bulk.plan_creates(body))
    return {"instances": await bulk.create(body)}


@router.post(
    "/delete",
    status_code=HTTPStatus.ACCEPTED,
    response_model=AllAccepted,
    dependencies=[STARTS_A_JOB],
    openapi_extra=documented_list("ids", {"type": "integer"}, MOST_AT_ONCE),
    responses={**PLANNED, **problems.documented(*CREATE_REFUSALS)},
)
async def delete_instances(body: JsonObject, dry_run: DryRunDep, bulk: BulkServiceDep) -> object:
    """Request that up to 20 instances are deleted: all of them are, or none."""
    if dry_run:
        return plan_response(await bulk.plan_deletes(body))
    return {"instances": await bulk.delete(body)}
