"""*Delete*: one instance, or several at once, after a page that says what goes."""

from http import HTTPStatus
from typing import Annotated

from fastapi import Query, Request, Response

from api.http.parsing import Form, whole_number
from api.http.problems import ProblemError
from api.services.bulk import BulkServiceDep
from api.services.instances import InstanceServiceDep
from ods.console.forms import EMPTY, REFUSED, FormState, not_confirmed, refusal_of, shown_form
from ods.console.page import render, see_other
from ods.console.page_route import signed_in_router
from ods.console.session import ActingDep
from ods.console.texts import t
from ods.console.views.delete_instances import DeletionPage, DeletionViewDep, request_of
from ods.console.views.instance import InstanceId

router = signed_in_router(manages_instances=True)

_FIELDS = {"Id": ""}


@router.get("/instances/delete")
async def show_deletion(
    request: Request,
    acting: ActingDep,
    view: DeletionViewDep,
    chosen: Annotated[list[int] | None, Query(alias="id")] = None,
) -> Response:
    """The page for those that were chosen in the list."""
    ids = list(dict.fromkeys(chosen or ()))
    if not ids:
        raise ProblemError(HTTPStatus.BAD_REQUEST, t("delete.none"), detail=t("delete.none_detail"))
    if len(ids) == 1:
        return see_other(request, f"/instances/{ids[0]}/delete")
    return _page(request, await view.page(ids), await shown_form(request, acting))


@router.post("/instances/delete")
async def delete_several(
    request: Request, form: Form, view: DeletionViewDep, bulk: BulkServiceDep
) -> Response:
    """Request that all of them are deleted."""
    numbers = (whole_number(text) for text in form.get("ids", "").split(","))
    ids = list(dict.fromkeys(number for number in numbers if number is not None))
    if not ids:
        return see_other(request, "/instances")
    page = await view.page(ids)
    if errors := not_confirmed(form, page.told, page.to_be_typed):
        return _page(request, page, FormState(form, errors), HTTPStatus.BAD_REQUEST)
    try:
        await bulk.delete(request_of(ids))
    except REFUSED as error:
        refused, status = refusal_of(request, FormState(form), error, _FIELDS)
        return _page(request, page, refused, status)
    return see_other(request, "/instances")


@router.get("/instances/{instance_id}/delete")
async def show_one_deletion(
    request: Request, instance_id: InstanceId, acting: ActingDep, view: DeletionViewDep
) -> Response:
    """The page for one instance."""
    return _page(request, await view.page([instance_id]), await shown_form(request, acting))


@router.post("/instances/{instance_id}/delete")
async def delete_one(
    request: Request,
    instance_id: InstanceId,
    form: Form,
    view: DeletionViewDep,
    service: InstanceServiceDep,
) -> Response:
    """Request that the instance is deleted."""
    page = await view.page([instance_id])
    if errors := not_confirmed(form, page.told, page.to_be_typed):
        return _page(request, page, FormState(form, errors), HTTPStatus.BAD_REQUEST)
    try:
        await service.delete(instance_id)
    except REFUSED as error:
        refused, status = refusal_of(request, FormState(form), error, _FIELDS)
        return _page(request, page, refused, status)
    return see_other(request, f"/instances/{instance_id}")


def _page(
    request: Request, page: DeletionPage, form: FormState = EMPTY, status: HTTPStatus = HTTPStatus.OK
) -> Response:
    return render(request, "delete_instances.html", status, page=page, form=form)
