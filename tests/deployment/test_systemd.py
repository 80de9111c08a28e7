"""The units in deploy/systemd, as systemd reads them."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from ods.settings.settings import Settings
from tests.deployment import compose

FOLDER = compose.ROOT / "deploy" / "systemd"
UNITS = sorted(FOLDER.glob("*.service"))
INSTALLED = "/opt/ods-instance-management"
_EXPOSURE = "20"
"""Of 100, by systemd's count of what a unit might do to its host."""

each_unit = pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="apt-get install systemd")


def command(unit: Path) -> list[str]:
    (said,) = re.findall(r"^ExecStart=(.+)$", unit.read_text().replace("\\\n", " "), re.MULTILINE)
    return shlex.split(said)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder of units whose programs are there."""
    for unit in UNITS:
        program = tmp_path / command(unit)[0].lstrip("/")
        program.parent.mkdir(parents=True, exist_ok=True)
        program.touch(mode=0o755)
    units = tmp_path / "units"
    shutil.copytree(FOLDER, units)
    for file in units.rglob("*.*"):
        if file.is_file():
            file.write_text(file.read_text().replace(INSTALLED, f"{tmp_path}{INSTALLED}"))
    return units


def analyze(folder: Path, *words: str) -> str:
    done = subprocess.run(  # noqa: S603 - the system's own program
        ["systemd-analyze", *words],  # noqa: S607 - likewise
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], "SYSTEMD_UNIT_PATH": f"{folder}:"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@needs_systemd
@each_unit
def test_systemd_finds_nothing_to_complain_about(installed: Path, unit: Path) -> None:
    assert analyze(installed, "verify", "--man=no", str(installed / unit.name)) == ""


@needs_systemd
@each_unit
def test_unit_can_do_little_to_its_host(installed: Path, unit: Path) -> None:
    analyze(installed, "security", "--offline=true", f"--threshold={_EXPOSURE}", str(installed / unit.name))


def test_commands_are_those_of_compose() -> None:
    services = compose.services(compose.made_dotenv())
    for unit in UNITS:
        name = unit.stem.removeprefix("ods-").removesuffix("@")
        program, *words = command(unit)
        said = shlex.join([Path(program).name, *words])
        wanted = shlex.join(services[name]["command"]).replace("0.0.0.0", "127.0.0.1")  # noqa: S104 - it is not opened
        timeout = r" --timeout-graceful-shutdown \d+"
        assert re.sub(timeout, "", said) == re.sub(timeout, "", wanted)


def test_worker_may_finish_what_it_does_when_stopped() -> None:
    (seconds,) = re.findall(
        r"^TimeoutStopSec=(\d+)$", (FOLDER / "ods-worker@.service").read_text(), re.MULTILINE
    )
    assert int(seconds) > Settings.model_fields["shutdown_timeout"].default


@each_unit
def test_variables_are_settings(unit: Path) -> None:
    known = {f"ODS_{name.upper()}" for name in Settings.model_fields}
    assert set(re.findall(r"^Environment=(\w+)=", unit.read_text(), re.MULTILINE)) <= known


@each_unit
def test_unit_is_tried_again_as_often_as_it_takes(unit: Path) -> None:
    """PostgreSQL may answer only some time after the boot of a host."""
    assert set(re.findall(r"^Restart=(.+)$", unit.read_text(), re.MULTILINE)) & {"always", "on-failure"}
    assert "StartLimitIntervalSec=0\n" in (FOLDER / "ods-.service.d" / "common.conf").read_text()


@each_unit
def test_unit_neither_fails_nor_stops_with_another(unit: Path) -> None:
    """API and workers wait for the registry themselves, and go on while it is migrated for an upgrade."""
    tied = r"^(Requires|Requisite|BindsTo|PartOf|Upholds)=.*$"
    assert not re.findall(tied, unit.read_text(), re.MULTILINE)
