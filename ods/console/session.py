"""Who is signed in: the cookie, the session in the registry, and what endpoints ask of both.

Endpoints of `ods.console.page_route.signed_in_router` have a session, and the services of its tenant.
Every way to sign in ends in `begin_session`: a client's secret, a link that counts once, an OpenID Connect
issuer.
"""

import ipaddress
import logging
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from sqlalchemy.exc import SQLAlchemyError
from starlette.background import BackgroundTask
from starlette.requests import HTTPConnection

from api.http.addresses import hosts, peer, prefix_of
from api.http.audit_context import audit_context
from api.http.parsing import Form
from api.http.problems import ProblemError
from api.middleware.admission import require_confirmed
from api.middleware.audit import READING
from api.middleware.route_table import path_of
from api.middleware.tenancy import tenancy
from api.security.client_states import FRESH_SECONDS
from api.tenant_services import Services, services_of
from ods.console.csrf import FIELD, require_token, tenant_of, token_of
from ods.console.errors import SignInNeededError
from ods.console.issuer import Renewal, rules_of
from ods.console.person_checks import PersonChecks, encrypted
from ods.console.session_ids import is_own, new_id
from ods.console.texts import t
from ods.observability.logs import fault_name
from ods.registry.clients.credentials import ClientScope
from ods.registry.console_sessions import LONGEST, Identity, OpenSession, digest_of

LIVE_HEADER = "console-live"
"""The page's script sends it when it fetches by itself what has changed: that is no use of the session."""
TENANT_HEADER = "console-tenant"
"""The tenant for which the page was made, as its script sends it with all that it fetches into the page."""

_COOKIE = "ods-console"
_FORWARDING = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "via")
_SECURE_PREFIX = "__Host-"
_NO_NAME = re.compile(r"[^A-Za-z0-9]+")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Session:
    """The session of a request.

    Attributes:
        services: those of the tenant that the client has signed in to.
        client: the id of the client, or the name of the person whom an issuer has identified.
        is_person: whether it is such a person.
        may_act: whether the client may change something.
        id: the session's id, which only the browser has.
        kept: what was typed into a form when the session before had ended, with the form's path; or None.
        is_recent: whether the client or person has signed in within the last 15 minutes.
    """

    services: Services
    client: str
    is_person: bool
    may_act: bool
    id: str
    kept: Mapping[str, Any] | None
    is_recent: bool

    @property
    def csrf_token(self) -> str:
        """The token for the forms of its pages."""
        return token_of(self.id, self.services.tenant.name)

    @property
    def digest(self) -> bytes:
        """By which the registry knows it."""
        return digest_of(self.id)


async def _session(request: Request, form: Form) -> Session:
    """The session of the request, whose tenant is that of the request from here on.

    Raises:
        SignInNeededError: no client is signed in.
        ProblemError: 403, the form was shown to another browser.
    """
    session = await find_session(request)
    if session is None:
        raise _sign_in_needed(request, form)
    request.scope["state"]["services"] = session.services
    request.scope["state"]["console_session"] = session
    audit_context(request).client = session.client
    if request.method not in READING:
        require_token(form, session.id, session.services.tenant.name)
    return session


SessionDep = Annotated[Session, Depends(_session)]
SESSION = Depends(_session)
"""The same, for endpoints that need to know no more of it."""


async def require_may_act(session: Session) -> None:
    """Let a request pass that changes something.

    Raises:
        ProblemError: 403, the client may not; 503, the registry was copied or moved, and is not confirmed.
    """
    require_full_access(session)
    await require_confirmed(session.services)


def require_full_access(session: Session) -> None:
    """Let a request pass that changes something, also while the registry is not confirmed.

    Raises:
        ProblemError: 403, the client may not.
    """
    if not session.may_act:
        if session.is_person:
            title, detail = t("read_only.person.title"), t("read_only.person.detail")
        else:
            title, detail = t("read_only.title"), t("read_only.detail")
        raise ProblemError(HTTPStatus.FORBIDDEN, title, detail=detail)


async def require_may_download(session: Session) -> None:
    """Let a request pass that lets a client download backups, or gives it the secret of one that may.

    Otherwise a client with full access, from which downloads are withheld, could have them all the same.
    People with full access may download.

    Raises:
        ProblemError: 403, the client may not download backups itself.
    """
    if not session.is_person:
        since = time.monotonic() - FRESH_SECONDS
        standing = await session.services.standings.find(session.client, since)
        if standing is None or not standing.backup_download:
            raise ProblemError(
                HTTPStatus.FORBIDDEN, t("clients.no_download.title"), detail=t("clients.no_download.detail")
            )


