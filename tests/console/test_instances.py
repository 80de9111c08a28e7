"""The pages of instances: created, watched, renamed, deleted, and brought back."""

import re

import asyncpg
import pytest
from playwright.async_api import Page, expect
from temporalio.client import Client

from ods.embedded.polling import wait_until
from ods.model.operations import InstanceStatus, Template
from ods.registry.instances.attributes import AttributeChanges
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.queries import InstanceQueries
from ods.registry.instances.store import InstanceStore
from tests.console.people import Person
from tests.postgres.instance_states import CONNECTION_STRING, bring_to

HOSTILE = (
    '<script>alert("x")</script>',
    '"><img src=x onerror=alert(1)>',
    "\u202egnp.2027 \u2066Grand\u2069 Bend",
    "W" * 46,
    "{{ 7 * 7 }} {% raw %}",
)


async def test_a_new_instance_becomes_completed_before_the_eyes_when_it_is_created(
    person: Person, workers: None
) -> None:
    page = person.page
    await page.get_by_role("link", name="New instance").click()
    await person.sees_heading("New instance")
    await page.get_by_label("Name", exact=True).fill("Grand Bend 2030")
    await expect(page.get_by_role("complementary")).to_contain_text("EdFi_Ods_Grand_Bend_2030_Minimal")
    await expect(page.get_by_text("It can be created.")).to_be_visible()
    await page.evaluate("window.notReloaded = true")
    await page.get_by_role("button", name="Create", exact=True).click()
    await person.sees_heading("Grand Bend 2030")
    await page.evaluate("window.notReloaded = true")
    await expect(page.get_by_role("status").filter(has_text="Completed")).to_be_visible()
    await expect(page.get_by_role("region", name="Jobs")).to_contain_text("Completed")
    await expect(page.get_by_role("region", name="Usage")).to_contain_text("None is open")
    contexts = page.get_by_role("region", name="Contexts and derivatives")
    await expect(contexts).to_contain_text("ods instance contexts")
    assert await page.evaluate("window.notReloaded")
    await contexts.get_by_role("link", name="Set contexts").click()
    await page.get_by_label("Contexts").fill("schoolYear=2030")
    await page.get_by_role("button", name="Save").click()
    await expect(contexts).to_contain_text("schoolYear")
    await page.get_by_role("link", name="Copy", exact=True).click()
    await expect(page.get_by_label("Copy of")).to_have_value("Grand Bend 2030")
    await page.get_by_label("Name", exact=True).fill("Grand Bend 2031")
    await page.get_by_role("button", name="Create", exact=True).click()
    about = page.get_by_role("region", name="About")
    await expect(about.get_by_role("link", name="Grand Bend 2030", exact=True)).to_be_visible()


async def test_what_an_instance_waits_for_is_said_once_when_no_worker_runs(person: Person) -> None:
    await person.create("Grand Bend")
    await person.sees_heading("Grand Bend")
    await expect(person.page.get_by_text("waiting for a worker")).to_have_count(1)


async def test_the_page_says_so_when_no_instance_is_chosen_to_be_deleted(
    person: Person, instances: InstanceStore
) -> None:
    await instances.reserve("Grand Bend", Template.MINIMAL)
    await person.page.goto("/console/instances")
    await person.page.get_by_role("button", name="Delete the chosen instances").click()
    await person.sees_heading("No instance is chosen")


async def test_a_bad_name_is_explained_beside_its_field_when_it_breaks_rules(person: Person) -> None:
    page = person.page
    await person.create("Grand/Bend")
    message = "'Name' must contain only letters, numbers, spaces and underscores."
    summary = page.get_by_role("alert")
    await expect(summary).to_contain_text(message)
    await expect(summary).to_be_focused()
    name = page.get_by_label("Name", exact=True)
    await expect(name).to_have_accessible_description(re.compile(re.escape(message)))
    await expect(name).to_have_value("Grand/Bend")
    await summary.get_by_role("link", name=message).click()
    await expect(name).to_be_focused()


async def test_a_name_is_refused_when_another_instance_has_it(
    person: Person, instances: InstanceStore
) -> None:
    await instances.reserve("Grand Bend", Template.MINIMAL)
    await person.create("Grand Bend")
    await expect(person.page.get_by_role("alert")).to_contain_text("already exists")


