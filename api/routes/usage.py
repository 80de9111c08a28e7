"""`/v2/dbInstances/{id}/usage`: how an instance is used."""

from typing import Annotated

from fastapi import APIRouter, Depends

from api.dependencies import InstanceUsageDep
from api.http import problems
from api.http.parsing import path_id
from api.schemas.usage import InstanceUsage
from api.security.tokens import bearer_token
from api.services.instances import CHANGE_REFUSALS, require_instance_management

router = APIRouter(
    prefix="/v2/dbInstances",
    tags=["DbInstances"],
    dependencies=[Depends(bearer_token), Depends(require_instance_management)],
)


@router.get(
    "/{instance_id}/usage", responses=problems.documented(*CHANGE_REFUSALS, *problems.ODS_SERVER_REFUSALS)
)
async def get_instance_usage(
    instance_id: Annotated[int, path_id("dbInstance")], usage: InstanceUsageDep
) -> InstanceUsage:
    """How the database of a live instance is used, and what it holds."""
    return InstanceUsage.of(*await usage.of_instance(instance_id))
