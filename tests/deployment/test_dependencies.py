"""What the service is made of: its list (SBOM), and the check of it for known vulnerabilities."""

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

from tests import vulnerabilities
from tests.deployment import compose

LOCK = compose.ROOT / "requirements.lock"
PINNED = dict(re.findall(r"^([\w.-]+)==([\w.]+)", LOCK.read_text(), re.MULTILINE))

needs_tools = pytest.mark.skipif(find_spec("pip_audit") is None, reason="make sbom installs the tools")


def advisory(**affected: Any) -> dict[str, Any]:
    package = {"package": {"name": "Jinja2", "ecosystem": "PyPI"}}
    return {"id": "TEST-2026-1", "modified": "2026-11-30T00:00:00Z", "affected": [package | affected]}


def within(*events: dict[str, str]) -> dict[str, Any]:
    return {"ranges": [{"type": "ECOSYSTEM", "events": [*events]}]}


def dump_of(folder: Path, *advisories: dict[str, Any]) -> Path:
    with ZipFile(folder / "all.zip", "w") as archive:
        for number, one in enumerate(advisories):
            archive.writestr(f"{number}.json", json.dumps(one))
    return folder


@pytest.mark.parametrize(
    ("affected", "versions"),
    [
        ({"versions": ["3.1.6"]}, {"3.1.6"}),
        (within({"introduced": "0"}, {"fixed": "3.1.6"}), {"3.1.5"}),
        (within({"fixed": "3.10"}, {"introduced": "3.1.6"}), {"3.1.6", "3.9"}),
        (within({"introduced": "0"}, {"last_affected": "3.1.6"}), {"3.1.5", "3.1.6"}),
        (
            within({"introduced": "0"}, {"fixed": "3.1.6"}, {"introduced": "3.10"}),
            {"3.1.5", "3.10"},
        ),
    ],
)
def test_version_is_affected_when_the_advisory_names_it(affected: dict[str, Any], versions: set[str]) -> None:
    tried = ("3.1.5", "3.1.6", "3.9", "3.10")
    found = {one for one in tried if vulnerabilities.is_affected(advisory(**affected), "jinja2", one)}
    assert found == versions
    assert not vulnerabilities.is_affected(advisory(**affected), "rich", "3.1.6")


def test_check_says_what_to_bring_when_there_is_no_dump(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"(?s)no all\.zip in .*OSV=FOLDER"):
        vulnerabilities.main(["--osv", str(tmp_path)])


@needs_tools
@pytest.mark.parametrize(
    ("affected", "code"), [(within({"introduced": "0"}), 1), (within({"introduced": "9999"}), 0)]
)
def test_check_fails_when_a_pinned_version_is_vulnerable(
    affected: dict[str, Any], code: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert vulnerabilities.main(["--osv", str(dump_of(tmp_path, advisory(**affected)))]) == code
    told = capfd.readouterr().out
    assert "The newest entry of the dump is of 2026-11-30" in told
    assert ("TEST-2026-1" in told) is bool(code)


@needs_tools
def test_list_has_each_dependency_when_it_is_made(tmp_path: Path) -> None:
    made = tmp_path / "sbom.json"
    (recipe,) = re.findall(
        r"^\t\$\(BIN\)/(cyclonedx-py .+)$", (compose.ROOT / "Makefile").read_text(), re.MULTILINE
    )
    words = [str(made) if word == "dist/sbom.cdx.json" else word for word in recipe.split()]
    program = Path(sys.executable).with_name(words[0])
    subprocess.run([program, *words[1:]], check=True, cwd=compose.ROOT)  # noqa: S603 - our own recipe
    listed = json.loads(made.read_text())
    assert listed["bomFormat"] == "CycloneDX"
    assert {one["name"]: one["version"] for one in listed["components"]} == PINNED
    assert all(one["purl"].startswith("pkg:pypi/") for one in listed["components"])
