"""A file that is fetched has its name only once all of it is there, whatever else happens meanwhile."""

import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ods.cli.fetched_files import file_in_parts
from ods.embedded.errors import CommandError
from tests.backups.stores import names_in

_WRITER = """
import sys, pathlib, signal
from ods.cli.fetched_files import file_in_parts
with file_in_parts(pathlib.Path(sys.argv[1])) as target:
    target.write(b"a longer part of another")
    target.flush()
    print("in the middle", flush=True)
    signal.pause()
"""


def _write(file: Path, content: bytes) -> None:
    with file_in_parts(file) as target:
        target.write(content)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "fetched"


def test_file_is_for_its_owner_alone_when_all_of_it_is_there(file: Path) -> None:
    _write(file, b"all")
    assert (file.read_bytes(), names_in(file.parent)) == (b"all", ["fetched"])
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("error", [KeyboardInterrupt, CommandError])
def test_nothing_is_left_when_it_is_cut(file: Path, error: type[BaseException]) -> None:
    def cut() -> None:
        with file_in_parts(file) as target:
            target.write(b"a part")
            raise error

    with pytest.raises(error):
        cut()
    assert names_in(file.parent) == []


def test_second_command_is_refused_and_the_first_goes_on_when_both_write_it(file: Path) -> None:
    with file_in_parts(file) as target:
        target.write(b"the ")
        with pytest.raises(CommandError, match=r"Another command writes .*fetched\.part"):
            _write(file, b"other")
        target.write(b"first")
    assert (file.read_bytes(), names_in(file.parent)) == (b"the first", ["fetched"])


def test_what_a_killed_command_has_left_is_overwritten(file: Path) -> None:
    command = [sys.executable, "-c", _WRITER, str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:  # noqa: S603 - this program
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"in the middle\n"
        with pytest.raises(CommandError, match="Another command writes"):
            _write(file, b"too early")
        writer.send_signal(signal.SIGKILL)
    assert names_in(file.parent) == ["fetched.part"]
    file.with_name("fetched.part").chmod(0o644)
    _write(file, b"all")
    assert (file.read_bytes(), names_in(file.parent)) == (b"all", ["fetched"])
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_file_that_was_made_meanwhile_is_kept(file: Path) -> None:
    def write() -> None:
        with file_in_parts(file) as target:
            target.write(b"fetched")
            file.write_bytes(b"an operator's")

    with pytest.raises(CommandError, match="is there already"):
        write()
    assert (file.read_bytes(), names_in(file.parent)) == (b"an operator's", ["fetched"])


def test_reason_names_the_part_when_it_cannot_be_written(file: Path) -> None:
    with pytest.raises(CommandError, match=r"fetched\.part cannot be written: No such file"):
        _write(file.parent / "missing" / file.name, b"")


def test_file_of_another_command_is_kept_when_that_has_ended_a_moment_ago(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = file.with_name("fetched.part")
    part.write_bytes(b"all")
    monkeypatch.setattr("fcntl.flock", lambda *_: part.rename(file))
    with pytest.raises(CommandError, match="Another command writes"):
        _write(file, b"other")
    assert (file.read_bytes(), names_in(file.parent)) == (b"all", ["fetched"])