async def _acting(session: SessionDep) -> Session:
    await require_may_act(session)
    return session


ActingDep = Annotated[Session, Depends(_acting)]
"""The session of a client that may change something: a page with a form is for such clients alone."""
ACTING = Depends(_acting)
"""The same, for endpoints that need to know no more of it."""


async def _signed_in_lately(request: Request, form: Form, session: SessionDep) -> None:
    if not session.is_recent:
        raise _sign_in_needed(request, form, again=True)


SIGNED_IN_LATELY = Depends(_signed_in_lately)
"""What an endpoint depends on that changes who may do what: a cookie that was stolen does not suffice."""


def _sign_in_needed(request: Request, form: Form, *, again: bool = False) -> SignInNeededError:
    typed = {name: form[name] for name in form if name != FIELD}
    return SignInNeededError(_asked(request), typed, tenant_of(form), again=again)


def session_of(connection: HTTPConnection) -> Session | None:
    """The session that the request was found to have; None if no client is signed in."""
    session: Session | None = connection.scope["state"].get("console_session")
    return session


async def find_session(request: HTTPConnection) -> Session | None:
    """The session that the request's cookie names; None if there is none, or it has ended.

    None as well if a page asks that was made for another tenant, to which the browser was signed in before.

    Raises:
        ProblemError: 429, the address has sent cookies of unknown sessions too often.
    """
    return await _find_session(request, is_use=_is_use(request))


async def has_ended(connection: HTTPConnection, session: Session) -> bool:
    """Whether the session of the request has ended since it was found, as far as was known 3 s ago."""
    found = await session.services.session_states.find_again(session.digest)
    if found is not None:
        found = await PersonChecks.of(connection, session.services).checked(session.id, found)
    return found is None or await _may_act(session.services, found) is None


async def signed_in_client(request: HTTPConnection) -> str | None:
    """The client or person that is signed in, by name; None if none is. To ask is no use of the session."""
    session = await _find_session(request, is_use=False)
    return None if session is None else session.client


async def _find_session(request: HTTPConnection, *, is_use: bool) -> Session | None:
    tenant, session_id = _cookie_of(request)
    services = tenancy(request).named(tenant) if session_id else None
    if services is None or request.headers.get(TENANT_HEADER, tenant) != tenant:
        return None
    if not is_own(session_id, services.tenant.settings.token_signing_keys):
        return None
    digest, states = digest_of(session_id), services.session_states
    found = await (states.look_up(request, digest) if is_use else states.find(request, digest))
    if found is not None:
        found = await PersonChecks.of(request, services).checked(session_id, found)
    if found is None or (may_act := await _may_act(services, found)) is None:
        return None
    if not found.use_is_noted and is_use:
        await services.console_sessions.note_use(digest)
    is_person = found.identity.scope is not None
    name = found.identity.name
    return Session(services, name, is_person, may_act, session_id, found.kept, found.is_recent)


def tenant_of_cookie(request: HTTPConnection) -> str:
    """The tenant that the browser was signed in to last, by its cookie; empty if it has none."""
    return _cookie_of(request)[0]


def _cookie_of(request: HTTPConnection) -> tuple[str, str]:
    """The tenant and the id of the session that the request's cookie names; both empty if it has none."""
    tenant, _, session_id = request.cookies.get(cookie_name(request), "").partition(".")
    return tenant, session_id


async def begin_session(
    response: Response,
    request: Request,
    identity: Identity,
    kept: Mapping[str, Any] | None = None,
    renewal: Renewal | None = None,
) -> None:
    """Sign in a client or person that has proven who it is: the response gets the cookie of a new session.

    The session that the browser had before ends.

    Args:
        response: the response.
        request: what it answers; its services are those of the tenant.
        identity: the client or person.
        kept: what was typed into a form before, with the form's path.
        renewal: with what the issuer is asked whether the person may still sign in; None if it cannot be.
    """
    services = services_of(request)
    session_id = new_id(services.tenant.settings.token_signing_keys)
    kept_renewal = encrypted(session_id, renewal) if renewal else None
    await _end_earlier(request)
    await services.console_sessions.open(digest_of(session_id), identity, kept, peer(request), kept_renewal)
    set_cookie(response, request, cookie_name(request), f"{services.tenant.name}.{session_id}")
    if identity.scope is None:
        response.background = BackgroundTask(services.grants.note_use, identity.name)


