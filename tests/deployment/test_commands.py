"""The commands of api and worker, run as their containers run them, while all that they depend on is away."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from ods.embedded.polling import wait_until
from ods.embedded.ports import free_port
from ods.programs import process
from ods.programs.process import Command
from tests.deployment import compose

pytestmark = pytest.mark.long

SERVICES = compose.services(compose.made_dotenv())
PROGRAMS = Path(sys.executable).parent
NO_SERVER = "127.0.0.1:1"

Start = Callable[..., Awaitable[asyncio.subprocess.Process]]


def environment(service: str) -> dict[str, str]:
    """The container's, but for addresses: names of other containers mean nothing here."""
    variables = {
        name: value.replace("postgres:5432", NO_SERVER).replace("temporal:7233", NO_SERVER)
        for name, value in SERVICES[service]["environment"].items()
    }
    return variables | {"PATH": f"{PROGRAMS}:{os.defpath}", "HOME": "/nonexistent"}


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts a service; what it prints goes to `tmp_path / "output"`."""
    started = []

    async def start_service(service: str, words: list[str]) -> asyncio.subprocess.Process:
        program = (str(PROGRAMS / words[0]), *words[1:])
        command = Command(service, program, environment(service))
        running = await process.start(command, tmp_path / "output")
        started.append((running, command))
        return running

    yield start_service
    for running, command in started:
        await process.stop(running, command)


async def test_api_is_healthy_when_all_else_is_away(start: Start) -> None:
    port = str(free_port())
    running = await start("api", [word.replace("8000", port) for word in SERVICES["api"]["command"]])

    async def is_healthy() -> bool:
        assert running.returncode is None
        return await asyncio.to_thread(probe, port) == 0

    await wait_until(is_healthy, 30)


def test_api_is_unhealthy_when_it_does_not_run() -> None:
    assert probe(str(free_port())) != 0


def probe(port: str) -> int:
    """The exit code of the API's health check."""
    _, program, *words = [word.replace("8000", port) for word in SERVICES["api"]["healthcheck"]["test"]]
    return subprocess.run([PROGRAMS / program, *words], check=False, capture_output=True).returncode  # noqa: S603 - our own command


async def test_worker_waits_and_stops_at_a_signal_when_all_else_is_away(start: Start, tmp_path: Path) -> None:
    running = await start("worker", SERVICES["worker"]["command"])

    async def waits() -> bool:
        assert running.returncode is None
        return "trying again" in (tmp_path / "output").read_text()

    await wait_until(waits, 30)
    running.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(running.wait(), 20) == 0
