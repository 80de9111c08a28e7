"""*Purge*: a database is dropped from the trash. *Detach*: an instance goes, and its database stays."""

from http import HTTPStatus

from fastapi import Request, Response

from api.dependencies import InstanceStoreDep
from api.http.parsing import Form
from api.instance_service import InstanceServiceDep
from console.forms import EMPTY, REFUSED, FormState, mistyped, refusal_of, shown_form
from console.page import render, see_other
from console.page_route import signed_in_router
from console.session import ActingDep
from console.views.delete_instances import DeletionPage, DeletionViewDep
from console.views.instance import InstanceId
from registry.instances.status import Operation

router = signed_in_router()


@router.get("/trash/{instance_id}/purge")
async def show_purge(
    request: Request, instance_id: InstanceId, acting: ActingDep, view: DeletionViewDep
) -> Response:
    """The page before a database is dropped from the trash; of what is not there, its own page."""
    page = await view.purge(instance_id)
    if not page.lines[0].row.is_in_trash:
        return see_other(request, f"/instances/{instance_id}")
    return _page(request, page, await shown_form(request, acting))


@router.post("/trash/{instance_id}/purge")
async def purge(  # noqa: PLR0913, PLR0917 - its dependencies
    request: Request,
    instance_id: InstanceId,
    form: Form,
    view: DeletionViewDep,
    service: InstanceServiceDep,
    instances: InstanceStoreDep,
) -> Response:
    """Request that the database is dropped from the trash, and from nowhere else."""
    page = await view.purge(instance_id)
    if errors := mistyped(form, page.to_be_typed):
        return _page(request, page, FormState(form, errors), HTTPStatus.BAD_REQUEST)
    try:
        await service.change(instance_id, instances.request_purge)
    except REFUSED as error:
        return _page(request, page, *refusal_of(request, FormState(form), error, {}))
    return see_other(request, f"/instances/{instance_id}")


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
    page = await view.detach(instance_id)
    if errors := mistyped(form, page.to_be_typed):
        return _page(request, page, FormState(form, errors), HTTPStatus.BAD_REQUEST)
    try:
        await service.delete(instance_id, Operation.DETACH)
    except REFUSED as error:
        return _page(request, page, *refusal_of(request, FormState(form), error, {}))
    return see_other(request, f"/instances/{instance_id}")


def _page(
    request: Request, page: DeletionPage, form: FormState = EMPTY, status: HTTPStatus = HTTPStatus.OK
) -> Response:
    return render(request, "delete_instances.html", status, page=page, form=form)
