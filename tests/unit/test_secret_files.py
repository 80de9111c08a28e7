"""Secrets in files: what is read, what is refused, and which change is taken without a restart."""

import base64
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from ods.settings.secret_files import CurrentDsn, FileSecret
from ods.settings.settings import (
    SECRETS,
    InvalidSettingsError,
    MultiTenantSettings,
    ServiceSettings,
    Settings,
    load_settings,
)

KEY = base64.b64encode(bytes(range(32))).decode()
DSN = "postgresql://service:first-hidden@db.example:5433/EdFi_Admin?sslmode=require"
RESTORE_DSN = "postgresql://ods_restore:hidden@localhost:5432/postgres"

Values = dict[str, Any]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, values: Values) -> None:
    for name in {*Settings.model_fields, "tenants"}:
        for variable in (f"ODS_{name.upper()}", f"ODS_{name.upper()}_FILE"):
            monkeypatch.delenv(variable, raising=False)
    for name, value in values.items():
        monkeypatch.setenv(f"ODS_{name.upper()}", value)


def put(monkeypatch: pytest.MonkeyPatch, path: Path, name: str, content: str | bytes) -> None:
    """Give the setting by a file."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    monkeypatch.delenv(f"ODS_{name.upper()}", raising=False)
    monkeypatch.setenv(f"ODS_{name.upper()}_FILE", str(path))


def refusal() -> str:
    with pytest.raises(InvalidSettingsError) as caught:
        load_settings()
    return str(caught.value)


def test_every_secret_may_be_in_a_file_when_one_is_added() -> None:
    secrets = {
        name
        for name, field in (Settings.model_fields | MultiTenantSettings.model_fields).items()
        if "Secret" in repr(field.annotation) or name in {"tenants", "admin_dsn", "master_dsn", "restore_dsn"}
    }
    assert secrets | {"instance_connection_string"} == set(SECRETS)


@pytest.mark.parametrize("name", [name for name in SECRETS if name != "tenants"])
@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_secret_is_read_without_the_newline_when_its_file_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, values: Values, name: str, ending: str
) -> None:
    monkeypatch.setenv("ODS_PAYLOAD_KEY", KEY)
    if name == "admin_api_signing_key":
        monkeypatch.setenv("ODS_ADMIN_API_ISSUER", "https://admin-api.example")
    content = values.get(name, RESTORE_DSN if name == "restore_dsn" else KEY)
    put(monkeypatch, tmp_path / "file", name, f"{content}{ending}")
    assert getattr(Settings.load(), name).get_secret_value() == content


@pytest.mark.parametrize("name", SECRETS)
def test_both_variables_are_named_when_both_are_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, values: Values, name: str
) -> None:
    if name == "tenants":
        for own in ("admin_dsn", "master_dsn", "instance_connection_string"):
            monkeypatch.delenv(f"ODS_{own.upper()}")
    put(monkeypatch, tmp_path / "file", name, "hidden")
    monkeypatch.setenv(f"ODS_{name.upper()}", values.get(name, KEY))
    variable = f"ODS_{name.upper()}"
    assert refusal() == f"{variable}_FILE: must not be set together with {variable}; keep one of them"


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read (FileNotFoundError)"),
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"\xff\xfe", "is no text in UTF-8"),
    ],
)
def test_variable_is_named_when_its_file_holds_no_secret(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, content: bytes | None, reason: str
) -> None:
    if name == "tenants":
        for own in ("admin_dsn", "master_dsn", "instance_connection_string"):
            monkeypatch.delenv(f"ODS_{own.upper()}")
    put(monkeypatch, tmp_path / "hidden", name, content or b"")
    if content is None:
        (tmp_path / "hidden").unlink()
    assert refusal() == f"ODS_{name.upper()}_FILE: {reason}"


def test_variable_is_named_and_no_value_when_the_value_in_its_file_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    put(monkeypatch, tmp_path / "file", "encryption_key", "hidden")
    put(monkeypatch, tmp_path / "other", "admin_dsn", "mysql://hidden@h/d")
    told = refusal()
    assert sorted(line.split(": ")[0] for line in told.splitlines()) == [
        "ODS_ADMIN_DSN_FILE",
        "ODS_ENCRYPTION_KEY_FILE",
    ]
    assert "hidden" not in told


def test_no_secret_of_a_file_is_told_when_settings_are_represented(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    put(monkeypatch, tmp_path / "file", "admin_dsn", DSN)
    settings = Settings.load()
    assert "hidden" not in f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"


@pytest.fixture
def tenants(monkeypatch: pytest.MonkeyPatch, values: Values) -> dict[str, Values]:
    """Two tenants, in place of the only one."""
    own = {name: values[name] for name in ("admin_dsn", "master_dsn", "instance_connection_string")}
    for name in own:
        monkeypatch.delenv(f"ODS_{name.upper()}")
    return {"one": own, "two": own | {"admin_dsn": DSN}}


def test_tenants_are_read_when_they_are_in_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tenants: dict[str, Values]
) -> None:
    put(monkeypatch, tmp_path / "tenants", "tenants", json.dumps(tenants))
    put(monkeypatch, tmp_path / "key", "encryption_key", KEY)
    settings = load_settings()
    assert list(settings.tenants) == ["one", "two"]
    assert settings.tenants["two"].admin_dsn.get_secret_value() == DSN
    assert settings.tenants["one"].encryption_key.get_secret_value() == KEY


def test_secrets_of_a_tenant_are_read_when_their_files_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tenants: dict[str, Values]
) -> None:
    for name, content in (
        ("admin_dsn", DSN),
        ("encryption_key", KEY),
        ("encryption_key_previous", f"{KEY},{KEY}"),
    ):
        (tmp_path / name).write_text(f"{content}\n")
        tenants["two"][f"{name}_file"] = str(tmp_path / name)
    del tenants["two"]["admin_dsn"]
    monkeypatch.setenv("ODS_TENANTS", json.dumps(tenants))
    two = load_settings().tenants["two"]
    assert two.admin_dsn.get_secret_value() == DSN
    assert two.encryption_keys == (bytes(range(32)),) * 3


@pytest.mark.parametrize(
    ("own", "reason"),
    [
        ({"admin_dsn_file": "/nowhere/hidden"}, "must not be set twice, with _file and without"),
        ({"encryption_key_file": "/nowhere/hidden"}, "the file cannot be read (FileNotFoundError)"),
    ],
)
def test_tenant_is_named_when_its_file_is_refused(
    monkeypatch: pytest.MonkeyPatch, tenants: dict[str, Values], own: Values, reason: str
) -> None:
    tenants["two"] |= own
    monkeypatch.setenv("ODS_TENANTS", json.dumps(tenants))
    (name,) = own
    told = refusal()
    assert told.startswith(f"ODS_TENANTS: two: {name.removesuffix('_file')}")
    assert told.endswith(f": {reason}")


def test_keys_are_the_current_one_and_then_the_others_when_there_are_previous_ones(
    monkeypatch: pytest.MonkeyPatch, values: Values
) -> None:
    other = base64.b64encode(bytes(32)).decode()
    monkeypatch.setenv("ODS_PAYLOAD_KEY", KEY)
    for name in ("ENCRYPTION_KEY", "TOKEN_SIGNING_KEY", "PAYLOAD_KEY"):
        monkeypatch.setenv(f"ODS_{name}_PREVIOUS", f"{KEY}, {other} ")
    settings = Settings.load()
    previous = (bytes(range(32)), bytes(32))
    assert settings.encryption_keys == (base64.b64decode(values["encryption_key"]), *previous)
    assert settings.token_signing_keys == (base64.b64decode(values["token_signing_key"]), *previous)
    assert settings.payload_keys == (bytes(range(32)), *previous)


def test_there_are_no_payload_keys_when_histories_are_not_encrypted() -> None:
    assert Settings.load().payload_keys == ()
    assert ServiceSettings.model_fields["payload_key_previous"].default is None


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with the address of a database."""
    path = tmp_path / "dsn"
    path.write_text(f"{DSN}\n")
    return path


