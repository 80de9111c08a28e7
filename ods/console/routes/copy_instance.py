"""*Make a backup*, *Take a snapshot*, *Read anew*: what is made of an instance that goes on being used."""

from functools import partial

from fastapi import Request, Response

from api.dependencies import InstanceStoreDep, ServerDep
from api.http.audit_context import AuditContextDep
from api.services.backups import BackupServiceDep, require_readiness
from api.services.instances import InstanceServiceDep
from api.services.refreshes import RefreshServiceDep
from ods.backups.readiness import require_restores
from ods.console.actions import Action, action_page, refused_action
from ods.console.forms import REFUSED
from ods.console.page import see_other
from ods.console.page_route import signed_in_router
from ods.console.session import ACTING
from ods.console.views.instance import InstanceId, InstanceView, InstanceViewDep

router = signed_in_router(manages_instances=True)


@router.get("/instances/{instance_id}/backup", dependencies=[ACTING])
async def show_backup(request: Request, instance_id: InstanceId, view: InstanceViewDep) -> Response:
    """The page before a backup."""
    return action_page(request, await _action(view, "backup", instance_id))


@router.post("/instances/{instance_id}/backup")
async def back_up(
    request: Request, instance_id: InstanceId, view: InstanceViewDep, service: BackupServiceDep
) -> Response:
    """Request a backup."""
    action = await _action(view, "backup", instance_id)
    await require_readiness(request)
    try:
        await service.request(instance_id)
    except REFUSED as error:
        return refused_action(request, action, error)
    return see_other(request, action.back)


@router.get("/instances/{instance_id}/snapshot", dependencies=[ACTING])
async def show_snapshot(request: Request, instance_id: InstanceId, view: InstanceViewDep) -> Response:
    """The page before a snapshot."""
    return action_page(request, await _action(view, "snapshot", instance_id))


@router.post("/instances/{instance_id}/snapshot")
async def take_snapshot(  # noqa: PLR0913, PLR0917 - its dependencies
    request: Request,
    instance_id: InstanceId,
    view: InstanceViewDep,
    service: InstanceServiceDep,
    instances: InstanceStoreDep,
    server: ServerDep,
    audit: AuditContextDep,
) -> Response:
    """Request a snapshot."""
    action = await _action(view, "snapshot", instance_id)
    try:
        require_restores(server)
        await service.change(instance_id, partial(instances.request_snapshot, by=audit.client))
    except REFUSED as error:
        return refused_action(request, action, error)
    return see_other(request, action.back)


@router.get("/instances/{instance_id}/refresh", dependencies=[ACTING])
async def show_refresh(request: Request, instance_id: InstanceId, view: InstanceViewDep) -> Response:
    """The page before education organizations are read anew."""
    return action_page(request, await _action(view, "refresh", instance_id))


@router.post("/instances/{instance_id}/refresh")
async def refresh(
    request: Request, instance_id: InstanceId, view: InstanceViewDep, refreshes: RefreshServiceDep
) -> Response:
    """Request that the education organizations are read anew; leads to the job that does it."""
    row = await view.row(instance_id)
    return see_other(request, f"/jobs/{await refreshes.request(row.ods_instance_id)}")


async def _action(view: InstanceView, key: str, instance_id: int) -> Action:
    return Action(key, (await view.row(instance_id)).name, f"/instances/{instance_id}")
