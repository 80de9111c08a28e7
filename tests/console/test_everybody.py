"""For every person: screen readers, keyboards, narrow and dark pages, browsers without scripts."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from http import HTTPStatus

import asyncpg
import pytest
from axe_playwright_python.async_playwright import Axe
from fastapi.routing import iter_route_contexts
from playwright.async_api import Page, expect

from ods.console.app import router
from ods.console.menu import MENU
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.store import InstanceStore
from tests.console.conftest import OpenContext
from tests.console.history import add_history
from tests.console.people import READER, Person
from tests.console.rows import add_backup, add_snapshot
from tests.console.test_instances import is_as_wide_as_the_window
from tests.postgres.instance_states import STATES, bring_to

PAGES = (
    *(path for _, path in MENU),
    *("/instances/new", "/clients/new", "/sessions", "/health/doctor", "/no-such-page"),
    *("/instances?status=failed&name=x", "/jobs?status=Error", "/audit?client=unknown"),
    "/backups?kind=final&status=Error",
)
"""Pages that are there without any data."""
SIGNED_OUT = ("/sign-in", "/sign-in?after=/jobs", "/sign-in/link?with=void")
NO_PAGES = {
    *("/console", "/console/live", "/console/static/{address}", "/console/attention", "/console/audit.csv"),
    *("/console/instances/rows", "/console/jobs/rows", "/console/backups/rows", "/console/trash/rows"),
    *("/console/spares/rows", "/console/recovery/again", "/console/health/parts"),
    *(f"/console/instances/{{instance_id}}/{part}" for part in ("head", "about", "jobs", "contexts")),
    *(f"/console/instances/{{instance_id}}/{part}" for part in ("copies", "organizations", "usage")),
    "/console/sign-in/oidc",
    *("/console/jobs/{job_id}/story", "/console/jobs/{job_id}/work", "/console/backups/{backup_id}/facts"),
}
"""What is fetched by an open page, downloaded, or leads to a page."""
AXE = {
    "runOnly": {
        "type": "tag",
        "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    }
}


NARROW = {"width": 400, "height": 800}


async def require_accessible(page: Page) -> None:
    """Fail with what axe finds on the page."""
    found = await Axe().run(page, options=AXE)
    assert not found.violations_count, f"{page.url}\n{found.generate_report()}"


@dataclass(frozen=True)
class Shown:
    """Every page, with data.

    Attributes:
        pages: those that show something, or take what is typed.
        dangerous: those before something that cannot be undone by the same page.
    """

    pages: list[str]
    dangerous: list[str]

    @property
    def addresses(self) -> list[str]:
        return [*self.pages, *self.dangerous]


@pytest.fixture
async def shown(
    instances: InstanceStore, job_store: JobStore, registry: asyncpg.Connection, admin: asyncpg.Connection
) -> AsyncIterator[Shown]:
    """Instances in every state, what came about before, a backup, a snapshot, and a database to adopt."""
    jobs = {state: await bring_to(instances, job_store, state, f"In {state}") for state in STATES}
    await add_history(registry)
    completed, failed, deleted = (jobs[state] for state in ("Completed", "Error", "Deleted"))
    snapshot = await add_snapshot(registry, completed.instance_id)
    backup = f"/backups/{await add_backup(registry, instances, 'Glendale')}"
    one, trash = f"/instances/{completed.instance_id}", f"/trash/{deleted.instance_id}"
    await admin.execute(f'CREATE DATABASE "{completed.database}"')
    yield Shown(
        [
            *PAGES,
            *(f"/instances/{job.instance_id}" for job in jobs.values()),
            *(f"/jobs/{jobs[state].job_id}" for state in ("Completed", "InProgress", "Error")),
            backup,
            *(f"{one}/{verb}" for verb in ("edit", "rename", "backup", "snapshot", "refresh")),
            f"/instances/{failed.instance_id}/retry",
            f"{trash}/undelete",
            f"{backup}/verify",
        ],
        [
            *(f"{one}/{verb}" for verb in ("delete", "purge", "detach", "reset", "undo-reset", "adopt")),
            f"/instances/delete?id={completed.instance_id}&id={failed.instance_id}",
            f"{one}/snapshots/{snapshot}/delete",
            f"{trash}/purge",
            f"{backup}/delete",
            f"/jobs/{failed.job_id}/abandon",
            f"/jobs/{jobs['InProgress'].job_id}/cancel",
            *(f"/clients/{verb}?client={READER}" for verb in ("disable", "enable", "rotate")),
            *(f"/clients/{verb}?client={READER}" for verb in ("let-download", "refuse-downloads")),
        ],
    )
    await admin.execute(f'DROP DATABASE "{completed.database}"')


def test_every_page_is_among_those_that_are_looked_at(shown: Shown) -> None:
    routes = [route for route in iter_route_contexts(router.routes) if "GET" in (route.methods or ())]

    def route_of(address: str) -> str:
        path = f"/console{address.partition('?')[0]}"
        return next(str(route.path) for route in routes if route.path_regex.match(path))

    looked_at = {route_of(address) for address in (*shown.addresses, *SIGNED_OUT)}
    assert {str(route.path) for route in routes} - looked_at == NO_PAGES


@pytest.mark.parametrize("part", ["pages", "dangerous"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing_when_pages_are_full(
    open_context: OpenContext, scheme: str, shown: Shown, part: str
) -> None:
    page = await (await open_context(color_scheme=scheme)).new_page()
    await Person(page).sign_in()
    for address in getattr(shown, part):
        await page.goto(f"/console{address}")
        await require_accessible(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing_when_what_was_typed_is_refused(
    open_context: OpenContext, scheme: str
) -> None:
    page = await (await open_context(color_scheme=scheme)).new_page()
    await Person(page).sign_in()
    await Person(page).create("")
    await expect(page.get_by_role("alert")).to_be_visible()
    await require_accessible(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing_when_no_client_is_signed_in(open_context: OpenContext, scheme: str) -> None:
    page = await (await open_context(color_scheme=scheme, viewport=NARROW)).new_page()
    for address in SIGNED_OUT:
        await page.goto(f"/console{address}")
        await require_accessible(page)
        assert await is_as_wide_as_the_window(page)
    await Person(page).fill_in(secret="wrong")
    await require_accessible(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing_when_there_is_nothing_yet(open_context: OpenContext, scheme: str) -> None:
    page = await (await open_context(color_scheme=scheme)).new_page()
    await Person(page).sign_in()
    for address in PAGES:
        await page.goto(f"/console{address}")
        await require_accessible(page)


async def test_nothing_is_cut_off_when_the_page_is_narrow(open_context: OpenContext, shown: Shown) -> None:
    page = await (await open_context(viewport=NARROW)).new_page()
    await Person(page).sign_in()
    for address in shown.addresses:
        await page.goto(f"/console{address}")
        assert await is_as_wide_as_the_window(page), address
    await require_accessible(page)
    await page.goto("/console/instances")
    await expect(page.get_by_role("link", name="Jobs")).to_be_hidden()
    await page.get_by_text("Menu").click()
    await page.get_by_role("link", name="Jobs").click()
    await Person(page).sees_heading("Jobs")


async def test_a_client_sees_every_page_and_no_form_that_acts_when_it_may_only_read(
    open_context: OpenContext, shown: Shown
) -> None:
    page = await (await open_context()).new_page()
    await Person(page).sign_in(READER)
    refused = []
    for address in shown.addresses:
        answer = await page.goto(f"/console{address}")
        assert answer is not None
        # Its own sessions it may end.
        acting = page.locator("main form[method=post]:not([action*='/sessions/'])")
        await expect(acting).to_have_count(0)
        refused += [address] if answer.status == HTTPStatus.FORBIDDEN else []
    assert set(shown.dangerous) <= set(refused)
    assert not any(address == path for _, path in MENU for address in refused)


async def test_every_page_is_there_when_the_browser_runs_no_script(
    open_context: OpenContext, shown: Shown
) -> None:
    page = await (await open_context(java_script_enabled=False)).new_page()
    await Person(page).sign_in()
    for address in shown.pages:
        answer = await page.goto(f"/console{address}")
        assert answer is not None
        assert answer.status == (HTTPStatus.NOT_FOUND if address == "/no-such-page" else HTTPStatus.OK), (
            address
        )
        await expect(page.get_by_role("heading", level=1)).to_be_visible()


async def test_dangerous_pages_ask_for_the_name_when_the_browser_runs_no_script(
    open_context: OpenContext, shown: Shown
) -> None:
    page = await (await open_context(java_script_enabled=False)).new_page()
    await Person(page).sign_in()
    asked = []
    for address in shown.dangerous:
        await page.goto(f"/console{address}")
        await expect(page.get_by_role("heading", level=1)).to_be_visible()
        name = page.get_by_label(re.compile("^Type "))
        if await name.count():
            await name.fill("another")
            await page.get_by_role("main").get_by_role("button").first.click()
            await expect(page.get_by_role("alert")).to_contain_text("Type it exactly as it is written")
            asked.append(address.rpartition("/")[2])
    assert {"delete", "purge", "detach", "reset"} <= set(asked)


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
