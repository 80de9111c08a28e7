"""Signing in to the console at an issuer, which is a real HTTP server here."""

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from html import unescape
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import asyncpg
import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from fastapi import FastAPI
from pydantic import SecretStr

from ods.embedded.polling import wait_until
from ods.settings.settings import AnySettings, Settings
from tests.api.issuer import KEYS, RSA, published, resigned_with_the_public_key, unsigned
from tests.api.service import NOBODY, running
from tests.api.sign_in_issuer import AUTHORIZE, CLIENT_SECRET, END_SESSION, SignInIssuer
from tests.secret_search import as_secret
from tests.servers import make_tenant_settings, session

ADDRESS = "https://ods.example"
NAME = "oidc:alice (4f1c)"
SECRET = as_secret("A-secret-of-32-characters-or-more-1!")
OTHER_KEY = rsa.generate_private_key(65537, 2048)


@pytest.fixture
def issuer(power: ExitStack) -> SignInIssuer:
    started = SignInIssuer()
    started.claims["groups"] = ["staff", "ods-admins"]
    power.enter_context(started.serving())
    return started


@pytest.fixture
def settings(settings: Settings, issuer: SignInIssuer) -> Settings:
    values = {"console_oidc_full_access": "ods-admins, ods owners", "console_oidc_read_only": "ods-readers"}
    return settings.model_copy(update={**issuer.settings, **values})


@pytest.fixture
async def registry(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    async with session(settings.admin_dsn.get_secret_value()) as connection:
        yield connection


class Browser:
    """What a browser does at the console and the issuer."""

    def __init__(self, client: httpx.AsyncClient, issuer: SignInIssuer) -> None:
        self.client = client
        self._issuer = issuer

    async def ask_for_issuer(self, **fields: str) -> httpx.Response:
        """Press the button with the issuer's name."""
        page = await self.client.get("/console/sign-in")
        token = re.search(r'name="csrf" value="([^"]+)"', page.text)
        assert token
        return await self.client.post("/console/sign-in/oidc", data={"csrf": token[1], **fields})

    async def go(self, **fields: str) -> str:
        """Press it; returns the address at the issuer to which the console leads."""
        page = await self.ask_for_issuer(**fields)
        assert page.status_code == 200, page.text
        led = re.search(r'content="0; url=([^"]+)"', page.text)
        assert led
        assert f'<a href="{led[1]}">' in page.text
        return unescape(led[1])

    async def sign_in(self, **fields: str) -> httpx.Response:
        """Go to the issuer, and come back."""
        return await self.come_back(self._issuer.authorize(await self.go(**fields)))

    async def come_back(self, address: str) -> httpx.Response:
        return await self.client.get(address)


@asynccontextmanager
async def visiting(
    app: FastAPI, issuer: SignInIssuer, prefix: str = "", **options: Any
) -> AsyncIterator[Browser]:
    transport = httpx.ASGITransport(app, client=("127.0.0.1", 1), root_path=prefix)
    async with httpx.AsyncClient(transport=transport, base_url=ADDRESS, **options) as client:
        yield Browser(client, issuer)


@pytest.fixture
async def app(settings: Settings) -> AsyncIterator[FastAPI]:
    async with running(settings, NOBODY) as app:
        yield app


@pytest.fixture
async def browser(app: FastAPI, issuer: SignInIssuer) -> AsyncIterator[Browser]:
    async with visiting(app, issuer) as browser:
        yield browser


def query_of(address: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(address).query))


def assert_refused(answer: httpx.Response, status: int, *words: str) -> None:
    """The page for signing in says why, and the browser has no session."""
    assert answer.status_code == status
    assert "__Host-ods-console=" not in str(answer.headers.get_list("set-cookie"))
    text = unescape(answer.text)
    assert all(word in text for word in ("There is a problem", "Sign in with localhost", *words)), text
    assert not re.search(r"Error\b(?!:)|Traceback|eyJ", text)


async def is_signed_in(browser: Browser) -> bool:
    return (await browser.client.get("/console/jobs")).status_code == 200


