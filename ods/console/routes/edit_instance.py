"""*Change*: protection, description, labels and contexts of an instance."""

from http import HTTPStatus

from fastapi import Request, Response

from api.http.parsing import Form, Properties
from api.services.instances import InstanceServiceDep
from ods.console.forms import REFUSED, FormState, as_shown, is_touched, overtaken, refusal_of, shown_form
from ods.console.page import render, see_other
from ods.console.page_route import signed_in_router
from ods.console.session import ActingDep
from ods.console.views.instance import InstanceHead, InstanceId, InstanceViewDep
from ods.console.views.key_values import contexts_of, labels_of, text_of

router = signed_in_router(manages_instances=True)

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
    there = _there(head)
    return _page(request, head, await shown_form(request, acting, {**there, **as_shown(there)}))


@router.post("/instances/{instance_id}/edit")
async def edit(
    request: Request,
    instance_id: InstanceId,
    form: Form,
    view: InstanceViewDep,
    service: InstanceServiceDep,
) -> Response:
    """Change what the client has changed on the page: others may have changed the rest since."""
    head = await view.head(instance_id)
    there = _there(head)
    changed = [name for name in there if is_touched(form, name)]
    if again := overtaken(form, {name: there[name] for name in changed}):
        return _page(request, head, again, HTTPStatus.CONFLICT)
    try:
        of_form = {
            "protected": form.get("protected") == "true",
            "description": form.get("description", "").strip().replace("\r\n", "\n") or None,
            "labels": labels_of(form.get("labels", ""), head.row.labels or {}),
            "contexts": contexts_of(form.get("contexts", ""), _contexts(head)),
        }
        if changed:
            body = Properties({name: of_form[name] for name in changed})
            await service.change_attributes(instance_id, body)
    except REFUSED as error:
        refused, status = refusal_of(request, FormState(form), error, _FIELDS)
        return _page(request, head, refused, status)
    return see_other(request, f"/instances/{instance_id}")


def _there(head: InstanceHead) -> dict[str, str]:
    """What is there now, by the fields; what the page has shown in each is beside it, in a hidden one."""
    return {
        "protected": "true" if head.row.is_protected else "",
        "description": head.row.description or "",
        "labels": text_of((head.row.labels or {}).items()),
        "contexts": text_of(_contexts(head)),
    }


def _contexts(head: InstanceHead) -> list[tuple[str, str]]:
    return [(one.context_key, one.context_value) for one in head.described.contexts]


def _page(
    request: Request, head: InstanceHead, form: FormState, status: HTTPStatus = HTTPStatus.OK
) -> Response:
    return render(request, "edit_instance.html", status, row=head.row, form=form)
