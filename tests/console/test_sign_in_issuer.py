"""Signing in and out of the console at an issuer, as people do it in a browser."""

from collections.abc import Iterator

import asyncpg
import pytest
from playwright.async_api import Page, expect

from ods.settings.settings import Settings
from tests.api.sign_in_issuer import SignInIssuer
from tests.console.conftest import OpenContext
from tests.console.people import Person
from tests.console.test_everybody import NARROW, require_accessible
from tests.console.test_instances import is_as_wide_as_the_window


@pytest.fixture
def issuer() -> Iterator[SignInIssuer]:
    started = SignInIssuer()
    started.claims["groups"] = ["ods-admins"]
    with started.serving():
        yield started


@pytest.fixture
def settings(settings: Settings, issuer: SignInIssuer) -> Settings:
    return settings.model_copy(update=issuer.settings)


@pytest.fixture
def other_sites(issuer: SignInIssuer) -> tuple[str, ...]:
    return (issuer.url.removesuffix("/realm"),)


async def sign_in(page: Page) -> None:
    await page.get_by_role("button", name="Sign in with localhost").click()
    await page.get_by_role("button", name="Go on as alice").click()


async def test_a_person_signs_in_and_out_at_the_issuer(page: Page, issuer: SignInIssuer) -> None:
    await page.goto("/console/jobs?status=Error")
    await require_accessible(page)
    await sign_in(page)
    await Person(page).sees_heading("Jobs")
    await expect(page.get_by_label("Status")).to_have_value("Error")
    await page.get_by_text("oidc:alice (4f1c)").click()
    await page.get_by_role("button", name="Sign out").click()
    await Person(page).sees_heading("Sign in")
    assert [asked["post_logout_redirect_uri"] for asked in issuer.signed_out] == [page.url]
    await page.goto("/console/jobs")
    await Person(page).sees_heading("Sign in")


async def test_the_page_says_why_when_the_person_may_not_enter(page: Page, issuer: SignInIssuer) -> None:
    issuer.claims["groups"] = ["staff"]
    await page.goto("/console")
    await sign_in(page)
    problem = page.get_by_role("alert")
    await expect(problem).to_contain_text("You are oidc:alice (4f1c), but nothing that your account has")
    await expect(problem).to_be_focused()
    await require_accessible(page)


async def test_nothing_typed_is_lost_when_a_person_signs_in_again_without_scripts(
    open_context: OpenContext, registry: asyncpg.Connection
) -> None:
    page = await (await open_context(java_script_enabled=False)).new_page()
    await page.goto("/console/instances/new")
    await sign_in(page)
    await page.get_by_label("Name", exact=True).fill("Grand Bend 2030")
    await registry.execute("DELETE FROM adminapi.consolesessions")
    await page.get_by_role("button", name="Create", exact=True).click()
    await expect(page.get_by_text("What you have typed is kept")).to_be_visible()
    await sign_in(page)
    await Person(page).sees_heading("New instance")
    await expect(page.get_by_label("Name", exact=True)).to_have_value("Grand Bend 2030")
    await page.get_by_role("button", name="Create", exact=True).click()
    await Person(page).sees_heading("Grand Bend 2030")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing_when_the_console_leads_on_to_the_issuer(
    open_context: OpenContext, issuer: SignInIssuer, scheme: str
) -> None:
    page = await (await open_context(color_scheme=scheme, viewport=NARROW)).new_page()
    await page.goto("/console")
    # An answer without content leaves the browser where it is.
    await page.route(f"{issuer.url}/**", lambda route: route.fulfill(status=204))
    await page.get_by_role("button", name="Sign in with localhost").click()
    await Person(page).sees_heading("Signing in with localhost")
    await require_accessible(page)
    assert await is_as_wide_as_the_window(page)
    await page.unroute_all()
    await page.get_by_role("link", name="Go on to localhost").click()
    await page.get_by_role("button", name="Go on as alice").click()
    await Person(page).sees_heading("Instances")
    await page.route(f"{issuer.url}/**", lambda route: route.fulfill(status=204))
    await page.get_by_text("oidc:alice (4f1c)").click()
    await page.get_by_role("button", name="Sign out").click()
    await Person(page).sees_heading("You are signed out here")
    await require_accessible(page)