async def test_a_person_is_signed_in_and_named_in_the_trail_when_the_claim_lets_it_in(
    browser: Browser, registry: asyncpg.Connection
) -> None:
    answer = await browser.sign_in(after="/jobs?status=Error")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/console/jobs?status=Error")
    assert NAME in (await browser.client.get("/console/jobs")).text
    assert (await browser.client.get("/console/instances/new")).status_code == 200

    async def entries() -> list[tuple[str, str, str, int]]:
        rows = await registry.fetch("SELECT client, method, path, status FROM adminapi.audit")
        return [tuple(row) for row in rows]

    async def is_audited() -> bool:
        return bool(await entries())

    await wait_until(is_audited, 10)  # it is written after the answer
    assert await entries() == [(NAME, "GET", "/console/sign-in/oidc", 303)]
    assert not await registry.fetchval("SELECT count(*) FROM adminapi.signinattempts")


async def test_the_issuer_is_asked_for_a_code_with_what_ties_it_to_the_browser(
    browser: Browser, issuer: SignInIssuer, registry: asyncpg.Connection
) -> None:
    first, second = await browser.go(), await browser.go()
    assert urlsplit(first).path == AUTHORIZE
    asked = query_of(first)
    assert asked.items() >= {
        ("response_type", "code"),
        ("client_id", "ods-console"),
        ("redirect_uri", f"{ADDRESS}/console/sign-in/oidc"),
        ("scope", "openid profile"),
        ("code_challenge_method", "S256"),
    }
    for name in ("state", "nonce", "code_challenge"):
        assert len(asked[name]) >= 43
        assert asked[name] != query_of(second)[name]
    kept = str(await registry.fetch("SELECT * FROM adminapi.signinattempts"))
    assert not [value for name, value in asked.items() if name in {"state", "nonce"} and value in kept]


async def test_the_issuer_is_told_to_ask_again_who_a_person_is_when_the_page_needs_that(
    browser: Browser, issuer: SignInIssuer
) -> None:
    assert query_of(await browser.go(again="1"))["prompt"] == "login"
    assert "prompt" not in query_of(await browser.go())


async def test_the_issuer_sends_back_to_the_prefix_when_a_proxy_has_one(
    app: FastAPI, issuer: SignInIssuer
) -> None:
    async with visiting(app, issuer, "/ods") as browser:
        page = await browser.client.get("/ods/console/sign-in")
        assert 'action="/ods/console/sign-in/oidc"' in page.text
        browser.client.base_url = httpx.URL(f"{ADDRESS}/ods/")
        address = await browser.go()
        assert query_of(address)["redirect_uri"] == f"{ADDRESS}/ods/console/sign-in/oidc"
        answer = await browser.come_back(issuer.authorize(address))
    assert answer.headers["Location"] == "/ods/console/instances"


@pytest.mark.parametrize(
    ("claims", "alter"),
    [
        ({"nonce": "another"}, str),
        ({"nonce": None}, str),
        ({"nonce": ["another"]}, str),
        ({"aud": "another"}, str),
        ({"aud": ["ods-console", "another"], "azp": "another"}, str),
        ({"iss": "https://another.example"}, str),
        ({"exp": 1}, str),
        ({"exp": None}, str),
        ({"sub": None}, str),
        ({"key": OTHER_KEY}, str),
        ({"header": {"kid": "another"}}, str),
        ({}, unsigned),
        ({}, resigned_with_the_public_key),
        ({}, lambda _: "nonsense"),
    ],
)
async def test_no_person_is_signed_in_when_the_id_token_proves_nothing(
    browser: Browser,
    issuer: SignInIssuer,
    caplog: pytest.LogCaptureFixture,
    claims: dict[str, Any],
    alter: Callable[[str], str],
) -> None:
    issuer.claims.update(claims)
    issuer.alter = alter
    caplog.set_level(logging.INFO)
    answer = await browser.sign_in()
    assert_refused(answer, 401, "localhost has not told this service who you are", "tell the operator")
    assert not await is_signed_in(browser)
    assert f"{issuer.url} has identified no person" in caplog.text
    assert "eyJ" not in caplog.text


