"""Programs that no wheel brings, from Debian's packages: unpacked for the tests, without root."""

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FOLDER = Path(tempfile.gettempdir()) / f"ods-tests-debian-{os.getuid()}"
_SECONDS = 300
_SBIN = "/usr/sbin:/sbin"
"""Where Debian has servers; the search path of a user is without it."""


class NoProgramError(Exception):
    """The program is not installed, and its package cannot be had from here."""


def program(name: str) -> str:
    """The path of the program `name`: one that is installed, or that of Debian's package of the same name.

    Raises:
        NoProgramError: there is none.
    """
    unpacked = _FOLDER / name
    search = os.pathsep.join(
        (os.environ.get("PATH", os.defpath), _SBIN, f"{unpacked}/usr/bin", f"{unpacked}/usr/sbin")
    )
    if found := shutil.which(name, path=search):
        return found
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        raise NoProgramError(f"These tests need {name}. Install it.")
    _FOLDER.mkdir(mode=0o700, exist_ok=True)
    with _alone():  # several processes run tests at once
        if not unpacked.is_dir():
            _unpack(name, unpacked)
    if found := shutil.which(name, path=search):
        return found
    raise NoProgramError(f"Debian's package {name} has no program of that name. Install one.")


def _unpack(package: str, place: Path) -> None:
    with tempfile.TemporaryDirectory(dir=_FOLDER) as name:
        work = Path(name)
        for needed in ("lists/partial", "archives/partial", "unpacked"):
            (work / needed).mkdir(parents=True)
        # Lists of the tests' own: those of the system may be missing, and to renew them takes root.
        places = (f"Dir::State::lists={work}/lists", f"Dir::Cache={work}", "APT::Sandbox::User=root")
        options = [word for place in places for word in ("--option", place)]
        _run(work, "apt-get", *options, "--quiet", "update")
        _run(work, "apt-get", *options, "--quiet", "download", package)
        (archive,) = work.glob(f"{package}_*.deb")
        _run(work, "dpkg", "--extract", str(archive), str(work / "unpacked"))
        (work / "unpacked").rename(place)


def _run(folder: Path, *command: str) -> None:
    done = subprocess.run(  # noqa: S603 - Debian's own programs
        command, check=False, capture_output=True, text=True, timeout=_SECONDS, cwd=folder
    )
    if done.returncode:
        raise NoProgramError(f"{' '.join(command)} has failed: {done.stderr.strip()}")


@contextmanager
def _alone() -> Iterator[None]:
    with (_FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
