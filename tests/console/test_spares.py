"""Spares: seen, and made when a person asks."""

import asyncio

import pytest
from playwright.async_api import expect

from ods.embedded.postgres import EmbeddedPostgres
from ods.settings.settings import Settings
from tests.console.people import Person
from tests.servers import make_settings


@pytest.fixture
def settings(postgres: EmbeddedPostgres, registry_dsn: str) -> Settings:
    return make_settings(postgres, registry_dsn, rate_limiting=False, spares=1)


async def test_missing_spares_are_made_when_the_refill_is_requested(person: Person, workers: None) -> None:
    page = person.page
    # The workers set up the schedule of the refill when they start.
    async with asyncio.timeout(60):
        while await page.goto("/console/health") and await page.get_by_text("It has no schedule yet").count():
            pass
    await page.goto("/console/spares")
    await expect(page.get_by_role("row", name="Minimal")).to_contain_text("of 1")
    await page.get_by_role("button", name="Refill now").click()
    await expect(page.get_by_text("The refill begins.")).to_be_visible()
    await expect(page.get_by_role("row", name="Minimal")).to_contain_text("1 of 1")


async def test_missing_spares_need_a_person_when_no_worker_makes_them(person: Person) -> None:
    page = person.page
    await page.goto("/console/spares")
    await expect(page.get_by_role("row", name="Minimal")).to_contain_text("Missing")
    await page.goto("/console/jobs")
    await page.get_by_role("link", name="spares missing").click()
    await person.sees_heading("Spares")
