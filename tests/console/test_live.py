"""Open pages stay current, and say when they are not."""

import asyncio
import re
from time import monotonic

import asyncpg
from playwright.async_api import Page, Route, expect

from ods.model.operations import Template
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.store import InstanceStore
from tests.api.server import Server
from tests.console.conftest import OpenContext
from tests.console.people import Person
from tests.postgres.instance_states import bring_to


async def test_what_another_person_deletes_is_seen_when_the_page_is_open(
    person: Person,
    open_context: OpenContext,
    instances: InstanceStore,
    job_store: JobStore,
) -> None:
    job = await bring_to(instances, job_store, "Completed", "Grand Bend")
    await person.page.goto(f"/console/instances/{job.instance_id}")
    await expect(person.page.get_by_role("status").filter(has_text="Completed")).to_be_visible()
    other = Person(await (await open_context()).new_page())
    await other.sign_in()
    await other.page.goto(f"/console/instances/{job.instance_id}/delete")
    await other.page.get_by_label("Type Grand Bend").fill("Grand Bend")
    await other.page.get_by_role("button", name="Delete Grand Bend").click()
    await expect(person.page.get_by_role("status").filter(has_text="Pending_Delete")).to_be_visible()
    await expect(person.page.get_by_role("link", name="Rename")).to_have_count(0)


async def test_what_was_chosen_and_typed_stays_when_the_list_around_it_changes(
    person: Person, instances: InstanceStore, job_store: JobStore
) -> None:
    page = person.page
    job = await bring_to(instances, job_store, "Pending", "Grand Bend")
    await page.goto("/console/instances")
    choice = page.get_by_label("Choose Grand Bend")
    await choice.check()
    await choice.focus()
    await page.evaluate("document.getElementById('search').value = 'half ty'")
    await job_store.begin(job)
    await instances.reserve("Northridge", Template.MINIMAL)
    await expect(page.get_by_role("row", name="Grand Bend")).to_contain_text("InProgress")
    await expect(page.get_by_role("row", name="Northridge")).to_be_visible()
    await expect(choice).to_be_checked()
    await expect(choice).to_be_focused()
    await expect(page.get_by_role("searchbox", name="Search instances")).to_have_value("half ty")


async def test_a_change_is_seen_within_a_second_when_the_page_is_open(
    person: Person, instances: InstanceStore, job_store: JobStore
) -> None:
    page = person.page
    job = await bring_to(instances, job_store, "Pending", "Grand Bend")
    await page.goto(f"/console/instances/{job.instance_id}")
    await expect(page.get_by_role("status").filter(has_text="Pending")).to_be_visible()
    begun = monotonic()
    await job_store.begin(job)
    await expect(page.get_by_role("status").filter(has_text="InProgress")).to_be_visible()
    assert monotonic() - begun < 3  # on a machine that does much else


async def test_the_page_says_so_and_is_current_again_when_the_stream_breaks(
    person: Person, instances: InstanceStore, job_store: JobStore, breakage: None
) -> None:
    page = person.page
    job = await bring_to(instances, job_store, "Pending", "Grand Bend")
    broken = asyncio.Event()
    broken.set()

    async def cut(route: Route) -> None:
        await (route.abort() if broken.is_set() else route.continue_())

    await page.route(re.compile("/console/live"), cut)
    await page.goto(f"/console/instances/{job.instance_id}")
    await expect(page.get_by_text("Not live since")).to_be_visible()
    await job_store.begin(job)
    # Without the stream it is asked again and again.
    await expect(page.get_by_role("status").filter(has_text="InProgress")).to_be_visible()
    broken.clear()
    await expect(page.get_by_text("Not live since")).to_have_count(0)
    await job_store.finish_create(job, "iv|ciphertext|hmac")
    await expect(page.get_by_role("status").filter(has_text="Completed")).to_be_visible()


async def test_the_page_says_so_and_shows_nothing_more_when_its_session_has_ended(
    person: Person,
    instances: InstanceStore,
    job_store: JobStore,
    registry: asyncpg.Connection,
    breakage: None,
) -> None:
    page: Page = person.page
    job = await bring_to(instances, job_store, "Pending", "Grand Bend")
    await page.goto(f"/console/instances/{job.instance_id}")
    await registry.execute("DELETE FROM adminapi.consolesessions")
    await job_store.begin(job)
    await expect(page.get_by_text("You are signed out.")).to_be_visible()
    await expect(page.get_by_text("Grand Bend")).to_have_count(0)


async def test_the_server_stops_at_once_when_pages_are_open(
    person: Person, server: Server, breakage: None
) -> None:
    await expect(person.page.get_by_role("heading", name="Instances")).to_be_visible()
    await person.page.wait_for_function("performance.getEntriesByName(location.origin + '/console/live')")
    await asyncio.wait_for(server.stop(), 8)