async def test_no_person_is_signed_in_when_the_browser_has_not_begun_it(
    app: FastAPI, browser: Browser, issuer: SignInIssuer
) -> None:
    address = issuer.authorize(await browser.go())
    async with visiting(app, issuer) as other:
        assert_refused(await other.come_back(address), 401, "begun in another browser")
        await other.go()  # it has the cookie of a visit now
        assert_refused(await other.come_back(address), 401, "begun in another browser")
    assert (await browser.come_back(address)).status_code == 303


async def test_no_person_is_signed_in_when_the_answer_of_the_issuer_has_counted(
    app: FastAPI, browser: Browser, issuer: SignInIssuer
) -> None:
    address = issuer.authorize(await browser.go())
    cookies = dict(browser.client.cookies.items())
    assert (await browser.come_back(address)).status_code == 303
    async with visiting(app, issuer, cookies=cookies) as copy:
        assert_refused(await copy.come_back(address), 401, "has been used")


async def test_no_person_is_signed_in_when_the_code_was_used_before(
    browser: Browser, issuer: SignInIssuer
) -> None:
    first, second = issuer.authorize(await browser.go()), issuer.authorize(await browser.go())
    assert (await browser.come_back(first)).status_code == 303
    browser.client.cookies.delete("__Host-ods-console")
    replayed = urlencode({"code": query_of(first)["code"], "state": query_of(second)["state"]})
    answer = await browser.come_back(f"/console/sign-in/oidc?{replayed}")
    assert_refused(answer, 401, "has not told this service who you are")


async def test_no_person_is_signed_in_when_the_code_was_given_to_another_browser(
    app: FastAPI, browser: Browser, issuer: SignInIssuer
) -> None:
    async with visiting(app, issuer) as attacker:
        stolen = query_of(issuer.authorize(await attacker.go()))["code"]
    state = query_of(await browser.go())["state"]
    answer = await browser.come_back(f"/console/sign-in/oidc?{urlencode({'code': stolen, 'state': state})}")
    assert_refused(answer, 401, "has not told this service who you are")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("access_denied", "you have cancelled, or your account may not use this"),
        ("server_error", "has not told this service who you are"),
        ("<script>alert(1)</script>", "has not told this service who you are"),
        ("", "has not told this service who you are"),
    ],
)
async def test_the_page_says_what_to_do_when_the_issuer_sends_no_code(
    browser: Browser, caplog: pytest.LogCaptureFixture, error: str, words: str
) -> None:
    state = query_of(await browser.go())["state"]
    answer = await browser.come_back(f"/console/sign-in/oidc?{urlencode({'error': error, 'state': state})}")
    assert_refused(answer, 401, words)
    assert "alert(1)" not in answer.text + caplog.text
    assert ("it sends no code, but server_error" in caplog.text) == (error == "server_error")


async def test_nothing_typed_is_lost_when_the_person_must_sign_in_again(
    browser: Browser, issuer: SignInIssuer
) -> None:
    typed = {"tenant": "default", "fields": {"name": "Grand Bend 2030"}}
    kept = {"after": "/instances/new", "typed": json.dumps(typed)}
    state = query_of(await browser.go(**kept))["state"]
    refused = await browser.come_back(
        f"/console/sign-in/oidc?{urlencode({'error': 'access_denied', 'state': state})}"
    )
    assert "What you have typed is kept" in refused.text
    again = {name: field_of(refused.text, name) for name in ("after", "typed")}
    answer = await browser.sign_in(**again)
    assert answer.headers["Location"] == "/console/instances/new"
    assert 'value="Grand Bend 2030"' in (await browser.client.get("/console/instances/new")).text


def field_of(page: str, name: str) -> str:
    found = re.search(rf'name="{name}" value="([^"]*)"', page)
    assert found
    return unescape(found[1])


