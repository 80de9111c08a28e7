"""Two operators press the buttons of fragments that were made once for both of their pages."""

from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from ods.embedded.postgres import EmbeddedPostgres
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.store import InstanceStore
from ods.settings.settings import Settings
from tests.console.conftest import OpenContext
from tests.console.people import Person
from tests.postgres.instance_states import bring_to
from tests.servers import make_settings


@pytest.fixture
def settings(postgres: EmbeddedPostgres, registry_dsn: str, tmp_path: Path) -> Settings:
    """With a store for backups."""
    return make_settings(postgres, registry_dsn, backup_url=tmp_path.as_uri())


async def _press(page: Page, button: str) -> int:
    """Press the button; returns the status of the answer."""
    async with page.expect_response(lambda answer: answer.request.method == "POST") as answer:
        await page.get_by_role("button", name=button).click()
    return (await answer.value).status


async def test_each_button_acts_when_it_came_to_the_open_pages_of_two_operators(
    person: Person, open_context: OpenContext, instances: InstanceStore, job_store: JobStore
) -> None:
    other = Person(await (await open_context()).new_page())
    await other.sign_in()
    pages = (person.page, other.page)
    for presser in pages:
        for number, button in enumerate(("Read them anew", "Make a backup", "Take a snapshot", "Retry")):
            name = f"Ridge {pages.index(presser)} {number}"
            job = await bring_to(instances, job_store, "InProgress", name)
            for page in pages:
                address = "" if button == "Retry" else f"/{job.instance_id}"
                await page.goto(f"/console/instances{address}")
            if button == "Retry":
                await job_store.fail(job, "It could not be created.")
            else:
                await job_store.finish_create(job, "iv|ciphertext|hmac")
            for page in pages:
                await expect(page.get_by_role("button", name=button).first).to_be_visible()
            pressed = f"Retry {name}" if button == "Retry" else button
            assert await _press(presser, pressed) == 303, pressed
