"""Messages of programs are kept of what has failed, and by nothing else."""

import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ods.programs.private_logs import private_log
from tests.backups.stores import names_in

_HOLDER = """
import signal
from ods.programs.private_logs import private_log
with private_log("ods-copy-") as log:
    log.path.write_text("a row")
    print("in the middle", flush=True)
    signal.pause()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_end_of_the_messages_is_kept_for_the_owner_alone_when_a_failure_names_them(folder: Path) -> None:
    def fail() -> None:
        with private_log("ods-copy-") as log:
            for _ in range(2):  # as several programs append to it
                with log.path.open("ab") as file:
                    file.write(b"x" * 2**20 + b"the end")
            raise ValueError(f"{log.kept} says why")

    with pytest.raises(ValueError, match="says why") as raised:
        fail()
    kept = Path(str(raised.value).removesuffix(" says why"))
    assert names_in(folder) == [kept.name]
    assert (stat.S_IMODE(kept.stat().st_mode), kept.stat().st_size) == (0o600, 2**20)
    assert kept.read_bytes().endswith(b"xthe end")


def test_nothing_is_kept_when_no_failure_names_the_messages(folder: Path) -> None:
    with private_log("ods-copy-") as log:
        log.path.write_text("a row")
    with pytest.raises(ValueError, match="another"), private_log("ods-copy-"):
        raise ValueError("another reason")
    assert names_in(folder) == []


def test_nothing_is_left_when_the_process_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _HOLDER]
    with subprocess.Popen(  # noqa: S603 - this program
        command, stdout=subprocess.PIPE, env={"TMPDIR": str(tmp_path)}
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"in the middle\n"
        holder.send_signal(signal.SIGKILL)
    assert names_in(tmp_path) == []
