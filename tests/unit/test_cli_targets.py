"""A command works on the installation that its words name; if two are named, on none."""

import json
import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ods.cli import api_access
from ods.cli.api_access import connect
from ods.cli.client import AdminApi
from ods.cli.main import _commands
from ods.cli.options import DEFAULT_DATA_DIR
from ods.cli.registry_access import RegistryAccess, has_settings
from ods.cli.template_load import TemplateAccess
from ods.embedded.data_folder import DataFolder
from ods.embedded.errors import CommandError

STACK = {
    "api": {"url": "http://127.0.0.1:8000"},
    "backups": {"url": "file:///of-the-stack"},
    "client": {"id": "demo", "secret": "of the stack"},
    "postgres": {"admin_dsn": "postgresql://stack", "master_dsn": "postgresql://stack"},
}
INSTALLATION = ("ODS_ADMIN_DSN", "ODS_ADMIN_DSN_FILE", "ODS_TENANTS", "ODS_TENANTS_FILE")


def test_no_api_is_called_when_the_folder_names_another_one(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"--data-dir names the stack in .*, but ODS_API_URL") as refused:
        connect("http://127.0.0.1:1", tmp_path)
    assert "http://127.0.0.1:1" in str(refused.value)


def test_secret_of_the_stack_here_is_kept_when_another_api_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DataFolder, "running_stack", lambda _: STACK)
    for name in ("ODS_CLIENT_ID", "ODS_CLIENT_SECRET"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(CommandError, match=r"to those of a client of http://127\.0\.0\.1:1"):
        connect("http://127.0.0.1:1", DEFAULT_DATA_DIR)


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stack that runs in each folder, beside an environment without settings."""
    monkeypatch.setattr(DataFolder, "running_stack", lambda _: STACK)
    for name in [name for name in os.environ if name.startswith("ODS_")]:
        monkeypatch.delenv(name)


def give(monkeypatch: pytest.MonkeyPatch, values: dict[str, Any], name: str, folder: Path) -> str:
    """Set the settings of another installation, `name` among them; returns its registry's DSN."""
    dsn: str = values["admin_dsn"]
    service = {"encryption_key", "token_signing_key"}
    own = {key: value for key, value in values.items() if key not in service}
    if "TENANTS" in name:
        monkeypatch.setenv("ODS_TENANT", "district1")
    given = json.dumps({"district1": own}) if "TENANTS" in name else dsn
    others = service if "TENANTS" in name else values.keys() - {"admin_dsn"}
    if name.endswith("_FILE"):
        (folder / "value").write_text(given)
        given = str(folder / "value")
    for variable, value in {name: given, **{f"ODS_{key.upper()}": values[key] for key in others}}.items():
        monkeypatch.setenv(variable, value)
    return dsn


@pytest.mark.usefixtures("stack")
@pytest.mark.parametrize("name", INSTALLATION)
def test_installation_of_the_settings_is_meant_when_a_stack_runs_here(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, Any], name: str, tmp_path: Path
) -> None:
    dsn = give(monkeypatch, values, name, tmp_path)
    assert has_settings()
    assert RegistryAccess.find(DEFAULT_DATA_DIR).dsn == dsn


@pytest.mark.usefixtures("stack")
def test_store_is_that_of_the_stack_when_the_environment_of_a_command_has_another(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ODS_BACKUP_URL", "file:///another")
    assert RegistryAccess.find(tmp_path).backup_url == "file:///of-the-stack"


@pytest.mark.usefixtures("stack")
@pytest.mark.parametrize("name", INSTALLATION)
def test_no_registry_is_used_when_the_folder_names_another_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setenv(name, "another")
    with pytest.raises(CommandError, match=rf"--data-dir names the stack in .*, but {name} another"):
        RegistryAccess.find(tmp_path)


@pytest.mark.usefixtures("stack")
@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["instance", "list", "--api-url", ""], "--api-url"),
        (["sweep", "--api-url", ""], "--api-url"),
        (["console", "--api-url", ""], "--api-url"),
        (["console", "--client", ""], "--client"),
        (["--tenant", "", "instance", "list"], "--tenant"),
        (["keys", "rotate", "--tenant", ""], "--tenant"),
        (["grants", "--tenant", ""], "--tenant"),
        (["backup", "delete", "", "--yes"], "BACKUP"),
        (["job", "cancel", ""], "JOB"),
    ],
    ids=str,
)
def test_no_installation_is_meant_when_an_option_is_empty(
    monkeypatch: pytest.MonkeyPatch, words: list[str], option: str
) -> None:
    monkeypatch.setenv("ODS_API_URL", "http://127.0.0.1:9")
    answer = CliRunner().invoke(_commands, words)
    assert isinstance(answer.exception, CommandError)
    assert str(answer.exception) == f"{option} is empty. Is a variable not set?"


