"""The page of one backup, with all that is known of it; its facts alone for pages that are open."""

from fastapi import Request, Response

from api.services.backups import BackupId
from ods.console.page import render
from ods.console.page_route import signed_in_router
from ods.console.views.backups import BackupsViewDep

router = signed_in_router()


@router.get("/backups/{backup_id}")
async def show_backup(request: Request, backup_id: BackupId, view: BackupsViewDep) -> Response:
    """The page."""
    return render(request, "backup.html", page=await view.backup(backup_id))


@router.get("/backups/{backup_id}/facts")
async def show_facts(request: Request, backup_id: BackupId, view: BackupsViewDep) -> Response:
    """Its facts. They are not shared: a verification changes them without a change that the feed sees."""
    return render(request, "_partials/backup_facts.html", page=await view.backup(backup_id))
