"""*Rename*: another name for an instance, its database and its ODS instance."""

from http import HTTPStatus

from fastapi import Request, Response

from api.http.parsing import Form, Properties
from api.services.instances import InstanceServiceDep
from ods.console.forms import REFUSED, FormState, as_shown, overtaken, refusal_of, shown_form
from ods.console.page import render, see_other
from ods.console.page_route import signed_in_router
from ods.console.session import ActingDep
from ods.console.views.instance import InstanceId, InstanceViewDep
from ods.registry.storage.models import DbInstance

router = signed_in_router(manages_instances=True)

_FIELDS = {"Name": "name"}


@router.get("/instances/{instance_id}/rename")
async def show_form(
    request: Request, instance_id: InstanceId, acting: ActingDep, view: InstanceViewDep
) -> Response:
    """The page."""
    row = await view.row(instance_id)
    there = {"name": row.name}
    return _page(request, row, await shown_form(request, acting, {**there, **as_shown(there)}))


@router.post("/instances/{instance_id}/rename")
async def rename(
    request: Request,
    instance_id: InstanceId,
    form: Form,
    view: InstanceViewDep,
    service: InstanceServiceDep,
) -> Response:
    """Request the name, unless the instance has another one by now than the page has shown."""
    row = await view.row(instance_id)
    if again := overtaken(form, {"name": row.name}):
        return _page(request, row, again, HTTPStatus.CONFLICT)
    try:
        await service.rename(instance_id, Properties({"name": form.get("name", "")}))
    except REFUSED as error:
        refused, status = refusal_of(request, FormState(form), error, _FIELDS)
        return _page(request, row, refused, status)
    return see_other(request, f"/instances/{instance_id}")


def _page(request: Request, row: DbInstance, form: FormState, status: HTTPStatus = HTTPStatus.OK) -> Response:
    return render(request, "rename_instance.html", status, row=row, form=form)
