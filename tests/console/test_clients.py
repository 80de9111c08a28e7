"""*Clients*: create, disable, enable and rotate them; their secrets are shown once."""

import asyncpg
import pytest
from playwright.async_api import Error, Page, expect

from ods.embedded.polling import wait_until
from tests.console.conftest import OpenContext
from tests.console.people import CLIENT, READER, Person
from tests.console.test_instances import is_as_wide_as_the_window

HOSTILE = '"><img src=x onerror=alert(1)>/../?#&'


async def create(person: Person, client: str, *, scope: str = "read only") -> str:
    """Create a client on the page; returns its secret."""
    await person.page.goto("/console/clients/new")
    await person.page.get_by_label("Client ID").fill(client)
    await person.page.get_by_label(scope).check()
    await person.page.get_by_role("button", name="Create the client").click()
    await person.sees_heading(f"The secret of {client}")
    return await secret_on(person.page)


async def secret_on(page: Page) -> str:
    return str(await page.get_by_role("definition").nth(1).text_content())


async def change(person: Person, verb: str, client: str) -> None:
    """Press the button of the list, then that of the page which says what it means."""
    await person.page.goto("/console/clients")
    await person.page.get_by_role("link", name=f"{verb} {client}", exact=True).click()
    await person.page.get_by_role("button", name=f"{verb} {client}", exact=True).click()


async def test_a_client_signs_in_with_the_secret_that_was_shown_when_it_was_created(
    person: Person, open_context: OpenContext
) -> None:
    secret = await create(person, "dashboard")
    other = Person(await (await open_context()).new_page())
    await other.sign_in("dashboard", secret)
    await expect(other.page.get_by_text("read only")).to_be_visible()


async def test_a_secret_is_shown_once_when_a_person_goes_back_and_on(
    person: Person, registry: asyncpg.Connection
) -> None:
    page = person.page
    secret = await create(person, "dashboard", scope="full access")
    assert secret not in page.url
    await page.get_by_role("link", name="Go to the clients").click()
    await person.sees_heading("Clients")
    assert secret not in await page.content()
    assert secret not in str(await registry.fetch("SELECT * FROM adminapi.applications"))
    assert secret not in str(await registry.fetch("SELECT * FROM adminapi.audit"))
    with pytest.raises(Error, match="ERR_CACHE_MISS"):  # the browser has kept nothing
        await page.go_back()


async def test_the_errors_stand_beside_the_fields_when_a_client_cannot_be_created(person: Person) -> None:
    page = person.page
    await page.goto("/console/clients/new")
    await page.get_by_role("button", name="Create the client").click()
    await expect(page.get_by_role("alert")).to_contain_text("'Client Id' must not be empty.")
    await page.get_by_label("Client ID").fill(CLIENT)
    await page.get_by_role("button", name="Create the client").click()
    await expect(page.get_by_role("alert")).to_contain_text("already exists")
    await expect(page.get_by_label("Client ID")).to_have_value(CLIENT)


async def test_its_sessions_end_at_once_when_a_client_is_disabled(
    person: Person, open_context: OpenContext
) -> None:
    reader = Person(await (await open_context()).new_page())
    await reader.sign_in(READER)
    await change(person, "Disable", READER)
    await person.sees_heading("Clients")
    await expect(person.page.get_by_role("row").filter(has_text=READER)).to_contain_text("disabled")
    await reader.page.goto("/console/jobs")
    await reader.sees_heading("Sign in")
    await reader.fill_in(READER)
    await expect(reader.page.get_by_role("alert")).to_contain_text("it is disabled")
    await change(person, "Enable", READER)
    await reader.sign_in(READER)


async def test_the_old_secret_is_refused_when_a_client_gets_another(
    person: Person, open_context: OpenContext
) -> None:
    await person.page.goto("/console/clients")
    await person.page.get_by_role("link", name=f"Rotate the secret of {READER}").click()
    await person.page.get_by_role("button", name=f"Rotate the secret of {READER}").click()
    await person.sees_heading(f"The secret of {READER}")
    secret = await secret_on(person.page)
    reader = Person(await (await open_context()).new_page())
    await reader.page.goto("/console")
    await reader.fill_in(READER)
    await expect(reader.page.get_by_role("alert")).to_contain_text("this is not its secret")
    await reader.sign_in(READER, secret)


async def test_the_secret_changes_once_when_the_form_is_sent_twice(
    person: Person, open_context: OpenContext
) -> None:
    page = person.page
    await page.goto(f"/console/clients/rotate?client={READER}")
    await page.get_by_role("button", name="Rotate").click()
    await person.sees_heading(f"The secret of {READER}")
    secret = await secret_on(page)
    await page.reload()
    await person.sees_heading(f"The client {READER} has changed since")
    reader = Person(await (await open_context()).new_page())
    await reader.sign_in(READER, secret)


async def test_nothing_typed_is_lost_when_the_session_ends_while_a_client_is_described(
    person: Person, registry: asyncpg.Connection
) -> None:
    page = person.page
    await page.goto("/console/clients/new")
    await page.get_by_label("Client ID").fill("dashboard")
    await page.get_by_label("Display name").fill("Dashboard of the state")
    await page.get_by_label("full access").check()
    await registry.execute("DELETE FROM adminapi.consolesessions")
    await page.get_by_role("button", name="Create the client").click()
    await person.sees_heading("Sign in")
    await person.fill_in()
    await person.sees_heading("New client")
    await expect(page.get_by_label("Client ID")).to_have_value("dashboard")
    await expect(page.get_by_label("Display name")).to_have_value("Dashboard of the state")
    await expect(page.get_by_label("full access")).to_be_checked()


