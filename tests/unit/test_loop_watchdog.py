"""A process whose event loop hangs ends, and no other does."""

import asyncio
import os
import signal
import sys
from typing import Any

import pytest

SCRIPT = """
import asyncio, logging, threading
from ods.observability import loop_watchdog
from ods.observability.logs import configure_logging

loop_watchdog.LIMIT_SECONDS = 0.5
loop_watchdog._PERIOD_SECONDS = 0.02
configure_logging()

def hang():
    threading.Event().wait()

def hang_with_the_lock_of_the_log():
    logging.getLogger().handlers[0].acquire()
    hang()

async def answer():
    loop, answers = asyncio.get_running_loop(), []
    ask = loop.call_soon_threadsafe
    loop.call_soon_threadsafe = lambda answer: answers.append(ask(answer))
    while len(answers) < 50:  # twice as often as it may be missed
        await asyncio.sleep(0.01)

async def main():
    async with loop_watchdog.watched_loop():
        print("began", flush=True)
        {watched}
    {afterwards}
    print("ended")

asyncio.run(main())
"""
PROGRAM = """
import asyncio, threading
from ods.observability import loop_watchdog
import {module}

loop_watchdog.LIMIT_SECONDS = 0.5
loop_watchdog._PERIOD_SECONDS = 0.02
{module}.{function} = lambda *arguments: threading.Event().wait()

async def run_api():
    app = api.app.create_app()
    async with app.router.lifespan_context(app):
        pass

asyncio.run({main})
"""
"""A worker or API process, of which something hangs that it calls."""

HANG_AFTERWARDS = "threading.Event().wait(1)"
"""For twice the limit."""


async def started(watched: str, afterwards: str = "") -> asyncio.subprocess.Process:
    """A process that has begun to watch its event loop."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SCRIPT.format(watched=watched, afterwards=afterwards)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"began\n"
    return process


async def test_process_ends_and_tells_where_it_stood_when_its_event_loop_hangs() -> None:
    process = await started("hang()")
    output, told = await process.communicate()
    assert (process.returncode, output) == (70, b"")
    (line,) = told.decode().splitlines()
    assert "CRITICAL ods.observability.loop_watchdog The event loop has not answered" in line
    assert "at threading.py:" in line
    assert "in wait: unless it answers now, this process ends, to be started again." in line


async def test_process_ends_when_what_hangs_holds_the_lock_of_the_log() -> None:
    process = await started("hang_with_the_lock_of_the_log()")
    assert await process.communicate() == (b"", b"")
    assert process.returncode == 70


@pytest.mark.parametrize(
    ("watched", "afterwards"), [("await answer()", ""), ("await asyncio.sleep(0)", HANG_AFTERWARDS)]
)
async def test_process_goes_on_when_its_event_loop_answers_or_is_watched_no_longer(
    watched: str, afterwards: str
) -> None:
    process = await started(watched, afterwards)
    assert await process.communicate() == (b"ended\n", b"")
    assert process.returncode == 0


async def test_process_goes_on_when_it_was_suspended_for_longer_than_the_limit() -> None:
    process = await started("await answer()")
    process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(1)  # twice the limit
    process.send_signal(signal.SIGCONT)
    assert await process.communicate() == (b"ended\n", b"")
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("module", "function", "main"),
    [("worker", "run", "worker.main()"), ("api.app", "open_tenants", "run_api()")],
)
async def test_program_ends_when_its_event_loop_hangs(
    required_values: dict[str, Any], module: str, function: str, main: str
) -> None:
    variables = {f"ODS_{name.upper()}": value for name, value in required_values.items()}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM.format(module=module, function=function, main=main)),
        env={"PATH": os.defpath, "TEMPORAL_CONFIG_FILE": os.devnull, **variables},
        stderr=asyncio.subprocess.PIPE,
    )
    _, told = await process.communicate()
    assert process.returncode == 70
    assert "this process ends, to be started again" in told.decode()