async def test_an_instance_is_renamed_when_another_name_is_typed(person: Person, workers: None) -> None:
    page = person.page
    await person.create("Ridge 2026")
    await expect(page.get_by_role("status").filter(has_text="Completed")).to_be_visible()
    await page.get_by_role("link", name="Rename").click()
    await page.get_by_label("New name").fill("Ridge 2027")
    await page.get_by_role("button", name="Rename").click()
    await person.sees_heading("Ridge 2027")
    await expect(page.get_by_role("status").filter(has_text="Completed")).to_be_visible()


async def test_the_wrong_instance_comes_back_when_it_was_deleted(person: Person, workers: None) -> None:
    page = person.page
    await person.create("Glendale 2027")
    await expect(page.get_by_role("status").filter(has_text="Completed")).to_be_visible()
    await page.get_by_role("link", name="Delete").click()
    await person.sees_heading("Delete Glendale 2027")
    await expect(page.get_by_text("EdFi_Ods_Glendale_2027_Minimal")).to_be_visible()
    await expect(page.get_by_text("can come back for 7 days")).to_be_visible()
    await page.get_by_role("button", name="Delete Glendale 2027").click()
    await expect(page.get_by_role("alert")).to_contain_text("This is not Glendale 2027")
    await page.get_by_label("Type Glendale 2027").fill("Glendale 2027")
    await page.get_by_role("button", name="Delete Glendale 2027").click()
    await expect(page.get_by_role("status").filter(has_text="Deleted")).to_be_visible()
    await page.get_by_role("link", name="Trash").click()
    await page.get_by_role("link", name="Undelete Glendale 2027").click()
    await page.get_by_role("button", name="Undelete Glendale 2027").click()
    await person.sees_heading("Glendale 2027")
    await expect(page.get_by_role("status").filter(has_text="Completed")).to_be_visible()


async def test_a_protected_instance_is_not_deleted_when_a_person_tries(person: Person, workers: None) -> None:
    page = person.page
    await page.goto("/console/instances/new")
    await page.get_by_label("Name", exact=True).fill("Protected 2027")
    await page.get_by_label("Protect it").check()
    await page.get_by_role("button", name="Create", exact=True).click()
    await expect(page.get_by_role("status").filter(has_text="Completed")).to_be_visible()
    await page.get_by_role("link", name="Delete").click()
    await expect(page.get_by_role("alert")).to_contain_text("is protected")
    await expect(page.get_by_role("button", name="Delete")).to_have_count(0)
    await page.get_by_role("link", name="End the protection").click()
    await page.get_by_label("Protected").uncheck()
    await page.get_by_label("Labels").fill("district=255901\nyear=2027")
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_text("year=2027", exact=True)).to_be_visible()
    await page.get_by_role("link", name="Delete").click()
    await expect(page.get_by_role("button", name="Delete Protected 2027")).to_be_visible()


async def test_only_what_a_person_has_changed_is_saved_when_others_change_the_rest(
    person: Person, instances: InstanceStore, job_store: JobStore, queries: InstanceQueries
) -> None:
    job = await bring_to(instances, job_store, "Completed", "Grand Bend")
    await instances.change_attributes(job.instance_id, AttributeChanges(labels={"year": "2027"}))
    page = person.page
    await page.goto(f"/console/instances/{job.instance_id}/edit")
    await page.get_by_label("Description").fill("of the north")
    of_others = AttributeChanges(protected=True, labels={"backup": "daily"}, contexts={"districtId": "11"})
    await instances.change_attributes(job.instance_id, of_others)
    await page.get_by_role("button", name="Save").click()
    await person.sees_heading("Grand Bend")
    row = await queries.any_instance(job.instance_id)
    assert row is not None
    assert (row.description, row.is_protected) == ("of the north", True)
    assert row.labels == {"year": "2027", "backup": "daily"}
    await expect(page.get_by_text("districtId")).to_be_visible()

    await page.goto(f"/console/instances/{job.instance_id}/edit")
    await page.get_by_label("Contexts").fill("districtId=12")
    await instances.change_attributes(job.instance_id, AttributeChanges(contexts={"districtId": "13"}))
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_role("alert")).to_contain_text("It is now: districtId=13")
    await expect(page.get_by_label("Contexts")).to_have_value("districtId=12")
    await page.get_by_role("button", name="Save").click()
    await person.sees_heading("Grand Bend")
    await expect(page.get_by_role("definition").filter(has_text=re.compile("^12$"))).to_be_visible()


