"""*Reset*: another database takes the place of an instance's; *Undo the reset*: the old one is back."""

from http import HTTPStatus

from fastapi import Request, Response

from api.http.audit_context import AuditContextDep
from api.http.parsing import Form, Properties
from api.services.instances import InstanceServiceDep
from api.services.resets import ResetServiceDep
from ods.console.forms import REFUSED, FormState, not_confirmed, refusal_of, shown_form
from ods.console.page import render, see_other
from ods.console.page_route import signed_in_router
from ods.console.session import ActingDep
from ods.console.views.instance import InstanceId
from ods.console.views.origins import ORIGIN_FIELDS, DryRun, chosen_errors
from ods.console.views.reset_instance import ResetPage, ResetViewDep

router = signed_in_router(manages_instances=True)


@router.get("/instances/{instance_id}/reset")
async def show_reset(
    request: Request, instance_id: InstanceId, acting: ActingDep, view: ResetViewDep
) -> Response:
    """The page before a reset."""
    page = await view.page(instance_id)
    values = {"origin": "template", "template": page.one.row.database_template}
    form = await shown_form(request, acting, values)
    return _page(request, "reset", page, form)


@router.post("/instances/{instance_id}/reset")
async def reset(  # noqa: PLR0913, PLR0917 - its dependencies
    request: Request,
    instance_id: InstanceId,
    form: Form,
    view: ResetViewDep,
    service: ResetServiceDep,
    audit: AuditContextDep,
) -> Response:
    """Request the reset, or only show what it would do."""
    page = await view.page(instance_id)
    if "plan" in form:
        audit.is_dry_run = True
        return _page(request, "reset", page, FormState(form), plan=await view.plan(instance_id, form))
    if errors := not_confirmed(form, page.told, page.one.row.name):
        return _page(request, "reset", page, FormState(form, errors), HTTPStatus.BAD_REQUEST)
    try:
        await service.reset(instance_id, await view.request(form))
    except REFUSED as error:
        refused, status = refusal_of(request, FormState(form), error, ORIGIN_FIELDS)
        refused = refused.refused(chosen_errors(refused.errors, form, "backup"))
        return _page(request, "reset", page, refused, status)
    return see_other(request, f"/instances/{instance_id}")


@router.post("/instances/{instance_id}/reset/plan")
async def show_plan(
    request: Request, instance_id: InstanceId, form: Form, view: ResetViewDep, audit: AuditContextDep
) -> Response:
    """What the reset would do, while the user chooses."""
    audit.is_dry_run = True
    plan = await view.plan(instance_id, form)
    return render(request, "_partials/plan.html", verb="reset", plan=plan)


@router.get("/instances/{instance_id}/undo-reset")
async def show_undo(
    request: Request,
    instance_id: InstanceId,
    acting: ActingDep,
    view: ResetViewDep,
    database: str | None = None,
) -> Response:
    """The page before a database comes back that a reset has replaced, by default the last one."""
    form = await shown_form(request, acting)
    page = await view.page(instance_id, database or form.value("database") or None)
    return _page(request, "undo", page, form)


@router.post("/instances/{instance_id}/undo-reset")
async def undo(
    request: Request, instance_id: InstanceId, form: Form, view: ResetViewDep, service: InstanceServiceDep
) -> Response:
    """Request that the database which the page has shown is the instance's again."""
    body = Properties({"database": form.get("database")})
    page = await view.page(instance_id, form.get("database"))
    if errors := not_confirmed(form, page.told, page.one.row.name):
        return _page(request, "undo", page, FormState(form, errors), HTTPStatus.BAD_REQUEST)
    try:
        await service.undo_reset(instance_id, body)
    except REFUSED as error:
        refused, status = refusal_of(request, FormState(form), error, {})
        return _page(request, "undo", page, refused, status)
    return see_other(request, f"/instances/{instance_id}")


def _page(  # noqa: PLR0913, PLR0917 - what it shows
    request: Request,
    verb: str,
    page: ResetPage,
    form: FormState,
    status: HTTPStatus = HTTPStatus.OK,
    plan: DryRun | None = None,
) -> Response:
    return render(request, "reset_instance.html", status, verb=verb, page=page, form=form, plan=plan)
