"""The page for signing in, which must not lose where the user wanted to go, and what was typed there."""

import json
import secrets
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import Request, Response

from api.middleware.tenancy import tenancy
from console.csrf import token_of
from console.forms import EMPTY, FormState
from console.page import render
from console.session import cookie_name, keeps_cookies, set_cookie
from settings import AnySettings

_SECRET_BYTES = 32
_VISIT_SECONDS = 3600


def render_sign_in(
    request: Request,
    status: HTTPStatus = HTTPStatus.OK,
    *,
    after: str = "",
    typed: Mapping[str, str] | None = None,
    form: FormState = EMPTY,
) -> Response:
    """The page.

    Args:
        request: the request that is answered.
        status: the status of the answer.
        after: the page that follows, its path below the console; empty for the first one.
        typed: the fields of the form that was sent there when no client was signed in.
        form: what was typed into the page itself, and what is wrong with it.
    """
    settings: AnySettings = request.app.state.settings
    visit = visit_of(request) or secrets.token_urlsafe(_SECRET_BYTES)
    response = render(
        request,
        "sign_in.html",
        status,
        csrf_token=token_of(visit),
        after=after,
        typed=json.dumps(dict(typed)) if typed else "",
        form=form,
        tenants=[(name, name) for name in tenancy(request).names],
        by_client=settings.oidc_issuer is None,
        needs_tls=not keeps_cookies(request),
    )
    set_cookie(response, request, _visit_cookie(request), visit, _VISIT_SECONDS)
    return response


def visit_of(request: Request) -> str:
    """The secret of the browser's visit to the page; empty if the browser has none."""
    return request.cookies.get(_visit_cookie(request), "")


def read_typed(text: str, after: str) -> dict[str, Any] | None:
    """The form that the page has kept, as the new session keeps it: its path, and its fields."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict) or not after:
        return None
    return {
        "path": after.partition("?")[0],
        "fields": {str(name): str(value) for name, value in fields.items()},
    }


def _visit_cookie(request: Request) -> str:
    return cookie_name(request, "sign-in")
