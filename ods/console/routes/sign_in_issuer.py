"""Signing in at an OpenID Connect issuer: the browser goes there, and comes back with a code."""

import secrets
from dataclasses import dataclass
from hashlib import sha256
from http import HTTPStatus
from typing import Annotated

from fastapi import Depends, Query, Request, Response

from api.http.addresses import public_url
from api.http.audit_context import audit_context
from api.http.parsing import Form
from api.http.problems import ProblemError
from api.middleware.tenancy import TenantsDep
from api.tenant_services import Services
from ods.console.addresses import ROOT
from ods.console.issuer import (
    Exchange,
    IssuerAwayError,
    NotIdentifiedError,
    Renewal,
    SignInIssuer,
    rules_of,
    scope_of,
)
from ods.console.page import render, see_other
from ods.console.page_route import page_router
from ods.console.session import begin_session
from ods.console.sign_in_page import (
    SignInRefusedError,
    TypedForm,
    admit_attempt,
    admit_form,
    issuer_of,
    kept_of,
    own_page,
    render_refusal,
    visit_of,
)
from ods.console.texts import t
from ods.registry.console_sessions import Identity
from ods.registry.sign_in_attempts import BegunSignIn

router = page_router()

_PATH = "/sign-in/oidc"
_STATE_BYTES = 32
_DENIED = "access_denied"
"""By this word an issuer says that the person, or the issuer itself, has refused (RFC 6749, 4.1.2.1)."""


@dataclass(frozen=True)
class _AuthorizationResponse:
    """What the issuer has put into the address to which it sends the browser back."""

    state: Annotated[str, Query()] = ""
    code: Annotated[str, Query()] = ""
    error: Annotated[str, Query()] = ""


async def _issuer(request: Request) -> SignInIssuer:
    """The issuer.

    Raises:
        ProblemError: 404, none is configured.
    """
    issuer = issuer_of(request)
    if issuer is None:
        raise ProblemError(HTTPStatus.NOT_FOUND, t("unknown.title"), detail=t("unknown.detail"))
    return issuer


_IssuerDep = Annotated[SignInIssuer, Depends(_issuer)]


@router.post(_PATH)
async def go_to_issuer(request: Request, form: Form, issuer: _IssuerDep) -> Response:
    """Lead the browser to the issuer; what was typed into a form before is there when it comes back."""
    try:
        services = admit_form(request, form)
        await admit_attempt(request, services)
        state = f"{services.tenant.name}.{secrets.token_urlsafe(_STATE_BYTES)}"
        address = await issuer.sign_in_url(_exchange(request, state), again=bool(form.get("again")))
    except SignInRefusedError as refused:
        return render_refusal(request, form, refused)
    except IssuerAwayError:
        return render_refusal(request, form, _away(issuer))
    after = own_page(form.get("after", ""))
    begun = BegunSignIn(after, kept_of(form, after, services))
    await services.sign_in_attempts.begin(_digest(request, state), begun)
    audit_context(request).is_dry_run = True  # the trail has an entry when the person comes back
    return render(request, "go_to_issuer.html", issuer=issuer.name, address=address)


@router.get(_PATH)
async def come_back(
    request: Request,
    tenants: TenantsDep,
    issuer: _IssuerDep,
    answer: Annotated[_AuthorizationResponse, Depends()],
) -> Response:
    """Sign in the person whom the issuer has identified, and lead it to where it wanted to go."""
    named = answer.state.partition(".")[0]
    services = tenants.named(named) if tenants.multi_tenant else next(iter(tenants))
    request.scope["state"]["services"] = services  # of the audit trail
    begun = None
    try:
        if services is None:
            raise _refused(t("oidc.void"))
        await admit_attempt(request, services)
        begun = await services.sign_in_attempts.take(_digest(request, answer.state))
        if begun is None:
            raise _refused(t("oidc.void"))
        identity, renewal = await _identify(request, services, issuer, answer)
    except SignInRefusedError as refused:
        return render_refusal(request, _fields(services, begun), refused)
    audit_context(request).is_sign_in = True
    response = see_other(request, begun.after or "/instances")
    await begin_session(response, request, identity, begun.kept, renewal)
    return response


async def _identify(
    request: Request, services: Services, issuer: SignInIssuer, answer: _AuthorizationResponse
) -> tuple[Identity, Renewal | None]:
    """The person whom the issuer has identified, and with what it is asked about it later.

    Raises:
        SignInRefusedError: the issuer is away or identifies no person, or the person may not enter.
    """
    if answer.error == _DENIED:
        raise _refused(t("oidc.denied", issuer=issuer.name))
    try:
        issuer.require_code(answer.code, answer.error)
        person = await issuer.identify(answer.code, _exchange(request, answer.state))
    except IssuerAwayError:
        raise _away(issuer) from None
    except NotIdentifiedError:
        raise _refused(t("oidc.failed", issuer=issuer.name)) from None
    audit_context(request).client = person.name
    settings = services.tenant.settings
    scope = scope_of(settings, person.values)
    if scope is None:
        message = t("oidc.no_value", name=person.name, claim=settings.console_oidc_claim)
        raise _refused(message, HTTPStatus.FORBIDDEN)
    return Identity(person.name, rules_of(settings), scope), person.renewal


def _exchange(request: Request, state: str) -> Exchange:
    return Exchange.of(public_url(request, f"{ROOT}{_PATH}"), state, visit_of(request))


def _digest(request: Request, state: str) -> bytes:
    """By which the registry knows the attempt: only the browser that has begun it can name it."""
    return sha256(f"{visit_of(request)}.{state}".encode(errors="replace")).digest()


def _fields(services: Services | None, begun: BegunSignIn | None) -> dict[str, str]:
    """The fields of the form with which the person has gone to the issuer."""
    tenant = services.tenant.name if services else ""
    kept = begun.kept if begun else None
    return {
        "tenant": tenant,
        "after": begun.after if begun else "",
        "typed": TypedForm(tenant, kept["fields"]).text if kept else "",
    }


def _away(issuer: SignInIssuer) -> SignInRefusedError:
    problem = ProblemError.unavailable(t("oidc.away", issuer=issuer.name), t("oidc.later"))
    return SignInRefusedError.of(problem)


def _refused(message: str, status: HTTPStatus = HTTPStatus.UNAUTHORIZED) -> SignInRefusedError:
    return SignInRefusedError({"": [message]}, status)
