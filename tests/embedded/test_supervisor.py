import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from ods.embedded.errors import CommandError
from ods.embedded.polling import wait_until
from ods.embedded.supervisor import Supervisor
from ods.programs.process import Command


def shell(name: str, script: str, stop_deadline: float = 10) -> Command:
    return Command(name, ("/bin/sh", "-c", script), {"PATH": os.defpath}, stop_deadline=stop_deadline)


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


async def lines(path: Path, number: int) -> list[str]:
    async def complete() -> bool:
        return len(lines_of(path)) >= number

    await wait_until(complete, 10)
    return lines_of(path)


async def test_child_is_restarted_when_it_dies(tmp_path: Path) -> None:
    restarts: list[str] = []
    async with Supervisor(tmp_path, restarts.append) as supervisor:
        await supervisor.start(shell("child", "echo started; exec sleep 60"))
        await lines(tmp_path / "child.log", 1)
        first = supervisor.pids["child"]
        os.kill(first, signal.SIGKILL)
        assert await lines(tmp_path / "child.log", 2) == ["started", "started"]

        async def told() -> bool:
            return bool(restarts)

        await wait_until(told, 5)
        assert supervisor.pids["child"] != first
        assert restarts == ["child"]
    assert not alive(supervisor.pids["child"])


async def test_children_stop_in_reverse_order_when_the_supervisor_ends(tmp_path: Path) -> None:
    told = tmp_path / "told"
    async with Supervisor(tmp_path, lambda _: None) as supervisor:
        for name in ("first", "second", "third"):
            script = f"trap 'echo {name} >> {told}; exit' TERM; echo ready; while :; do sleep 0.01; done"
            await supervisor.start(shell(name, script))
            await lines(tmp_path / f"{name}.log", 1)
    assert told.read_text().split() == ["third", "second", "first"]


async def test_child_and_its_descendants_are_killed_when_it_does_not_stop_in_time(tmp_path: Path) -> None:
    async with Supervisor(tmp_path, lambda _: None) as supervisor:
        script = "trap '' TERM; sleep 60 & echo $!; while :; do sleep 0.01; done"
        await supervisor.start(shell("stubborn", script, stop_deadline=0.2))
        (descendant,) = await lines(tmp_path / "stubborn.log", 1)
    assert not alive(supervisor.pids["stubborn"])
    await wait_until(lambda: _gone(int(descendant)), 5)


async def test_start_fails_with_the_last_line_of_the_log_when_a_child_cannot_run(tmp_path: Path) -> None:
    async with Supervisor(tmp_path, lambda _: None) as supervisor:
        await supervisor.start(shell("broken", "echo no configuration; exit 1"))
        with pytest.raises(CommandError, match=r"broken ends as soon as it is started.*no configuration"):
            await supervisor.wait_until(_never, "answer")


async def test_start_fails_when_there_is_no_answer_in_time(tmp_path: Path) -> None:
    async with Supervisor(tmp_path, lambda _: None) as supervisor:
        await supervisor.start(shell("silent", "exec sleep 60"))
        with pytest.raises(CommandError, match=r"There was no answer within 0\.1 seconds; the logs are in"):
            await supervisor.wait_until(_never, "answer", 0.1)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children that their parent has died")
async def test_children_die_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    script = f"""
import asyncio
from pathlib import Path
from ods.programs.process import Command
from ods.embedded.supervisor import Supervisor

async def main():
    async with Supervisor(Path({str(tmp_path)!r}), print) as supervisor:
        await supervisor.start(Command("child", ("/bin/sh", "-c", "echo $$; exec sleep 60"), {{}}))
        await asyncio.sleep(60)

asyncio.run(main())
"""
    supervisor = await asyncio.create_subprocess_exec(sys.executable, "-c", script)
    (child,) = await lines(tmp_path / "child.log", 1)
    assert alive(int(child))
    supervisor.kill()
    await supervisor.wait()
    await wait_until(lambda: _gone(int(child)), 5)


async def _gone(pid: int) -> bool:
    return not alive(pid)


async def _never() -> bool:
    return False
