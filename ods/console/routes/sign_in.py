"""*Sign in*: with the id and the secret of a client; and signing out."""

from http import HTTPStatus
from typing import Annotated

from fastapi import Query, Request, Response

from api.http.addresses import public_url
from api.http.parsing import Form
from api.http.problems import ProblemError
from api.tenant_services import Services
from ods.console.addresses import ROOT
from ods.console.page import render, see_other
from ods.console.page_route import page_router
from ods.console.session import SessionDep, begin_session, end_session, forget_session
from ods.console.sign_in_page import (
    SignInRefusedError,
    admit_attempt,
    admit_form,
    again_form,
    issuer_of,
    kept_of,
    own_page,
    render_refusal,
    render_sign_in,
    why_no_clients,
)
from ods.console.texts import t
from ods.registry.console_sessions import Identity
from ods.settings.settings import AnySettings

router = page_router()


@router.get("/sign-in")
async def show_sign_in(
    request: Request, after: Annotated[str, Query()] = "", again: Annotated[str, Query()] = ""
) -> Response:
    """The page."""
    return render_sign_in(request, after=own_page(after), form=again_form(request) if again else None)


@router.post("/sign-in")
async def sign_in(request: Request, form: Form) -> Response:
    """Sign the client in, and lead it to where it wanted to go."""
    settings: AnySettings = request.app.state.settings
    if (reason := why_no_clients(settings)) is not None:
        raise ProblemError(HTTPStatus.FORBIDDEN, reason)
    try:
        services = admit_form(request, form)
        identity = await _log_in(request, form, services)
    except SignInRefusedError as refused:
        return render_refusal(request, form, refused)
    after = own_page(form.get("after", ""))
    response = see_other(request, after or "/instances")
    await begin_session(response, request, identity, kept_of(form, after, services))
    return response


async def _log_in(request: Request, form: Form, services: Services) -> Identity:
    """The client whose id and secret the form has.

    Raises:
        SignInRefusedError: it has not both, the secret is not the client's, or there were too many attempts.
    """
    client, secret = form.get("client_id", "").strip(), form.get("client_secret", "")
    if errors := _missing(client, secret):
        raise SignInRefusedError(errors)
    await admit_attempt(request, services)
    try:
        credentials = await services.grants.log_in(request, client, secret)
    except ProblemError as limit:
        raise SignInRefusedError.of(limit) from None
    if credentials is None:
        raise SignInRefusedError({"client_secret": [t("sign_in.wrong")]})
    return Identity(client, credentials.standing.generation)


@router.post("/sign-out")
async def sign_out(request: Request, session: SessionDep) -> Response:
    """End the session; a person is led to the issuer, to sign out there as well."""
    await end_session(request, session)
    response = await _after_sign_out(request) if session.is_person else see_other(request, "/sign-in")
    forget_session(response, request)
    return response


async def _after_sign_out(request: Request) -> Response:
    issuer = issuer_of(request)
    if issuer is None:
        return see_other(request, "/sign-in")
    address = await issuer.sign_out_url(public_url(request, f"{ROOT}/sign-in"))
    return render(request, "signed_out.html", issuer=issuer.name, address=address)


def _missing(client: str, secret: str) -> dict[str, list[str]]:
    errors = {}
    if not client:
        errors["client_id"] = [t("sign_in.no_client_id")]
    if not secret.strip():
        errors["client_secret"] = [t("sign_in.no_client_secret")]
    return errors
