"""The pages of backups: requested, looked at, verified, restored and deleted."""

import re
from pathlib import Path

import asyncpg
import pytest
from playwright.async_api import Page, expect

from ods.embedded.postgres import EmbeddedPostgres
from ods.registry.instances.store import InstanceStore
from ods.settings.settings import Settings
from tests.console.conftest import OpenContext
from tests.console.people import READER, Person
from tests.console.rows import add_backup
from tests.console.test_everybody import require_accessible
from tests.console.test_instances import HOSTILE, is_as_wide_as_the_window
from tests.servers import make_settings


@pytest.fixture
def settings(postgres: EmbeddedPostgres, registry_dsn: str, tmp_path: Path) -> Settings:
    """With a store for backups."""
    return make_settings(postgres, registry_dsn, backup_url=tmp_path.as_uri(), backup_verify="never")


async def test_an_instance_comes_back_under_another_name_when_its_backup_is_restored(
    person: Person, workers: None
) -> None:
    page = person.page
    await person.create("Fairview 2027")
    await expect(page.get_by_role("status").filter(has_text="Completed")).to_be_visible()
    await page.get_by_role("button", name="Make a backup").click()
    await page.get_by_role("link", name="Backups", exact=True).first.click()
    await person.sees_heading("Backups")
    row = page.get_by_role("row").filter(has_text="Fairview 2027")
    await expect(row).to_contain_text("Completed")
    await row.get_by_role("link").click()
    await person.sees_heading("Backup of Fairview 2027")
    await page.get_by_role("button", name="Verify").click()
    await expect(page.get_by_text("Last verified").locator("xpath=following::dd[1]")).to_contain_text(
        re.compile(r"\d")
    )
    await page.get_by_role("link", name="Restore to a new instance").click()
    await person.sees_heading("New instance")
    await expect(page.get_by_label("A backup")).to_be_checked()
    await page.get_by_label("Name", exact=True).fill("Fairview 2028")
    await page.get_by_role("button", name="Create", exact=True).click()
    await person.sees_heading("Fairview 2028")
    await expect(page.get_by_role("status").filter(has_text="Completed")).to_be_visible()


async def test_the_page_says_that_backups_are_unencrypted_when_they_have_no_recipients(
    person: Person,
) -> None:
    await person.page.goto("/console/backups")
    await expect(person.page.get_by_text("Backups are stored unencrypted")).to_be_visible()


async def test_a_backup_goes_when_the_name_of_its_instance_is_typed(
    person: Person, registry: asyncpg.Connection, instances: InstanceStore
) -> None:
    page = person.page
    await page.goto(f"/console/backups/{await add_backup(registry, instances, 'Glendale')}")
    await page.get_by_role("link", name="Delete").click()
    await person.sees_heading("Delete the backup of Glendale")
    await page.get_by_role("button", name="Delete the backup").click()
    await expect(page.get_by_role("alert")).to_contain_text("This is not Glendale")
    await page.get_by_label("Type Glendale").fill("Glendale")
    await page.get_by_role("button", name="Delete the backup").click()
    await person.sees_heading("Backups")
    await expect(page.get_by_text("Here will be the backups")).to_be_visible()


async def test_backups_are_left_out_when_they_do_not_fit_the_filter(
    person: Person, registry: asyncpg.Connection, instances: InstanceStore
) -> None:
    page = person.page
    await add_backup(registry, instances, "Glendale")
    await page.goto("/console/backups")
    await expect(page.get_by_text("1 backup", exact=True)).to_be_visible()
    for field, fits, fits_not in (("Kind", "requested", "final"), ("Status", "Completed", "Error")):
        await page.get_by_label(field).select_option(fits_not)
        await expect(page.get_by_text("No backup fits this filter.")).to_be_visible()
        await page.get_by_label(field).select_option(fits)
        await expect(page.get_by_role("link", name="Glendale")).to_be_visible()
    await page.get_by_label("Instance id").fill("999")
    await expect(page.get_by_text("No backup fits this filter.")).to_be_visible()
    await expect(page).to_have_url(re.compile("instance=999"))


async def test_the_reason_is_told_when_a_backup_cannot_be_deleted(
    person: Person, registry: asyncpg.Connection, instances: InstanceStore
) -> None:
    page = person.page
    backup = await add_backup(registry, instances, "Glendale", "Pending")
    await registry.execute("UPDATE adminapi.backups SET storedid = NULL")
    await page.goto(f"/console/backups/{backup}/delete")
    await page.get_by_label("Type Glendale").fill("Glendale")
    await page.get_by_role("button", name="Delete the backup").click()
    await expect(page.get_by_role("alert")).to_contain_text("The backup is being made.")
    await page.goto(f"/console/backups/{backup}/verify")
    await page.get_by_role("button", name="Verify").click()
    await expect(page.get_by_role("alert")).to_contain_text("is not stored")


async def test_a_reader_sees_a_backup_and_no_button_when_it_may_only_read(
    page: Page, registry: asyncpg.Connection, instances: InstanceStore
) -> None:
    backup = await add_backup(registry, instances, "Glendale")
    reader = Person(page)
    await reader.sign_in(READER)
    await page.goto(f"/console/backups/{backup}")
    await reader.sees_heading("Backup of Glendale")
    main = page.get_by_role("main")
    await expect(main.get_by_role("button")).to_have_count(0)
    await expect(main.get_by_role("link", name="Delete")).to_have_count(0)
    for path in ("delete", "verify"):
        answer = await page.goto(f"/console/backups/{backup}/{path}")
        assert answer is not None
        assert answer.status == 403


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_name_is_only_text_when_a_backup_has_it(
    person: Person, registry: asyncpg.Connection, instances: InstanceStore, name: str
) -> None:
    page = person.page
    backup = await add_backup(registry, instances, name)
    await page.goto("/console/backups")
    await expect(page.get_by_role("link", name=name, exact=True)).to_be_visible()
    assert await is_as_wide_as_the_window(page)
    for path in ("", "/delete", "/verify"):
        await page.goto(f"/console/backups/{backup}{path}")
        await expect(page.get_by_role("heading", level=1)).to_contain_text(name)
        assert await is_as_wide_as_the_window(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing_when_there_are_backups(
    open_context: OpenContext, scheme: str, registry: asyncpg.Connection, instances: InstanceStore
) -> None:
    backup = await add_backup(registry, instances, "Glendale")
    page = await (await open_context(color_scheme=scheme, viewport={"width": 400, "height": 800})).new_page()
    await Person(page).sign_in()
    for path in ("/backups", f"/backups/{backup}", f"/backups/{backup}/delete", f"/backups/{backup}/verify"):
        await page.goto(f"/console{path}")
        await require_accessible(page)
        assert await is_as_wide_as_the_window(page)
