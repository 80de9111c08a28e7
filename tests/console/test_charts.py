"""Charts: sizes, jobs and durations, each with the table of what it shows."""

import asyncpg
import pytest
from playwright.async_api import expect

from ods.registry.instances.job_store import JobStore
from ods.registry.instances.store import InstanceStore
from tests.console.conftest import OpenContext
from tests.console.history import add_history
from tests.console.people import Person
from tests.postgres.instance_states import bring_to

ALL_SIZES = "Size of all databases of instances"
JOBS = "Jobs of the last 30 days"
DURATIONS = "How long jobs of the last 30 days took"


@pytest.fixture
async def instance(instances: InstanceStore, job_store: JobStore) -> int:
    """The id of an instance that can be used."""
    return (await bring_to(instances, job_store, "Completed", "Grand Bend")).instance_id


async def test_pages_say_what_will_be_there_when_there_is_nothing_to_draw(person: Person) -> None:
    page = person.page
    await page.goto("/console/health")
    await expect(page.get_by_text("sizes are recorded once a day")).to_be_visible()
    await expect(page.get_by_text("No job was requested in the last 30 days.")).to_be_visible()
    await expect(page.get_by_text("No job was completed in the last 30 days.")).to_be_visible()
    await expect(page.get_by_role("img")).to_have_count(0)


async def test_each_chart_has_its_table_when_a_person_wants_the_figures(
    person: Person, instance: int, registry: asyncpg.Connection
) -> None:
    await add_history(registry)
    page = person.page
    await page.goto("/console/jobs")
    await page.get_by_role("link", name="By day").click()
    for title in (ALL_SIZES, JOBS, DURATIONS):
        await expect(page.get_by_role("img", name=title, exact=True)).to_be_visible()
        await expect(page.get_by_role("table", name=title, exact=True)).to_be_hidden()
        await page.get_by_text(f"As a table: {title}").click()
        await expect(page.get_by_role("table", name=title, exact=True)).to_be_visible()
    completed = (
        page.get_by_role("table", name=JOBS, exact=True).get_by_role("row").nth(1).get_by_role("cell").first
    )
    await expect(completed).to_have_text("1")  # today
    rename = page.get_by_role("table", name=DURATIONS).get_by_role("row", name="Rename")
    await expect(rename).to_contain_text("ms")


async def test_the_size_of_an_instance_is_drawn_when_it_was_recorded_on_days_before(
    person: Person, instance: int, registry: asyncpg.Connection
) -> None:
    page = person.page
    await page.goto(f"/console/instances/{instance}")
    await expect(page.get_by_text("sizes are recorded once a day")).to_be_visible()
    await add_history(registry)
    await page.goto(f"/console/instances/{instance}")
    chart = page.get_by_role("img", name="Size over time")
    await expect(chart).to_be_visible()
    await expect(chart).to_contain_text("to 8 MB on")
    await page.get_by_text("As a table: Size over time").click()
    await expect(page.get_by_role("table", name="Size over time").get_by_role("row")).to_have_count(46)


async def test_texts_of_charts_keep_their_size_when_the_page_is_narrow(
    open_context: OpenContext, instance: int, registry: asyncpg.Connection
) -> None:
    await add_history(registry)
    page = await (await open_context(viewport={"width": 400, "height": 800})).new_page()
    await Person(page).sign_in()
    await page.goto("/console/health")
    for title in (ALL_SIZES, JOBS, DURATIONS):
        chart = page.get_by_role("img", name=title, exact=True)
        heights = await chart.locator("text").evaluate_all(
            "texts => texts.map(text => text.getBoundingClientRect().height)"
        )
        assert heights
        assert all(height >= 12 for height in heights)
        edges = await chart.locator("text").evaluate_all(
            "texts => texts.map(text => text.getBoundingClientRect()).map(box => [box.left, box.right])"
        )
        assert all(left >= 0 and right <= 400 for left, right in edges)
