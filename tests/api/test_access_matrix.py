"""Who may call which endpoint: each endpoint of the route table, by each kind of client.

The table has an entry for every endpoint. An endpoint without one fails the tests, as does an entry without
an endpoint: who adds an endpoint says here whom it is for.
"""

import asyncio
import base64
import hashlib
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from pydantic import SecretStr
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.security.tokens import FULL_ACCESS, READ_ONLY
from ods.console.csrf import token_of
from ods.console.session_ids import new_id
from ods.embedded.postgres import EmbeddedPostgres
from ods.registry.clients.credentials import BACKUP_DOWNLOAD
from ods.registry.console_sessions import Identity
from ods.settings.settings import DEFAULT_TENANT, AnySettings, Settings
from tests import registries
from tests.api.service import NOBODY, running, tokens
from tests.secret_search import as_secret
from tests.servers import make_settings, make_tenant_settings, session

PASSES, UNAUTHORIZED, FORBIDDEN, SIGN_IN = "passes", "401", "403", "sign in"
"""What a request is answered with. It passes if its endpoint has answered: an unknown id is a pass."""

TOKENS = (
    *("none", "read only", "read only with downloads", "full access", "full access without downloads"),
    *("another tenant's", "expired", "of a disabled client"),
)
SESSIONS = ("none", "read only", "full access", "another tenant's", "ended", "of a disabled client")


def row(*answers: str, of: tuple[str, ...] = TOKENS) -> Mapping[str, str]:
    """What each kind of client is answered with; those that are not named are answered as strangers are."""
    return dict(zip(of, answers, strict=False)) | dict.fromkeys(of[len(answers) :], answers[0])


# fmt: off
KINDS: Mapping[str, Mapping[str, str]] = {
    #                        none          read only     with downl.   full access   without downl.
    "public":            row(PASSES,       PASSES,       PASSES,       PASSES,       PASSES),
    "read":              row(UNAUTHORIZED, PASSES,       PASSES,       PASSES,       PASSES),
    "download":          row(UNAUTHORIZED, FORBIDDEN,    PASSES,       PASSES,       FORBIDDEN),
    "full-access read":  row(UNAUTHORIZED, FORBIDDEN,    FORBIDDEN,    PASSES,       PASSES),
    "change":            row(UNAUTHORIZED, FORBIDDEN,    FORBIDDEN,    PASSES,       PASSES),
    "codec":             row(UNAUTHORIZED, PASSES,       PASSES,       PASSES,       PASSES),
    "codec's preflight": row(FORBIDDEN,    FORBIDDEN,    FORBIDDEN,    FORBIDDEN,    FORBIDDEN),
    #                        none          read only     full access
    "sign-in page":      row(PASSES,       PASSES,       PASSES,       of=SESSIONS),
    "sign-in secret":    row(UNAUTHORIZED, UNAUTHORIZED, UNAUTHORIZED, of=SESSIONS),
    "own session":       row(SIGN_IN,      PASSES,       PASSES,       of=SESSIONS),
    "page":              row(SIGN_IN,      PASSES,       PASSES,       of=SESSIONS),
    "page with a form":  row(SIGN_IN,      FORBIDDEN,    PASSES,       of=SESSIONS),
    "action":            row(SIGN_IN,      FORBIDDEN,    PASSES,       of=SESSIONS),
}
# fmt: on
"""
The codec's preflight is for pages of Temporal's Web UI alone. `sign-in secret`: the secret is in the request
itself, and these requests have none.
"""

