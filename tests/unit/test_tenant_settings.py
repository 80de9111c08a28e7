"""The settings of several tenants: what they share, what is each one's own, and what is refused."""

import base64
import json
from typing import Any

import pytest

from ods.settings.settings import (
    Address,
    InvalidSettingsError,
    MultiTenantSettings,
    Settings,
    load_settings,
)

Values = dict[str, Any]

OWN = ("admin_dsn", "master_dsn", "instance_connection_string")
KEY = base64.b64encode(bytes(range(32))).decode()


@pytest.fixture
def tenant(values: Values) -> Values:
    """What a tenant must have of its own."""
    return {name: values[name] for name in OWN}


@pytest.fixture
def tenants(tenant: Values) -> dict[str, Values]:
    """Two tenants."""
    other = tenant | {"admin_dsn": "postgresql://service:admin-secret@elsewhere:5432/EdFi_Admin"}
    return {"tenant1": tenant, "Tenant-2": other}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, values: Values, tenants: dict[str, Values]) -> None:
    for name in (*Settings.model_fields, "tenants"):
        monkeypatch.delenv(f"ODS_{name.upper()}", raising=False)
    for name in ("encryption_key", "token_signing_key"):
        monkeypatch.setenv(f"ODS_{name.upper()}", values[name])
    monkeypatch.setenv("ODS_TENANTS", json.dumps(tenants))


def loaded() -> MultiTenantSettings:
    settings = load_settings()
    assert isinstance(settings, MultiTenantSettings)
    return settings


def refusal(monkeypatch: pytest.MonkeyPatch, tenants: object) -> str:
    monkeypatch.setenv("ODS_TENANTS", tenants if isinstance(tenants, str) else json.dumps(tenants))
    with pytest.raises(InvalidSettingsError) as caught:
        load_settings()
    assert "secret" not in str(caught.value)
    return str(caught.value)


def test_tenants_have_what_is_theirs_when_several_are_set(
    monkeypatch: pytest.MonkeyPatch, tenants: dict[str, Values]
) -> None:
    tenants["Tenant-2"] |= {"encryption_key": KEY, "minimal_template": "Other"}
    monkeypatch.setenv("ODS_TENANTS", json.dumps(tenants))
    settings = loaded()
    first, second = settings.tenants.values()
    assert settings.multi_tenant
    assert list(settings.tenants) == ["tenant1", "Tenant-2"]
    assert "localhost" in first.admin_dsn.get_secret_value()
    assert "elsewhere" in second.admin_dsn.get_secret_value()
    assert (first.minimal_template, second.minimal_template) == ("EdFi_Ods_Minimal_Template", "Other")
    assert second.encryption_key.get_secret_value() == KEY != first.encryption_key.get_secret_value()


def test_tenants_share_the_rest_when_several_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODS_DDL_ATTEMPTS", "4")
    monkeypatch.setenv("ODS_SAMPLE_TEMPLATE", "Shared")
    for own in loaded().tenants.values():
        assert (own.ddl_attempts, own.sample_template) == (4, "Shared")


def test_codec_server_is_refused_when_several_are_set(
    monkeypatch: pytest.MonkeyPatch, tenants: dict[str, Values]
) -> None:
    monkeypatch.setenv("ODS_PAYLOAD_KEY", KEY)
    monkeypatch.setenv("ODS_CODEC_SERVER", "true")
    refused = refusal(monkeypatch, tenants)
    assert refused.startswith("ODS_CODEC_SERVER: must not be set together with ODS_TENANTS")
    assert "\n" not in refused


def test_task_queues_are_the_tenants_own_when_several_are_set(
    monkeypatch: pytest.MonkeyPatch, tenants: dict[str, Values]
) -> None:
    monkeypatch.setenv("ODS_TASK_QUEUE", "q")
    monkeypatch.setenv("ODS_TENANTS", json.dumps({"default": tenants["tenant1"], "b": tenants["Tenant-2"]}))
    queues = [(own.registry_queue, own.ddl_queue) for own in loaded().tenants.values()]
    assert queues == [("q-registry", "q-ddl"), ("q-b-registry", "q-b-ddl")]


