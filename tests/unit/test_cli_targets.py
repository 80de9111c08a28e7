"""A command works on the installation that its words name; if two are named, on none."""

from pathlib import Path

import pytest

from cli.api_access import connect
from cli.options import DEFAULT_DATA_DIR
from cli.registry_access import RegistryAccess
from embedded.data_folder import DataFolder
from embedded.errors import CommandError


def test_no_api_is_called_when_the_folder_names_another_one(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"--data-dir names the stack in .*, but ODS_API_URL") as refused:
        connect("http://127.0.0.1:1", tmp_path)
    assert "http://127.0.0.1:1" in str(refused.value)


def test_secret_of_the_stack_here_is_kept_when_another_api_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    stack = {"api": {"url": "http://127.0.0.1:8000"}, "client": {"id": "demo", "secret": "of the stack"}}
    monkeypatch.setattr(DataFolder, "running_stack", lambda _: stack)
    for name in ("ODS_CLIENT_ID", "ODS_CLIENT_SECRET"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(CommandError, match=r"to those of a client of http://127\.0\.0\.1:1"):
        connect("http://127.0.0.1:1", DEFAULT_DATA_DIR)


def test_no_registry_is_used_when_the_folder_names_another_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ODS_ADMIN_DSN", "postgresql://u:p@127.0.0.1:1/d")
    with pytest.raises(CommandError, match=r"--data-dir names the stack in .*, but ODS_ADMIN_DSN"):
        RegistryAccess.find(tmp_path)
