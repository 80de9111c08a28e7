"""The files in deploy/proxy, as nginx and Caddy themselves read them."""

import os
import subprocess
from pathlib import Path

import pytest

from tests import debian
from tests.reverse_proxy import FOLDER, Nginx

pytestmark = pytest.mark.long  # Debian's packages are fetched where the programs are not installed


@pytest.mark.parametrize("prefix", ["", "/edfi"])
def test_nginx_accepts_the_file_when_addresses_and_certificate_are_there(prefix: str) -> None:
    nginx = Nginx("http://127.0.0.1:8000", "http://127.0.0.1:8081", prefix)
    said = nginx.examine()
    nginx.remove()
    lines = said.splitlines()
    assert len(lines) == 2, said  # no warning besides
    assert lines[-1].endswith("test is successful")


def caddy(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Caddy, with what it keeps in `folder`."""
    environment = {"PATH": os.defpath, "HOME": str(folder)}
    command = (debian.program("caddy"), *words)
    return subprocess.run(command, check=False, capture_output=True, text=True, env=environment)  # noqa: S603 - Debian's program


def test_caddy_accepts_the_file(tmp_path: Path) -> None:
    done = caddy(tmp_path, "validate", "--adapter", "caddyfile", "--config", str(FOLDER / "Caddyfile"))
    assert done.returncode == 0, done.stderr
    assert "Valid configuration" in done.stdout + done.stderr


def test_file_is_formatted_as_caddy_formats_it(tmp_path: Path) -> None:
    assert caddy(tmp_path, "fmt", str(FOLDER / "Caddyfile")).stdout == (FOLDER / "Caddyfile").read_text()
