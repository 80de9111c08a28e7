"""What all endpoints of the console have in common: headers that keep browsers safe, and pages for errors."""

from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.routing import APIRoute

from api.http import problems
from api.http.problems import ProblemError
from api.middleware import shedding
from api.middleware.audit import READING
from api.services.instances import require_instance_management
from ods.console.addresses import ROOT, page_url
from ods.console.attention import attention_of
from ods.console.errors import SignInNeededError
from ods.console.page import render
from ods.console.session import SessionDep, is_stream, require_full_access, require_may_act
from ods.console.sign_in_page import TypedForm, again_form, render_sign_in

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""Nothing is loaded from elsewhere, and no script or style that stands in a page is run."""
_HEADERS = {
    "Content-Security-Policy": POLICY,
    # With `no-referrer`, browsers would not say which site a form comes from.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_SCRIPT_HEADER = "hx-request"
"""htmx sends it with all that it fetches."""


async def _require_permission(request: Request, session: SessionDep) -> None:
    if request.method not in READING:
        await require_may_act(session)


async def _require_full_access(request: Request, session: SessionDep) -> None:
    if request.method not in READING:
        require_full_access(session)


async def _admit(request: Request, _session: SessionDep) -> None:
    await shedding.admit(request)


async def attend(request: Request, session: SessionDep) -> None:
    """Find out what needs a person, for the top of the page; fragments have none."""
    if _SCRIPT_HEADER not in request.headers and not is_stream(request):
        request.state.attention = await attention_of(session.services)


def page_router() -> APIRouter:
    """A router for pages that need no client that is signed in."""
    return APIRouter(prefix=ROOT, route_class=PageRoute)


def signed_in_router(*, manages_instances: bool = False, confirms_installation: bool = False) -> APIRouter:
    """A router for pages of clients that are signed in; what is no reading, of those that may act.

    What these endpoints depend on is that of the tenant which the client has signed in to.

    Args:
        manages_instances: whether they are refused where `ODS_INSTANCE_MANAGEMENT` is off.
        confirms_installation: whether they pass while the installation is not confirmed, as it is here.
    """
    permission = _require_full_access if confirms_installation else _require_permission
    dependencies = [Depends(_admit), Depends(permission), Depends(attend)]
    if manages_instances:
        dependencies.append(Depends(require_instance_management))
    return APIRouter(prefix=ROOT, route_class=PageRoute, dependencies=dependencies)


class PageRoute(APIRoute):
    """An endpoint whose errors are pages."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The endpoint with these headers, and without errors."""
        endpoint = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                response = await endpoint(request)
            except SignInNeededError as error:
                response = _sign_in(request, error)
            except Exception as error:  # noqa: BLE001 - as `problems.install` does for the API
                response = _error_page(request, problems.noted(request, error))
            protect(response)
            return response

        return handle


def protect(response: Response) -> None:
    """Give the response the headers that keep browsers safe, beside those that every answer has."""
    response.headers.update(_HEADERS)


def _sign_in(request: Request, error: SignInNeededError) -> Response:
    """Lead to the page for signing in; what was typed comes along."""
    if _SCRIPT_HEADER in request.headers or is_stream(request):  # the open page says so itself
        return Response(status_code=HTTPStatus.UNAUTHORIZED)
    after = error.path.removeprefix(ROOT)
    if error.typed:
        typed = TypedForm(error.tenant, error.typed)
        form = again_form(request) if error.again else None
        return render_sign_in(request, HTTPStatus.UNAUTHORIZED, after=after, typed=typed, form=form)
    address = page_url(request, "/sign-in", after=after, again=error.again or None)
    return Response(status_code=HTTPStatus.SEE_OTHER, headers={"Location": address})


def _error_page(request: Request, problem: ProblemError) -> Response:
    response = render(
        request,
        "error.html",
        problem.status,
        problem=problem,
        detail=problem.members.get("detail"),
        next_step=problem.members.get("nextStep"),
        errors=problem.members.get("errors") or {},
    )
    response.headers.update(problem.headers or {})
    return response
