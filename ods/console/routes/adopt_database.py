"""*Adopt*: a database gets the mark of an instance, after a page that says what both are."""

from typing import Annotated

from fastapi import Query, Request, Response

from api.dependencies import DatabaseAdoptionDep, ServerLooksDep
from api.http.audit_context import AuditContextDep
from ods.console.page import render, see_other
from ods.console.page_route import signed_in_router
from ods.console.session import ACTING
from ods.console.views.instance import InstanceId
from ods.settings.settings import MAX_DATABASE_NAME_BYTES

router = signed_in_router(manages_instances=True)

_Database = Annotated[str | None, Query(min_length=1, max_length=MAX_DATABASE_NAME_BYTES)]


@router.get("/instances/{instance_id}/adopt", dependencies=[ACTING])
async def show_form(
    request: Request, instance_id: InstanceId, adoption: DatabaseAdoptionDep, database: _Database = None
) -> Response:
    """The page."""
    candidate = await adoption.inspect(instance_id, database)
    return render(request, "adopt_database.html", candidate=candidate)


@router.post("/instances/{instance_id}/adopt")
async def adopt(  # noqa: PLR0913, PLR0917 - parts of the service
    request: Request,
    instance_id: InstanceId,
    adoption: DatabaseAdoptionDep,
    looks: ServerLooksDep,
    audit: AuditContextDep,
    database: _Database = None,
) -> Response:
    """Adopt the database, and look at registry and server again."""
    audit.instance = instance_id
    await adoption.adopt(instance_id, database)
    await looks.look_for_drift()
    return see_other(request, "/recovery")
