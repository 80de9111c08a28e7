"""What needs a person, drift with its remedies, spares, health, and two persons at one instance."""

import asyncpg
from playwright.async_api import expect

from ods.registry.instances.job_store import JobStore
from ods.registry.instances.store import InstanceStore
from tests.console.conftest import OpenContext
from tests.console.people import READER, Person
from tests.console.test_instances import is_as_wide_as_the_window
from tests.postgres.instance_states import bring_to


async def test_drift_is_gone_when_its_remedy_was_requested(
    person: Person, workers: None, admin: asyncpg.Connection
) -> None:
    page = person.page
    await person.create("Grand Bend 2027")
    await expect(page.get_by_role("status").filter(has_text="Completed")).to_be_visible()
    await page.goto("/console/recovery")
    await expect(page.get_by_text("Registry and server agree.")).to_be_visible()
    await admin.execute('COMMENT ON DATABASE "EdFi_Ods_Grand_Bend_2027_Minimal" IS NULL')
    await page.get_by_role("link", name="Look again").click()
    finding = page.get_by_role("region", name="Instance without its database")
    await expect(finding).to_contain_text("does not carry the instance's mark")
    await expect(finding).to_contain_text("ods instance adopt")
    await expect(page.get_by_role("link", name="1 difference between registry and server")).to_be_visible()
    await finding.get_by_role("link", name="Adopt the database").click()
    await person.sees_heading("Adopt the database EdFi_Ods_Grand_Bend_2027_Minimal")
    await page.get_by_role("button", name="Adopt the database").click()
    await person.sees_heading("Recovery")
    await expect(page.get_by_text("Registry and server agree.")).to_be_visible()
    await expect(page.get_by_role("link", name="1 difference between registry and server")).to_have_count(0)


async def test_an_instance_comes_back_when_its_database_was_opened_in_the_trash(
    person: Person, workers: None, admin: asyncpg.Connection
) -> None:
    page = person.page
    await person.create("Ridge")
    await expect(page.get_by_role("status").filter(has_text="Completed")).to_be_visible()
    await page.get_by_role("link", name="Delete").click()
    await page.get_by_label("Type Ridge").fill("Ridge")
    await page.get_by_role("button", name="Delete Ridge").click()
    await expect(page.get_by_role("status").filter(has_text="Deleted")).to_be_visible()
    # Other tests leave databases in the trash of the server.
    query = (
        "SELECT datname FROM pg_database WHERE shobj_description(oid, 'pg_database') LIKE '%_Ridge_%'"
        " ORDER BY oid DESC LIMIT 1"
    )
    trashed = await admin.fetchval(query)
    await admin.execute(f'ALTER DATABASE "{trashed}" ALLOW_CONNECTIONS true')
    await page.goto("/console/recovery/again")
    await page.get_by_role("link", name="Undelete the instance").click()
    await page.get_by_role("button", name="Undelete Ridge").click()
    await expect(page.get_by_role("status").filter(has_text="Completed")).to_be_visible()
    await page.goto("/console/recovery/again")
    await expect(page.get_by_text("Registry and server agree.")).to_be_visible()


async def test_what_needs_a_person_leads_to_it_when_any_page_is_open(
    person: Person, instances: InstanceStore, job_store: JobStore
) -> None:
    page = person.page
    await page.goto("/console/jobs")
    await expect(page.get_by_text("Needs you:")).to_have_count(0)
    await bring_to(instances, job_store, "Completed", "Ridge")
    await bring_to(instances, job_store, "Error", "Grand Bend")
    await bring_to(instances, job_store, "Delete_Failed", "Northridge")
    await page.get_by_role("link", name="2 instances have failed").click()
    await person.sees_heading("Instances")
    await expect(page.get_by_label("Status")).to_have_value("failed")
    await expect(page.get_by_text("2 instances", exact=True)).to_be_visible()
    for name in ("Grand Bend", "Northridge"):
        await expect(page.get_by_role("row", name=name)).to_be_visible()