@pytest.mark.usefixtures("stack")
def test_stack_here_is_meant_when_variables_are_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ODS_API_URL", "ODS_CLIENT_ID", "ODS_TENANT"):
        monkeypatch.setenv(name, "")
    addresses: list[str] = []

    def client_of(url: str, *_: object) -> AbstractContextManager[None]:
        addresses.append(url)
        return nullcontext()

    monkeypatch.setattr(api_access, "AdminApi", client_of)
    CliRunner().invoke(_commands, ["sweep"])
    assert addresses == ["http://127.0.0.1:8000"]


@pytest.mark.usefixtures("stack")
def test_no_api_is_used_when_it_has_one_tenant_and_another_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(AdminApi, "has_one_tenant", lambda _: True)
    for tenant in ("", "default", "DEFAULT"):
        monkeypatch.setenv("ODS_TENANT", tenant)
        connect(None, DEFAULT_DATA_DIR)
    monkeypatch.setenv("ODS_TENANT", "district2")
    with pytest.raises(
        CommandError, match=r"^The API at http://127\.0\.0\.1:8000 has one tenant, .* district2"
    ):
        connect(None, DEFAULT_DATA_DIR)
    monkeypatch.setattr(AdminApi, "has_one_tenant", lambda _: False)
    connect(None, DEFAULT_DATA_DIR)


@pytest.mark.usefixtures("stack")
@pytest.mark.parametrize(
    ("name", "where"), [("ODS_ADMIN_DSN", "The installation of ODS_ADMIN_DSN"), (None, r"The stack in \.ods")]
)
def test_no_registry_is_used_when_it_has_one_tenant_and_another_is_named(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, Any], tmp_path: Path, name: str | None, where: str
) -> None:
    monkeypatch.chdir(tmp_path)
    DEFAULT_DATA_DIR.mkdir()
    if name is not None:
        give(monkeypatch, values, name, tmp_path)
    for tenant in ("", "default", "DEFAULT"):
        monkeypatch.setenv("ODS_TENANT", tenant)
        assert RegistryAccess.find(DEFAULT_DATA_DIR).tenant == "default"
    monkeypatch.setenv("ODS_TENANT", "district2")
    with pytest.raises(CommandError, match=f"^{where} has one tenant, .* the name district2"):
        RegistryAccess.find(DEFAULT_DATA_DIR)


@pytest.mark.usefixtures("stack")
def test_tenants_that_copy_the_same_template_are_named(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, Any]
) -> None:
    own = {key: values[key] for key in ("admin_dsn", "master_dsn", "instance_connection_string")}
    changes = {
        "north": {},
        "south": {},
        "west": {"minimal_template": "Of_west"},
        "abroad": {"master_dsn": "postgresql://service:x@elsewhere:5432/postgres"},
    }
    tenants = {
        name: {**own, "admin_dsn": f"{own['admin_dsn']}_{name}", **change} for name, change in changes.items()
    }
    monkeypatch.setenv("ODS_TENANTS", json.dumps(tenants))
    monkeypatch.setenv("ODS_TENANT", "north")
    for key in ("encryption_key", "token_signing_key"):
        monkeypatch.setenv(f"ODS_{key.upper()}", values[key])
    access = TemplateAccess.find(DEFAULT_DATA_DIR)
    assert access.shared_with[access.database("Minimal")] == ["south"]
    assert access.shared_with[access.database("Sample")] == ["south", "west"]
