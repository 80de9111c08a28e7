"""*Change*: protection, description, labels and contexts of an instance."""

from collections.abc import Mapping
from http import HTTPStatus

from fastapi import Request, Response

from api.http.parsing import Form, Properties
from api.instance_service import InstanceServiceDep
from console.forms import REFUSED, FormState, refusal_of, shown_form
from console.page import render, see_other
from console.page_route import signed_in_router
from console.session import ActingDep
from console.texts import t
from console.views.instance import InstanceHead, InstanceId, InstanceViewDep
from console.views.key_values import contexts_of, labels_of, text_of

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
    return _page(request, head, await shown_form(request, acting, {**there, **_as_shown(there)}))


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
    changed = [name for name in there if not _is_same(form.get(name, ""), form.get(_shown(name), ""))]
    if overtaken := [name for name in changed if _is_overtaken(name, form, there)]:
        errors = {name: [t("edit.overtaken", now=there[name] or t("edit.nothing"))] for name in overtaken}
        state = FormState({**form, **_as_shown(there)}, errors)
        return _page(request, head, state, HTTPStatus.CONFLICT)
    try:
        of_form = {
            "protected": form.get("protected") == "true",
            "description": form.get("description", "").strip() or None,
            "labels": labels_of(form.get("labels", ""), head.row.labels or {}),
            "contexts": contexts_of(form.get("contexts", "")),
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
        "contexts": text_of((one.context_key, one.context_value) for one in head.described.contexts),
    }


def _shown(name: str) -> str:
    return f"shown_{name}"


def _as_shown(there: Mapping[str, str]) -> dict[str, str]:
    return {_shown(name): text for name, text in there.items()}


def _is_overtaken(name: str, form: Mapping[str, str], there: Mapping[str, str]) -> bool:
    """Whether a field that the client has changed says something else by now, which the page did not show."""
    return not any(_is_same(there[name], form.get(field, "")) for field in (_shown(name), name))


def _is_same(one: str, other: str) -> bool:
    """Whether two texts of a field say the same."""
    return _lines(one) == _lines(other)


def _lines(text: str) -> list[str]:
    """The lines of a field, which browsers end otherwise than this page."""
    return [line.strip() for line in text.strip().splitlines()]


def _page(
    request: Request, head: InstanceHead, form: FormState, status: HTTPStatus = HTTPStatus.OK
) -> Response:
    return render(request, "edit_instance.html", status, row=head.row, form=form)
