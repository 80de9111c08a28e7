import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from ods.embedded.data_folder import DataFolder

Ods = Callable[..., subprocess.CompletedProcess[str]]


def test_newest_calls_are_listed_when_commanded(ods: Ods, stack: DataFolder) -> None:
    refused = ods("instance", "delete", "2147483647", "--yes", "--data-dir", stack.path)
    assert refused.returncode == 1
    listed = ods("audit", "--limit", "3", "--json", "--data-dir", stack.path)
    assert listed.returncode == 0, listed.stderr
    (deletion,) = [entry for entry in json.loads(listed.stdout) if entry["method"] == "DELETE"]

    running = stack.running_stack()
    assert running is not None
    assert (deletion["path"], deletion["status"]) == ("/v2/dbInstances/2147483647", 404)
    assert deletion["client"] == running["client"]["id"]
    assert running["client"]["secret"] not in listed.stdout


def test_calls_are_plain_lines_when_json_is_not_asked_for(ods: Ods, stack: DataFolder) -> None:
    heading, *lines = ods("audit", "--data-dir", stack.path).stdout.splitlines()

    assert heading.split()[:5] == ["WHEN", "CLIENT", "ADDRESS", "METHOD", "PATH"]
    assert any(line.split()[3:5] == ["POST", "/connect/token"] for line in lines)


def test_start_is_proposed_when_no_stack_runs(ods: Ods, tmp_path: Path) -> None:
    listed = ods("audit", "--data-dir", tmp_path)
    assert listed.returncode == 1
    assert "`ods up` starts one" in listed.stderr