async def test_a_person_only_reads_when_the_claim_says_no_more(
    browser: Browser, issuer: SignInIssuer
) -> None:
    issuer.claims["groups"] = "ods-readers"  # a text, not a list
    assert (await browser.sign_in()).status_code == 303
    page = await browser.client.get("/console/instances")
    assert "read only" in page.text
    refused = await browser.client.get("/console/instances/new")
    assert (refused.status_code, "Your account may only read" in refused.text) == (403, True)
    token = field_of(page.text, "csrf")
    sent = await browser.client.post("/console/instances/new", data={"csrf": token, "name": "Grand Bend"})
    assert (sent.status_code, "Your account may only read" in sent.text) == (403, True)


@pytest.mark.parametrize(
    "groups", [None, [], "ods", ["staff", "ods-adm"], ["ods-admins, ods owners"], [1], {}]
)
async def test_a_person_may_not_enter_when_the_claim_has_no_value_that_lets_it_in(
    browser: Browser, issuer: SignInIssuer, registry: asyncpg.Connection, groups: object
) -> None:
    issuer.claims["groups"] = groups
    assert_refused(await browser.sign_in(), 403, NAME, "groups", "ODS_CONSOLE_OIDC_FULL_ACCESS")
    assert not await is_signed_in(browser)

    async def is_audited() -> bool:
        return bool(await registry.fetchval("SELECT count(*) FROM adminapi.audit WHERE client = $1", NAME))

    await wait_until(is_audited, 10)


async def test_the_page_says_so_when_the_issuer_is_away(
    browser: Browser, power: ExitStack, issuer: SignInIssuer
) -> None:
    address = issuer.authorize(await browser.go())
    power.close()
    answer = await browser.come_back(address)
    assert_refused(answer, 503, "localhost cannot be reached", "Try again in a minute")
    assert int(answer.headers["Retry-After"]) > 0


async def test_the_page_says_so_when_the_keys_of_the_issuer_are_away(
    browser: Browser, issuer: SignInIssuer
) -> None:
    del issuer.documents[KEYS]
    assert_refused(await browser.sign_in(), 503, "localhost cannot be reached")


async def test_the_page_says_so_when_the_issuer_was_never_there(browser: Browser, power: ExitStack) -> None:
    power.close()
    assert_refused(await browser.ask_for_issuer(), 503, "localhost cannot be reached")


@pytest.mark.parametrize(
    "changes",
    [
        {"issuer": "https://another.example"},
        {"authorization_endpoint": None},
        {"authorization_endpoint": "javascript:alert(1)"},
    ],
)
async def test_no_browser_is_led_astray_when_the_issuer_publishes_nonsense(
    browser: Browser, issuer: SignInIssuer, changes: dict[str, Any]
) -> None:
    issuer.discovery.update(changes)
    assert_refused(await browser.ask_for_issuer(), 503, "does not answer as it should")


async def test_the_issuer_is_believed_again_when_it_publishes_what_it_should(
    browser: Browser, issuer: SignInIssuer
) -> None:
    issuer.discovery["issuer"] = "https://another.example"
    assert (await browser.ask_for_issuer()).status_code == 503
    issuer.discovery["issuer"] = issuer.url
    assert (await browser.sign_in()).status_code == 303


async def test_attempts_are_limited_when_there_are_many_from_one_address(
    settings: Settings, issuer: SignInIssuer
) -> None:
    limited = settings.model_copy(update={"rate_limiting": True})
    async with running(limited, NOBODY) as app, visiting(app, issuer) as browser:
        before, refused = await until_limited(lambda: browser.come_back("/console/sign-in/oidc?state=x"))
        assert before >= 60
        assert_refused(refused, 429, "Too many requests from this address")
        assert int(refused.headers["Retry-After"]) > 0
        before, refused = await until_limited(browser.ask_for_issuer)
        assert before < 60
        assert_refused(refused, 429, "Too many requests from this address")


async def until_limited(ask: Callable[[], Awaitable[httpx.Response]]) -> tuple[int, httpx.Response]:
    """How many requests are answered before one is refused, and its answer; each second one is regained."""
    for before in range(200):
        if (answer := await ask()).status_code == 429:
            return before, answer
    raise AssertionError("No request is refused")


