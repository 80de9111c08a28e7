"""Resets, snapshots, purges and detaches: what takes the data of an instance away, or copies it."""

import asyncpg
import pytest
from playwright.async_api import Page, expect

from ods.embedded.postgres import EmbeddedPostgres
from ods.registry.instances.attributes import AttributeChanges
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.store import InstanceStore
from ods.settings.settings import Settings
from tests.console.conftest import OpenContext, Serve
from tests.console.people import READER, Person
from tests.console.test_everybody import require_accessible
from tests.console.test_instances import HOSTILE, is_as_wide_as_the_window
from tests.console.test_signing_in import end_sessions
from tests.postgres.instance_states import bring_to
from tests.servers import service_dsn, session


async def has_status(page: Page, status: str) -> None:
    await expect(page.get_by_role("status").filter(has_text=status)).to_be_visible()


async def test_what_was_reset_by_mistake_comes_back_when_the_reset_is_undone(
    person: Person, workers: None
) -> None:
    page = person.page
    await person.create("Ashgrove 2027")
    await has_status(page, "Completed")
    await page.get_by_role("link", name="Reset").click()
    await person.sees_heading("Reset Ashgrove 2027")
    await expect(page.get_by_text("is kept in the trash for 7 days")).to_be_visible()
    await page.get_by_role("button", name="Reset Ashgrove 2027").click()
    await expect(page.get_by_role("alert")).to_contain_text("This is not Ashgrove 2027")
    await page.get_by_label("Type Ashgrove 2027").fill("Ashgrove 2027")
    await page.get_by_label("Template", exact=True).select_option("Sample")
    await page.get_by_role("button", name="Reset Ashgrove 2027").click()
    await expect(page.get_by_role("region", name="Earlier databases")).to_contain_text("Minimal")
    await has_status(page, "Completed")
    await page.get_by_role("region", name="Earlier databases").get_by_role("link").click()
    await page.get_by_label("Type Ashgrove 2027").fill("Ashgrove 2027")
    await page.get_by_role("button", name="Undo the reset").click()
    await expect(page.get_by_role("region", name="Earlier databases")).to_contain_text("Sample")
    await has_status(page, "Completed")


async def test_the_first_of_several_databases_comes_back_when_its_button_is_pressed(
    person: Person, instances: InstanceStore, job_store: JobStore, registry: asyncpg.Connection
) -> None:
    page = person.page
    job = await bring_to(instances, job_store, "Completed", "Glendale")
    replaced = []
    for _ in range(3):
        reset = (await instances.request_reset(job.instance_id)).job
        assert (await job_store.begin(reset)).held
        assert await job_store.finish_replacement(reset)
        replaced.append(reset)
    first, second = replaced[0].trash_database, replaced[1]
    claimed = "UPDATE adminapi.databases SET purgingsince = now() WHERE databaseid = $1"
    await registry.execute(claimed, second.database_id)
    await page.goto(f"/console/instances/{job.instance_id}")
    versions = page.get_by_role("region", name="Earlier databases")
    await expect(versions.get_by_role("row")).to_have_count(4)
    await expect(versions.get_by_role("link")).to_have_count(2)  # not of the one that is being dropped
    await versions.get_by_role("link", name=f"Bring {first} back").click()
    await expect(page.get_by_role("main")).to_contain_text(first)
    await require_accessible(page)
    await page.get_by_role("button", name="Undo the reset").click()
    await expect(page.get_by_role("alert")).to_contain_text("This is not Glendale")
    await expect(page.get_by_role("main")).to_contain_text(first)
    await end_sessions(registry)
    await page.get_by_label("Type Glendale").fill("Glendale")
    await page.get_by_role("button", name="Undo the reset").click()
    await person.fill_in()
    await expect(page.get_by_role("main")).to_contain_text(first)
    await page.get_by_role("button", name="Undo the reset").click()
    await person.sees_heading("Glendale")
    asked = "SELECT replacement ->> 'database_id' FROM adminapi.dbinstances WHERE id = $1"
    assert await registry.fetchval(asked, job.instance_id) == replaced[0].database_id