async def test_a_client_sees_drift_and_no_remedy_when_it_may_only_read(
    open_context: OpenContext, instances: InstanceStore, job_store: JobStore
) -> None:
    job = await bring_to(instances, job_store, "Completed", "Grand Bend")
    reader = Person(await (await open_context()).new_page())
    await reader.sign_in(READER)
    await reader.page.goto("/console/recovery/again")
    await expect(reader.page.get_by_text("does not exist")).to_be_visible()
    await expect(reader.page.get_by_role("link", name="Adopt the database")).to_have_count(0)
    token = await reader.page.locator("input[name=csrf]").first.get_attribute("value")
    for path in (f"instances/{job.instance_id}/adopt", "spares"):
        answer = await reader.page.request.post(f"/console/{path}", form={"csrf": str(token)})
        assert answer.status == 403
    await reader.page.goto("/console/spares")
    await reader.sees_heading("Spares")
    await expect(reader.page.get_by_role("button", name="Refill now")).to_have_count(0)


async def test_every_part_is_shown_with_what_the_doctor_finds_when_he_is_asked(person: Person) -> None:
    page = person.page
    await page.goto("/console/health")
    row = page.get_by_role("row", name="database")
    await expect(row).to_contain_text("Healthy")
    await expect(row).to_contain_text("ms")
    await expect(page.get_by_role("row", name="pass").first).to_contain_text("It has no schedule yet")
    await page.get_by_role("link", name="Ask the doctor").click()
    await expect(page.get_by_role("region", name="Doctor")).to_contain_text("PostgreSQL")


async def test_the_refusal_is_explained_when_the_refill_has_no_schedule(
    person: Person, breakage: None
) -> None:
    await person.page.goto("/console/spares")
    await person.page.get_by_role("button", name="Refill now").click()
    await expect(person.page.get_by_role("heading", level=1)).to_contain_text("No worker has set up")


async def test_a_person_is_told_when_another_has_deleted_what_the_form_is_about(
    person: Person, open_context: OpenContext, instances: InstanceStore, job_store: JobStore
) -> None:
    job = await bring_to(instances, job_store, "Completed", "Grand Bend")
    await person.page.goto(f"/console/instances/{job.instance_id}/rename")
    await person.page.get_by_label("New name").fill("Northridge")
    other = Person(await (await open_context()).new_page())
    await other.sign_in()
    await other.page.goto(f"/console/instances/{job.instance_id}/delete")
    await other.page.get_by_label("Type Grand Bend").fill("Grand Bend")
    await other.page.get_by_role("button", name="Delete Grand Bend").click()
    await expect(other.page.get_by_role("status").filter(has_text="Pending_Delete")).to_be_visible()
    await person.page.get_by_role("button", name="Rename").click()
    await expect(person.page.get_by_role("alert")).to_contain_text("Pending_Delete")
    await expect(person.page.get_by_label("New name")).to_have_value("Northridge")


HOSTILE = '<script>alert("x")</script>"><img src=x onerror=alert(1)>'


async def test_hostile_names_are_only_text_when_they_are_in_drift(
    person: Person, instances: InstanceStore, job_store: JobStore, registry: asyncpg.Connection
) -> None:
    await bring_to(instances, job_store, "Completed", "Grand Bend")
    await registry.execute("UPDATE adminapi.managed_instances SET name = $1", HOSTILE)
    await person.page.goto("/console/recovery/again")
    await expect(person.page.get_by_text(HOSTILE).first).to_be_visible()
    assert await is_as_wide_as_the_window(person.page)


async def test_jobs_of_some_days_are_listed_when_days_are_chosen(
    person: Person, instances: InstanceStore, job_store: JobStore, registry: asyncpg.Connection
) -> None:
    page = person.page
    await bring_to(instances, job_store, "Completed", "Grand Bend")
    await registry.execute("UPDATE adminapi.jobstatuses SET createdat = '2026-03-05 23:59:00'")
    await page.goto("/console/jobs")
    await page.get_by_label("From").fill("2026-03-06")
    await expect(page.get_by_text("No job fits this filter.")).to_be_visible()
    await page.get_by_label("From").fill("2026-03-05")
    await page.get_by_label("Until").fill("2026-03-05")
    await expect(page.get_by_role("row", name="Create")).to_be_visible()
    await page.get_by_label("Until").fill("2026-03-04")
    await expect(page.get_by_text("No job fits this filter.")).to_be_visible()