@pytest.mark.parametrize(
    ("secret", "methods"),
    [(CLIENT_SECRET, ["client_secret_post"]), (CLIENT_SECRET, ["client_secret_basic"]), (None, ["none"])],
)
async def test_the_console_proves_who_it_is_as_the_issuer_wants_it(
    settings: Settings, issuer: SignInIssuer, secret: str | None, methods: list[str]
) -> None:
    issuer.secret = secret
    issuer.discovery["token_endpoint_auth_methods_supported"] = methods
    known = settings.model_copy(update={"console_oidc_client_secret": SecretStr(secret) if secret else None})
    async with running(known, NOBODY) as app, visiting(app, issuer) as browser:
        assert (await browser.sign_in()).status_code == 303


async def test_no_person_is_signed_in_when_the_secret_of_the_console_is_another(
    browser: Browser, issuer: SignInIssuer, caplog: pytest.LogCaptureFixture
) -> None:
    issuer.secret = "another"
    assert_refused(await browser.sign_in(), 401, "has not told this service who you are")
    assert "it answers 401 to the code" in caplog.text


@pytest.mark.parametrize(
    ("changes", "goes_on"),
    [
        ({}, True),
        ({"console_oidc_full_access": "ods owners"}, False),
        ({"console_oidc_read_only": "ods-admins"}, False),
        ({"console_oidc_issuer": None}, False),
    ],
)
async def test_a_session_ends_when_the_settings_let_other_people_in(
    browser: Browser, settings: Settings, issuer: SignInIssuer, changes: dict[str, Any], *, goes_on: bool
) -> None:
    await browser.sign_in()
    later = settings.model_copy(update=changes)
    async with (
        running(later, NOBODY) as app,
        visiting(app, issuer, cookies=dict(browser.client.cookies.items())) as same,
    ):
        assert await is_signed_in(same) is goes_on


async def test_a_person_signs_out_of_the_issuer_as_well_when_it_says_where(browser: Browser) -> None:
    await browser.sign_in()
    answer = await sign_out(browser)
    led = re.search(r'content="0; url=([^"]+)"', answer.text)
    assert led
    assert urlsplit(led[1]).path == END_SESSION
    assert query_of(unescape(led[1])) == {
        "client_id": "ods-console",
        "post_logout_redirect_uri": f"{ADDRESS}/console/sign-in",
    }
    assert NAME not in answer.text
    assert not await is_signed_in(browser)


async def sign_out(browser: Browser) -> httpx.Response:
    """Sign out; the cookie is kept, to see whether it still counts."""
    page = await browser.client.get("/console/jobs")
    cookies = dict(browser.client.cookies.items())
    answer = await browser.client.post("/console/sign-out", data={"csrf": field_of(page.text, "csrf")})
    assert answer.status_code == 200
    browser.client.cookies.update(cookies)
    return answer


async def test_a_person_is_told_that_the_issuer_may_still_know_it_when_that_says_nowhere_to_sign_out(
    browser: Browser, issuer: SignInIssuer
) -> None:
    del issuer.discovery["end_session_endpoint"]
    await browser.sign_in()
    answer = await sign_out(browser)
    assert "At localhost you may still be signed in" in answer.text
    assert not await is_signed_in(browser)


async def test_a_person_is_signed_out_here_when_the_issuer_is_away(
    settings: Settings, browser: Browser, issuer: SignInIssuer, power: ExitStack
) -> None:
    await browser.sign_in()
    power.close()
    async with (
        running(settings, NOBODY) as app,  # which has not asked the issuer yet
        visiting(app, issuer, cookies=dict(browser.client.cookies.items())) as same,
    ):
        assert "At localhost you may still be signed in" in (await sign_out(same)).text
        assert not await is_signed_in(same)