async def test_nothing_comes_back_when_the_database_that_a_page_has_shown_is_being_dropped(
    person: Person, instances: InstanceStore, job_store: JobStore, registry: asyncpg.Connection
) -> None:
    page = person.page
    job = await bring_to(instances, job_store, "Completed", "Glendale")
    for _ in range(2):
        reset = (await instances.request_reset(job.instance_id)).job
        assert (await job_store.begin(reset)).held
        assert await job_store.finish_replacement(reset)
    named = reset.trash_database
    await page.goto(f"/console/instances/{job.instance_id}/undo-reset")
    await expect(page.get_by_role("main")).to_contain_text(named)
    claimed = "UPDATE adminapi.databases SET purgingsince = now() WHERE databaseid = $1"
    await registry.execute(claimed, reset.database_id)
    await page.get_by_label("Type Glendale").fill("Glendale")
    await page.get_by_role("button", name="Undo the reset").click()
    await expect(page.get_by_role("alert")).to_contain_text("is being dropped")
    await expect(page.get_by_role("main").get_by_role("button")).to_have_count(0)


async def test_a_protected_instance_is_not_reset_and_the_way_out_is_shown(
    person: Person, instances: InstanceStore, job_store: JobStore
) -> None:
    page = person.page
    job = await bring_to(instances, job_store, "Completed", "Glendale")
    await instances.change_attributes(job.instance_id, AttributeChanges(protected=True))
    await page.goto(f"/console/instances/{job.instance_id}")
    await page.get_by_role("link", name="Reset").click()
    await expect(page.get_by_role("alert")).to_contain_text("The instance is protected")
    await expect(page.get_by_role("button", name="Reset")).to_have_count(0)
    await page.get_by_role("link", name="End the protection of Glendale").click()
    await page.get_by_label("Protected").uncheck()
    await page.get_by_role("button", name="Save").click()
    await page.get_by_role("link", name="Reset").click()
    await expect(page.get_by_role("button", name="Reset Glendale")).to_be_visible()


async def test_a_reset_is_refused_when_the_instance_was_protected_meanwhile(
    person: Person, instances: InstanceStore, job_store: JobStore
) -> None:
    page = person.page
    job = await bring_to(instances, job_store, "Completed", "Glendale")
    await page.goto(f"/console/instances/{job.instance_id}/reset")
    await instances.change_attributes(job.instance_id, AttributeChanges(protected=True))
    await page.get_by_label("Type Glendale").fill("Glendale")
    await page.get_by_role("button", name="Reset Glendale").click()
    await expect(page.get_by_role("alert")).to_contain_text("The instance is protected")
    await expect(page.get_by_role("link", name="End the protection of Glendale")).to_be_visible()


async def hidden_fields(page: Page) -> dict[str, str | float | bool]:
    """What the form of the page sends beside what a person types."""
    form = page.locator("form:has([name=typed_name])")
    return {
        name: str(await form.locator(f"input[name={name}]").get_attribute("value"))
        for name in ("csrf", "told")
    }


@pytest.mark.parametrize("verb", ["reset", "delete"])
async def test_nothing_is_done_when_another_process_would_not_keep_what_the_page_said_is_kept(
    person: Person,
    open_context: OpenContext,
    instances: InstanceStore,
    job_store: JobStore,
    settings: Settings,
    serve: Serve,
    verb: str,
) -> None:
    """As after a restart, or during a rolling one, with another ODS_TRASH_DAYS."""
    job = await bring_to(instances, job_store, "Completed", "Glendale")
    path = f"/console/instances/{job.instance_id}/{verb}"
    await person.page.goto(path)
    await expect(person.page.get_by_role("main")).to_contain_text("7 days")
    told = (await hidden_fields(person.page))["told"]
    async with serve(settings.model_copy(update={"trash_days": 0})) as server:
        page = await (await open_context(base_url=server.url)).new_page()
        await Person(page).sign_in()
        await page.goto(path)
        await expect(page.get_by_role("main")).not_to_contain_text("7 days")
        form = {**await hidden_fields(page), "typed_name": "Glendale", "origin": "template"}
        refused = await page.request.post(path, form={**form, "told": told})
        assert refused.status == 400
        assert "has changed since the page was opened" in await refused.text()
        assert (await job_store.position(job)) is not None  # no other job has been requested
        assert (await page.request.post(path, form={**form, "template": "Minimal"})).ok
        assert (await job_store.position(job)) is None
        await page.close()


