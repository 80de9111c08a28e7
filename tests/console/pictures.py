"""`make pictures`: the pictures of the console in `docs/pictures`, with instances that are made for them.

Starts the stack of `ods up` in a folder of its own, does there what people would do, and takes a picture of
each page. Needs a Chromium, as the tests of the console do.
"""

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import httpx
from PIL import Image
from playwright.async_api import Page, ViewportSize, async_playwright

from ods.cli.client import AdminApi
from ods.cli.serving import serving
from ods.embedded.console_link import console_link_of
from ods.embedded.data_folder import DataFolder, StackFile
from ods.embedded.ports import Ports, free_ports
from tests.console.browser import ARGUMENTS, chromium
from tests.console.history import add_history
from tests.servers import server_folder, session

FOLDER = Path(__file__).parents[2] / "docs" / "pictures"
_SIZE = ViewportSize(width=1280, height=800)
_COLOURS = 64
_NAMES = ("Grand Bend 2027", "Northridge 2027", "Glendale 2027", "Lakeview 2027", "Everett 2027")
_DELETED = "Grand Bend 2025"
_FAILED = "Riverside 2027"
_FOREIGN_DATABASES = ("EdFi_Ods_Riverside_2027_Minimal", "EdFi_Ods_Somerset_2025_Sample")
"""The first has the name that the database of `_FAILED` would get, so that it fails; the other is drift."""


@dataclass(frozen=True)
class Example:
    """What pages are shown of: an instance, the one that is deleted next, and a job that has failed."""

    instance: int
    other: int
    failed_job: str


def main() -> None:
    """Take the pictures anew."""
    for name in [name for name in os.environ if name.startswith("ODS_") and name != "ODS_CHROMIUM"]:
        del os.environ[name]  # settings of another stack
    browser = chromium()
    with server_folder() as parent:
        api, temporal, temporal_ui = free_ports(3)
        ports = Ports(api, temporal, temporal_ui, None)
        with serving(DataFolder(parent / "data"), ports, keep=False) as stack:
            asyncio.run(_prepare(stack))
            example = _make_example(stack)
            asyncio.run(_take_pictures(stack, browser, example))


async def _prepare(stack: StackFile) -> None:
    async with session(stack["postgres"]["master_dsn"]) as server:
        for name in _FOREIGN_DATABASES:
            await server.execute(f'CREATE DATABASE "{name}"')
    form = {
        "ClientId": "admin-app",
        "ClientSecret": "Correct-Horse-Battery-Staple-2027",
        "DisplayName": "Ed-Fi Admin App",
    }
    async with httpx.AsyncClient(trust_env=False) as client:
        (await client.post(f"{stack['api']['url']}/connect/register", data=form)).raise_for_status()


def _make_example(stack: StackFile) -> Example:
    client = stack["client"]
    with AdminApi(stack["api"]["url"], client["id"], client["secret"]) as api:
        ids = [_create(api, name, district) for district, name in enumerate((*_NAMES, _DELETED), 255901)]
        first = ids[0]
        api.change(first, {"protected": True})
        api.wait_for(api.delete(ids[-1])["jobId"])
        api.wait_for(api.back_up(first)["jobId"])
        api.wait_for(api.create_snapshot(api.instance(first)["odsInstanceId"])["jobId"])
        failed = api.create(_FAILED, "Minimal")["jobId"]
        api.wait_for_end(failed)
        api.wait_for_spares()
        return Example(first, ids[1], failed)


def _create(api: AdminApi, name: str, district: int) -> int:
    place, year = name.rsplit(" ", 1)
    attributes = {
        "description": f"{place}, school year {year}",
        "labels": {"district": str(district)},
        "contexts": [
            {"contextKey": "schoolYear", "contextValue": year},
            {"contextKey": "district", "contextValue": str(district)},
        ],
    }
    accepted = api.create(name, "Sample" if district % 2 else "Minimal", attributes)
    api.wait_for(accepted["jobId"])
    return int(accepted["id"])


def _pages(example: Example) -> Mapping[str, str]:
    """The pages, by the names of their pictures."""
    instance = f"/instances/{example.instance}"
    return {
        "instances": "/instances",
        "new-instance": "/instances/new",
        "instance": instance,
        "size": f"{instance}#usage",
        "delete": f"/instances/{example.other}/delete",
        "jobs": "/jobs",
        "job": f"/jobs/{example.failed_job}",
        "backups": "/backups",
        "trash": "/trash",
        "templates": "/templates",
        "spares": "/spares",
        "recovery": "/recovery",
        "clients": "/clients",
        "audit": "/audit",
        "health": "/health",
        "charts": "/health#sizes",
    }


async def _take_pictures(stack: StackFile, browser_path: str, example: Example) -> None:
    dsn, console = stack["postgres"]["admin_dsn"], f"{stack['api']['url']}/console"
    async with session(dsn) as registry:
        await add_history(registry)
    FOLDER.mkdir(exist_ok=True)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=browser_path, args=list(ARGUMENTS))
        page = await browser.new_page(viewport=_SIZE, color_scheme="light", timezone_id="UTC", locale="en-GB")
        await page.goto(await console_link_of(dsn, stack["api"]["url"], stack["client"]["id"]))
        for name, path in _pages(example).items():
            await page.goto(f"{console}{path}")
            await _take(page, name)
        await browser.close()


async def _take(page: Page, name: str) -> None:
    """Keep what is seen of the page, with as many colours as pages have."""
    picture = Image.open(BytesIO(await page.screenshot(animations="disabled")))
    picture.convert("RGB").quantize(_COLOURS).save(FOLDER / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
