"""*New instance*: from a template, as a copy, or from a backup; beside the form, what it would become."""

from http import HTTPStatus
from typing import Annotated

from fastapi import Query, Request, Response

from api.http.audit_context import AuditContextDep
from api.http.parsing import Form
from api.instance_service import CreateRequestReaderDep, InstanceServiceDep
from console.forms import REFUSED, FormState, refusal_of, shown_form
from console.page import render, see_other
from console.page_route import signed_in_router
from console.session import ActingDep
from console.views.new_instance import FIELDS, MODES, NewInstancePlan, NewInstanceViewDep

router = signed_in_router()


@router.get("/instances/new")
async def show_form(
    request: Request,
    acting: ActingDep,
    view: NewInstanceViewDep,
    copy: Annotated[str, Query()] = "",
    backup: Annotated[str, Query()] = "",
) -> Response:
    """The page."""
    choices = await view.choices()
    values = {
        "origin": "copy" if copy else "backup" if backup else "template",
        "template": choices.templates[0],
        "copy_of": copy,
        "backup": backup,
        "protected": "true" if choices.protects else "",
    }
    return await _page(request, view, await shown_form(request, acting, values))


@router.post("/instances/new")
async def create(  # noqa: PLR0913, PLR0917 - its dependencies
    request: Request,
    form: Form,
    view: NewInstanceViewDep,
    reader: CreateRequestReaderDep,
    service: InstanceServiceDep,
    audit: AuditContextDep,
) -> Response:
    """Request the instance, or only show what it would become."""
    if "plan" in form:
        audit.is_dry_run = True
        return await _page(request, view, FormState(form), plan=await view.plan(form))
    try:
        requested = await service.create(await reader.read(await view.request(form)))
    except REFUSED as error:
        refused, status = refusal_of(request, FormState(form), error, FIELDS)
        return await _page(request, view, refused, status)
    return see_other(request, f"/instances/{requested.instance.id}")


@router.post("/instances/new/plan")
async def show_plan(
    request: Request, form: Form, view: NewInstanceViewDep, audit: AuditContextDep
) -> Response:
    """What the instance would become, while the user types."""
    audit.is_dry_run = True
    return render(request, "_partials/plan.html", plan=await view.plan(form))


async def _page(
    request: Request,
    view: NewInstanceViewDep,
    form: FormState,
    status: HTTPStatus = HTTPStatus.OK,
    plan: NewInstancePlan | None = None,
) -> Response:
    choices = await view.choices()
    return render(request, "new_instance.html", status, form=form, choices=choices, modes=MODES, plan=plan)