ENDPOINTS: Mapping[str, str] = {
    "public": """
        GET /  HEAD /  GET /health  HEAD /health  GET /livez  HEAD /livez  GET /readyz  HEAD /readyz
        GET /openapi.json  HEAD /openapi.json  GET /docs  GET /docs/start.js
        GET /docs/swagger-ui-bundle.js  GET /docs/swagger-ui.css  GET /v2/tenancy
        POST /connect/register  POST /connect/token
    """,
    "read": """
        GET /v2/dbInstances  GET /v2/dbInstances/{instance_id}  GET /v2/dbInstances/{instance_id}/usage
        GET /v2/dbInstances/{instance_id}/backups  GET /v2/odsInstances/manage
        GET /v2/odsInstances/manage/{instance_id}  GET /v2/odsInstances  GET /v2/odsInstances/{instance_id}
        GET /v2/odsInstances/edOrgs  GET /v2/odsInstances/{instance_id}/edOrgs
        GET /v2/odsInstances/{instance_id}/applications  GET /v2/odsInstances/{instance_id}/snapshots
        GET /v2/odsInstanceContexts  GET /v2/odsInstanceContexts/{context_id}
        GET /v2/odsInstanceDerivatives  GET /v2/odsInstanceDerivatives/{derivative_id}
        GET /v2/tenants  GET /v2/tenants/{name}  GET /v2/tenants/{name}/odsInstances/edOrgs
        GET /v2/backups  GET /v2/backups/{backup_id}
        GET /v2/jobs  GET /v2/jobs/{jobId}  GET /v2/drift  GET /v2/spares  GET /v2/templates  GET /v2/trash
        GET /v2/audit  GET /v2/recovery
    """,
    "download": "GET /v2/backups/{backup_id}/dump",
    "full-access read": "GET /v2/dbInstances/{instance_id}/database",
    "change": """
        POST /v2/dbInstances  PUT /v2/dbInstances/{instance_id}  PATCH /v2/dbInstances/{instance_id}
        DELETE /v2/dbInstances/{instance_id}  POST /v2/dbInstances/{instance_id}/undelete
        POST /v2/dbInstances/{instance_id}/reset  POST /v2/dbInstances/{instance_id}/reset/undo
        POST /v2/dbInstances/{instance_id}/retry  POST /v2/dbInstances/{instance_id}/adopt
        POST /v2/dbInstances/{instance_id}/backups  POST /v2/dbInstances/bulk
        POST /v2/dbInstances/bulk/delete  POST /v2/odsInstances/manage
        PUT /v2/odsInstances/manage/{instance_id}  DELETE /v2/odsInstances/manage/{instance_id}
        POST /v2/odsInstances  PUT /v2/odsInstances/{instance_id}  DELETE /v2/odsInstances/{instance_id}
        POST /v2/odsInstanceContexts  PUT /v2/odsInstanceContexts/{context_id}
        DELETE /v2/odsInstanceContexts/{context_id}  POST /v2/odsInstanceDerivatives
        PUT /v2/odsInstanceDerivatives/{derivative_id}  DELETE /v2/odsInstanceDerivatives/{derivative_id}
        POST /v2/odsInstances/edOrgs/refresh  POST /v2/odsInstances/{instance_id}/edOrgs/refresh
        POST /v2/odsInstances/{instance_id}/snapshots
        DELETE /v2/odsInstances/{instance_id}/snapshots/{snapshot_id}
        DELETE /v2/backups/{backup_id}  POST /v2/backups/{backup_id}/verify  POST /v2/jobs/{jobId}/cancel
        POST /v2/jobs/{jobId}/abandon  POST /v2/sweep  POST /v2/spares/refill  DELETE /v2/trash/{instance_id}
        POST /v2/recovery
    """,
    "codec": "POST /codec/decode  POST /codec/encode",
    "codec's preflight": "OPTIONS /codec/decode",
    "sign-in page": """
        GET /console  GET /console/sign-in  GET /console/sign-in/oidc  POST /console/sign-in/oidc
        GET /console/static/{address}
    """,
    "sign-in secret": "POST /console/sign-in  GET /console/sign-in/link",
    "own session": """
        POST /console/sign-out  POST /console/theme  POST /console/sessions/{session_id}/end
    """,
    "page": """
        GET /console/live  GET /console/attention  GET /console/instances  GET /console/instances/rows
        GET /console/instances/{instance_id}  GET /console/instances/{instance_id}/head
        GET /console/instances/{instance_id}/about  GET /console/instances/{instance_id}/contexts
        GET /console/instances/{instance_id}/usage  GET /console/instances/{instance_id}/jobs
        GET /console/instances/{instance_id}/copies  GET /console/instances/{instance_id}/organizations
        GET /console/jobs  GET /console/jobs/rows  GET /console/jobs/{job_id}
        GET /console/jobs/{job_id}/story  GET /console/jobs/{job_id}/work  GET /console/trash
        GET /console/trash/rows  GET /console/backups
        GET /console/backups/rows  GET /console/backups/{backup_id}  GET /console/backups/{backup_id}/facts
        GET /console/templates  GET /console/clients  GET /console/sessions  GET /console/audit
        GET /console/audit.csv
        GET /console/spares  GET /console/spares/rows  GET /console/recovery  GET /console/recovery/again
        GET /console/health  GET /console/health/parts  GET /console/health/doctor  GET /console/{path}
    """,
    "page with a form": """
        GET /console/instances/new  GET /console/instances/delete
        GET /console/instances/{instance_id}/delete  GET /console/instances/{instance_id}/edit
        GET /console/instances/{instance_id}/rename  GET /console/instances/{instance_id}/retry
        GET /console/instances/{instance_id}/reset  GET /console/instances/{instance_id}/undo-reset
        GET /console/instances/{instance_id}/backup  GET /console/instances/{instance_id}/snapshot
        GET /console/instances/{instance_id}/refresh  GET /console/instances/{instance_id}/adopt
        GET /console/instances/{instance_id}/purge  GET /console/instances/{instance_id}/detach
        GET /console/instances/{instance_id}/snapshots/{snapshot_id}/delete
        GET /console/jobs/{job_id}/cancel  GET /console/jobs/{job_id}/abandon
        GET /console/trash/{instance_id}/undelete  GET /console/trash/{instance_id}/purge
        GET /console/backups/{backup_id}/delete  GET /console/backups/{backup_id}/verify
        GET /console/clients/new  GET /console/clients/disable  GET /console/clients/enable
        GET /console/clients/let-download  GET /console/clients/refuse-downloads
        GET /console/clients/rotate
    """,
    "action": """
        POST /console/instances/new  POST /console/instances/new/plan  POST /console/instances/delete
        POST /console/instances/{instance_id}/delete  POST /console/instances/{instance_id}/edit
        POST /console/instances/{instance_id}/rename  POST /console/instances/{instance_id}/retry
        POST /console/instances/{instance_id}/reset  POST /console/instances/{instance_id}/reset/plan
        POST /console/instances/{instance_id}/undo-reset  POST /console/instances/{instance_id}/backup
        POST /console/instances/{instance_id}/snapshot  POST /console/instances/{instance_id}/refresh
        POST /console/instances/{instance_id}/adopt  POST /console/instances/{instance_id}/purge
        POST /console/instances/{instance_id}/detach
        POST /console/instances/{instance_id}/snapshots/{snapshot_id}/delete
        POST /console/jobs/{job_id}/cancel  POST /console/jobs/{job_id}/abandon
        POST /console/trash/{instance_id}/undelete  POST /console/trash/{instance_id}/purge
        POST /console/backups/{backup_id}/delete  POST /console/backups/{backup_id}/verify
        POST /console/clients/new  POST /console/clients/disable  POST /console/clients/enable
        POST /console/clients/let-download  POST /console/clients/refuse-downloads
        POST /console/clients/rotate  POST /console/spares  POST /console/recovery
    """,
}

