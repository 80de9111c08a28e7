"""`ods doctor` beside a stack: which installation it examines."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from ods.embedded.data_folder import DataFolder

Ods = Callable[..., subprocess.CompletedProcess[str]]


def test_stack_is_examined_when_one_serves_in_the_folder(ods: Ods, stack: DataFolder) -> None:
    examined = ods("doctor", "--json", "--data-dir", stack.path)
    findings = {finding["subject"]: finding for finding in json.loads(examined.stdout)}
    running = stack.running_stack()
    assert running is not None
    assert "EdFi_Admin" in findings["setting ODS_ADMIN_DSN"]["found"]
    assert findings["temporal"]["level"] == "ok"
    faults = [finding for finding in findings.values() if finding["level"] == "fault"]
    assert (faults, examined.returncode) == ([], 0)
    assert running["client"]["secret"] not in examined.stdout
    assert running["settings"]["ODS_TOKEN_SIGNING_KEY"] not in examined.stdout


def test_nothing_is_examined_when_no_stack_serves_in_the_folder_that_is_named(
    ods: Ods, tmp_path: Path
) -> None:
    examined = ods("doctor", "--data-dir", tmp_path)
    assert examined.returncode == 1
    assert "`ods up` starts one" in examined.stderr


def test_nothing_is_examined_when_settings_name_another_installation(ods: Ods, stack: DataFolder) -> None:
    examined = ods("doctor", "--data-dir", stack.path, ODS_ADMIN_DSN="postgresql://ods@127.0.0.1:1/none")
    assert examined.returncode == 1
    assert "Leave one of both out" in examined.stderr
