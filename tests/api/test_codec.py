"""Decrypting payloads for Temporal's Web UI and command line: for whom, from where, and what is refused."""

import base64
import json
import logging
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import httpx
import pytest
from fastapi import FastAPI
from google.protobuf.json_format import MessageToDict
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from temporalio.api.common.v1 import Payload

from api.http.problems import ProblemError
from api.routes.codec import parsed_payloads
from api.security.tokens import FULL_ACCESS, READ_ONLY
from ods.embedded.polling import wait_until
from ods.embedded.ports import free_port
from ods.registry.clients.administration import ClientAdministration
from ods.settings.settings import Settings
from ods.temporal.codec import EncryptionCodec
from ods.tenants.tenant import Tenant
from tests.api.server import spellings
from tests.api.service import NOBODY, bearer, client_of, running, tokens
from tests.secret_search import SEARCH, as_secret
from tests.servers import session

DECODE = "/codec/decode"
UI = "http://127.0.0.1:8233"
CONSOLE = "http://127.0.0.1:8080"
KEY, OLD_KEY, OTHER_KEY = (bytes([number]) * 32 for number in (1, 2, 3))
PLAIN = Payload(metadata={"encoding": b"json/plain"}, data=b'"a readable job"')
ELSEWHERE = [
    *("https://127.0.0.1:8233", "http://127.0.0.1:8234", "http://127.0.0.1", "http://localhost:8233"),
    *("http://127.0.0.1:8233.evil.example", "http://evil.example", "null", "", f"{UI}/", f"{UI}, {UI}"),
    *(CONSOLE, "*"),
]
"""Origins of other pages, those of the same site among them."""
CLIENT, SECRET = "a-person", as_secret("A-secret-of-32-characters-or-more-1!")


def with_codec(settings: Settings, **changes: object) -> Settings:
    key, previous = (SecretStr(as_secret(base64.b64encode(it).decode())) for it in (KEY, OLD_KEY))
    values = {"payload_key": key, "payload_key_previous": previous, "codec_server": True}
    return settings.model_copy(update=values | {"temporal_ui_url": f"{UI}/ui/"} | changes)


@pytest.fixture(scope="session")
def codec_settings(idle_settings: Settings) -> Settings:
    return with_codec(idle_settings)


@pytest.fixture(scope="session")
async def codec_app(codec_settings: Settings) -> AsyncIterator[FastAPI]:
    async with running(codec_settings, NOBODY) as app:
        yield app