VALUES = {
    "name": "north",
    "jobId": "CreateInstanceJob-1-1",
    "job_id": "CreateInstanceJob-1-1",
    "backup_id": "00000000-0000-0000-0000-000000000001",
}
"""Of parameters of paths; the others are 1."""
FORMS = {"POST /connect/token": {"grant_type": "client_credentials"}}
"""What is sent to endpoints that would answer an empty form with 401 as well."""
SCOPES = {
    "read only": READ_ONLY,
    "read only with downloads": f"{READ_ONLY} {BACKUP_DOWNLOAD}",
    "full access without downloads": FULL_ACCESS,
}
"""In tokens; those of the others have them all."""
FURTHER_METHODS = ("HEAD", "OPTIONS", "TRACE")
OWN, OTHER = "north", "south"
PAYLOAD_KEY = as_secret(base64.b64encode(bytes([1]) * 32).decode())


def listed(kind: str) -> list[str]:
    """The endpoints of the kind, as "GET /path"."""
    return re.findall(r"[A-Z]+ /\S*", ENDPOINTS[kind])


def endpoints_of(app: FastAPI) -> list[str]:
    return [
        f"{method} {it.path_format}" for it in iter_route_contexts(app.routes) for method in it.methods or ()
    ]


@dataclass(frozen=True)
class Site:
    """The API and its console.

    Attributes:
        app: the application.
        http: a client of it.
        settings: its settings.
        own: the tenant that all requests are for.
    """

    app: FastAPI
    http: httpx.AsyncClient
    settings: AnySettings
    own: str

    async def answer(self, endpoint: str, who: str, *, by_session: bool = False) -> httpx.Response:
        """What `who` is answered with, by its token or by its session of the console."""
        if by_session:
            session_id = await self._session(who)
            headers = {"Cookie": f"ods-console-127-0-0-1={self.own}.{session_id}"} if session_id else {}
            return await self._send(endpoint, headers, {"csrf": token_of(session_id, self.own)})
        return await self.answer_to(endpoint, "" if who == "none" else self._token(who))

    async def answer_to(self, endpoint: str, token: str) -> httpx.Response:
        """What a client with this token is answered with; empty for one that has none."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return await self._send(endpoint, headers, FORMS.get(endpoint, {}))

    async def _send(
        self, endpoint: str, headers: Mapping[str, str], form: Mapping[str, str]
    ) -> httpx.Response:
        method, _, template = endpoint.partition(" ")
        path = re.sub(r"\{(\w+)\}", lambda found: VALUES.get(found[1], "1"), template)
        has_form = method == "POST" and path.startswith(("/console", "/connect"))
        answer = await self.http.request(method, path, headers=headers, data=form if has_form else None)
        self.http.cookies.clear()  # each request is that of another browser
        require_protected(answer)
        return answer

    def _token(self, who: str) -> str:
        tenant = OTHER if who == "another tenant's" else self.own
        issuing = tokens(self.settings, -60 if who == "expired" else 3600, tenant)
        return issuing.issue(_client(who), SCOPES.get(who, f"{FULL_ACCESS} {BACKUP_DOWNLOAD}"))

    async def _session(self, who: str) -> str:
        """The id of a new session of `who`; empty if it has none."""
        if who == "none":
            return ""
        session_id = new_id(self.settings.token_signing_keys)
        services = self.app.state.tenancy.named(OTHER if who == "another tenant's" else self.own)
        digest = hashlib.sha256(session_id.encode()).digest()
        await services.console_sessions.open(digest, Identity(_client(who), None), None)
        if who == "ended":
            await services.console_sessions.end(digest)
        return session_id


def require_protected(answer: httpx.Response) -> None:
    """Whatever is answered, browsers embed nothing of it, guess no type, keep nothing, tell no other site."""
    headers = answer.headers
    policy = set(headers["Content-Security-Policy"].split("; "))
    assert {"default-src 'none'", "base-uri 'none'", "frame-ancestors 'none'"} <= policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] in {"no-referrer", "same-origin"}
    is_kept = answer.url.path.startswith(("/docs/", "/console/static/"))
    is_stream = answer.url.path == "/console/live"  # which has words and numbers alone
    assert headers["Cache-Control"] == "no-store" or is_kept or is_stream
    if answer.content and headers["Content-Type"].startswith(("text/", "image/svg+xml")):
        assert "charset=utf-8" in headers["Content-Type"]


def _client(who: str) -> str:
    return who if who in SCOPES or who == "of a disabled client" else "full access"


CLIENTS = """
INSERT INTO adminapi.applications (clientid, scope, enabled, generation, backupdownload) VALUES
    ('full access', 'full_access', true, NULL, true), ('read only', 'read_only', true, NULL, NULL),
    ('full access without downloads', 'full_access', true, NULL, false),
    ('read only with downloads', 'read_only', true, NULL, true),
    ('of a disabled client', 'full_access', false, NULL, NULL)
