"""*Delete*: a snapshot, which the ODS/API reads no longer then."""

from fastapi import Request, Response

from api.dependencies import SnapshotStoreDep
from api.http.audit_context import AuditContextDep
from ods.console.actions import Action, action_page, refused_action
from ods.console.forms import REFUSED
from ods.console.page import see_other
from ods.console.page_route import signed_in_router
from ods.console.session import ACTING
from ods.console.views.instance import InstanceId, InstanceView, InstanceViewDep

router = signed_in_router(manages_instances=True)


@router.get("/instances/{instance_id}/snapshots/{snapshot_id}/delete", dependencies=[ACTING])
async def show_form(
    request: Request, instance_id: InstanceId, snapshot_id: int, view: InstanceViewDep
) -> Response:
    """The page."""
    return action_page(request, await _action(view, instance_id, snapshot_id))


@router.post("/instances/{instance_id}/snapshots/{snapshot_id}/delete")
async def delete(  # noqa: PLR0913, PLR0917 - its dependencies
    request: Request,
    instance_id: InstanceId,
    snapshot_id: int,
    view: InstanceViewDep,
    snapshots: SnapshotStoreDep,
    audit: AuditContextDep,
) -> Response:
    """Request that the snapshot goes."""
    action = await _action(view, instance_id, snapshot_id)
    audit.instance = instance_id
    try:
        await snapshots.request_removal(instance_id, snapshot_id)
    except REFUSED as error:
        return refused_action(request, action, error)
    return see_other(request, action.back)


async def _action(view: InstanceView, instance_id: int, snapshot_id: int) -> Action:
    shown = await view.snapshot(instance_id, snapshot_id)
    return Action("delete_snapshot", shown.snapshot.database_name, f"/instances/{instance_id}")
