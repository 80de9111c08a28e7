"""Several tenants in one browser: what was shown or typed in one is neither shown nor saved in another."""

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from html import unescape

import httpx
import pytest
from pydantic import SecretStr

from ods.model.operations import Template
from ods.settings.settings import Settings
from ods.tenants.tenant import open_tenants
from tests.api.service import NOBODY, running
from tests.secret_search import as_secret
from tests.servers import make_tenant_settings

CLIENT, SECRET = "a-person", as_secret("A-secret-of-32-characters-or-more-1!")


@pytest.fixture
async def browser(settings: Settings, second_registry_dsn: str) -> AsyncIterator[httpx.AsyncClient]:
    """A browser at the console of two tenants, each of which has an instance with the number 1."""
    second = settings.model_copy(update={"admin_dsn": SecretStr(second_registry_dsn)})
    several = make_tenant_settings({"north": settings, "south": second})
    async with AsyncExitStack() as stack:
        for tenant in await stack.enter_async_context(open_tenants(several)):
            await tenant.instances.reserve(f"Grand Bend of {tenant.name}", Template.MINIMAL)
        app = await stack.enter_async_context(running(several, NOBODY))
        transport = httpx.ASGITransport(app, client=("127.0.0.1", 1))
        client = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080")
        browser = await stack.enter_async_context(client)
        form = {"ClientId": CLIENT, "ClientSecret": SECRET, "DisplayName": CLIENT}
        for name in ("north", "south"):
            registered = await browser.post("/connect/register", data=form, headers={"tenant": name})
            assert registered.is_success, registered.text
        yield browser


def field_of(page: httpx.Response, name: str) -> str:
    found = re.search(rf'name="{name}" value="([^"]*)"', page.text)
    assert found, name
    return unescape(found[1])


async def sign_in(
    browser: httpx.AsyncClient, tenant: str, page: httpx.Response | None = None
) -> httpx.Response:
    """Sign in to the tenant, on this page for it."""
    page = page or await browser.get("/console/sign-in")
    carried = {name: field_of(page, name) for name in ("csrf", "after", "typed")}
    form = {**carried, "tenant": tenant, "client_id": CLIENT, "client_secret": SECRET}
    answer = await browser.post("/console/sign-in", data=form)
    assert answer.status_code == 303, answer.text
    return answer


async def number_of_instance(browser: httpx.AsyncClient) -> str:
    found = re.search(r"/console/instances/(\d+)", (await browser.get("/console/instances")).text)
    assert found
    return found[1]


@pytest.mark.parametrize("is_live", [True, False])
async def test_open_page_is_told_nothing_of_another_tenant_when_the_browser_has_signed_in_there(
    browser: httpx.AsyncClient, *, is_live: bool
) -> None:
    await sign_in(browser, "north")
    number = await number_of_instance(browser)
    page = await browser.get("/console/instances")
    assert 'data-tenant="north"' in page.text
    fetch = {"HX-Request": "true", "Console-Tenant": "north", **({"Console-Live": "1"} if is_live else {})}
    paths = ("/instances/rows", f"/instances/{number}/head", "/trash/rows", "/attention")
    for path in paths:
        assert (await browser.get(f"/console{path}", headers=fetch)).status_code == 200
    await sign_in(browser, "south")
    for asked_before in (False, True):
        if asked_before:  # by a page of the other tenant: what was made for that is known
            for path in paths:
                own = await browser.get(f"/console{path}", headers=fetch | {"Console-Tenant": "south"})
                assert "of north" not in own.text
        for path in paths:
            answer = await browser.get(f"/console{path}", headers=fetch)
            assert (answer.status_code, answer.text) == (401, "")


@pytest.mark.parametrize("tenant", ["north", "south"])
async def test_what_was_typed_comes_back_in_its_own_tenant_alone(
    browser: httpx.AsyncClient, tenant: str
) -> None:
    await sign_in(browser, "south")
    address = f"/console/instances/{await number_of_instance(browser)}/edit"
    page = await browser.get(address)
    typed = dict.fromkeys(re.findall(r'name="(shown_\w+)"', page.text), "")
    typed |= {"csrf": field_of(page, "csrf"), "description": "typed for south", "labels": "", "contexts": ""}
    await browser.post("/console/sign-out", data={"csrf": field_of(page, "csrf")})
    asked = await browser.post(address, data=typed)
    assert asked.status_code == 401
    assert "comes back when you sign in to the tenant south" in asked.text
    assert re.search(r'<option value="south" selected', asked.text)
    answer = await sign_in(browser, tenant, asked)
    shown = await browser.get(answer.headers["Location"])
    assert f"Tenant {tenant}" in shown.text
    assert ("typed for south" in shown.text) == (tenant == "south")


async def test_form_of_one_tenant_is_refused_when_the_browser_has_signed_in_to_another(
    browser: httpx.AsyncClient,
) -> None:
    await sign_in(browser, "south")
    token = field_of(await browser.get("/console/instances"), "csrf")
    await sign_in(browser, "north")
    own = field_of(await browser.get("/console/instances"), "csrf")
    for sent in (token, own.replace("north.", "south.")):
        answer = await browser.post("/console/theme", data={"csrf": sent, "theme": "dark", "back": "/jobs"})
        assert answer.status_code == 403
