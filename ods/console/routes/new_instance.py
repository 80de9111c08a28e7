"""*New instance*: from a template, as a copy, or from a backup; beside the form, what it would become."""

from http import HTTPStatus
from typing import Annotated

from fastapi import Query, Request, Response

from api.dependencies import SettingsDep
from api.http.audit_context import AuditContextDep
from api.http.parsing import Form
from api.services.instances import CreateRequestReaderDep, InstanceServiceDep
from ods.console.forms import REFUSED, FormState, refusal_of, shown_form
from ods.console.page import render, see_other
from ods.console.page_route import signed_in_router
from ods.console.session import ActingDep
from ods.console.views.new_instance import FIELDS, NewInstanceViewDep
from ods.console.views.origins import DryRun, OriginView, OriginViewDep, chosen_errors, chosen_plan

router = signed_in_router(manages_instances=True)


@router.get("/instances/new")
async def show_form(  # noqa: PLR0913, PLR0917 - its dependencies
    request: Request,
    acting: ActingDep,
    origins: OriginViewDep,
    settings: SettingsDep,
    copy: Annotated[str, Query()] = "",
    backup: Annotated[str, Query()] = "",
) -> Response:
    """The page."""
    values = {
        "origin": "copy" if copy else "backup" if backup else "template",
        "template": next(iter(settings.template_databases)),
        "copy_of": await origins.typed(copy),
        "backup": backup,
        "protected": "true" if settings.protect_new else "",
    }
    return await _page(request, origins, await shown_form(request, acting, values))


@router.post("/instances/new")
async def create(  # noqa: PLR0913, PLR0917 - its dependencies
    request: Request,
    form: Form,
    view: NewInstanceViewDep,
    origins: OriginViewDep,
    reader: CreateRequestReaderDep,
    service: InstanceServiceDep,
    audit: AuditContextDep,
) -> Response:
    """Request the instance, or only show what it would become."""
    if "plan" in form:
        audit.is_dry_run = True
        plan = chosen_plan(await view.plan(form), form)
        return await _page(request, origins, FormState(form), plan=plan)
    try:
        requested = await service.create(await reader.read(await view.request(form)))
    except REFUSED as error:
        refused, status = refusal_of(request, FormState(form), error, FIELDS)
        refused = refused.refused(chosen_errors(refused.errors, form, "backup"))
        return await _page(request, origins, refused, status)
    return see_other(request, f"/instances/{requested.instance.id}")


@router.post("/instances/new/plan")
async def show_plan(
    request: Request, form: Form, view: NewInstanceViewDep, audit: AuditContextDep
) -> Response:
    """What the instance would become, while the user types."""
    audit.is_dry_run = True
    plan = chosen_plan(await view.plan(form), form)
    return render(request, "_partials/plan.html", verb="create", plan=plan)


async def _page(
    request: Request,
    origins: OriginView,
    form: FormState,
    status: HTTPStatus = HTTPStatus.OK,
    plan: DryRun | None = None,
) -> Response:
    choices = await origins.choices()
    return render(request, "new_instance.html", status, form=form, choices=choices, verb="create", plan=plan)
