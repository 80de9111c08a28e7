"""Programs that are started: what runs in the forked child, and what they inherit."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from ods.programs import process
from ods.programs.process import Command


async def output_of(tmp_path: Path, *arguments: str, niceness: int = 0) -> tuple[int, list[str]]:
    """The exit code of a program, and the lines that it has written."""
    command = Command("program", arguments, dict(os.environ), niceness=niceness)
    running = await process.start(command, tmp_path / "log")
    return await running.wait(), (tmp_path / "log").read_text().splitlines()


async def test_no_python_runs_in_the_forked_child(tmp_path: Path) -> None:
    """It might wait for ever for a lock that another thread held when the child was forked."""
    seen = tmp_path / "seen"
    script = f"""
import asyncio, os
from pathlib import Path
from ods.programs import process
from ods.programs.process import Command

os.register_at_fork(after_in_child=lambda: Path({str(seen)!r}).write_text("Python"))

async def main():
    running = await process.start(Command("true", ("/bin/true",), {{}}), Path({str(tmp_path / "log")!r}))
    assert await running.wait() == 0

asyncio.run(main())
"""
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", script)
    assert await child.wait() == 0
    assert not seen.exists()


async def test_program_has_its_arguments_as_they_are(tmp_path: Path) -> None:
    words = ["", "--", "a b", "$HOME", "Übung"]
    code, lines = await output_of(tmp_path, "/bin/sh", "-c", 'printf "%s\\n" "$@"', "sh", *words)
    assert (code, lines) == (0, words)


async def test_program_is_ended_by_a_broken_pipe_as_any_other(tmp_path: Path) -> None:
    """Python ignores this signal; what it becomes would go on writing."""
    code, lines = await output_of(tmp_path, "/bin/sh", "-c", "kill -PIPE $$; echo went on")
    assert (code, lines) == (-13, [])


async def test_program_yields_to_others_when_it_is_to_be_nice(tmp_path: Path) -> None:
    code, lines = await output_of(tmp_path, "nice", niceness=3)
    assert (code, lines) == (0, [str(min(os.nice(0) + 3, 19))])


@pytest.mark.parametrize("program", ["/nowhere/program", "/etc"])
async def test_program_is_named_when_it_cannot_be_run(tmp_path: Path, program: str) -> None:
    code, (line,) = await output_of(tmp_path, program)
    assert code == 127
    assert line.startswith(f"{program} cannot be run: ")


@pytest.mark.skipif(sys.platform != "linux", reason="the system tells of its processes on Linux only")
async def test_program_is_waited_for_until_the_wrapper_has_become_it(tmp_path: Path) -> None:
    command = Command("sleep", ("sleep", "600"), {"PATH": os.defpath})
    running = await process.start(command, tmp_path / "log")
    try:
        await process.until_program_runs(running)
        words = Path(f"/proc/{running.pid}/cmdline").read_bytes().split(b"\0")  # noqa: ASYNC240 - at once
        assert words == [b"sleep", b"600", b""]
    finally:
        await process.stop(running, command)
    missing = await process.start(Command("none", ("/none",), {}), tmp_path / "log")
    await asyncio.wait_for(process.until_program_runs(missing), 10)
    assert await missing.wait() == 127
