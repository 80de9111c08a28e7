"""For every person: screen readers, keyboards, narrow and dark pages, browsers without scripts."""

import asyncpg
import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page, expect

from registry.instances.job_store import JobStore
from registry.instances.store import InstanceStore
from tests.console.conftest import OpenContext
from tests.console.people import READER, Person
from tests.postgres.instance_states import STATES, bring_to

PAGES = (
    *(
        "/instances",
        "/instances?status=Error&name=x",
        "/instances/new",
        "/jobs",
        "/jobs?status=Error",
        "/trash",
        "/clients",
        "/clients/new",
        "/audit",
        "/audit?client=unknown",
        "/backups",
        "/templates",
        "/backups?kind=final&status=Error",
        "/spares",
        "/drift",
        "/health",
        "/health/doctor",
    ),
    "/no-such-page",
)
AXE = {
    "runOnly": {
        "type": "tag",
        "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    }
}


async def require_accessible(page: Page) -> None:
    """Fail with what axe finds on the page."""
    found = await Axe().run(page, options=AXE)
    assert not found.violations_count, f"{page.url}\n{found.generate_report()}"


@pytest.fixture
async def addresses(instances: InstanceStore, job_store: JobStore, registry: asyncpg.Connection) -> list[str]:
    """Every page, with instances in every state."""
    jobs = {state: await bring_to(instances, job_store, state, f"In {state}") for state in STATES}
    shown = [f"/instances/{job.instance_id}" for job in jobs.values()]
    completed, failed = jobs["Completed"], jobs["Error"]
    return [
        *PAGES,
        *shown,
        f"/instances/{completed.instance_id}/edit",
        f"/instances/{completed.instance_id}/rename",
        f"/instances/{completed.instance_id}/delete",
        f"/instances/delete?id={completed.instance_id}&id={failed.instance_id}",
        f"/instances/{failed.instance_id}/retry",
        f"/trash/{jobs['Deleted'].instance_id}/undelete",
        f"/jobs/{failed.job_id}",
        f"/jobs/{failed.job_id}/abandon",
        f"/jobs/{jobs['InProgress'].job_id}/cancel",
        *(f"/clients/{verb}?client={READER}" for verb in ("disable", "enable", "rotate")),
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing_when_pages_are_full(
    open_context: OpenContext, scheme: str, addresses: list[str]
) -> None:
    page = await (await open_context(color_scheme=scheme)).new_page()
    await page.goto("/console")
    await require_accessible(page)
    await Person(page).fill_in(secret="wrong")
    await require_accessible(page)
    await Person(page).sign_in()
    for address in addresses:
        await page.goto(f"/console{address}")
        await require_accessible(page)
    await Person(page).create("")
    await require_accessible(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing_when_there_is_nothing_yet(open_context: OpenContext, scheme: str) -> None:
    page = await (await open_context(color_scheme=scheme)).new_page()
    await Person(page).sign_in()
    for address in PAGES:
        await page.goto(f"/console{address}")
        await require_accessible(page)


async def test_nothing_is_cut_off_when_the_page_is_narrow(
    open_context: OpenContext, addresses: list[str]
) -> None:
    context = await open_context(viewport={"width": 400, "height": 800})
    page = await context.new_page()
    await Person(page).sign_in()
    for address in addresses:
        await page.goto(f"/console{address}")
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), address
    await require_accessible(page)
    await page.goto("/console/instances")
    await expect(page.get_by_role("link", name="Jobs")).to_be_hidden()
    await page.get_by_text("Menu").click()
    await page.get_by_role("link", name="Jobs").click()
    await Person(page).sees_heading("Jobs")


async def test_the_look_stays_when_a_person_has_chosen_it(person: Person) -> None:
    page = person.page
    await page.get_by_text("a-person").click()
    await page.get_by_role("button", name="Dark").click()
    await expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    await page.goto("/console/jobs")
    assert await page.evaluate("getComputedStyle(document.body).colorScheme") == "dark"


async def test_everything_works_when_the_browser_runs_no_script(
    open_context: OpenContext,
    instances: InstanceStore,
    job_store: JobStore,
) -> None:
    page = await (await open_context(java_script_enabled=False)).new_page()
    person = Person(page)
    await person.sign_in()
    await person.create("Grand/Bend")
    await expect(page.get_by_role("alert")).to_contain_text("must contain only letters")
    await page.get_by_label("Name", exact=True).fill("Grand Bend 2030")
    await page.get_by_role("button", name="Check without creating").click()
    await expect(page.get_by_text("EdFi_Ods_Grand_Bend_2030_Minimal")).to_be_visible()
    await page.get_by_role("button", name="Create", exact=True).click()
    await person.sees_heading("Grand Bend 2030")
    job = await bring_to(instances, job_store, "Completed", "Northridge")
    await page.goto("/console/instances")
    await page.get_by_role("searchbox", name="Name").fill("north")
    await page.get_by_role("button", name="Filter").click()
    await expect(page.get_by_text("1 instance", exact=True)).to_be_visible()
    await page.get_by_label("Choose Northridge").check()
    await page.get_by_role("button", name="Delete the chosen instances").click()
    await page.get_by_label("Type Northridge").fill("Northridge")
    await page.get_by_role("button", name="Delete Northridge").click()
    await expect(page.get_by_role("status").filter(has_text="Pending_Delete")).to_be_visible()
    assert f"/instances/{job.instance_id}" in page.url


async def test_the_content_comes_first_when_a_person_skips_the_menu(person: Person) -> None:
    page = person.page
    await page.goto("/console/jobs")
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Go to the content")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("main")).to_be_focused()
