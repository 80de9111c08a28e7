"""*Purge* and *Detach*: an instance is let go for good, with its database or without it."""

from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus

from fastapi import Request, Response

from api.http.parsing import Form
from api.services.instances import InstanceServiceDep
from ods.console.forms import REFUSED, FormState, not_confirmed, refusal_of, shown_form
from ods.console.page import render, see_other
from ods.console.page_route import signed_in_router
from ods.console.session import ActingDep
from ods.console.views.delete_instances import DeletionPage, DeletionViewDep
from ods.console.views.instance import InstanceId
from ods.model.arguments import Way

router = signed_in_router(manages_instances=True)

_FINAL_BACKUP = "final_backup"
_FIELDS = {"FinalBackup": _FINAL_BACKUP}


@router.get("/instances/{instance_id}/purge")
async def show_purge(
    request: Request, instance_id: InstanceId, acting: ActingDep, view: DeletionViewDep
) -> Response:
    """The page before an instance is deleted and its database dropped; of one in the trash, that of there."""
    page = await view.purge(instance_id)
    if page.lines[0].row.is_in_trash:
        return see_other(request, f"/trash/{instance_id}/purge")
    return _page(request, page, await shown_form(request, acting))


@router.post("/instances/{instance_id}/purge")
async def purge(
    request: Request, instance_id: InstanceId, form: Form, view: DeletionViewDep, service: InstanceServiceDep
) -> Response:
    """Request that the instance is deleted and its database dropped, perhaps after a backup."""
    deletion = partial(service.delete, instance_id, Way.DROP, final_backup=_FINAL_BACKUP in form)
    return await _carry_out(request, await view.purge(instance_id), form, deletion)


@router.get("/trash/{instance_id}/purge")
async def show_purge_of_trash(
    request: Request, instance_id: InstanceId, acting: ActingDep, view: DeletionViewDep
) -> Response:
    """The page before a database is dropped from the trash; of what is not there, its own page."""
    page = await view.purge(instance_id)
    if not page.lines[0].row.is_in_trash:
        return see_other(request, f"/instances/{instance_id}")
    return _page(request, page, await shown_form(request, acting))


@router.post("/trash/{instance_id}/purge")
async def purge_trash(
    request: Request, instance_id: InstanceId, form: Form, view: DeletionViewDep, service: InstanceServiceDep
) -> Response:
    """Request that the database is dropped from the trash, and from nowhere else, perhaps after a backup."""
    deletion = partial(service.purge, instance_id, final_backup=_FINAL_BACKUP in form)
    return await _carry_out(request, await view.purge(instance_id), form, deletion)


@router.get("/instances/{instance_id}/detach")
async def show_detach(
    request: Request, instance_id: InstanceId, acting: ActingDep, view: DeletionViewDep
) -> Response:
    """The page before an instance is forgotten, whose database stays."""
    return _page(request, await view.detach(instance_id), await shown_form(request, acting))


@router.post("/instances/{instance_id}/detach")
async def detach(
    request: Request, instance_id: InstanceId, form: Form, view: DeletionViewDep, service: InstanceServiceDep
) -> Response:
    """Request that the instance is forgotten."""
    deletion = partial(service.delete, instance_id, Way.LEAVE)
    return await _carry_out(request, await view.detach(instance_id), form, deletion)


async def _carry_out(
    request: Request, page: DeletionPage, form: Form, deletion: Callable[[], Awaitable[object]]
) -> Response:
    """Request what the page is for, unless that is not confirmed; lead to the instance."""
    if errors := not_confirmed(form, page.told, page.to_be_typed):
        return _page(request, page, FormState(form, errors), HTTPStatus.BAD_REQUEST)
    try:
        await deletion()
    except REFUSED as error:
        return _page(request, page, *refusal_of(request, FormState(form), error, _FIELDS))
    return see_other(request, f"/instances/{page.lines[0].row.id}")


def _page(
    request: Request, page: DeletionPage, form: FormState, status: HTTPStatus = HTTPStatus.OK
) -> Response:
    return render(request, "delete_instances.html", status, page=page, form=form)