async def test_people_sign_in_when_the_tokens_of_programs_are_another_issuers(
    settings: Settings, issuer: SignInIssuer
) -> None:
    both = settings.model_copy(update={"oidc_issuer": "https://login.example"})
    async with running(both, NOBODY) as app, visiting(app, issuer) as browser:
        page = await browser.client.get("/console/sign-in")
        assert "Client secret" not in page.text
        assert (await browser.sign_in()).status_code == 303


async def test_there_is_no_such_way_to_sign_in_when_no_issuer_is_configured(
    settings: Settings, issuer: SignInIssuer
) -> None:
    without = settings.model_copy(update={"console_oidc_issuer": None})
    async with running(without, NOBODY) as app, visiting(app, issuer) as browser:
        assert "Sign in with" not in (await browser.client.get("/console/sign-in")).text
        assert (await browser.client.get("/console/sign-in/oidc")).status_code == 404
        assert (await browser.ask_for_issuer()).status_code == 404


async def test_a_form_is_refused_when_another_site_sends_it(browser: Browser, issuer: SignInIssuer) -> None:
    answer = await browser.client.post("/console/sign-in/oidc", data={"after": "/jobs"})
    assert_refused(answer, 401, "Your browser has sent no cookie")
    await browser.client.get("/console/sign-in")
    answer = await browser.client.post("/console/sign-in/oidc", data={"csrf": "0" * 64})
    assert (answer.status_code, "This form was not shown to you" in answer.text) == (403, True)


async def test_each_tenant_lets_its_own_people_in_when_there_are_several(
    settings: Settings, second_registry_dsn: str, issuer: SignInIssuer
) -> None:
    second = settings.model_copy(
        update={"admin_dsn": SecretStr(second_registry_dsn), "console_oidc_full_access": "second-admins"}
    )
    several: AnySettings = make_tenant_settings({"tenant1": settings, "Tenant-2": second})
    async with AsyncExitStack() as stack:
        app = await stack.enter_async_context(running(several, NOBODY))
        browser = await stack.enter_async_context(visiting(app, issuer))
        assert_refused(await browser.sign_in(tenant="Tenant-2"), 403, NAME)
        assert_refused(await browser.ask_for_issuer(tenant="another"), 401, "Choose your tenant")
        issuer.claims["groups"] = ["second-admins"]
        address = issuer.authorize(await browser.go(tenant="Tenant-2"))
        assert_refused(
            await browser.come_back(address.replace("Tenant-2", "tenant1")), 401, "another browser"
        )
        assert (await browser.come_back(address)).status_code == 303
        assert "Tenant Tenant-2" in (await browser.client.get("/console/instances")).text


async def test_keys_may_change_while_people_sign_in(browser: Browser, issuer: SignInIssuer) -> None:
    await browser.sign_in()
    issuer.publish(published(RSA, "RS256"), published(OTHER_KEY, "RS256", "newer"))
    issuer.claims.update(key=OTHER_KEY, header={"kid": "newer"})
    assert (await browser.sign_in()).status_code == 303


async def let_pass(registry: asyncpg.Connection, minutes: int) -> None:
    """Let the issuer have been asked so many minutes ago, and be asked again."""
    await registry.execute(
        "UPDATE adminapi.consolesessions SET checkedat = checkedat - $1 * interval '1 minute',"
        " checkbegunat = checkbegunat - interval '1 minute'",
        minutes,
    )


@pytest.mark.parametrize("headers", [{}, {"Console-Live": "1"}])
async def test_a_person_is_out_when_the_issuer_refuses_the_account(
    browser: Browser, issuer: SignInIssuer, registry: asyncpg.Connection, headers: dict[str, str]
) -> None:
    await browser.sign_in()
    issuer.refuses = True
    await let_pass(registry, 9)
    assert await is_signed_in(browser)
    await let_pass(registry, 2)

    async def is_refused() -> bool:
        fetched = await browser.client.get("/console/attention", headers={"HX-Request": "true", **headers})
        return fetched.status_code == 401

    await wait_until(is_refused, 10)  # open pages are told what was known three seconds ago
    assert not await registry.fetchval("SELECT count(*) FROM adminapi.consolesessions")