@pytest.fixture(scope="session")
async def stranger(codec_app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client without a token; what it is answered is searched for secrets."""

    async def search(answer: httpx.Response) -> None:
        told = await answer.aread()
        SEARCH.search(b"\n".join([told, *(b": ".join(header) for header in answer.headers.raw)]), "codec")

    async with client_of(codec_app) as client:
        client.event_hooks = {"response": [search]}
        yield client


@pytest.fixture(scope="session")
async def reader(codec_app: FastAPI, codec_settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client with a token that may only read."""
    async with client_of(codec_app, headers=token_of(codec_settings)) as client:
        yield client


def token_of(settings: Settings, scope: str = READ_ONLY, lifetime: int = 3600) -> dict[str, str]:
    return {"Authorization": f"Bearer {tokens(settings, lifetime).issue('a-client', scope)}"}


async def encrypted(payload: Payload = PLAIN, key: bytes = KEY) -> Payload:
    (made,) = await EncryptionCodec([key]).encode([payload])
    return made


def body_of(*payloads: Payload) -> dict[str, Any]:
    return {"payloads": [MessageToDict(payload) for payload in payloads]}


def shared_headers(answer: httpx.Response) -> dict[str, str]:
    """What of the answer's headers is about pages of other origins."""
    return {name: value for name, value in answer.headers.items() if name.startswith("access-control-")}


def assert_unauthorized(answer: httpx.Response) -> None:
    assert answer.status_code == 401
    assert answer.content == b""
    assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_payloads_are_readable_when_the_token_may_only_read(reader: httpx.AsyncClient) -> None:
    other = Payload(metadata={"encoding": b"binary/other", "a": b"\xff"}, data=b"\x00\xff")
    sent = [await encrypted(), await encrypted(key=OLD_KEY), PLAIN, other, Payload()]
    answer = await reader.post(DECODE, json=body_of(*sent))

    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.json() == body_of(PLAIN, PLAIN, PLAIN, other, Payload())
    assert shared_headers(answer) == {}


@pytest.mark.parametrize("body", [{}, {"payloads": []}, {"payloads": None}, {"later": 1}])
async def test_nothing_is_answered_when_there_are_no_payloads(
    reader: httpx.AsyncClient, body: dict[str, Any]
) -> None:
    answer = await reader.post(DECODE, json=body)
    assert (answer.status_code, answer.json()) == (200, {"payloads": []})


async def test_payloads_are_readable_when_the_web_ui_asks_as_it_does(
    codec_app: FastAPI, codec_settings: Settings
) -> None:
    headers = {"Origin": UI, "X-Namespace": "default", **token_of(codec_settings, FULL_ACCESS)}
    async with client_of(codec_app, headers=headers) as ui:
        for spelled in spellings(DECODE):
            target = f"{spelled}?preserveStorageRefs=true"
            answer = await ui.post(target, json=body_of(await encrypted()))
            assert answer.json() == body_of(PLAIN)
            assert answer.headers["Vary"] == "Origin"
            assert shared_headers(answer) == {
                "access-control-allow-origin": UI,
                "access-control-allow-credentials": "true",
            }


def bad_tokens(settings: Settings) -> Iterable[dict[str, str]]:
    foreign = settings.model_copy(update={"token_signing_key": SecretStr(base64.b64encode(KEY).decode())})
    yield {}
    yield token_of(settings, lifetime=-10)  # expired
    yield token_of(foreign)
    yield bearer(settings, tenant="another")
    yield {"Authorization": "Bearer nonsense"}
    yield {"Authorization": "Basic YS1jbGllbnQ6eA=="}
    yield {"Cookie": "ods-console-8080=default.nonsense"}


@pytest.mark.parametrize("origin", [None, UI, *ELSEWHERE])
async def test_nothing_is_decrypted_for_a_stranger_wherever_its_page_is(
    stranger: httpx.AsyncClient, codec_settings: Settings, origin: str | None
) -> None:
    for headers in bad_tokens(codec_settings):
        named = headers if origin is None else headers | {"Origin": origin}
        assert_unauthorized(await stranger.post(DECODE, json=body_of(await encrypted()), headers=named))
        assert_unauthorized(await stranger.post(DECODE, content=b"{", headers=named))  # before it is judged


async def test_nothing_is_decrypted_when_the_token_has_another_scope(
    stranger: httpx.AsyncClient, codec_settings: Settings
) -> None:
    headers = token_of(codec_settings, "edfi_admin_api/other")
    answer = await stranger.post(DECODE, json=body_of(await encrypted()), headers=headers)
    assert (answer.status_code, answer.content) == (403, b"")


@pytest.mark.parametrize("origin", ELSEWHERE)
async def test_no_page_of_another_origin_reads_an_answer(reader: httpx.AsyncClient, origin: str) -> None:
    answer = await reader.post(DECODE, json=body_of(PLAIN), headers={"Origin": origin})
    assert shared_headers(answer) == {}
    assert answer.headers["Vary"] == "Origin"


@pytest.mark.parametrize("origin", [None, *ELSEWHERE])
async def test_browsers_send_nothing_for_pages_of_another_origin(
    stranger: httpx.AsyncClient, origin: str | None
) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    named = asked if origin is None else asked | {"Origin": origin}
    answer = await stranger.options(DECODE, headers=named)
    assert (answer.status_code, answer.content, shared_headers(answer)) == (403, b"", {})


async def test_browsers_send_what_the_web_ui_sends_when_they_have_asked(stranger: httpx.AsyncClient) -> None:
    answer = await stranger.options(DECODE, headers={"Origin": UI, "Access-Control-Request-Method": "POST"})
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["Vary"] == "Origin"
    assert shared_headers(answer) == {
        "access-control-allow-origin": UI,
        "access-control-allow-credentials": "true",
        "access-control-allow-methods": "POST",
        "access-control-allow-headers": "Authorization, Authorization-Extras, Content-Type, X-Namespace",
        "access-control-max-age": "600",
    }


async def test_no_page_reads_an_answer_when_the_address_of_the_web_ui_is_not_known(
    idle_settings: Settings,
) -> None:
    settings = with_codec(idle_settings, temporal_ui_url=None)
    async with running(settings, NOBODY) as app, client_of(app, headers=token_of(settings)) as client:
        answer = await client.post(DECODE, json=body_of(await encrypted()), headers={"Origin": UI})
        assert (answer.json(), shared_headers(answer)) == (body_of(PLAIN), {})
        assert (await client.options(DECODE, headers={"Origin": UI})).status_code == 403


def assert_problem(answer: httpx.Response, status: int, title: str) -> None:
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["title"] == title
    assert not re.search(r"Error\b|Traceback|protobuf|Payloads|readable", answer.text)
    assert answer.headers["Access-Control-Allow-Origin"] == UI  # so that the Web UI can tell what is wrong


NO_PAYLOADS = [
    *(1, "x", {"a": 1}, [1], ["x"], [[]], [None], [{"data": 5}], [{"data": "a"}], [{"data": ["x"]}]),
    *([{"metadata": 1}], [{"metadata": {"encoding": 1}}], [{"metadata": {"encoding": "x"}}]),
    *([{"metadata": {"encoding": None}}], [{"metadata": []}], [{"data": True}]),
]


@pytest.mark.parametrize("value", NO_PAYLOADS)
async def test_body_is_refused_when_it_has_no_payloads(reader: httpx.AsyncClient, value: object) -> None:
    answer = await reader.post(DECODE, json={"payloads": value}, headers={"Origin": UI})
    assert_problem(answer, 400, "These are no payloads")


async def test_body_is_refused_when_it_has_too_many_payloads(reader: httpx.AsyncClient) -> None:
    fits = await reader.post(DECODE, json=body_of(*[await encrypted()] * 200))
    assert fits.json() == body_of(*[PLAIN] * 200)
    answer = await reader.post(DECODE, json=body_of(*[PLAIN] * 201), headers={"Origin": UI})
    assert_problem(answer, 400, "There are too many payloads")


@pytest.mark.parametrize(
    ("content", "media_type", "status", "title"),
    [
        (b"{", "application/json", 400, "The body is not well-formed JSON"),
        (b"[]", "application/json", 400, "The body must be a JSON object"),
        (b"[" * 5000, "application/json", 400, "The body is not well-formed JSON"),
        (b'{"payloads": [' + b"0," * 10_000, "application/json", 400, "The body has too many values"),
        (b" " * (1024 * 1024 + 1), "application/json", 413, "The body is too large"),
        # What a page may send without asking first.
        (b'{"payloads": []}', "text/plain", 415, "The content type is not supported"),
        (b'{"payloads": []}', "application/x-www-form-urlencoded", 415, "The content type is not supported"),
    ],
)
async def test_body_is_refused_before_payloads_are_looked_for(
    reader: httpx.AsyncClient, content: bytes, media_type: str, status: int, title: str
) -> None:
    headers = {"Origin": UI, "Content-Type": media_type}
    assert_problem(await reader.post(DECODE, content=content, headers=headers), status, title)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["metadata", "data", "encoding", "externalPayloads", "é"]), inner
            )
        ),
    )
)
def test_value_is_payloads_or_refused_whatever_it_is(value: object) -> None:
    try:
        payloads = parsed_payloads(value)
    except ProblemError:
        return
    assert parsed_payloads([MessageToDict(payload) for payload in payloads.payloads]) == payloads