async def test_nothing_comes_back_when_an_instance_was_never_reset(
    person: Person, instances: InstanceStore, job_store: JobStore
) -> None:
    page = person.page
    job = await bring_to(instances, job_store, "Completed", "Glendale")
    await page.goto(f"/console/instances/{job.instance_id}/undo-reset")
    await expect(page.get_by_text("it was never reset")).to_be_visible()
    await expect(page.get_by_role("main").get_by_role("button")).to_have_count(0)


async def test_a_snapshot_is_taken_and_goes_when_a_person_asks(
    person: Person, workers: None, ods_api: None
) -> None:
    page = person.page
    await person.create("Birchwood 2027")
    await has_status(page, "Completed")
    await page.get_by_role("button", name="Take a snapshot").click()
    snapshots = page.get_by_role("region", name="Snapshots")
    await expect(snapshots).to_contain_text("read by the ODS/API")
    await snapshots.get_by_role("link", name="Delete the snapshot").click()
    await page.get_by_role("button", name="Delete the snapshot").click()
    await person.sees_heading("Birchwood 2027")
    await expect(snapshots).to_contain_text("Removing")


async def test_education_organizations_are_read_when_a_person_asks(
    person: Person, workers: None, ods_api: None, postgres: EmbeddedPostgres
) -> None:
    page = person.page
    await person.create("Cedar Falls 2027")
    await has_status(page, "Completed")
    async with session(service_dsn(postgres, "EdFi_Ods_Cedar_Falls_2027_Minimal")) as inside:
        await inside.execute("GRANT USAGE ON SCHEMA edfi TO PUBLIC")
        await inside.execute("GRANT SELECT ON ALL TABLES IN SCHEMA edfi TO PUBLIC")
    await page.get_by_role("button", name="Read them anew").click()
    await has_status(page, "Completed")


async def test_an_instance_is_purged_from_the_trash_when_its_name_is_typed(
    person: Person, workers: None
) -> None:
    page = person.page
    await person.create("Dalewood 2027")
    await has_status(page, "Completed")
    await page.get_by_role("link", name="Delete").click()
    await page.get_by_label("Type Dalewood 2027").fill("Dalewood 2027")
    await page.get_by_role("button", name="Delete Dalewood 2027").click()
    await has_status(page, "Deleted")
    await page.get_by_role("link", name="Trash").click()
    await page.get_by_role("link", name="Purge Dalewood 2027").click()
    await person.sees_heading("Purge Dalewood 2027")
    await expect(page.get_by_text("cannot come back")).to_be_visible()
    await page.get_by_role("button", name="Purge Dalewood 2027").click()
    await expect(page.get_by_role("alert")).to_contain_text("This is not Dalewood 2027")
    await page.get_by_label("Type Dalewood 2027").fill("Dalewood 2027")
    await page.get_by_role("button", name="Purge Dalewood 2027").click()
    await expect(page.get_by_text("its database is gone")).to_be_visible()


async def test_nothing_is_purged_when_the_instance_is_not_in_the_trash(
    person: Person, instances: InstanceStore, job_store: JobStore
) -> None:
    page = person.page
    job = await bring_to(instances, job_store, "Completed", "Glendale")
    await page.goto(f"/console/trash/{job.instance_id}/purge")
    await person.sees_heading("Glendale")
    await page.goto(f"/console/instances/{job.instance_id}/purge")
    hidden = await hidden_fields(page)
    sent = await page.request.post(
        f"/console/trash/{job.instance_id}/purge", form={**hidden, "typed_name": "Glendale"}
    )
    assert sent.status == 409
    assert "The instance is not in the trash" in await sent.text()