"""


def class_of(answer: httpx.Response) -> str:
    """The answer in the words of the matrix."""
    location = answer.headers.get("location")
    if location and urlsplit(location).path == "/console/sign-in" and "set-cookie" not in answer.headers:
        return SIGN_IN
    has_not_passed = answer.status_code in {401, 403, 405, 500}
    return str(answer.status_code) if has_not_passed else PASSES


def _until_answered(app: ASGIApp) -> ASGIApp:
    """The application, for a client that goes away once an answer has begun: streams end then."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        has_begun, has_ended, has_read = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def passed_on(message: Message) -> None:
            await send(message)
            has_begun.set()
            if message["type"] == "http.response.body" and not message.get("more_body"):
                has_ended.set()

        async def body_then_end() -> Message:
            if has_read.is_set():
                await has_begun.wait()
                return {"type": "http.disconnect"}
            message = await receive()
            if not message.get("more_body"):
                has_read.set()
            return message

        await app(scope, body_then_end, passed_on)
        if not has_ended.is_set():
            await send({"type": "http.response.body"})

    return serve


@asynccontextmanager
async def site_of(settings: AnySettings, own: str) -> AsyncIterator[Site]:
    """The API with these settings, asked for one tenant."""
    async with running(settings, NOBODY) as app:
        transport = httpx.ASGITransport(_until_answered(app), raise_app_exceptions=False)
        headers = {"tenant": own}
        async with httpx.AsyncClient(
            transport=transport, base_url="http://127.0.0.1", headers=headers, timeout=60
        ) as http:
            yield Site(app, http, settings, own)