async def test_nothing_is_told_when_a_payload_was_changed_or_has_another_key(
    reader: httpx.AsyncClient,
) -> None:
    changed = await encrypted()
    changed.data = changed.data[:-1] + bytes([changed.data[-1] ^ 1])
    short = Payload(metadata={"encoding": b"binary/encrypted"}, data=b"x")
    for payload in (changed, short, await encrypted(key=OTHER_KEY)):
        body = body_of(await encrypted(), payload)
        answer = await reader.post(DECODE, json=body, headers={"Origin": UI})
        assert_problem(answer, 400, "A payload cannot be decrypted")
        assert "ODS_PAYLOAD_KEY_PREVIOUS" in answer.json()["detail"]


async def test_there_is_no_such_address_unless_it_is_switched_on(idle_api: httpx.AsyncClient) -> None:
    assert (await idle_api.post(DECODE, json=body_of(PLAIN))).status_code == 404
    assert (await idle_api.options(DECODE, headers={"Origin": UI})).status_code == 404


async def test_nothing_is_encrypted_for_clients(
    reader: httpx.AsyncClient, stranger: httpx.AsyncClient
) -> None:
    bodies: list[dict[str, Any]] = [{}, {"payloads": []}]
    for body in bodies:  # a signal without input
        answer = await reader.post("/codec/encode", json=body)
        assert (answer.status_code, answer.json()) == (200, {"payloads": []})
        assert_unauthorized(await stranger.post("/codec/encode", json=body))
    refused = await reader.post("/codec/encode", json=body_of(PLAIN), headers={"Origin": UI})
    assert_problem(refused, 400, "Nothing is encrypted here")