async def test_a_backup_and_a_reset_are_requested_when_the_browser_runs_no_script(
    open_context: OpenContext, instances: InstanceStore, job_store: JobStore
) -> None:
    job = await bring_to(instances, job_store, "Completed", "Glendale")
    page = await (await open_context(java_script_enabled=False)).new_page()
    await Person(page).sign_in()
    await page.goto(f"/console/instances/{job.instance_id}")
    await page.get_by_role("button", name="Make a backup").click()
    await expect(page.get_by_text("Set ODS_BACKUP_URL")).to_be_visible()
    await page.goto(f"/console/instances/{job.instance_id}/reset")
    await page.get_by_label("Type Glendale").fill("Glendale")
    await page.get_by_role("button", name="Reset Glendale").click()
    await has_status(page, "Pending")


async def test_a_database_stays_when_its_instance_is_detached(
    person: Person, workers: None, admin: asyncpg.Connection
) -> None:
    page = person.page
    await person.create("Elmhurst 2027")
    await has_status(page, "Completed")
    await page.get_by_role("link", name="Delete").click()
    await page.get_by_role("link", name="Detach it").click()
    await person.sees_heading("Detach Elmhurst 2027")
    await expect(page.get_by_text("this service forgets it")).to_be_visible()
    await page.get_by_label("Type Elmhurst 2027").fill("Elmhurst 2027")
    await page.get_by_role("button", name="Detach Elmhurst 2027").click()
    await has_status(page, "Deleted")
    assert await admin.fetchval("SELECT count(*) FROM pg_database WHERE datname ~ 'Elmhurst_2027'")
    await admin.execute('DROP DATABASE "EdFi_Ods_Elmhurst_2027_Minimal"')


PATHS = ("reset", "undo-reset", "purge", "detach", "backup", "snapshot", "refresh")


async def test_a_reader_is_refused_when_it_may_only_read(
    page: Page, instances: InstanceStore, job_store: JobStore
) -> None:
    job = await bring_to(instances, job_store, "Completed", "Glendale")
    reader = Person(page)
    await reader.sign_in(READER)
    await page.goto(f"/console/instances/{job.instance_id}")
    await expect(page.get_by_role("main").get_by_role("button")).to_have_count(0)
    token = await page.locator("input[name=csrf]").first.get_attribute("value")
    for path in PATHS:
        address = f"/console/instances/{job.instance_id}/{path}"
        answer = await page.goto(address)
        assert answer is not None
        assert answer.status == 403
        sent = await page.request.post(address, form={"csrf": str(token), "typed_name": "Glendale"})
        assert sent.status == 403


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_name_is_only_text_when_it_is_shown(
    person: Person, instances: InstanceStore, job_store: JobStore, registry: asyncpg.Connection, name: str
) -> None:
    page = person.page
    job = await bring_to(instances, job_store, "Completed", "Glendale")
    await registry.execute("UPDATE adminapi.managed_instances SET name = $1", name)
    for path in PATHS:
        await page.goto(f"/console/instances/{job.instance_id}/{path}")
        await expect(page.get_by_role("heading", level=1)).to_contain_text(name)
        assert await is_as_wide_as_the_window(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing_when_data_is_about_to_go(
    open_context: OpenContext, scheme: str, instances: InstanceStore, job_store: JobStore
) -> None:
    job = await bring_to(instances, job_store, "Completed", "Glendale")
    page = await (await open_context(color_scheme=scheme, viewport={"width": 400, "height": 800})).new_page()
    await Person(page).sign_in()
    for path in PATHS:
        await page.goto(f"/console/instances/{job.instance_id}/{path}")
        await require_accessible(page)
        assert await is_as_wide_as_the_window(page)
