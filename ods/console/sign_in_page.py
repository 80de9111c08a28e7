"""The page for signing in, which must not lose where the user wanted to go, and what was typed there."""

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Self

from fastapi import Request, Response

from api.http.audit_context import audit_context
from api.http.problems import ProblemError
from api.middleware.tenancy import tenancy
from api.tenant_services import Services
from ods.console.addresses import ROOT, own_path
from ods.console.csrf import require_token, token_of
from ods.console.forms import FormState
from ods.console.issuer import SignInIssuer
from ods.console.page import render
from ods.console.session import cookie_name, keeps_cookies, set_cookie, tenant_of_cookie
from ods.console.texts import t
from ods.settings.settings import AnySettings

_SECRET_BYTES = 32
_VISIT_SECONDS = 3600


@dataclass(frozen=True)
class TypedForm:
    """The form that was sent when no client was signed in.

    Attributes:
        tenant: the tenant to whose client it was shown; empty if that is not known.
        fields: what was typed.
    """

    tenant: str
    fields: Mapping[str, str]

    @classmethod
    def read(cls, text: str) -> Self | None:
        """The form that the page for signing in has kept; None if it has kept none."""
        try:
            kept = json.loads(text)
            return cls(str(kept["tenant"]), {str(name): str(it) for name, it in kept["fields"].items()})
        except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
            return None

    @property
    def text(self) -> str:
        """The form, as the page for signing in keeps it."""
        return json.dumps({"tenant": self.tenant, "fields": dict(self.fields)})


class SignInRefusedError(Exception):
    """A client or person that is not signed in; the page says why.

    Args:
        errors: what is wrong with each field of the page; under the empty name, with the whole.
        status: the status of the answer.
        headers: further headers of the answer.
    """

    def __init__(
        self,
        errors: Mapping[str, Sequence[str]],
        status: HTTPStatus = HTTPStatus.UNAUTHORIZED,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        self.errors = errors
        self.status = status
        self.headers = headers

    @classmethod
    def of(cls, problem: ProblemError) -> Self:
        """The same as the problem says."""
        words = [problem.title, str(problem.members.get("detail", ""))]
        return cls({"": words}, problem.status, problem.headers or {})


def render_sign_in(
    request: Request,
    status: HTTPStatus = HTTPStatus.OK,
    *,
    after: str = "",
    typed: TypedForm | None = None,
    form: FormState | None = None,
) -> Response:
    """The page.

    Args:
        request: the request that is answered.
        status: the status of the answer.
        after: the page that follows, its path below the console; empty for the first one.
        typed: the form that was sent there when no client was signed in.
        form: what was typed into the page itself, and what is wrong with it.
    """
    settings: AnySettings = request.app.state.settings
    issuer = issuer_of(request)
    tenants = tenancy(request)
    tenant = typed.tenant if typed else tenant_of_cookie(request)
    visit = visit_of(request) or secrets.token_urlsafe(_SECRET_BYTES)
    response = render(
        request,
        "sign_in.html",
        status,
        csrf_token=token_of(visit),
        after=after,
        typed=typed.text if typed else "",
        typed_in=typed.tenant if typed and tenants.multi_tenant else None,
        form=form or FormState({"tenant": tenant}),
        tenants=[(name, name) for name in tenants.names],
        why_no_clients=why_no_clients(settings),
        issuer=issuer.name if issuer else None,
        needs_tls=not keeps_cookies(request),
    )
    set_cookie(response, request, _visit_cookie(request), visit, _VISIT_SECONDS)
    return response


def again_form(request: Request) -> FormState:
    """The fields of the page for a client that is signed in, but for too long for the page that follows."""
    return FormState({"tenant": tenant_of_cookie(request), "again": "1"})


def render_refusal(request: Request, form: Mapping[str, str], refused: SignInRefusedError) -> Response:
    """The page again, with the fields of its form, but for the secret, and with what was wrong."""
    audit_context(request).title = next(iter(refused.errors.values()))[0]
    response = render_sign_in(
        request,
        refused.status,
        after=own_page(form.get("after", "")),
        typed=TypedForm.read(form.get("typed", "")),
        form=FormState({name: form[name] for name in form if name != "client_secret"}, refused.errors),
    )
    response.headers.update(refused.headers)
    return response


def admit_form(request: Request, form: Mapping[str, str]) -> Services:
    """The services of the tenant that the form of the page names, if this browser was shown the form.

    Raises:
        SignInRefusedError: the browser keeps no cookies, or there is no such tenant.
        ProblemError: 403, the form was shown to another browser.
    """
    visit = visit_of(request)
    if not visit:
        raise SignInRefusedError({"": [t("sign_in.cookies")]})
    require_token(form, visit)
    tenants = tenancy(request)
    services = tenants.named(form.get("tenant", "")) if tenants.multi_tenant else next(iter(tenants))
    if services is None:
        raise SignInRefusedError({"tenant": [t("sign_in.no_tenant")]})
    request.scope["state"]["services"] = services  # of the audit trail
    return services


async def admit_attempt(request: Request, services: Services) -> None:
    """Let an attempt to sign in pass.

    Raises:
        SignInRefusedError: 429, there were too many from the address.
    """
    try:
        await services.grants.admit(request)
    except ProblemError as limit:
        raise SignInRefusedError.of(limit) from None


def issuer_of(request: Request) -> SignInIssuer | None:
    """The issuer with which people sign in; None if none is configured."""
    issuer: SignInIssuer | None = request.app.state.sign_in_issuer
    return issuer


def why_no_clients(settings: AnySettings) -> str | None:
    """Why clients do not sign in with their secrets; None if they do."""
    if settings.clients_sign_in:
        return None
    return t("sign_in.no_clients") if settings.oidc_issuer is None else t("sign_in.issuer")


def own_page(after: str) -> str:
    """The path below the console that the text is; empty if it leads elsewhere."""
    return after if own_path(f"{ROOT}{after}") else ""


def visit_of(request: Request) -> str:
    """The secret of the browser's visit to the page; empty if the browser has none."""
    return request.cookies.get(_visit_cookie(request), "")


def kept_of(form: Mapping[str, str], after: str, services: Services) -> dict[str, Any] | None:
    """The form that the page has kept, as the new session keeps it: its path, and its fields.

    None as well if it was shown to a client of another tenant, which has other instances with these numbers.

    Args:
        form: the fields of the page for signing in.
        after: the page that follows; empty for the first one.
        services: those of the tenant to which the client signs in.
    """
    typed = TypedForm.read(form.get("typed", ""))
    if typed is None or not after or typed.tenant != services.tenant.name:
        return None
    return {"path": after.partition("?")[0], "fields": dict(typed.fields)}


def _visit_cookie(request: Request) -> str:
    return cookie_name(request, "sign-in")