async def test_port_for_metrics_decrypts_nothing(idle_settings: Settings) -> None:
    settings = with_codec(idle_settings, metrics_port=free_port())
    address = f"http://127.0.0.1:{settings.metrics_port}"
    async with running(settings, NOBODY), httpx.AsyncClient(base_url=address, trust_env=False) as client:
        body = body_of(await encrypted())
        answer = await client.post(DECODE, json=body, headers=token_of(settings))
        assert answer.status_code >= 400
        assert "readable" not in answer.text
        assert (await client.get("/livez")).status_code == 200


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return with_codec(settings)


@pytest.fixture
async def registry(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    async with session(settings.admin_dsn.get_secret_value()) as connection:
        yield connection


@asynccontextmanager
async def browser_of(app: FastAPI, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, client=("127.0.0.1", 1))
    async with httpx.AsyncClient(transport=transport, base_url=CONSOLE, **options) as client:
        yield client


@pytest.fixture
async def browser(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A browser in which a client is signed in to the console."""
    async with browser_of(app) as browser:
        form = {"ClientId": CLIENT, "ClientSecret": SECRET, "DisplayName": CLIENT}
        assert (await browser.post("/connect/register", data=form)).is_success
        token = csrf_of(await browser.get("/console/sign-in"))
        typed = {"csrf": token, "client_id": CLIENT, "client_secret": SECRET}
        assert (await browser.post("/console/sign-in", data=typed)).status_code == 303
        yield browser


def csrf_of(page: httpx.Response) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', page.text)
    assert found
    return found[1]


async def from_ui(browser: httpx.AsyncClient, **headers: str) -> httpx.Response:
    """What the Web UI asks for with the browser's cookies."""
    return await browser.post(DECODE, json=body_of(await encrypted()), headers={"Origin": UI} | headers)


async def test_payloads_are_readable_when_a_client_is_signed_in_to_the_console(
    browser: httpx.AsyncClient,
) -> None:
    answer = await from_ui(browser)
    assert (answer.status_code, answer.json()) == (200, body_of(PLAIN))
    assert answer.headers["Access-Control-Allow-Credentials"] == "true"


@pytest.mark.parametrize("origin", [None, *ELSEWHERE])
async def test_cookie_counts_for_nothing_when_another_page_of_the_site_asks(
    browser: httpx.AsyncClient, origin: str | None
) -> None:
    named = {} if origin is None else {"Origin": origin}
    assert_unauthorized(await browser.post(DECODE, json=body_of(await encrypted()), headers=named))


async def test_cookie_counts_for_nothing_when_it_comes_with_a_bad_token(browser: httpx.AsyncClient) -> None:
    assert_unauthorized(await from_ui(browser, Authorization="Bearer nonsense"))


async def test_cookie_counts_for_nothing_once_the_client_has_signed_out(
    app: FastAPI, browser: httpx.AsyncClient
) -> None:
    assert (await from_ui(browser)).is_success
    cookies = dict(browser.cookies.items())
    token = csrf_of(await browser.get("/console/instances"))
    assert (await browser.post("/console/sign-out", data={"csrf": token})).status_code == 303
    async with browser_of(app, cookies=cookies) as same:
        assert_unauthorized(await from_ui(same))


async def test_cookie_and_token_count_for_nothing_once_the_client_is_disabled(
    app: FastAPI, browser: httpx.AsyncClient, tenant: Tenant
) -> None:
    grant = {"grant_type": "client_credentials", "client_id": CLIENT, "client_secret": SECRET}
    granted = await browser.post("/connect/token", data=grant | {"scope": READ_ONLY})
    headers = {"Authorization": f"Bearer {granted.json()['access_token']}"}
    async with client_of(app, headers=headers) as client:

        async def statuses() -> list[int]:
            answers = [await client.post(DECODE, json=body_of(await encrypted())), await from_ui(browser)]
            return [answer.status_code for answer in answers]

        assert await statuses() == [200, 200]
        await ClientAdministration(tenant.engine, "operator@host", shared=False).disable(CLIENT)

        async def are_refused() -> bool:
            return await statuses() == [401, 401]

        await wait_until(are_refused, 5)


async def test_cookie_counts_for_nothing_when_there_is_no_console(
    settings: Settings, browser: httpx.AsyncClient
) -> None:
    cookies = dict(browser.cookies.items())
    without = settings.model_copy(update={"console": False})
    async with running(without, NOBODY) as app, browser_of(app, cookies=cookies) as same:
        assert_unauthorized(await from_ui(same))


async def test_session_ends_as_always_when_an_open_page_of_the_web_ui_keeps_asking(
    browser: httpx.AsyncClient, registry: asyncpg.Connection
) -> None:
    long_ago = "UPDATE adminapi.consolesessions SET lastusedat = lastusedat - interval '29 minutes'"
    await registry.execute(long_ago)
    before = await registry.fetchval("SELECT lastusedat FROM adminapi.consolesessions")
    assert (await from_ui(browser)).is_success
    assert await registry.fetchval("SELECT lastusedat FROM adminapi.consolesessions") == before


async def test_request_is_in_the_trail_and_payloads_are_nowhere_when_they_were_decrypted(
    browser: httpx.AsyncClient, registry: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        assert (await from_ui(browser)).is_success
        body = body_of(await encrypted(), Payload(metadata={"encoding": b"binary/encrypted"}, data=b"x"))
        assert (await browser.post(DECODE, json=body, headers={"Origin": UI})).status_code == 400

    async def entries() -> list[tuple[Any, ...]]:
        query = "SELECT client, method, path, status FROM adminapi.audit WHERE path = $1 ORDER BY id"
        return [tuple(row) for row in await registry.fetch(query, DECODE)]

    async def are_written() -> bool:
        return len(await entries()) == 2

    await wait_until(are_written, 10)
    assert await entries() == [(CLIENT, "POST", DECODE, 200), (CLIENT, "POST", DECODE, 400)]
    rows = json.dumps(
        [dict(row) for row in await registry.fetch("SELECT * FROM adminapi.audit")], default=str
    )
    for text in (caplog.text, rows):
        assert "readable" not in text
        assert body["payloads"][0]["data"] not in text