async def test_what_a_person_has_not_touched_stays_when_the_page_is_sent_again(
    person: Person, instances: InstanceStore, job_store: JobStore, queries: InstanceQueries
) -> None:
    job = await bring_to(instances, job_store, "Completed", "Grand Bend")
    page = person.page
    await page.goto(f"/console/instances/{job.instance_id}/edit")
    await page.get_by_label("Contexts").fill("districtId=12")
    of_others = AttributeChanges(protected=True, labels={"year": "2027"}, contexts={"districtId": "13"})
    await instances.change_attributes(job.instance_id, of_others)
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_role("alert")).to_contain_text("It is now: districtId=13")
    await page.get_by_role("button", name="Save").click()
    await person.sees_heading("Grand Bend")
    row = await queries.any_instance(job.instance_id)
    assert row is not None
    assert (row.is_protected, row.labels) == (True, {"year": "2027"})
    await expect(page.get_by_role("definition").filter(has_text=re.compile("^12$"))).to_be_visible()


async def test_contexts_and_lines_stay_as_they_are_when_a_form_writes_them_otherwise(
    person: Person, instances: InstanceStore, job_store: JobStore, queries: InstanceQueries
) -> None:
    job = await bring_to(instances, job_store, "Completed", "Grand Bend")
    contexts = {"a=b": "c", "a": "b=c", "note": "one\ntwo", " blank ": " both ", "k": "v"}
    of_others = AttributeChanges(contexts=contexts, description="of the north\nand the south")
    await instances.change_attributes(job.instance_id, of_others)
    page = person.page
    await page.goto(f"/console/instances/{job.instance_id}/edit")
    field = page.get_by_label("Contexts")
    await field.fill("new=1\n" + (await field.input_value()).replace("k=v", "k=w"))
    await page.get_by_role("button", name="Save").click()
    await person.sees_heading("Grand Bend")
    saved = await queries.contexts_of(job.ods_instance_id)
    assert {row.key: row.value for row in saved} == contexts | {"new": "1", "k": "w"}
    row = await queries.any_instance(job.instance_id)
    assert row is not None
    assert row.description == "of the north\nand the south"


async def test_an_instance_is_not_renamed_when_another_client_has_renamed_it_since_the_page_was_opened(
    person: Person, instances: InstanceStore, job_store: JobStore, queries: InstanceQueries
) -> None:
    job = await bring_to(instances, job_store, "Completed", "Grand Bend")
    page = person.page
    await page.goto(f"/console/instances/{job.instance_id}/rename")
    rename = (await instances.request_rename(job.instance_id, "Glendale")).job
    await job_store.begin(rename)
    await job_store.finish_rename(rename, CONNECTION_STRING)
    await page.get_by_role("button", name="Rename").click()
    await expect(page.get_by_role("alert")).to_contain_text("It is now: Glendale")
    row = await queries.any_instance(job.instance_id)
    assert row is not None
    assert (row.name, row.job_number) == ("Glendale", rename.number)
    await page.get_by_label("New name").fill("Ashgrove")
    await page.get_by_role("button", name="Rename").click()
    await person.sees_heading("Glendale")
    await expect(page.get_by_role("region", name="Jobs").get_by_role("row")).to_have_count(4)


async def test_an_instance_does_not_come_back_under_an_earlier_name_when_it_has_another_by_now(
    person: Person, instances: InstanceStore, job_store: JobStore, queries: InstanceQueries
) -> None:
    job = await bring_to(instances, job_store, "Deleted", "Grand Bend")
    page = person.page
    await page.goto(f"/console/trash/{job.instance_id}/undelete")
    undelete = (await instances.request_undelete(job.instance_id, "Glendale")).job
    await job_store.begin(undelete)
    await job_store.finish_undelete(undelete, CONNECTION_STRING)
    again = (await instances.request_delete(job.instance_id)).job
    await job_store.begin(again)
    await job_store.finish_delete(again)
    await page.get_by_role("button", name="Undelete").click()
    await expect(page.get_by_role("alert")).to_contain_text("It is now: Glendale")
    row = await queries.any_instance(job.instance_id)
    assert row is not None
    assert (row.status, row.job_number) == (InstanceStatus.DELETED, again.number)


