"""Commands start without what takes long to load."""

import subprocess
import sys

_SLOW = ("sqlalchemy", "temporalio", "fastapi")
_LOADED = f"import sys, ods.cli.main; print(*(name for name in {_SLOW} if name in sys.modules))"


def test_command_line_starts_without_packages_that_take_a_quarter_second() -> None:
    loading = subprocess.run([sys.executable, "-c", _LOADED], capture_output=True, text=True, check=True)  # noqa: S603

    assert not loading.stdout.split()
