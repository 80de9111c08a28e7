import os
import signal
import subprocess
from collections.abc import Callable

from cli.data_folder import DataFolder
from cli.polling import wait_until

Ods = Callable[..., subprocess.CompletedProcess[str]]


async def test_demo_shows_a_whole_life_when_nothing_ran_before(
    ods: Ods, folder: DataFolder, free_ports: Callable[[], list[str]]
) -> None:
    options = ["--data-dir", folder.path, *free_ports()]
    first = ods("demo", *options)
    assert first.returncode == 0, first.stdout + first.stderr
    require_life(first.stdout)
    assert not folder.stack_file.exists()

    kept = ods("demo", "--keep", *options)
    assert kept.returncode == 0, kept.stdout + kept.stderr
    assert f"stop it with `kill {folder.holder()}`" in kept.stdout
    assert folder.running_stack() is not None

    again = ods("demo", *options)
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout.startswith(f"Using the stack that runs in {folder.path}.")
    assert folder.running_stack() is not None

    os.kill(int(folder.holder()), signal.SIGTERM)
    await wait_until(lambda: ended(folder), 60)


def require_life(output: str) -> None:
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
    return folder.running_stack() is None and not folder.stack_file.exists()


def test_demo_says_why_when_the_stack_cannot_start(
    ods: Ods, folder: DataFolder, free_ports: Callable[[], list[str]]
) -> None:
    failed = ods("demo", "--data-dir", folder.path, *free_ports(), ODS_TRIGGER="never")
    assert failed.returncode == 1
    assert "ODS_TRIGGER" in failed.stderr
    assert str(folder.logs) in failed.stderr