async def test_a_person_is_warned_and_signed_out_when_it_is_the_own_client(person: Person) -> None:
    await person.page.goto("/console/clients")
    await person.page.get_by_role("link", name=f"Disable {CLIENT}").click()
    await expect(person.page.get_by_text("will be signed out")).to_be_visible()
    await person.page.get_by_role("button", name=f"Disable {CLIENT}").click()
    await person.sees_heading("Sign in")


async def test_a_client_downloads_backups_or_does_not_when_a_person_says_so(
    person: Person, registry: asyncpg.Connection
) -> None:
    page = person.page
    await create(person, "archive")
    row = page.get_by_role("row").filter(has_text="archive")
    for name, shown in (
        ("Let archive download backups", "downloads backups"),
        ("Refuse archive downloads of backups", "downloads no backups"),
    ):
        await page.goto("/console/clients")
        await page.get_by_role("link", name=name).click()
        await page.get_by_role("button", name=name).click()
        await person.sees_heading("Clients")
        await expect(row).to_contain_text(shown)
        assert await is_as_wide_as_the_window(page)
    changed = await registry.fetch("SELECT path FROM adminapi.audit WHERE method = 'CONSOLE' ORDER BY id")
    assert [one["path"].partition(" archive ")[2] for one in changed] == [
        "--scope read_only --no-backup-download",
        "--backup-download",
        "--no-backup-download",
    ]


async def test_a_client_gives_nobody_downloads_when_they_are_withheld_from_it(
    person: Person, registry: asyncpg.Connection
) -> None:
    page, refusal = person.page, "This client may download no backups"
    await registry.execute(
        "UPDATE adminapi.applications SET backupdownload = clientid <> $1 WHERE clientid IN ($1, $2)",
        CLIENT,
        READER,
    )

    async def is_refused() -> bool:
        await page.goto(f"/console/clients/let-download?client={CLIENT}")
        return await page.get_by_role("heading", name=refusal).count() > 0

    await wait_until(is_refused, 10, interval=0.5)
    await page.goto(f"/console/clients/rotate?client={READER}")
    await page.get_by_role("button", name="Rotate").click()
    await person.sees_heading(refusal)
    await page.goto("/console/clients/new")
    await page.get_by_label("Client ID").fill("another")
    await page.get_by_label("May download backups").check()
    await page.get_by_role("button", name="Create the client").click()
    await person.sees_heading(refusal)
    assert (
        await registry.fetchval("SELECT count(*) FROM adminapi.applications WHERE clientid = 'another'") == 0
    )


async def test_the_trail_says_which_client_was_changed_when_it_happens_on_the_console(
    person: Person, registry: asyncpg.Connection
) -> None:
    await change(person, "Disable", READER)
    await person.sees_heading("Clients")
    entry = await registry.fetchrow(
        "SELECT client, method, path FROM adminapi.audit WHERE method = 'CONSOLE'"
    )
    assert tuple(entry or ()) == (CLIENT, "CONSOLE", f"ods client disable {READER}")


async def test_names_are_shown_as_they_are_when_they_are_hostile(person: Person) -> None:
    await create(person, HOSTILE)
    await change(person, "Disable", HOSTILE)
    await person.sees_heading("Clients")
    row = person.page.get_by_role("row").filter(has_text=HOSTILE)
    await expect(row).to_contain_text("disabled")


async def test_a_client_sees_the_others_and_changes_none_when_it_may_only_read(page: Page) -> None:
    reader = Person(page)
    await reader.sign_in(READER)
    await page.goto("/console/clients")
    await expect(page.get_by_role("row").filter(has_text=CLIENT)).to_be_visible()
    await expect(page.get_by_role("link", name="New client")).to_have_count(0)
    await expect(page.get_by_role("link", name="Disable")).to_have_count(0)
    token = str(await page.locator("input[name=csrf]").first.get_attribute("value"))
    for address in ("disable", "enable", "rotate", "let-download", "refuse-downloads"):
        path = f"/console/clients/{address}?client={CLIENT}"
        assert (await page.request.get(path)).status == 403
        assert (await page.request.post(path, form={"csrf": token})).status == 403
    answer = await page.request.post("/console/clients/new", form={"csrf": token, "client": "x"})
    assert answer.status == 403


async def test_there_is_a_page_that_says_so_when_there_is_no_such_client(person: Person) -> None:
    answer = await person.page.goto("/console/clients/disable?client=unknown")
    assert answer is not None
    assert answer.status == 404


async def test_clients_are_made_and_disabled_when_the_browser_runs_no_script(
    open_context: OpenContext,
) -> None:
    person = Person(await (await open_context(java_script_enabled=False)).new_page())
    await person.sign_in()
    assert await create(person, "dashboard")
    await change(person, "Disable", "dashboard")
    await expect(person.page.get_by_role("row").filter(has_text="dashboard")).to_contain_text("disabled")
