"""Resets to a backup or a copy, and purges after a backup: what needs a store of backups."""

from pathlib import Path

import asyncpg
import pytest
from playwright.async_api import expect

from ods.embedded.postgres import EmbeddedPostgres
from ods.registry.instances.attributes import AttributeChanges
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.store import InstanceStore
from ods.settings.settings import Settings
from tests.console.conftest import OpenContext, Serve
from tests.console.people import Person
from tests.console.rows import add_backup
from tests.console.test_everybody import require_accessible
from tests.console.test_resets import has_status
from tests.console.test_signing_in import end_sessions
from tests.postgres.instance_states import bring_to
from tests.servers import make_settings


@pytest.fixture
def settings(postgres: EmbeddedPostgres, registry_dsn: str, tmp_path: Path) -> Settings:
    """With a store for backups."""
    return make_settings(postgres, registry_dsn, backup_url=tmp_path.as_uri(), backup_verify="never")


async def test_an_instance_is_reset_to_its_backup_and_to_a_copy_of_another_when_these_are_chosen(
    person: Person, workers: None
) -> None:
    page = person.page
    jump = page.get_by_role("navigation", name="On this page").get_by_role("link", name="Earlier databases")
    for name in ("Hillcrest 2027", "Ironwood 2027"):
        await person.create(name)
        await has_status(page, "Completed")
    await page.get_by_role("button", name="Make a backup").click()
    backups = page.get_by_role("region", name="Backups")
    await expect(backups).to_contain_text("Completed")
    await expect(jump).to_be_hidden()
    await page.get_by_role("link", name="Reset", exact=True).first.click()
    await page.get_by_label("A backup").check()
    await page.get_by_label("Backup", exact=True).select_option(index=1)
    plan = page.get_by_role("complementary")
    await expect(plan).to_contain_text("It can be reset.")
    await page.get_by_label("Type Ironwood 2027").fill("Ironwood 2027")
    await page.get_by_role("button", name="Reset Ironwood 2027").click()
    versions = page.get_by_role("region", name="Earlier databases").get_by_role("row")
    await expect(versions).to_have_count(2)
    await expect(jump).to_be_visible()
    await has_status(page, "Completed")
    await page.get_by_role("link", name="Reset", exact=True).first.click()
    await page.get_by_label("Another instance").check()
    await page.get_by_label("Copy of").fill("Hillcrest 2027")
    await page.get_by_label("Meanwhile").select_option("closed")
    await expect(plan).to_contain_text("It can be reset.")
    await page.get_by_label("Type Ironwood 2027").fill("Ironwood 2027")
    await page.get_by_role("button", name="Reset Ironwood 2027").click()
    await expect(versions).to_have_count(3)
    await has_status(page, "Completed")


async def test_what_is_wrong_with_an_origin_stands_beside_its_field_and_in_the_dry_run(
    person: Person, instances: InstanceStore, job_store: JobStore, registry: asyncpg.Connection
) -> None:
    page = person.page
    job = await bring_to(instances, job_store, "Completed", "Glendale")
    await bring_to(instances, job_store, "Error", "Northridge")
    await add_backup(registry, instances, "Another instance of old")
    await page.goto(f"/console/instances/{job.instance_id}/reset")
    plan = page.get_by_role("complementary")
    await expect(plan).to_contain_text("It can be reset.")
    await page.get_by_label("A backup").check()
    await expect(plan).to_contain_text("Choose a backup.")
    await expect(plan).not_to_contain_text("There is no backup")
    await page.get_by_label("Type Glendale").fill("Glendale")
    await page.get_by_role("button", name="Reset Glendale").click()
    await expect(page.get_by_role("alert")).to_contain_text("Choose a backup.")
    await page.get_by_label("Another instance", exact=True).check()
    await page.get_by_label("Copy of").fill("Northridge")
    await expect(plan).to_contain_text("It cannot be reset like this:")
    await page.get_by_label("Copy of").fill("999999999")
    await expect(plan).to_contain_text("There is no instance 999999999.")
    await page.get_by_label("Type Glendale").fill("Glendale")
    await page.get_by_role("button", name="Reset Glendale").click()
    await expect(page.get_by_role("alert")).to_contain_text("There is no instance 999999999.")
    await expect(page.get_by_label("Copy of")).to_have_attribute("aria-invalid", "true")
    await expect(page.get_by_label("Another instance", exact=True)).to_be_checked()
    await require_accessible(page)


