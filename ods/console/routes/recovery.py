"""*Recovery*: where registry and server contradict each other, and what brings them in step."""

from http import HTTPStatus

from fastapi import Request, Response

from api.http.parsing import Form
from ods.console.forms import EMPTY, REFUSED, FormState, refusal_of, shown_form
from ods.console.page import render, see_other
from ods.console.page_route import attend, signed_in_router
from ods.console.session import SessionDep
from ods.console.texts import t
from ods.console.views.recovery import CONFIRM, RecoveryPage, RecoveryViewDep
from ods.registry.storage.errors import InstallationNotConfirmedError

router = signed_in_router(confirms_installation=True)


@router.get("/recovery")
async def show_recovery(request: Request, session: SessionDep, view: RecoveryViewDep) -> Response:
    """The page."""
    form = await shown_form(request, session)
    return _page(request, await view.page(form.values), form)


@router.get("/recovery/again")
async def look_again(request: Request, view: RecoveryViewDep) -> Response:
    """Compare registry and server now. It changes nothing, so every client may."""
    await view.look_again()
    return see_other(request, "/recovery")


@router.post("/recovery")
async def recover(request: Request, session: SessionDep, form: Form, view: RecoveryViewDep) -> Response:
    """Carry the plan out, and show what was done and what is left."""
    try:
        page = await view.recover(form)
    except (*REFUSED, InstallationNotConfirmedError) as error:
        refused, status = refusal_of(request, FormState(form), error, {})
        if isinstance(error, InstallationNotConfirmedError):
            why = str(error) if CONFIRM in form else t("recovery.confirm_first")
            refused = refused.refused({CONFIRM: [why]})
        return _page(request, await view.page(form), refused, status)
    await attend(request, session)  # what needs a person was asked before
    return _page(request, page, EMPTY)


def _page(
    request: Request, page: RecoveryPage, form: FormState, status: HTTPStatus = HTTPStatus.OK
) -> Response:
    return render(request, "recovery.html", status, page=page, form=form)
