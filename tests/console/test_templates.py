"""The page of templates: what instances can be made of, and what loads have left."""

from collections.abc import AsyncIterator

import asyncpg
import pytest
from playwright.async_api import Page, expect

from ods.databases.templates.marks import TemplateMark, TemplateState, new_private_name
from ods.embedded.postgres import EmbeddedPostgres
from ods.registry.installation import InstallationStore
from ods.registry.storage.engine import create_registry_engine
from ods.settings.settings import Settings
from tests.console.people import READER, Person
from tests.console.test_everybody import require_accessible
from tests.servers import make_settings


@pytest.fixture
def settings(postgres: EmbeddedPostgres, registry_dsn: str) -> Settings:
    """With a template that was never loaded."""
    return make_settings(postgres, registry_dsn, templates={"Missing": "Nowhere"})


@pytest.fixture
async def leftover(settings: Settings, admin: asyncpg.Connection) -> AsyncIterator[str]:
    """A database that a newer load has replaced."""
    engine = create_registry_engine(settings.admin_dsn.get_secret_value())
    installation = str((await InstallationStore(engine).state()).id)
    await engine.dispose()
    name = new_private_name(installation)
    comment = TemplateMark(installation, "Minimal", TemplateState.REPLACED, generation=3).comment
    await admin.execute(f'CREATE DATABASE "{name}"')
    await admin.execute(f"""COMMENT ON DATABASE "{name}" IS '{comment}'""")
    yield name
    await admin.execute(f'DROP DATABASE "{name}"')


async def test_templates_and_what_loads_have_left_are_shown_when_a_person_looks(
    page: Page, leftover: str
) -> None:
    reader = Person(page)
    await reader.sign_in(READER)
    await page.get_by_role("link", name="Templates").click()
    await reader.sees_heading("Templates")
    await expect(page.get_by_role("region", name="Minimal")).to_contain_text("ready")
    missing = page.get_by_role("region", name="Missing")
    await expect(missing).to_contain_text("The database does not exist.")
    await expect(missing).to_contain_text("ods template load Missing FILE")
    row = page.get_by_role("region", name="Left by loads").get_by_role("row").filter(has_text=leftover)
    await expect(row).to_contain_text("replaced by a newer one")
    await require_accessible(page)