def test_only_tenant_is_called_default_when_several_are_not_set(
    monkeypatch: pytest.MonkeyPatch, tenant: Values
) -> None:
    monkeypatch.delenv("ODS_TENANTS")
    for name, value in tenant.items():
        monkeypatch.setenv(f"ODS_{name.upper()}", value)
    settings = load_settings()
    assert not settings.multi_tenant
    assert settings.tenants == {"default": settings}


@pytest.mark.parametrize("name", OWN)
def test_variable_is_refused_when_each_tenant_has_its_own(
    monkeypatch: pytest.MonkeyPatch, tenants: dict[str, Values], name: str
) -> None:
    monkeypatch.setenv(f"ODS_{name.upper()}", "postgresql://u:secret@h/d")
    assert refusal(monkeypatch, tenants).startswith(f"ODS_{name.upper()}: must not be set together with")


@pytest.mark.parametrize("name", OWN)
def test_tenant_is_named_when_it_lacks_what_it_must_have(
    monkeypatch: pytest.MonkeyPatch, tenants: dict[str, Values], name: str
) -> None:
    del tenants["Tenant-2"][name]
    assert refusal(monkeypatch, tenants) == f"ODS_TENANTS: Tenant-2: {name}: must be set"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("admin_dsn", "mysql://u:secret@h/d"),
        ("master_dsn", 5),
        ("encryption_key", "secret"),
        ("minimal_template", "secret" * 20),
    ],
)
def test_tenant_is_named_when_a_value_of_its_own_is_refused(
    monkeypatch: pytest.MonkeyPatch, tenants: dict[str, Values], name: str, value: object
) -> None:
    tenants["tenant1"][name] = value
    told = refusal(monkeypatch, tenants)
    assert told.startswith(f"ODS_TENANTS: tenant1: {name}")
    assert "\n" not in told


def test_shared_variable_is_named_once_when_it_is_refused(
    monkeypatch: pytest.MonkeyPatch, tenants: dict[str, Values]
) -> None:
    monkeypatch.setenv("ODS_TRIGGER", "secret")
    monkeypatch.setenv("ODS_TASK_QUEUE", "x" * 201)
    lines = refusal(monkeypatch, tenants).splitlines()
    assert sorted(line.split(":")[0] for line in lines) == ["ODS_TASK_QUEUE", "ODS_TRIGGER"]


def test_variable_for_all_tenants_is_named_when_it_is_refused(
    monkeypatch: pytest.MonkeyPatch, tenants: dict[str, Values]
) -> None:
    monkeypatch.setenv("ODS_ENCRYPTION_KEY", "secret")
    assert "for all tenants, ODS_ENCRYPTION_KEY" in refusal(monkeypatch, tenants)


@pytest.mark.parametrize("name", ["", "a b", "ä", "a_b", "x" * 51, "a\n"])
def test_name_of_a_tenant_is_refused_when_no_header_can_have_it(
    monkeypatch: pytest.MonkeyPatch, tenant: Values, name: str
) -> None:
    assert refusal(monkeypatch, {name: tenant}).startswith("ODS_TENANTS: the name of a tenant")


@pytest.mark.parametrize("name", ["v1", "V2", "v3", "v10"])
def test_name_of_a_tenant_is_refused_when_it_is_that_of_a_version(
    monkeypatch: pytest.MonkeyPatch, tenant: Values, name: str
) -> None:
    told = refusal(monkeypatch, {name: tenant})
    assert told.startswith(f"ODS_TENANTS: {name} cannot be the name of a tenant")


@pytest.mark.parametrize("name", ["v", "v1x", "av1", "v-1"])
def test_name_of_a_tenant_is_accepted_when_it_is_only_like_that_of_a_version(
    monkeypatch: pytest.MonkeyPatch, tenant: Values, name: str
) -> None:
    monkeypatch.setenv("ODS_TENANTS", json.dumps({name: tenant}))
    assert list(loaded().tenants) == [name]


