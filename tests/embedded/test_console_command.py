"""`ods console`, and the links that `ods up` and `ods demo` print."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from ods.embedded.data_folder import DataFolder

Ods = Callable[..., subprocess.CompletedProcess[str]]

LINK = re.compile(r"http://127\.0\.0\.1:\d+/console/sign-in/link\?with=default\.[\w-]+")


def link_in(text: str) -> str:
    found = LINK.search(text)
    assert found, text
    return found[0]


async def signs_in(link: str) -> bool:
    async with httpx.AsyncClient(trust_env=False, follow_redirects=True) as client:
        answer = await client.get(link)
    return answer.url.path == "/console/instances" and answer.is_success


@pytest.fixture
def browser(tmp_path: Path) -> Path:
    """A browser that notes which address it is to open."""
    path = tmp_path / "browser"
    path.write_text(f'#!/bin/sh\nprintf %s "$1" > {tmp_path}/opened\n')
    path.chmod(0o700)
    return path


async def test_the_browser_is_signed_in_once_when_the_console_is_opened(
    ods: Ods, stack: DataFolder, browser: Path
) -> None:
    run = ods("console", "--data-dir", stack.path, BROWSER=f"{browser} %s")
    assert run.returncode == 0, run.stderr
    assert "once, within 5 minutes, on this machine" in run.stdout
    opened = (browser.parent / "opened").read_text()
    assert opened == link_in(run.stdout)
    assert await signs_in(opened)
    assert not await signs_in(opened)


def test_the_command_says_so_when_there_is_no_such_client(ods: Ods, stack: DataFolder) -> None:
    run = ods("console", "--data-dir", stack.path, "--client", "unknown", BROWSER="false")
    assert run.returncode == 1
    assert "No client has the id unknown" in run.stderr


def test_no_link_of_the_stack_leads_to_another_api(ods: Ods, stack: DataFolder, browser: Path) -> None:
    elsewhere = {"ODS_API_URL": "http://127.0.0.1:9", "BROWSER": f"{browser} %s"}
    run = ods("console", "--data-dir", stack.path, **elsewhere)
    assert run.returncode == 1
    assert "another API shall not see a link" in " ".join(run.stderr.split())
    assert not (browser.parent / "opened").exists()


def test_the_command_says_so_when_no_stack_runs(ods: Ods, tmp_path: Path) -> None:
    run = ods("console", "--data-dir", tmp_path, BROWSER="false")
    assert run.returncode == 1
    assert "Error: " in run.stderr


async def test_the_link_of_the_demo_signs_in_when_the_stack_stays(ods: Ods, stack: DataFolder) -> None:
    demo = ods("demo", "--data-dir", stack.path)
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert await signs_in(link_in(demo.stdout.splitlines()[-1]))
