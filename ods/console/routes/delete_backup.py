"""*Delete*: a backup, which cannot come back."""

from http import HTTPStatus

from fastapi import Request, Response

from api.http.parsing import Form
from api.services.backups import BackupId, BackupServiceDep
from ods.console.forms import REFUSED, FormState, mistyped, refusal_of, shown_form
from ods.console.page import render, see_other
from ods.console.page_route import signed_in_router
from ods.console.session import ActingDep
from ods.console.views.backups import BackupPage, BackupsViewDep

router = signed_in_router(manages_instances=True)


@router.get("/backups/{backup_id}/delete")
async def show_form(
    request: Request, backup_id: BackupId, acting: ActingDep, view: BackupsViewDep
) -> Response:
    """The page."""
    return _page(request, await view.backup(backup_id), await shown_form(request, acting))


@router.post("/backups/{backup_id}/delete")
async def delete(
    request: Request, backup_id: BackupId, form: Form, view: BackupsViewDep, service: BackupServiceDep
) -> Response:
    """Delete the backup."""
    page = await view.backup(backup_id)
    if errors := mistyped(form, page.row.state.backup.name):
        return _page(request, page, FormState(form, errors), HTTPStatus.BAD_REQUEST)
    try:
        await service.delete(backup_id)
    except REFUSED as error:
        refused, status = refusal_of(request, FormState(form), error, {})
        return _page(request, page, refused, status)
    return see_other(request, "/backups")


def _page(
    request: Request, page: BackupPage, form: FormState, status: HTTPStatus = HTTPStatus.OK
) -> Response:
    return render(request, "delete_backup.html", status, page=page, form=form)
