"""Making the HTML of pages and fragments out of templates, with all that every page has."""

import re
from collections.abc import Mapping
from functools import cache, partial
from http import HTTPStatus
from pathlib import Path

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from api.http.addresses import public_url
from api.middleware.route_table import path_of
from api.middleware.tenancy import tenancy
from ods.console import formats
from ods.console.addresses import ROOT, page_url
from ods.console.menu import MENU
from ods.console.operations import operation_word
from ods.console.session import cookie_name, session_of
from ods.console.static_files import static_files
from ods.console.texts import t

_TEMPLATES = Path(__file__).parent / "templates"
_ID = re.compile(r"[^A-Za-z0-9]+")
THEMES = ("light", "dark")
"""The looks that a user may choose instead of the one that the system has."""


def render(
    request: Request, template: str, status: HTTPStatus = HTTPStatus.OK, **context: object
) -> HTMLResponse:
    """The page, or fragment, that `template` makes of the `context`.

    Args:
        request: the request that is answered.
        template: the template's file below `templates/`.
        status: the status of the answer.
        context: what the template shows, by name.
    """
    session = session_of(request)
    written = _written(
        request,
        template,
        api=partial(public_url, request),
        session=session,
        may_act=session is not None and session.may_act,
        tenant=session.services.tenant.name if session and tenancy(request).multi_tenant else None,
        menu=MENU,
        current=path_of(request.scope).removeprefix(ROOT),
        theme=_theme(request),
        attention=getattr(request.state, "attention", None),
        **context,
    )
    return HTMLResponse(written, status)


def render_shared(
    request: Request, template: str, *, may_act: bool, context: Mapping[str, object]
) -> HTMLResponse:
    """The fragment that `template` makes of the `context`, for all clients that may do the same.

    The template cannot reach the session, nor anything else that only one browser may see.

    Args:
        request: the request that is answered.
        template: the template's file below `templates/`.
        may_act: whether the clients may change something.
        context: what the template shows, by name.
    """
    return HTMLResponse(_written(request, template, may_act=may_act, **context))


def see_other(request: Request, path: str, **query: object) -> RedirectResponse:
    """Lead the browser to a page after a form was carried out."""
    return RedirectResponse(page_url(request, path, **query), HTTPStatus.SEE_OTHER)


def _written(request: Request, template: str, **context: object) -> str:
    return _environment().get_template(template).render(url=partial(page_url, request), **context)


def theme_cookie(request: Request) -> str:
    """The name of the cookie that has the look."""
    return cookie_name(request, "theme")


def _theme(request: Request) -> str | None:
    chosen = request.cookies.get(theme_cookie(request))
    return chosen if chosen in THEMES else None


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(t=t, static=_static_address)
    environment.filters.update(
        size=formats.size,
        duration=formats.duration,
        figures=formats.figures,
        ago=formats.ago,
        iso=formats.iso,
        exact=formats.exact,
        element_id=_element_id,
        operation=operation_word,
    )
    return environment


def _static_address(name: str) -> str:
    return static_files()[name].address


def _element_id(text: object) -> str:
    """The text as a part of the id of an element."""
    return _ID.sub("-", str(text)).strip("-").lower()
