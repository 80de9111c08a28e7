"""*Verify*: a backup is restored to a private database, compared, and that is dropped again."""

from uuid import UUID

from fastapi import Request, Response

from api.services.backups import BackupId, BackupServiceDep
from ods.console.actions import Action, action_page, refused_action
from ods.console.forms import REFUSED
from ods.console.page import see_other
from ods.console.page_route import signed_in_router
from ods.console.session import ACTING
from ods.console.views.backups import BackupsView, BackupsViewDep

router = signed_in_router(manages_instances=True)


@router.get("/backups/{backup_id}/verify", dependencies=[ACTING])
async def show_form(request: Request, backup_id: BackupId, view: BackupsViewDep) -> Response:
    """The page."""
    return action_page(request, await _action(view, backup_id))


@router.post("/backups/{backup_id}/verify")
async def verify(
    request: Request, backup_id: BackupId, view: BackupsViewDep, service: BackupServiceDep
) -> Response:
    """Request the verification."""
    action = await _action(view, backup_id)
    try:
        await service.verify(backup_id)
    except REFUSED as error:
        return refused_action(request, action, error)
    return see_other(request, action.back)


async def _action(view: BackupsView, backup_id: UUID) -> Action:
    page = await view.backup(backup_id)
    return Action("verify", page.row.state.backup.name, f"/backups/{backup_id}")
