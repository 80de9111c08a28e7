"""What commands show of what takes long, and what Ctrl-C does."""

import pytest

from ods.cli.following import wait_printer
from ods.cli.progress_bar import goes_on, progress_bar
from ods.embedded.errors import CommandError


def test_there_is_a_line_for_each_step_when_the_output_is_no_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with progress_bar("Backing up") as show:
        for percent in (None, 0, 4, 9, 10, 11, 35, 36, 100):
            show(percent)
    assert capsys.readouterr().out.splitlines() == [
        f"Backing up: {percent} %" for percent in (0, 10, 35, 100)
    ]


def test_there_is_a_line_for_each_number_when_things_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("Requested", 45) as show:
        for done in (20, 40, 40, 45):
            show(done)
    assert capsys.readouterr().out.splitlines() == [f"Requested: {done} of 45" for done in (20, 40, 45)]


def test_there_is_a_line_for_each_wait_when_a_job_waits_for_something_else(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_wait = wait_printer()
    for reason in (None, "The server is away.", "The server is away.", None, "The disk is full."):
        show_wait({"jobId": "BackupInstanceJob-1-2", "waiting": reason and {"for": reason}})
    assert capsys.readouterr().out.splitlines() == [
        "BackupInstanceJob-1-2 waits: The server is away.",
        "BackupInstanceJob-1-2 waits: The disk is full.",
    ]


def test_command_says_that_the_job_goes_on_when_it_is_interrupted() -> None:
    words = (
        "BackupInstanceJob-1-2 goes on. See it with `ods job show BackupInstanceJob-1-2`; end it with"
        " `ods job cancel BackupInstanceJob-1-2`."
    )
    job = "BackupInstanceJob-1-2"
    with (
        pytest.raises(CommandError, match=words.replace(".", r"\.")),
        goes_on(job, f"ods job show {job}", f"ods job cancel {job}"),
    ):
        raise KeyboardInterrupt
