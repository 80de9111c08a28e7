"""The command line takes secrets from the environment and from files, never as arguments."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from ods.cli import api_access
from ods.cli.api_access import connect
from ods.cli.main import _commands
from ods.cli.options import DEFAULT_DATA_DIR
from ods.embedded.errors import CommandError

SUSPICIOUS = ("secret", "password", "token", "key", "dsn", "connection", "credential")


def parameters(command: Any, path: str = "ods") -> Iterator[tuple[str, Any]]:
    """Every option and argument, with the command that takes it."""
    yield from ((path, parameter) for parameter in command.params)
    for name, inner in getattr(command, "commands", {}).items():
        yield from parameters(inner, f"{path} {name}")


def test_no_command_takes_a_secret_when_it_is_called() -> None:
    found = list(parameters(typer.main.get_command(_commands)))
    assert len(found) > 30
    assert [
        (path, parameter.name)
        for path, parameter in found
        if any(word in f"{parameter.name} {parameter.opts}".lower() for word in SUSPICIOUS)
    ] == []


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was given to the API's client."""
    given: list[str] = []
    monkeypatch.setattr(api_access, "AdminApi", lambda *arguments: given.append(arguments[2]))
    monkeypatch.setenv("ODS_CLIENT_ID", "me")
    for name in ("ODS_CLIENT_SECRET", "ODS_CLIENT_SECRET_FILE"):
        monkeypatch.delenv(name, raising=False)
    return given


def test_secret_is_in_a_file_when_its_variable_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, secrets: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").write_text("hidden\n")
    monkeypatch.setenv("ODS_CLIENT_SECRET_FILE", str(tmp_path / "secret"))
    connect("http://127.0.0.1:1", DEFAULT_DATA_DIR)
    assert secrets == ["hidden"]


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        (
            {"ODS_CLIENT_SECRET": "hidden", "ODS_CLIENT_SECRET_FILE": "/nowhere"},
            "ODS_CLIENT_SECRET_FILE: must not be set together with ODS_CLIENT_SECRET; keep one of them.",
        ),
        (
            {"ODS_CLIENT_SECRET_FILE": "/nowhere"},
            "ODS_CLIENT_SECRET_FILE: cannot be read (FileNotFoundError).",
        ),
    ],
)
def test_variables_are_named_when_the_secret_is_not_to_be_had(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    secrets: list[str],
    variables: dict[str, str],
    reason: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(CommandError) as refused:
        connect("http://127.0.0.1:1", DEFAULT_DATA_DIR)
    assert str(refused.value) == reason
    assert secrets == []
