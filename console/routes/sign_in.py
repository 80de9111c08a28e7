"""*Sign in*: with the id and the secret of a client; and signing out."""

from http import HTTPStatus
from typing import Annotated

from fastapi import Query, Request, Response

from api.http.audit_context import audit_context
from api.http.parsing import Form
from api.http.problems import ProblemError
from api.middleware.tenancy import TenantsDep
from console.addresses import ROOT, own_path
from console.csrf import require_token
from console.forms import FormState
from console.page import see_other
from console.page_route import page_router
from console.session import SessionDep, begin_session, end_session
from console.sign_in_page import read_typed, render_sign_in, visit_of
from console.texts import t
from settings import AnySettings

router = page_router()


@router.get("/sign-in")
async def show_sign_in(request: Request, after: Annotated[str, Query()] = "") -> Response:
    """The page."""
    return render_sign_in(request, after=_own(after))


@router.post("/sign-in")
async def sign_in(request: Request, form: Form, tenants: TenantsDep) -> Response:
    """Sign the client in, and lead it to where it wanted to go."""
    settings: AnySettings = request.app.state.settings
    if settings.oidc_issuer is not None:
        raise ProblemError(HTTPStatus.FORBIDDEN, t("sign_in.issuer"))
    visit, after = visit_of(request), _own(form.get("after", ""))
    if not visit:
        return _refused(request, form, {"": [t("sign_in.cookies")]})
    require_token(form, visit)
    services = tenants.named(form.get("tenant", "")) if tenants.multi_tenant else next(iter(tenants))
    if services is None:
        return _refused(request, form, {"tenant": [t("sign_in.no_tenant")]})
    request.scope["state"]["services"] = services  # of the audit trail
    client, secret = form.get("client_id", "").strip(), form.get("client_secret", "").strip()
    if errors := _missing(client, secret):
        return _refused(request, form, errors)
    try:
        services.grants.admit(request)
        credentials = await services.grants.log_in(request, client, secret)
    except ProblemError as limit:
        return _refused(request, form, {"": [limit.title, str(limit.members.get("detail", ""))]}, limit)
    if credentials is None:
        return _refused(request, form, {"client_secret": [t("sign_in.wrong")]})
    response = see_other(request, after or "/instances")
    kept = read_typed(form.get("typed", ""), after)
    await begin_session(response, request, services, client, credentials.standing.generation, kept)
    return response


@router.post("/sign-out")
async def sign_out(request: Request, session: SessionDep) -> Response:
    """End the session."""
    response = see_other(request, "/sign-in")
    await end_session(response, request, session)
    return response


def _refused(
    request: Request, form: Form, errors: dict[str, list[str]], refusal: ProblemError | None = None
) -> Response:
    """The page again, with what was wrong; with the secret it is not."""
    audit_context(request).title = next(iter(errors.values()))[0]
    response = render_sign_in(
        request,
        refusal.status if refusal else HTTPStatus.UNAUTHORIZED,
        after=_own(form.get("after", "")),
        typed=(read_typed(form.get("typed", ""), "/") or {}).get("fields"),
        form=FormState({name: form[name] for name in form if name != "client_secret"}, errors),
    )
    response.headers.update((refusal.headers if refusal else None) or {})
    return response


def _missing(client: str, secret: str) -> dict[str, list[str]]:
    errors = {}
    if not client:
        errors["client_id"] = [t("sign_in.no_client_id")]
    if not secret:
        errors["client_secret"] = [t("sign_in.no_client_secret")]
    return errors


def _own(after: str) -> str:
    """The path below the console that the text is; empty if it leads elsewhere."""
    return after if own_path(f"{ROOT}{after}") else ""
