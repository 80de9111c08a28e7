"""Several tenants: which one a person is in is chosen when signing in, and shown on every page."""

from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Page, expect

from ods.console.menu import MENU
from ods.embedded.postgres import EmbeddedPostgres
from ods.settings.settings import Settings
from tests import registries
from tests.api.server import Server, serving
from tests.console.conftest import OpenContext, add_clients
from tests.console.people import Person
from tests.console.test_answers import SINGLE_TENANT
from tests.console.test_everybody import NARROW, require_accessible
from tests.servers import environment, make_settings, make_tenant_settings, session


@pytest.fixture
async def server(
    settings: Settings, clients: None, postgres: EmbeddedPostgres, secret_hash: str
) -> AsyncIterator[Server]:
    """The API for two tenants."""
    async with registries.cloned(postgres) as other:
        async with session(other) as connection:
            await add_clients(connection, secret_hash)
        tenants = {"north": settings, "south": make_settings(postgres, other)}
        variables = SINGLE_TENANT | environment(make_tenant_settings(tenants))
        async with serving(settings, **variables) as server:
            yield server


async def sign_in(page: Page, tenant: str) -> Person:
    await page.goto("/console")
    await page.get_by_label("Tenant").select_option(tenant)
    await Person(page).fill_in()
    await Person(page).sees_heading("Instances")
    return Person(page)


async def test_a_person_sees_the_own_tenant_alone_when_there_are_several(
    page: Page, open_context: OpenContext
) -> None:
    north = await sign_in(page, "north")
    await north.create("Grand Bend 2030")
    await north.sees_heading("Grand Bend 2030")
    for _, path in MENU:
        await page.goto(f"/console{path}")
        await expect(page.get_by_text("Tenant north")).to_be_visible()
    other = await (await open_context(viewport=NARROW)).new_page()
    await sign_in(other, "south")
    await expect(other.get_by_text("Tenant south")).to_be_visible()
    await expect(other.get_by_text("Here will be your instances")).to_be_visible()
    await require_accessible(other)


async def test_the_choice_of_the_tenant_stays_when_the_secret_is_wrong(page: Page) -> None:
    await page.goto("/console")
    await require_accessible(page)
    await page.get_by_label("Tenant").select_option("south")
    await Person(page).fill_in(secret="wrong")
    await expect(page.get_by_role("alert")).to_contain_text("this is not its secret")
    await expect(page.get_by_label("Tenant")).to_have_value("south")


async def test_open_page_says_so_when_the_browser_has_signed_in_to_another_tenant(
    page: Page, breakage: None
) -> None:
    north = await sign_in(page, "north")
    await north.create("Grand Bend 2030")
    await page.goto("/console/instances")
    other = await page.context.new_page()
    await other.goto("/console/sign-in")
    await other.get_by_label("Tenant").select_option("south")
    await Person(other).fill_in()
    south = Person(other)
    await south.create("Ridge 2030")
    await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")  # as when it is seen again
    await expect(page.get_by_text("You are signed out of the tenant north")).to_be_visible()
    for name in ("Grand Bend 2030", "Ridge 2030"):  # nothing is shown on, as of a session that has ended
        await expect(page.get_by_text(name)).to_have_count(0)
    await page.get_by_label("Name").first.fill("Ridge")
    await expect(page.get_by_text("Ridge 2030")).to_have_count(0)