async def test_a_person_stays_in_when_the_issuer_is_asked_again_and_again(
    browser: Browser, issuer: SignInIssuer, registry: asyncpg.Connection
) -> None:
    await browser.sign_in()
    for has_id_token in (True, False, True):
        issuer.says_again = {} if has_id_token else None
        await let_pass(registry, 20)
        assert await is_signed_in(browser)
        assert await is_signed_in(browser)
    assert issuer.renewed == 3


async def test_the_issuer_is_asked_once_when_many_pages_are_open(
    browser: Browser, issuer: SignInIssuer, registry: asyncpg.Connection
) -> None:
    await browser.sign_in()
    issuer.delay = 0.5
    await let_pass(registry, 20)
    assert all(await asyncio.gather(*(is_signed_in(browser) for _ in range(5))))
    assert issuer.renewed == 1


async def test_a_person_may_do_what_the_issuer_says_when_it_is_asked_again(
    browser: Browser, issuer: SignInIssuer, registry: asyncpg.Connection
) -> None:
    await browser.sign_in()
    issuer.says_again = {"groups": ["ods-readers"]}
    await let_pass(registry, 11)
    assert (await browser.client.get("/console/instances/new")).status_code == 403
    issuer.says_again = {"groups": ["staff"]}
    await let_pass(registry, 11)
    assert not await is_signed_in(browser)


async def test_a_person_is_out_when_the_issuer_names_another_one(
    browser: Browser, issuer: SignInIssuer, registry: asyncpg.Connection
) -> None:
    await browser.sign_in()
    issuer.says_again = {"sub": "another"}
    await let_pass(registry, 11)
    assert not await is_signed_in(browser)


async def test_a_person_waits_for_the_issuer_when_it_is_away_for_a_quarter_of_an_hour(
    browser: Browser, issuer: SignInIssuer, registry: asyncpg.Connection
) -> None:
    await browser.sign_in()
    keys, issuer.documents[KEYS] = issuer.documents[KEYS], None
    token = issuer.discovery.pop("token_endpoint")
    await let_pass(registry, 11)
    async with AsyncExitStack() as stack:
        changed = stack.enter_context(pytest.MonkeyPatch.context())
        changed.setattr("ods.console.issuer._FRESH_SECONDS", -1)
        assert await is_signed_in(browser)
        await let_pass(registry, 5)
        assert not await is_signed_in(browser)
        issuer.documents[KEYS], issuer.discovery["token_endpoint"] = keys, token
        assert not await is_signed_in(browser)  # it is asked every half a minute
        await let_pass(registry, 1)
        assert await is_signed_in(browser)


async def test_a_session_lasts_a_quarter_of_an_hour_when_the_issuer_gives_no_refresh_token(
    browser: Browser, issuer: SignInIssuer, registry: asyncpg.Connection
) -> None:
    issuer.refreshes = False
    await browser.sign_in()
    await let_pass(registry, 14)
    assert await is_signed_in(browser)
    await let_pass(registry, 2)
    assert not await is_signed_in(browser)


@pytest.mark.parametrize("allowed", [True, None])
async def test_clients_sign_in_beside_people_only_when_that_is_allowed(
    settings: Settings, issuer: SignInIssuer, *, allowed: bool | None
) -> None:
    known = settings.model_copy(update={"console_client_sign_in": allowed, "registration": True})
    form = {"ClientId": "a-person", "ClientSecret": SECRET, "DisplayName": "A client"}
    async with running(known, NOBODY) as app, visiting(app, issuer) as browser:
        assert (await browser.client.post("/connect/register", data=form)).status_code == 200
        page = await browser.client.get("/console/sign-in")
        assert ("Client secret" in page.text) is bool(allowed)
        typed = {"csrf": field_of(page.text, "csrf"), "client_id": "a-person", "client_secret": SECRET}
        answer = await browser.client.post("/console/sign-in", data=typed)
        assert answer.status_code == (303 if allowed else 403)
        assert await is_signed_in(browser) is bool(allowed)
