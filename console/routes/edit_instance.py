"""*Change*: protection, description, labels and contexts of an instance."""

from http import HTTPStatus

from fastapi import Request, Response

from api.http.parsing import Form, Properties
from api.instance_service import InstanceServiceDep
from console.forms import REFUSED, FormState, refusal_of, shown_form
from console.page import render, see_other
from console.page_route import signed_in_router
from console.session import ActingDep
from console.views.instance import InstanceHead, InstanceId, InstanceViewDep
from console.views.key_values import contexts_of, labels_of, text_of

router = signed_in_router()

_FIELDS = {
    "Protected": "protected",
    "Description": "description",
    "Labels": "labels",
    "Contexts": "contexts",
    "ContextKey": "contexts",
    "ContextValue": "contexts",
}


@router.get("/instances/{instance_id}/edit")
async def show_form(
    request: Request, instance_id: InstanceId, acting: ActingDep, view: InstanceViewDep
) -> Response:
    """The page."""
    head = await view.head(instance_id)
    contexts = [(one.context_key, one.context_value) for one in head.described.contexts]
    values = {
        "protected": "true" if head.row.is_protected else "",
        "description": head.row.description or "",
        "labels": text_of((head.row.labels or {}).items()),
        "contexts": text_of(contexts),
    }
    return _page(request, head, await shown_form(request, acting, values))


@router.post("/instances/{instance_id}/edit")
async def edit(
    request: Request,
    instance_id: InstanceId,
    form: Form,
    view: InstanceViewDep,
    service: InstanceServiceDep,
) -> Response:
    """Change what the form says."""
    head = await view.head(instance_id)
    contexts = contexts_of(form.get("contexts", ""))
    before = contexts_of(text_of((one.context_key, one.context_value) for one in head.described.contexts))
    body = {
        "protected": form.get("protected") == "true",
        "description": form.get("description", "").strip() or None,
        "labels": labels_of(form.get("labels", ""), head.row.labels or {}),
        # Without an ODS instance there are none to be replaced: what stays is left out.
        **({} if contexts == before else {"contexts": contexts}),
    }
    try:
        await service.change_attributes(instance_id, Properties(body))
    except REFUSED as error:
        refused, status = refusal_of(request, FormState(form), error, _FIELDS)
        return _page(request, head, refused, status)
    return see_other(request, f"/instances/{instance_id}")


def _page(
    request: Request, head: InstanceHead, form: FormState, status: HTTPStatus = HTTPStatus.OK
) -> Response:
    return render(request, "edit_instance.html", status, row=head.row, form=form)