async def _end_earlier(request: Request) -> None:
    """End the session of the browser, which may be one of another tenant."""
    tenant, session_id = _cookie_of(request)
    services = tenancy(request).named(tenant) if session_id else None
    if services is None:
        return
    services.session_states.forget(digest_of(session_id))
    try:
        await services.console_sessions.end(digest_of(session_id))
    except (OSError, SQLAlchemyError) as error:  # of another tenant, whose registry is away
        _logger.warning("The earlier session of a browser has not been ended: %s", fault_name(error))


async def end_session(request: Request, session: Session) -> None:
    """Sign the client out; what the request is answered with has no session."""
    await session.services.console_sessions.end(session.digest)
    session.services.session_states.forget(session.digest)
    del request.scope["state"]["console_session"]


def forget_session(response: Response, request: Request) -> None:
    """Have the browser forget the cookie of its session."""
    response.delete_cookie(
        cookie_name(request), path=_cookie_path(request), secure=not _is_plain(request), httponly=True
    )


def set_cookie(
    response: Response, request: HTTPConnection, name: str, value: str, seconds: float | None = None
) -> None:
    """Give the browser a cookie that only the console gets, and no script reads.

    Args:
        response: the response.
        request: what it answers.
        name: the cookie's name.
        value: what it says.
        seconds: how long it lasts; as long as a session may, if that is not given.
    """
    response.set_cookie(
        name,
        value,
        max_age=int(seconds or LONGEST.total_seconds()),
        path=_cookie_path(request),
        secure=not _is_plain(request),
        httponly=True,
        samesite="lax",
    )


def cookie_name(request: HTTPConnection, purpose: str = "") -> str:
    """The name of a cookie; services below several paths of a host, or at several ports, have others.

    Browsers take one whose name begins with `__Host-` only from the host itself, and over TLS. Without TLS,
    on loopback, no such name is possible.
    """
    plain = _is_plain(request)
    host = _NO_NAME.sub("-", hosts(request)[-1].rpartition(":")[2]) if plain else ""
    mount = _NO_NAME.sub("-", prefix_of(request.scope)).strip("-")
    parts = [_COOKIE, *(part for part in (purpose, mount, host) if part)]
    return ("" if plain else _SECURE_PREFIX) + "-".join(parts)


def keeps_cookies(request: HTTPConnection) -> bool:
    """Whether the browser will send a cookie back: not if it has come over the network without TLS."""
    return request.url.scheme == "https" or _is_plain(request)


def is_local(request: HTTPConnection) -> bool:
    """Whether the browser is on the machine of the API, and no proxy has passed its request on."""
    passed_on = any(name in request.headers for name in _FORWARDING)
    return not passed_on and _is_plain(request) and _is_loopback(f"[{peer(request)}]")


def _is_plain(request: HTTPConnection) -> bool:
    """Whether the request has come without TLS, to a name of this machine itself."""
    return request.url.scheme == "http" and all(map(_is_loopback, hosts(request)))


def _is_loopback(host: str) -> bool:
    name = re.sub(r":\d*\Z", "", host).strip("[]")
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name.lower() in {"localhost", ""} or name.lower().endswith(".localhost")


def _cookie_path(request: HTTPConnection) -> str:
    """`__Host-` allows no other path than the root; the name keeps services apart."""
    return "/" if not _is_plain(request) else f"{prefix_of(request.scope)}/"


def _is_use(request: HTTPConnection) -> bool:
    """Whether a person has asked for something: not if an open page keeps itself current."""
    is_live = LIVE_HEADER in request.headers or is_stream(request)
    return request.scope["method"] not in READING or not is_live


def is_stream(request: HTTPConnection) -> bool:
    """Whether the request is for the stream of an open page."""
    return "text/event-stream" in request.headers.get("accept", "")


async def _may_act(services: Services, found: OpenSession) -> bool | None:
    """Whether the client or person may change something; None if it may not even be signed in any more."""
    identity = found.identity
    if identity.scope is not None:
        is_current = identity.generation == rules_of(services.tenant.settings)
        return identity.scope.includes(ClientScope.FULL_ACCESS) if is_current else None
    now = time.monotonic()
    for since in (now - FRESH_SECONDS, now):  # what is remembered may be older than the session
        standing = await services.standings.find(identity.name, since)
        if standing is not None and standing.generation == identity.generation:
            return standing.scope.includes(ClientScope.FULL_ACCESS)
    return None


def _asked(request: Request) -> str:
    query = request.url.query
    return f"{path_of(request.scope)}{f'?{query}' if query else ''}"