async def test_a_number_is_an_id_when_an_instance_has_it_for_its_name(
    person: Person, instances: InstanceStore, job_store: JobStore
) -> None:
    page = person.page
    job = await bring_to(instances, job_store, "Completed", "Glendale")
    meant = await bring_to(instances, job_store, "Completed", "Northridge")
    other = await bring_to(instances, job_store, "Completed", str(meant.instance_id))
    await page.goto(f"/console/instances/{job.instance_id}/reset")
    await page.get_by_label("Another instance", exact=True).check()
    plan = page.get_by_role("complementary")
    await page.get_by_label("Copy of").fill(str(meant.instance_id))
    await expect(plan).to_contain_text("Northridge")
    await page.get_by_label("Copy of").fill("Northridge")
    await expect(plan).to_contain_text("Northridge")
    await page.goto(f"/console/instances/new?copy={other.instance_id}")
    await expect(page.get_by_label("Copy of")).to_have_value(str(other.instance_id))


async def test_what_was_chosen_for_a_reset_is_kept_when_the_session_ends(
    person: Person, instances: InstanceStore, job_store: JobStore, registry: asyncpg.Connection
) -> None:
    page = person.page
    job = await bring_to(instances, job_store, "Completed", "Glendale")
    await page.goto(f"/console/instances/{job.instance_id}/reset")
    await page.get_by_label("Another instance").check()
    await page.get_by_label("Copy of").fill("Northridge")
    await page.get_by_label("Meanwhile").select_option("closed")
    await end_sessions(registry)
    await page.get_by_label("Type Glendale").fill("Glendale")
    await page.get_by_role("button", name="Reset Glendale").click()
    await person.fill_in()
    await person.sees_heading("Reset Glendale")
    await expect(page.get_by_label("Another instance")).to_be_checked()
    await expect(page.get_by_label("Copy of")).to_have_value("Northridge")
    await expect(page.get_by_label("Meanwhile")).to_have_value("closed")
    await expect(page.get_by_label("Type Glendale")).to_have_value("Glendale")
    await has_not_changed(registry)


async def has_not_changed(registry: asyncpg.Connection) -> None:
    assert await registry.fetchval("SELECT count(*) FROM adminapi.jobstatuses") == 1


async def test_a_copy_is_chosen_and_checked_when_the_browser_runs_no_script(
    open_context: OpenContext, instances: InstanceStore, job_store: JobStore, registry: asyncpg.Connection
) -> None:
    job = await bring_to(instances, job_store, "Completed", "Glendale")
    page = await (await open_context(java_script_enabled=False)).new_page()
    await Person(page).sign_in()
    await page.goto(f"/console/instances/{job.instance_id}/reset")
    await page.get_by_label("Another instance").check()
    await page.get_by_label("Copy of").fill("999999999")
    await page.get_by_role("button", name="Check without resetting").click()
    await expect(page.get_by_role("complementary")).to_contain_text("There is no instance 999999999.")
    await expect(page.get_by_label("Copy of")).to_have_value("999999999")
    await has_not_changed(registry)


async def test_a_backup_is_made_first_when_that_is_ticked_on_the_page_of_a_purge(
    person: Person, workers: None, admin: asyncpg.Connection
) -> None:
    page = person.page
    await person.create("Juniper 2027")
    await has_status(page, "Completed")
    await page.get_by_role("link", name="Delete").click()
    await page.get_by_role("link", name="Purge it").click()
    await person.sees_heading("Purge Juniper 2027")
    await page.get_by_label("Back it up first").check()
    await page.get_by_role("button", name="Purge Juniper 2027").click()
    await expect(page.get_by_role("alert")).to_contain_text("This is not Juniper 2027")
    await expect(page.get_by_label("Back it up first")).to_be_checked()
    await page.get_by_label("Type Juniper 2027").fill("Juniper 2027")
    await page.get_by_role("button", name="Purge Juniper 2027").click()
    await expect(page.get_by_text("its database is gone")).to_be_visible()
    await page.goto("/console/backups?kind=final")
    await expect(page.get_by_role("row").filter(has_text="Juniper 2027")).to_contain_text("Completed")
    assert not await admin.fetchval("SELECT count(*) FROM pg_database WHERE datname ~ 'Juniper_2027'")


