"""Finding a Chromium for the tests, or installing one.

The first of these that there is: what `ODS_CHROMIUM` names; one that is installed; Debian's package, if these
tests may install it; the npm package @sparticuz/chromium, which has the browser within itself.
"""

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_NPM_PACKAGE = "@sparticuz/chromium@153"
_NPM_FOLDER = Path(tempfile.gettempdir()) / f"ods-tests-chromium-{os.getuid()}"
_NPM_SCRIPT = (
    "import('@sparticuz/chromium').then(async (it) => console.log(await it.default.executablePath()))"
)
_SECONDS = 600


class NoBrowserError(Exception):
    """There is no browser, and none can be installed from here."""


def chromium() -> str:
    """The path of a Chromium.

    Raises:
        NoBrowserError: there is none, and none can be installed.
    """
    named = os.environ.get("ODS_CHROMIUM")
    if named is not None:
        if not Path(named).is_file():
            raise NoBrowserError(f"ODS_CHROMIUM names {named}, which is no file.")
        return named
    with _alone():  # several processes run tests at once
        found = _installed() or _from_debian() or _from_npm()
    if found is None:
        raise NoBrowserError(
            "The tests of the console need a Chromium. Install one (on Debian: apt-get install chromium), or"
            " set ODS_CHROMIUM to the path of one; or install npm, with which they fetch one by themselves."
        )
    return found


def _installed() -> str | None:
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


def _from_debian() -> str | None:
    if os.getuid() != 0 or not shutil.which("apt-get"):
        return None
    options = ("--yes", "--no-install-recommends")
    if not (_succeeds("apt-get", "update") and _succeeds("apt-get", "install", *options, "chromium")):
        return None
    return _installed()


def _from_npm() -> str | None:
    if not (shutil.which("npm") and shutil.which("node")):
        return None
    _NPM_FOLDER.mkdir(mode=0o700, exist_ok=True)
    if not _succeeds("npm", "install", "--no-audit", "--no-fund", _NPM_PACKAGE):
        return None
    printed = _run("node", "--eval", _NPM_SCRIPT)
    path = printed.stdout.strip()
    return path if printed.returncode == 0 and Path(path).is_file() else None


def _succeeds(*command: str) -> bool:
    return _run(*command).returncode == 0


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    folder = None
    if _NPM_FOLDER.is_dir():
        folder = _NPM_FOLDER
        environment["TMPDIR"] = str(folder)  # where the package unpacks the browser
    return subprocess.run(  # noqa: S603 - constants
        command, check=False, capture_output=True, text=True, timeout=_SECONDS, env=environment, cwd=folder
    )


@contextmanager
def _alone() -> Iterator[None]:
    path = Path(tempfile.gettempdir()) / f"ods-tests-chromium-{os.getuid()}.lock"
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