@pytest.fixture(scope="module")
async def tenants(prepared_postgres: EmbeddedPostgres) -> AsyncIterator[dict[str, Settings]]:
    """The settings of two tenants, each with its clients."""
    async with AsyncExitStack() as stack:
        settings = {}
        for name in (OWN, OTHER):
            dsn = await stack.enter_async_context(registries.cloned(prepared_postgres))
            async with session(dsn) as registry:
                await registry.execute(CLIENTS)
            settings[name] = make_settings(prepared_postgres, dsn, rate_limiting=False)
        yield settings


@pytest.fixture(scope="module")
async def site(tenants: dict[str, Settings]) -> AsyncIterator[Site]:
    """The API and the console of the two tenants."""
    async with site_of(make_tenant_settings(tenants), OWN) as site:
        yield site


@pytest.fixture(scope="module")
async def codec_site(tenants: dict[str, Settings]) -> AsyncIterator[Site]:
    """The API of one of them with the codec server, which serves no several tenants."""
    changes = {"codec_server": True, "payload_key": SecretStr(PAYLOAD_KEY)}
    async with site_of(tenants[OWN].model_copy(update=changes), DEFAULT_TENANT) as site:
        yield site


def test_every_endpoint_is_of_one_kind_and_every_entry_is_an_endpoint(site: Site, codec_site: Site) -> None:
    entries = [endpoint for kind in KINDS for endpoint in listed(kind)]
    assert sorted(entries) == sorted({*endpoints_of(site.app), *endpoints_of(codec_site.app)})


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "expired" in KINDS[kind]])
async def test_caller_is_answered_as_the_matrix_says_when_it_has_a_token(
    site: Site, codec_site: Site, kind: str
) -> None:
    asked = codec_site if kind.startswith("codec") else site
    told = {
        endpoint: {who: class_of(await asked.answer(endpoint, who)) for who in TOKENS}
        for endpoint in listed(kind)
    }
    assert _differences(told, kind) == {}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "ended" in KINDS[kind]])
async def test_caller_is_answered_as_the_matrix_says_when_it_has_a_session(site: Site, kind: str) -> None:
    told = {
        endpoint: {who: class_of(await site.answer(endpoint, who, by_session=True)) for who in SESSIONS}
        for endpoint in listed(kind)
    }
    assert _differences(told, kind) == {}


@pytest.mark.parametrize("method", FURTHER_METHODS)
async def test_request_is_refused_when_no_endpoint_has_the_method(site: Site, method: str) -> None:
    endpoints = set(endpoints_of(site.app))
    others = {f"{method} {endpoint.partition(' ')[2]}" for endpoint in endpoints} - endpoints
    told = {
        one: [(await site.answer(one, who)).status_code for who in ("none", "read only", "full access")]
        for one in others
    }
    # Below /v2, the client is judged first; a token that may only read is for GET and HEAD.
    with_token = [401, 405 if method == "HEAD" else 403, 405]
    is_protected = {one: " /v2/" in one and not one.endswith("/tenancy") for one in others}
    assert told == {one: with_token if is_protected[one] else [405] * 3 for one in others}


def _differences(told: Mapping[str, Mapping[str, str]], kind: str) -> dict[str, Mapping[str, str]]:
    """Those of the endpoints that have answered otherwise."""
    return {endpoint: answers for endpoint, answers in told.items() if answers != KINDS[kind]}