async def test_an_instance_in_the_trash_is_backed_up_before_its_purge_when_that_is_ticked(
    person: Person, instances: InstanceStore, job_store: JobStore, registry: asyncpg.Connection
) -> None:
    page = person.page
    job = await bring_to(instances, job_store, "Deleted", "Glendale")
    await page.goto(f"/console/instances/{job.instance_id}/purge")
    await expect(page).to_have_url(
        f"{page.url.partition('/console')[0]}/console/trash/{job.instance_id}/purge"
    )
    await page.get_by_label("Back it up first").check()
    await page.get_by_label("Type Glendale").fill("Glendale")
    await page.get_by_role("button", name="Purge Glendale").click()
    await person.sees_heading("Glendale")
    purged = (
        "SELECT operation = 'Purge' AND arguments = '{\"backup_first\": true}'"
        " FROM adminapi.managed_instances WHERE id = $1"
    )
    assert await registry.fetchval(purged, job.instance_id)


async def test_the_reason_stands_beside_the_choice_when_no_backup_can_be_made(
    settings: Settings,
    clients: None,
    serve: Serve,
    instances: InstanceStore,
    job_store: JobStore,
    open_context: OpenContext,
) -> None:
    job = await bring_to(instances, job_store, "Completed", "Glendale")
    async with serve(settings.model_copy(update={"backup_url": None})) as server:
        page = await (await open_context(base_url=server.url)).new_page()
        await Person(page).sign_in()
        await page.goto(f"/console/instances/{job.instance_id}/purge")
        await page.get_by_label("Back it up first").check()
        await page.get_by_label("Type Glendale").fill("Glendale")
        await page.get_by_role("button", name="Purge Glendale").click()
        await expect(page.get_by_role("alert")).to_contain_text("ODS_BACKUP_URL")
        await expect(page.get_by_label("Back it up first")).to_have_attribute("aria-invalid", "true")
        await page.close()


async def test_the_backup_cannot_be_left_out_when_the_service_always_makes_one(
    settings: Settings,
    clients: None,
    serve: Serve,
    instances: InstanceStore,
    job_store: JobStore,
    open_context: OpenContext,
) -> None:
    job = await bring_to(instances, job_store, "Completed", "Glendale")
    async with serve(settings.model_copy(update={"final_backup": True})) as server:
        page = await (await open_context(base_url=server.url)).new_page()
        await Person(page).sign_in()
        await page.goto(f"/console/instances/{job.instance_id}/purge")
        choice = page.get_by_label("Back it up first")
        await expect(choice).to_be_checked()
        await expect(choice).to_be_disabled()
        await expect(page.get_by_text("before every purge (ODS_FINAL_BACKUP)")).to_be_visible()
        await expect(
            page.get_by_text("dropped only when the backup is stored, and verified:")
        ).to_be_visible()
        await require_accessible(page)
        sent = page.locator("input[type=hidden][name=final_backup]")
        assert await sent.get_attribute("value") == "true"  # also to a process that would not always make one
        await page.get_by_label("Type Glendale").fill("Glendale")
        await page.get_by_role("button", name="Purge Glendale").click()
        await Person(page).sees_heading("Glendale")
        await page.close()


async def test_a_protected_instance_is_not_purged_and_the_way_out_is_shown(
    person: Person, instances: InstanceStore, job_store: JobStore
) -> None:
    page = person.page
    job = await bring_to(instances, job_store, "Completed", "Glendale")
    await instances.change_attributes(job.instance_id, AttributeChanges(protected=True))
    await page.goto(f"/console/instances/{job.instance_id}/purge")
    await expect(page.get_by_role("alert")).to_contain_text("is protected")
    await expect(page.get_by_role("button", name="Purge")).to_have_count(0)
    await expect(page.get_by_role("link", name="End the protection of Glendale")).to_be_visible()
