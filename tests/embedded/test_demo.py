import os
import signal
import subprocess
from collections.abc import Callable

from cli.data_folder import DataFolder
from cli.polling import wait_until
from tests.embedded.conftest import port_options

Ods = Callable[..., subprocess.CompletedProcess[str]]


async def test_demo_stops_what_it_started_unless_told_to_keep_it_when_nothing_ran(
    ods: Ods, folder: DataFolder
) -> None:
    options = ["--data-dir", folder.path, *port_options()]
    kept = ods("demo", "--keep", *options)
    require_life(kept)
    assert f"stop it with `kill {folder.holder()}`" in kept.stdout
    assert folder.running_stack() is not None
    os.kill(int(folder.holder()), signal.SIGTERM)
    await wait_until(lambda: ended(folder), 60)

    require_life(ods("demo", *options))
    assert await ended(folder)


def test_demo_leaves_the_stack_alone_when_it_ran_before(ods: Ods, stack: DataFolder) -> None:
    before = stack.stack_file.read_text()
    demo = ods("demo", "--data-dir", stack.path)
    require_life(demo)
    assert demo.stdout.startswith(f"Using the stack that runs in {stack.path}.")
    assert stack.stack_file.read_text() == before


def require_life(demo: subprocess.CompletedProcess[str]) -> None:
    assert demo.returncode == 0, demo.stdout + demo.stderr
    output = demo.stdout
    for told in (
        "Created Demo ",
        "Completed",
        "CreateInstanceJob-",
        "Its database EdFi_Ods_Demo_",
        " is Deleted after ",
    ):
        assert told in output
    assert "/namespaces/default/workflows/" in output
    assert "\x1b" not in output
    assert "\r" not in output


async def ended(folder: DataFolder) -> bool:
    return folder.running_stack() is None and not folder.stack_file.exists() and not folder.is_held()


def test_demo_says_why_when_the_stack_cannot_start(ods: Ods, folder: DataFolder) -> None:
    failed = ods("demo", "--data-dir", folder.path, *port_options(), ODS_TRIGGER="never")
    assert failed.returncode == 1
    assert "ODS_TRIGGER" in failed.stderr
    assert str(folder.logs) in failed.stderr
