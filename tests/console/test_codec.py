"""Temporal's own Web UI shows what was encrypted to a person who is signed in to the console."""

import asyncio
import base64
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from playwright.async_api import Browser, Page, expect
from pydantic import SecretStr

from ods.embedded.polling import wait_until
from ods.embedded.ports import free_ports
from ods.embedded.temporal_server import TemporalServer
from ods.programs import process
from ods.settings.settings import Settings
from ods.temporal.client import connect
from ods.temporal.namespace import register_search_attributes
from tests.api.server import serving
from tests.api.service import bearer
from tests.console.people import Person
from tests.servers import environment
from worker import run

KEY = base64.b64encode(bytes(range(32))).decode()
NAME = "Grand Bend 2031"
DATABASE = "EdFi_Ods_Grand_Bend_2031_Minimal"


@dataclass(frozen=True)
class Stack:
    """An API and the Web UI, with a workflow whose payloads are encrypted."""

    api: str
    workflow: str


@pytest.fixture
def web_ui(tmp_path: Path) -> TemporalServer:
    return TemporalServer(tmp_path / "temporal", *free_ports(2))


@pytest.fixture
def settings(settings: Settings, web_ui: TemporalServer) -> Settings:
    changes = {"payload_key": SecretStr(KEY), "codec_server": True, "temporal_ui_url": web_ui.ui_url}
    return settings.model_copy(update=changes)


@pytest.fixture
async def stack(
    settings: Settings,
    web_ui: TemporalServer,
    clients: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Stack]:
    monkeypatch.setenv("TEMPORAL_ADDRESS", web_ui.address)
    variables = {**environment(settings), "TEMPORAL_ADDRESS": web_ui.address}
    async with serving(settings, **variables) as api:
        command = web_ui.command(f"{api.url}/codec")
        server = await process.start(command, tmp_path / "temporal.log")
        stop = asyncio.Event()
        try:
            await wait_until(web_ui.serves, 30)
            await register_search_attributes(await connect(settings))
            working = asyncio.create_task(run(settings, stop))
            workflow = await created(api.url, settings)
            yield Stack(api.url, f"{web_ui.ui_url}/namespaces/default/workflows/{workflow}")
            stop.set()
            await working
        finally:
            await process.stop(server, command)


async def created(url: str, settings: Settings) -> int:
    """Have an instance made; returns the id of its workflow."""
    async with httpx.AsyncClient(base_url=url, headers=bearer(settings), trust_env=False) as api:
        new = {"name": NAME, "databaseTemplate": "Minimal"}
        accepted = (await api.post("/v2/dbInstances", json=new)).raise_for_status().json()

        async def is_completed() -> bool:
            shown = (await api.get(f"/v2/dbInstances/{accepted['id']}")).json()
            return bool(shown["status"] == "Completed")

        await wait_until(is_completed, 30)
        return int((await api.get(f"/v2/dbInstances/{accepted['id']}")).json()["odsInstanceId"])


async def show(page: Page, stack: Stack) -> None:
    """Open the page of the workflow, and wait until what it has decrypted, or has not, is there."""
    async with page.expect_response(re.compile("/codec/decode")):
        await page.goto(stack.workflow)


async def test_web_ui_shows_what_was_encrypted_once_its_user_has_signed_in_and_ticked_a_box(
    browser: Browser, stack: Stack
) -> None:
    context = await browser.new_context(base_url=stack.api)
    page, console = await context.new_page(), await context.new_page()
    await show(page, stack)
    error = page.get_by_test_id("data-encoder-status-error").first
    await expect(error).to_be_visible()
    await expect(page.get_by_text(DATABASE)).to_have_count(0)

    await error.click()
    await page.get_by_text("Use my browser setting and ignore Cluster-level setting").click()
    await page.get_by_label("Codec Server browser endpoint").fill(f"{stack.api}/codec")
    await page.get_by_text("Include cross-origin credentials").click()
    await page.get_by_role("button", name="Apply").click()
    await show(page, stack)
    await expect(error).to_be_visible()  # no client is signed in
    await expect(page.get_by_text(DATABASE)).to_have_count(0)

    await Person(console).sign_in()
    await show(page, stack)
    await expect(page.get_by_text(DATABASE).first).to_be_visible()
    await expect(page.get_by_test_id("data-encoder-status-success").first).to_be_visible()
    await context.close()