async def test_nothing_is_purged_when_the_instance_was_deleted_again_since_the_page_was_opened(
    person: Person, instances: InstanceStore, job_store: JobStore, queries: InstanceQueries
) -> None:
    job = await bring_to(instances, job_store, "Deleted", "Grand Bend")
    await person.page.goto(f"/console/trash/{job.instance_id}/purge")
    await person.page.get_by_label("Type Grand Bend").fill("Grand Bend")
    undelete = (await instances.request_undelete(job.instance_id)).job
    await job_store.begin(undelete)
    await job_store.finish_undelete(undelete, CONNECTION_STRING)
    again = (await instances.request_delete(job.instance_id)).job
    await job_store.begin(again)
    await job_store.finish_delete(again)
    await person.page.get_by_role("button", name="Purge Grand Bend").click()
    await expect(person.page.get_by_role("alert")).to_contain_text("has changed since the page was opened")
    row = await queries.any_instance(job.instance_id)
    assert row is not None
    assert (row.status, row.job_number) == (InstanceStatus.DELETED, again.number)


async def test_several_instances_are_deleted_when_they_are_chosen(person: Person, workers: None) -> None:
    page = person.page
    for name in ("Old Ridge", "Old Glendale"):
        await person.create(name)
        await expect(page.get_by_role("status").filter(has_text="Completed")).to_be_visible()
    await page.goto("/console/instances")
    await page.get_by_label("Choose Old Ridge").check()
    await page.get_by_label("Choose Old Glendale").check()
    await page.get_by_role("button", name="Delete the chosen instances").click()
    await person.sees_heading("Delete 2 instances")
    await page.get_by_role("button", name="Delete 2 instances").click()
    await person.sees_heading("Instances")
    await expect(page.get_by_text("Here will be your instances")).to_be_visible()


async def test_a_failed_job_is_retried_when_its_cause_is_gone(
    person: Person, instances: InstanceStore, registry: asyncpg.Connection
) -> None:
    page = person.page
    requested = await instances.reserve("Grand Bend", Template.MINIMAL)
    await registry.execute(
        "UPDATE adminapi.managed_instances SET state = 'Error', errormessage = 'The template is in use.'"
    )
    await registry.execute("UPDATE adminapi.jobstatuses SET status = 'Error'")
    await page.goto("/console")
    await expect(page.get_by_text("1 instance has failed")).to_be_visible()
    await expect(page.get_by_text("The template is in use.")).to_be_visible()
    await page.get_by_role("link", name="Grand Bend", exact=True).click()
    await expect(page.get_by_text("The template is in use.").first).to_contain_text("ago")
    await expect(page.get_by_text("Or delete this instance")).to_be_visible()
    await expect(page.get_by_text("ods backup create")).to_have_count(0)
    await page.goto("/console")
    await page.get_by_role("button", name="Retry Grand Bend").click()
    await person.sees_heading("Grand Bend")
    await expect(page.get_by_role("status").filter(has_text="Pending")).to_be_visible()
    assert f"/instances/{requested.instance.id}" in page.url


async def test_the_name_is_asked_for_when_a_retry_drops_the_database(
    person: Person, instances: InstanceStore, job_store: JobStore, queries: InstanceQueries
) -> None:
    page = person.page
    job = await bring_to(instances, job_store, "Deleted", "Glendale")
    purge = (await instances.request_purge(job.instance_id)).job
    assert (await job_store.begin(purge)).held
    assert await job_store.fail(purge, "The PostgreSQL server does not answer.", outage=True)
    await page.goto("/console")
    await page.get_by_role("button", name="Retry Glendale").click()  # it leads to the page that asks
    await expect(page.get_by_text("It drops the database for good.")).to_be_visible()
    field = page.get_by_label("Type Glendale to drop its database for good")
    await field.fill("glendale")
    await page.get_by_role("button", name="Retry", exact=True).click()
    await expect(page.get_by_role("alert")).to_contain_text("This is not Glendale.")
    failed = await queries.any_instance(job.instance_id)
    assert failed is not None
    assert failed.status == InstanceStatus.DELETE_FAILED
    await field.fill("Glendale")
    await page.get_by_role("button", name="Retry", exact=True).click()
    await person.sees_heading("Glendale")
    waiting = await queries.any_instance(job.instance_id)
    assert waiting is not None
    assert waiting.status == InstanceStatus.PENDING_DELETE


