"""*Retry*: the failed job of an instance once more, when the cause is gone."""

from http import HTTPStatus

from fastapi import Request, Response

from api.dependencies import InstanceStoreDep
from api.http.parsing import Form
from api.services.instances import InstanceServiceDep
from ods.console.forms import EMPTY, REFUSED, FormState, not_confirmed, refusal_of
from ods.console.page import render, see_other
from ods.console.page_route import signed_in_router
from ods.console.session import ACTING
from ods.console.views.instance import InstanceHead, InstanceId, InstanceViewDep

router = signed_in_router(manages_instances=True)


@router.get("/instances/{instance_id}/retry", dependencies=[ACTING])
async def show_form(request: Request, instance_id: InstanceId, view: InstanceViewDep) -> Response:
    """The page."""
    return _page(request, await view.head(instance_id))


@router.post("/instances/{instance_id}/retry")
async def retry(  # noqa: PLR0913, PLR0917 - what the framework gives
    request: Request,
    instance_id: InstanceId,
    form: Form,
    view: InstanceViewDep,
    service: InstanceServiceDep,
    instances: InstanceStoreDep,
) -> Response:
    """Request that the job is tried again; if it drops the database, only if the name was typed."""
    head = await view.head(instance_id)
    if head.described.retry_drops_database:
        if "typed_name" not in form:  # the button of a list, which has no field for it
            return see_other(request, f"/instances/{instance_id}/retry")
        if errors := not_confirmed(form, str(head.row.job_number), head.row.name):
            return _page(request, head, FormState(form, errors), HTTPStatus.BAD_REQUEST)
    try:
        await service.change(instance_id, instances.request_retry)
    except REFUSED as error:
        refused, status = refusal_of(request, EMPTY, error, {})
        return _page(request, await view.head(instance_id), refused, status)
    return see_other(request, f"/instances/{instance_id}")


def _page(
    request: Request, head: InstanceHead, form: FormState = EMPTY, status: HTTPStatus = HTTPStatus.OK
) -> Response:
    return render(request, "retry_instance.html", status, head=head, form=form)