@pytest.mark.parametrize(
    "text",
    ["", "secret", "[]", "5", "null", '{"a": "secret"}', '{"a": null}', '{"a": {}, "A": {}}', "[" * 9999],
)
def test_form_is_told_when_the_json_is_not_as_it_must_be(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    assert refusal(monkeypatch, text).startswith("ODS_TENANTS: must be JSON")


def test_tenants_are_refused_when_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal(monkeypatch, {}).startswith("ODS_TENANTS: ")


@pytest.mark.parametrize("name", ["token_lifetime", "task_queue", "admin_dns"])
def test_setting_is_refused_when_tenants_cannot_have_it_of_their_own(
    monkeypatch: pytest.MonkeyPatch, tenants: dict[str, Values], name: str
) -> None:
    tenants["tenant1"][name] = "secret"
    assert (
        "tenant1: may have admin_dsn, allow_superuser, allowed_ods_hosts, backup_cron, backup_keep,"
        " console_oidc_full_access, console_oidc_read_only, database_grants, database_owner"
        in refusal(monkeypatch, tenants)
    )


def test_schedule_of_backups_is_refused_when_there_is_no_store_for_them(
    monkeypatch: pytest.MonkeyPatch, tenants: dict[str, Values]
) -> None:
    tenants["tenant1"]["backup_cron"] = "0 2 * * *"
    told = refusal(monkeypatch, tenants)
    assert "tenant1: backup_cron (or, for all tenants, ODS_BACKUP_CRON): must not be set without" in told
    monkeypatch.setenv("ODS_BACKUP_URL", "s3://bucket")
    assert loaded().tenants["tenant1"].backup_cron == "0 2 * * *"
    assert not loaded().tenants["Tenant-2"].backup_cron


def test_tenants_are_refused_when_they_share_a_registry(
    monkeypatch: pytest.MonkeyPatch, tenants: dict[str, Values]
) -> None:
    tenants["Tenant-2"]["admin_dsn"] = "postgres://service:secret@LOCALHOST/EdFi_Admin?sslmode=require"
    assert "tenant1 and Tenant-2 have the same admin_dsn" in refusal(monkeypatch, tenants)


def test_no_secret_is_told_when_settings_are_represented(tenants: dict[str, Values]) -> None:
    settings = loaded()
    told = f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"
    assert "secret" not in told.replace("console_oidc_client_secret", "")


@pytest.mark.parametrize(
    ("dsn", "address"),
    [
        ("postgresql://u:p@One:6000/EdFi_Admin", ("one", "6000", "EdFi_Admin")),
        ("postgresql://u:p@one,two:6000/Ed%20Fi?x=y", ("one,two", "5432,6000", "Ed Fi")),
    ],
)
def test_address_is_told_when_a_dsn_is_read(values: Values, dsn: str, address: tuple[str, str, str]) -> None:
    assert Address.of(Settings(**values | {"admin_dsn": dsn}).admin_dsn) == address


def test_tenants_have_templates_of_their_own_when_these_are_set(
    monkeypatch: pytest.MonkeyPatch, tenants: dict[str, Values]
) -> None:
    tenants["tenant1"]["templates"] = {"Year2027": "y"}
    monkeypatch.setenv("ODS_TENANTS", json.dumps(tenants))
    assert [list(own.template_databases) for own in loaded().tenants.values()] == [
        ["Minimal", "Sample", "Year2027"],
        ["Minimal", "Sample"],
    ]


def test_path_of_the_setting_is_named_when_a_tenants_templates_are_refused(
    monkeypatch: pytest.MonkeyPatch, tenants: dict[str, Values]
) -> None:
    tenants["tenant1"]["templates"] = {"a name": "y"}
    assert "ODS_TENANTS: tenant1: templates" in refusal(monkeypatch, tenants)