async def test_a_person_finds_out_why_a_job_fails_and_mends_it_when_a_database_is_in_its_way(
    person: Person, workers: None, admin: asyncpg.Connection, temporal: Client
) -> None:
    page = person.page
    await admin.execute('CREATE DATABASE "EdFi_Ods_Third_2027_Minimal"')
    await person.create("Third 2027")
    await expect(page.get_by_text("that does not belong to this instance").first).to_be_visible()
    workflow = temporal.get_workflow_handle(page.url.rpartition("/")[2])
    await page.get_by_role("region", name="Jobs").get_by_role("link", name="Create").click()
    work = page.get_by_role("region", name="As Temporal tells")
    await expect(work).to_contain_text("Waits for a retry until")
    await expect(work).to_contain_text(re.compile("Last step that failed.*provision"))
    await page.get_by_role("link", name="Abandon").click()
    await page.get_by_role("button", name="Abandon the job").click()

    async def has_ended() -> bool:
        return (await workflow.describe()).close_time is not None

    await wait_until(has_ended, 10)
    await page.get_by_role("link", name="Abandon").click()
    await page.get_by_role("button", name="Abandon the job").click()
    await expect(page.get_by_role("alert")).to_contain_text("Nothing is left to abandon.")
    await admin.execute('DROP DATABASE "EdFi_Ods_Third_2027_Minimal"')
    await (
        page.get_by_role("link", name="Go to the job").or_(page.get_by_role("link", name="Leave it")).click()
    )
    await page.get_by_role("link", name="Retry").click()
    await page.get_by_role("button", name="Retry").click()
    await person.sees_heading("Third 2027")
    await expect(page.get_by_role("status").filter(has_text="Completed")).to_be_visible()


async def test_a_waiting_job_is_cancelled_when_a_person_asks(person: Person) -> None:
    page = person.page
    await person.create("Grand Bend")
    await page.get_by_role("region", name="Jobs").get_by_role("link", name="Create").click()
    await page.get_by_role("link", name="Cancel").click()
    await page.get_by_role("button", name="Cancel the job").click()
    await expect(page.get_by_role("status").filter(has_text="Error")).to_be_visible()


async def test_the_list_shows_what_fits_when_a_filter_is_chosen(
    person: Person, instances: InstanceStore
) -> None:
    page = person.page
    for number in range(30):
        await instances.reserve(f"Ridge {number:02}", Template.SAMPLE if number % 2 else Template.MINIMAL)
    await page.goto("/console/instances")
    await expect(page.get_by_text("30 instances")).to_be_visible()
    await expect(page.get_by_role("row")).to_have_count(21)
    await page.get_by_role("link", name="Next").click()
    await expect(page.get_by_role("row")).to_have_count(11)
    await page.get_by_role("searchbox", name="Name").fill("ridge 2")
    await expect(page.get_by_text("10 instances")).to_be_visible()
    await page.get_by_label("Template").select_option("Sample")
    await expect(page.get_by_text("5 instances")).to_be_visible()
    await expect(page).to_have_url(re.compile(r"template=Sample.*name=ridge"))
    await page.reload()
    await expect(page.get_by_text("5 instances")).to_be_visible()


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_name_is_only_text_when_it_is_shown(
    person: Person, instances: InstanceStore, registry: asyncpg.Connection, name: str
) -> None:
    page = person.page
    requested = await instances.reserve("Grand Bend", Template.MINIMAL)
    await registry.execute(
        "UPDATE adminapi.managed_instances SET name = $1, state = 'Error', errormessage = $2", name, name * 9
    )
    await page.goto("/console/instances")
    await expect(page.get_by_role("link", name=name, exact=True)).to_be_visible()
    assert await is_as_wide_as_the_window(page)
    shown = (f"/instances/{requested.instance.id}{path}" for path in ("", "/rename", "/delete", "/retry"))
    for path in (*shown, f"/jobs/{requested.job.job_id}", f"/jobs/{requested.job.job_id}/cancel"):
        await page.goto(f"/console{path}")
        await expect(page.get_by_role("heading", level=1)).to_contain_text(name)
        assert await is_as_wide_as_the_window(page)


async def is_as_wide_as_the_window(page: Page) -> bool:
    wide: bool = await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    return wide
