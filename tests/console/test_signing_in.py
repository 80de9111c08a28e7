"""Signing in and out, and what a session may do."""

import re

import asyncpg
import pytest
from playwright.async_api import Page, expect

from ods.embedded.polling import wait_until
from tests.console.conftest import OpenContext
from tests.console.people import CLIENT, READER, Person


async def end_sessions(registry: asyncpg.Connection) -> None:
    """Half an hour passes in which no session is used."""
    await registry.execute(
        "UPDATE adminapi.consolesessions SET lastusedat = lastusedat - interval '31 minutes'"
    )


async def test_a_client_signs_in_and_out_when_its_secret_is_right(page: Page) -> None:
    person = Person(page)
    await person.sign_in()
    await page.get_by_text(CLIENT).click()
    await page.get_by_role("button", name="Sign out").click()
    await person.sees_heading("Sign in")
    await page.goto("/console/instances")
    await person.sees_heading("Sign in")


async def test_a_browser_is_led_to_the_console_when_it_asks_for_the_root(page: Page) -> None:
    await page.goto("/")
    await Person(page).sees_heading("Sign in")


async def test_the_refusal_is_explained_and_has_the_focus_when_the_secret_is_wrong(page: Page) -> None:
    await page.goto("/console")
    await Person(page).fill_in(secret="wrong")
    problem = page.get_by_role("alert")
    await expect(problem).to_contain_text("this is not its secret")
    await expect(problem).to_be_focused()
    await expect(page.get_by_label("Client ID")).to_have_value(CLIENT)
    await expect(page.get_by_label("Client secret")).to_have_value("")
    await expect(page).to_have_title(re.compile("^Error:"))


async def test_attempts_are_limited_when_one_fails_after_the_other(page: Page) -> None:
    await page.goto("/console")
    for _ in range(6):
        await Person(page).fill_in(secret="wrong")
    await expect(page.get_by_role("alert")).to_contain_text("Too many failed log-ins")


async def test_the_page_that_was_asked_for_comes_when_the_client_has_signed_in(page: Page) -> None:
    await page.goto("/console/jobs?status=Error")
    await Person(page).fill_in()
    await Person(page).sees_heading("Jobs")
    await expect(page.get_by_label("Status")).to_have_value("Error")


async def test_no_other_site_comes_when_a_link_to_sign_in_names_one(page: Page) -> None:
    await page.goto("/console/sign-in?after=//example.org/")
    await Person(page).fill_in()
    await Person(page).sees_heading("Instances")


@pytest.mark.usefixtures("breakage")  # what the open page fetches at the moment is refused
async def test_a_session_ends_when_its_client_is_disabled(
    person: Person, registry: asyncpg.Connection
) -> None:
    await registry.execute("UPDATE adminapi.applications SET enabled = false WHERE clientid = $1", CLIENT)

    async def is_signed_out() -> bool:
        await person.page.goto("/console/jobs")
        return "sign-in" in person.page.url

    await wait_until(is_signed_out, 10)  # a client's standing is remembered for three seconds
    await person.sees_heading("Sign in")


async def test_nothing_typed_is_lost_when_the_session_ends_meanwhile(
    person: Person, registry: asyncpg.Connection
) -> None:
    page = person.page
    await page.goto("/console/instances/new")
    await page.get_by_label("Name", exact=True).fill("Grand Bend 2030")
    await page.get_by_text("Description, labels, contexts").click()
    await page.get_by_label("Labels").fill("district=255901")
    await end_sessions(registry)
    await page.get_by_role("button", name="Create", exact=True).click()
    await person.sees_heading("Sign in")
    await expect(page.get_by_text("What you have typed is kept")).to_be_visible()
    await person.fill_in()
    await person.sees_heading("New instance")
    await expect(page.get_by_label("Name", exact=True)).to_have_value("Grand Bend 2030")
    await expect(page.get_by_label("Labels")).to_have_value("district=255901")
    assert not await registry.fetchval("SELECT count(*) FROM adminapi.dbinstances")
    await page.get_by_role("button", name="Create", exact=True).click()
    await person.sees_heading("Grand Bend 2030")


async def test_a_client_sees_everything_and_changes_nothing_when_it_may_only_read(page: Page) -> None:
    reader = Person(page)
    await reader.sign_in(READER)
    await expect(page.get_by_text("read only")).to_be_visible()
    await expect(page.get_by_role("link", name="New instance")).to_have_count(0)
    answer = await page.goto("/console/instances/new")
    assert answer is not None
    assert answer.status == 403
    await reader.sees_heading("Your client may only read")


async def test_the_server_refuses_when_a_client_that_may_only_read_sends_a_form(page: Page) -> None:
    reader = Person(page)
    await reader.sign_in(READER)
    token = await page.locator("input[name=csrf]").first.get_attribute("value")
    answer = await page.request.post(
        "/console/instances/new", form={"csrf": str(token), "name": "Grand Bend", "template": "Minimal"}
    )
    assert answer.status == 403
    assert "may only read" in await answer.text()


async def test_a_form_is_refused_when_it_has_no_token(person: Person) -> None:
    answer = await person.page.request.post("/console/instances/new", form={"name": "Grand Bend"})
    assert answer.status == 403
    assert "not shown to you" in await answer.text()


async def test_a_form_is_refused_when_its_token_was_made_for_another_session(
    person: Person, open_context: OpenContext
) -> None:
    token = await person.page.locator("input[name=csrf]").first.get_attribute("value")
    other = Person(await (await open_context()).new_page())
    await other.sign_in()
    answer = await other.page.request.post(
        "/console/instances/new", form={"csrf": str(token), "name": "Grand Bend", "template": "Minimal"}
    )
    assert answer.status == 403


async def test_a_person_ends_the_session_of_another_browser_without_scripts(
    open_context: OpenContext,
) -> None:
    page, other = [await (await open_context(java_script_enabled=False)).new_page() for _ in range(2)]
    for one in (other, page):
        await Person(one).sign_in()
    await page.get_by_text(CLIENT).click()
    await page.get_by_role("link", name="Sessions").click()
    await Person(page).sees_heading("Sessions")
    others = page.get_by_role("row").filter(has_not_text="(this one)")
    await others.get_by_role("button", name=f"End the session of {CLIENT}").click()
    await expect(page.get_by_role("row")).to_have_count(2)  # of the head, and of this session
    await other.reload()
    await Person(other).sees_heading("Sign in")