@pytest.mark.parametrize(
    "change",
    [
        ("first-hidden", "second-hidden"),
        ("service:first-hidden", "other%40user:p%2Fw"),
        ("service:first-hidden@", ""),
        ("?", "?password=second-hidden&"),
    ],
)
def test_login_is_taken_when_only_that_changed_in_the_file(file: Path, change: tuple[str, str]) -> None:
    dsn = CurrentDsn(FileSecret.of(str(file)), "ODS_ADMIN_DSN")
    assert dsn() == DSN
    file.write_text(DSN.replace(*change))
    assert dsn() == DSN.replace(*change)


@pytest.mark.parametrize(
    "content",
    [
        DSN.replace("db.example", "hidden.example"),
        DSN.replace("5433", "5434"),
        DSN.replace("EdFi_Admin", "hidden"),
        DSN.replace("require", "disable"),
        DSN.replace("first-hidden", "p/w"),
        "hidden",
        "postgresql://[hidden",
        "",
        b"\xff",
    ],
)
def test_address_stays_and_the_log_says_so_once_when_more_changed_than_the_login(
    file: Path, content: str | bytes, caplog: pytest.LogCaptureFixture
) -> None:
    dsn = CurrentDsn(FileSecret.of(str(file)), "ODS_ADMIN_DSN")
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with caplog.at_level(logging.WARNING):
        assert [dsn(), dsn()] == [DSN, DSN]
        file.unlink()
        assert [dsn(), dsn()] == [DSN, DSN]
        file.write_text(DSN.replace("first", "third"))
        assert "third" in dsn()
    assert len(caplog.messages) == 2
    assert all(message.startswith("ODS_ADMIN_DSN stays as it is: ") for message in caplog.messages)
    assert "hidden" not in caplog.text


def test_address_is_the_same_for_ever_when_it_was_in_a_variable() -> None:
    assert CurrentDsn(SecretStr(DSN), "ODS_ADMIN_DSN")() == DSN


def test_login_of_a_tenant_is_taken_when_it_changed_in_the_file_of_all_tenants(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tenants: dict[str, Values],
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = tmp_path / "tenants"
    put(monkeypatch, path, "tenants", json.dumps(tenants))
    dsn = CurrentDsn(load_settings().tenants["two"].admin_dsn, "admin_dsn of tenant two")
    path.write_text(json.dumps(tenants).replace("first-hidden", "second-hidden"))
    assert dsn() == DSN.replace("first", "second")
    for content in (
        "{",
        json.dumps({"one": tenants["one"]}),
        json.dumps(tenants | {"two": {"admin_dsn": 5}}),
    ):
        path.write_text(content)
        assert dsn() == DSN.replace("first", "second")
    assert caplog.messages == ["admin_dsn of tenant two stays as it is: the file does not hold it any more."]
