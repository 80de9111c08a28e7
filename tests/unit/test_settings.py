"""Every setting: what is read from its variable, what is refused, and that a refusal tells no value."""

import base64
import traceback
from collections.abc import Iterator
from typing import Any

import pytest

from ods.settings.schedule_settings import KeptBackups
from ods.settings.settings import (
    CloneStrategy,
    InvalidSettingsError,
    LogFormat,
    LogLevel,
    Settings,
    Trigger,
    VerifyPolicy,
)

KEY = base64.b64encode(bytes(range(32))).decode()
LONG_KEY = base64.b64encode(bytes(range(64))).decode()
DSN = "postgresql://u:p@db.example:5433/EdFi"

READ: dict[str, tuple[str, Any]] = {
    "ADMIN_DSN": (DSN, DSN),
    "MASTER_DSN": ("postgres://u:p@h/d?sslmode=require", "postgres://u:p@h/d?sslmode=require"),
    "RESTORE_DSN": ("postgresql://r:p@localhost/d", "postgresql://r:p@localhost/d"),
    "RESTORED_OWNER": ("o", "o"),
    "RESTORE_AS_SERVICE": ("true", True),
    "ALLOW_SUPERUSER": ("true", True),
    "INSTANCE_CONNECTION_STRING": ("host=h;password=p", "host=h;password=p"),
    "ALLOWED_ODS_HOSTS": ("a.example:5432, 10.0.0.0/8", "a.example:5432, 10.0.0.0/8"),
    "ENCRYPTION_KEY": (KEY, KEY),
    "ENCRYPTION_KEY_PREVIOUS": (f"{KEY} , {KEY}", f"{KEY} , {KEY}"),
    "TOKEN_SIGNING_KEY": (KEY, KEY),
    "TOKEN_SIGNING_KEY_PREVIOUS": (KEY, KEY),
    "PAYLOAD_KEY": (KEY, KEY),
    "PAYLOAD_KEY_PREVIOUS": ("", ""),
    "MINIMAL_TEMPLATE": ("m" * 63, "m" * 63),
    "SAMPLE_TEMPLATE": ('odd "name"', 'odd "name"'),
    "TEMPLATES": ('{"Year2027": "Y"}', {"Year2027": "Y"}),
    "SECURITY_DATABASE": ("s", "s"),
    "DATABASE_OWNER": ("ods_api", "ods_api"),
    "DATABASE_GRANTS": (
        "a: CONNECT; odd: name: temporary, CREATE;",
        "a: CONNECT; odd: name: temporary, CREATE;",
    ),
    "CLONE_STRATEGY": ("file_copy", CloneStrategy.FILE_COPY),
    "SPARES": ("100", 100),
    "SPARES_LIMIT": ("0", 0),
    "SPARES_MEGABYTES": ("1000000000", 1_000_000_000),
    "TRIGGER": ("scheduled", Trigger.SCHEDULED),
    "SWEEP_INTERVAL": ("1", 1.0),
    "RECONCILE_INTERVAL": ("60", 60.0),
    "REFRESH_INTERVAL": ("60", 60.0),
    "TASK_QUEUE": ("q", "q"),
    "WORKER_DEPLOYMENT_VERSION": ("1.4.0-rc_1", "1.4.0-rc_1"),
    "REGISTRY_CONCURRENCY": ("1000", 1000),
    "DDL_CONCURRENCY": ("1", 1),
    "DDL_PREFETCH": ("100", 100),
    "REFRESH_CONCURRENCY": ("100", 100),
    "DDL_ATTEMPTS": ("1", 1),
    "HEARTBEAT_TIMEOUT": ("1", 1.0),
    "DECISION_WINDOW": ("315360000", 315_360_000.0),
    "OUTAGE_TIMEOUT": ("0.1", 0.1),
    "PROTECT_NEW": ("true", True),
    "SHARED_SERVER": ("true", True),
    "SHUTDOWN_TIMEOUT": ("0.1", 0.1),
    "INSTANCE_MANAGEMENT": ("false", False),
    "CONSOLE": ("false", False),
    "REGISTRATION": ("false", False),
    "ALLOWED_HOSTS": ("a.example, *.b.example,[::1]", "a.example, *.b.example,[::1]"),
    "JSON_LIMIT": ("1024", 1024),
    "RATE_LIMITING": ("0", False),
    "COSTLY_REQUESTS": ("0", 0),
    "COSTLY_REQUESTS_PER_TENANT": ("10000", 10_000),
    "DOWNLOADS": ("0", 0),
    "AUDIT_RETENTION": ("30", 30),
    "TRASH_DAYS": ("0", 0),
    "BACKUP_URL": ("s3://bucket/of/backups", "s3://bucket/of/backups"),
    "BACKUP_RECIPIENTS": ("age1qwerty, age1asdf", "age1qwerty, age1asdf"),
    "BACKUP_VERIFY": ("always", VerifyPolicy.ALWAYS),
    "BACKUP_CONCURRENCY": ("1", 1),
    "FINAL_BACKUP": ("false", False),
    "SNAPSHOT_KEEP": ("1", 1),
    "BACKUP_CRON": ("", ""),
    "BACKUP_KEEP": ("", ""),
    "SNAPSHOT_CRON": ("CRON_TZ=America/Chicago 0 2 * * MON-FRI", "CRON_TZ=America/Chicago 0 2 * * MON-FRI"),
    "TOKEN_LIFETIME": ("1", 1),
    "OIDC_ISSUER": ("https://login.example/realms/ods/", "https://login.example/realms/ods/"),
    "OIDC_AUDIENCE": ("a", "a"),
    "OIDC_JWKS_URL": ("https://login.example:8080/keys", "https://login.example:8080/keys"),
    "OIDC_INSECURE": ("true", True),
    "ADMIN_API_ISSUER": ("http://admin-api.example", "http://admin-api.example"),
    "ADMIN_API_SIGNING_KEY": (f"{KEY} , {LONG_KEY}", f"{KEY} , {LONG_KEY}"),
    "LOG_FORMAT": ("json", LogFormat.JSON),
    "LOG_LEVEL": ("debug", LogLevel.DEBUG),
    "METRICS_PORT": ("65535", 65535),
    "METRICS_HOST": ("0.0.0.0", "0.0.0.0"),  # noqa: S104 - what containers need
    "CONSOLE_OIDC_ISSUER": ("https://login.example/realms/ods", "https://login.example/realms/ods"),
    "CONSOLE_OIDC_CLIENT_ID": ("a", "a"),
    "CONSOLE_OIDC_CLIENT_SECRET": ("s", "s"),
    "CONSOLE_OIDC_SCOPES": ("email openid", "email openid"),
    "CONSOLE_CLIENT_SIGN_IN": ("true", True),
    "CONSOLE_SESSIONS": ("3", 3),
    "CONSOLE_OIDC_CLAIM": ("https://example/roles", "https://example/roles"),
    "CONSOLE_OIDC_FULL_ACCESS": ("a, b c", "a, b c"),
    "CONSOLE_OIDC_READ_ONLY": ("/readers", "/readers"),
    "TEMPORAL_UI_URL": ("https://temporal.example:8233/ui", "https://temporal.example:8233/ui"),
    "CODEC_SERVER": ("false", False),
}
TOGETHER: dict[str, dict[str, str]] = {
    "ADMIN_API_ISSUER": {"ADMIN_API_SIGNING_KEY": LONG_KEY},
    "ADMIN_API_SIGNING_KEY": {"ADMIN_API_ISSUER": "https://admin-api.example"},
}
"""What must be set for a variable to be read, or refused for its own value."""
SQLALCHEMY_DSN = "postgresql+asyncpg://u:bad-value@h/d"  # asyncpg itself does not understand it
TOO_MANY_BYTES = "ä" * 32
BAD_DSNS = [
    *("", "bad-value", "mysql://bad-value@h/d", "postgresql://bad-value", "postgresql://bad-value/"),
    *("postgresql://u:bad-value@h:port/d", "http://bad-value", SQLALCHEMY_DSN),
]
BAD_KEYS = [
    *("", "bad-value", base64.b64encode(b"31 bytes are one byte too few..").decode()),
    *(base64.b64encode(bytes(33)).decode(), f"{KEY[:-2]}!!", "ключ" * 11),
]
BAD_LISTS = [*BAD_KEYS[1:], ",", f"{KEY},", f"{KEY};{KEY}", f"{KEY},bad-value"]
BAD_LONG_KEYS = [key for key in BAD_LISTS if key != base64.b64encode(bytes(33)).decode()]
BAD_ADDRESSES = ["", "bad-value", "ftp://bad-value", "https://", "bad-value.example/path"]
BAD_SECONDS = ["", "bad-value", "0", "-1", "nan", "inf", "-inf", "315360001", "1e300"]
BAD_CRONS = [
    *("bad-value", "* * * *", "* * * * * *", "@daily", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * 32 * *"),
    *("* * * 0 *", "* * * 13 *", "* * * * 7", "* * * BAD *", "* * * * JAN", "5-2 * * * *", "*/0 * * * *"),
    *("*-3 * * * *", "1, * * * *", "-1 * * * *", "CRON_TZ=Bad/Zone * * * * *", "CRON_TZ=UTC * * * *"),
    *("CRON_TZ=../UTC * * * * *", "1/100 * * * *", "٣ * * * *"),
]
REFUSED: dict[str, list[str]] = {
    "ADMIN_DSN": BAD_DSNS,
    "MASTER_DSN": BAD_DSNS,
    "RESTORE_DSN": [  # the last ones: of another server, without a role, of the service's role
        *BAD_DSNS,
        *("postgresql://r:bad-value@elsewhere/d", "postgresql://r:bad-value@localhost:5433/d"),
        *("postgresql://localhost/bad-value", "postgresql://service:bad-value@localhost/d"),
    ],
    "RESTORED_OWNER": ["", "x" * 64, TOO_MANY_BYTES, "service"],
    "ENCRYPTION_KEY": BAD_KEYS,
    "TOKEN_SIGNING_KEY": BAD_KEYS,
    "PAYLOAD_KEY": BAD_KEYS,
    "ENCRYPTION_KEY_PREVIOUS": BAD_LISTS,
    "TOKEN_SIGNING_KEY_PREVIOUS": BAD_LISTS,
    "PAYLOAD_KEY_PREVIOUS": [*BAD_LISTS, KEY],
    "MINIMAL_TEMPLATE": ["", "x" * 64, TOO_MANY_BYTES],
    "SAMPLE_TEMPLATE": ["", "x" * 64, TOO_MANY_BYTES],
    "TEMPLATES": [
        *("", "bad-value", "[]", '{"A": 1}', '{"A": ""}', '{"": "d"}', '{"A_b": "d"}', '{"1": "d"}'),
        *('{"minimal": "d"}', '{"Sample": "d"}', '{"A": "d", "a": "d"}', f'{{"{"x" * 21}": "d"}}'),
    ],
    "SECURITY_DATABASE": ["", "x" * 64, TOO_MANY_BYTES],
    "DATABASE_OWNER": ["", "x" * 64, TOO_MANY_BYTES],
    "DATABASE_GRANTS": [
        "bad-value",
        "bad-value:",
        ": CONNECT",
        "PUBLIC: CONNECT",
        "a: bad-value",
        "a: CONNECT;b:",
        f"{'x' * 64}: CONNECT",
    ],
    "CLONE_STRATEGY": ["", "bad-value", "WAL_LOG"],
    "SPARES": ["", "bad-value", "-1", "101", "1.5"],
    "SPARES_LIMIT": ["", "bad-value", "-1", "101", "1.5"],
    "SPARES_MEGABYTES": ["", "bad-value", "-1", "1000000001", "1.5"],
    "TRIGGER": ["", "bad-value", "Immediate"],
    "SWEEP_INTERVAL": [*BAD_SECONDS, "0.99"],
    "RECONCILE_INTERVAL": [*BAD_SECONDS, "0.99"],
    "REFRESH_INTERVAL": [*BAD_SECONDS, "0.99"],
    "TASK_QUEUE": ["", "x" * 201],
    "WORKER_DEPLOYMENT_VERSION": ["", "1.4:0", ".1", "x" * 101],
    "REGISTRY_CONCURRENCY": ["", "bad-value", "0", "1001", "1.5"],
    "DDL_CONCURRENCY": ["", "bad-value", "0", "101", "1.5"],
    "DDL_PREFETCH": ["", "bad-value", "-1", "101", "1.5"],
    "REFRESH_CONCURRENCY": ["", "bad-value", "0", "101", "1.5"],
    "DDL_ATTEMPTS": ["", "bad-value", "0", "1001", "1.5"],
    "HEARTBEAT_TIMEOUT": [*BAD_SECONDS, "0.99"],
    "DECISION_WINDOW": BAD_SECONDS,
    "OUTAGE_TIMEOUT": BAD_SECONDS,
    "RESTORE_AS_SERVICE": ["", "bad-value", "2"],
    "ALLOW_SUPERUSER": ["", "bad-value", "2"],
    "PROTECT_NEW": ["", "bad-value", "2"],
    "SHARED_SERVER": ["", "bad-value", "2"],
    "SHUTDOWN_TIMEOUT": BAD_SECONDS,
    "INSTANCE_MANAGEMENT": ["", "bad-value", "2"],
    "CONSOLE": ["", "bad-value", "2"],
    "REGISTRATION": ["", "bad-value", "2"],
    "ALLOWED_HOSTS": ["", ",", "bad-value/", "http://bad-value", "bad-value:80", "*bad-value", "a..b", "::1"],
    "JSON_LIMIT": ["", "bad-value", "1023", "4194305", "1.5"],
    "RATE_LIMITING": ["", "bad-value", "2"],
    "COSTLY_REQUESTS": ["", "bad-value", "-1", "10001", "1.5"],
    "COSTLY_REQUESTS_PER_TENANT": ["", "bad-value", "-1", "10001", "1.5"],
    "DOWNLOADS": ["", "bad-value", "-1", "10001", "1.5"],
    "AUDIT_RETENTION": ["", "bad-value", "29", "36501", "1.5"],
    "BACKUP_URL": ["", "bad-value", "file://bad-value", "s3://", "s3://key:secret@bucket", "s3://bucket?a=b"],
    "BACKUP_RECIPIENTS": ["", "bad-value", "AGE-SECRET-KEY-1BAD", "age1good,bad-value"],
    "LOG_FORMAT": ["", "bad-value", "JSON"],
    "LOG_LEVEL": ["", "bad-value", "Debug"],
    "BACKUP_VERIFY": ["", "bad-value", "Always"],
    "BACKUP_CONCURRENCY": ["", "bad-value", "0", "101", "1.5"],
    "FINAL_BACKUP": ["", "bad-value", "2"],
    "TRASH_DAYS": ["", "bad-value", "-1", "3651", "1.5"],
    "SNAPSHOT_KEEP": ["", "bad-value", "0", "101", "1.5"],
    "BACKUP_CRON": [*BAD_CRONS, "0 2 * * *"],  # the last one without ODS_BACKUP_URL
    "BACKUP_KEEP": [
        *("bad-value", "daily", "daily=bad-value", "daily=-1", "daily=1.5", "daily=1001", "yearly=1"),
        *("daily=1,daily=2", "daily=1,", "daily=0", "daily=0,weekly=0"),
    ],
    "SNAPSHOT_CRON": BAD_CRONS,
    "TOKEN_LIFETIME": ["", "bad-value", "0", "-1", "1.5"],
    "OIDC_INSECURE": ["", "bad-value", "2"],
    "OIDC_ISSUER": [*BAD_ADDRESSES, "http://bad-value.example/realm"],
    "OIDC_AUDIENCE": [""],
    "ADMIN_API_ISSUER": [*BAD_ADDRESSES, "ods-instance-management"],
    "ADMIN_API_SIGNING_KEY": ["", *BAD_LONG_KEYS],
    "CODEC_SERVER": ["", "bad-value", "2", "true"],  # the last one without ODS_PAYLOAD_KEY
    "METRICS_PORT": ["", "bad-value", "0", "65536", "1.5"],
    "METRICS_HOST": [""],
    "OIDC_JWKS_URL": [*BAD_ADDRESSES, "HTTP://bad-value.example/keys"],
    "CONSOLE_OIDC_ISSUER": [*BAD_ADDRESSES, "http://bad-value.example/realm"],
    "CONSOLE_OIDC_CLIENT_ID": [""],
    "CONSOLE_OIDC_CLIENT_SECRET": [""],
    "CONSOLE_OIDC_SCOPES": ["", "bad-value", "openid,bad-value"],
    "CONSOLE_CLIENT_SIGN_IN": ["perhaps"],
    "CONSOLE_SESSIONS": ["0", "10001", "many"],
    "CONSOLE_OIDC_CLAIM": [""],
    "CONSOLE_OIDC_FULL_ACCESS": ["", "bad-value,", " , "],
    "CONSOLE_OIDC_READ_ONLY": ["", ",bad-value"],
}
UNCHECKED = {"INSTANCE_CONNECTION_STRING", "ALLOWED_ODS_HOSTS", "TEMPORAL_UI_URL"}
"""The first two are parsed where they are used (`OdsConnectionStrings.from_settings`), the third is shown."""


def refused() -> Iterator[Any]:
    for name, texts in REFUSED.items():
        for text in texts:
            yield pytest.param(name, text)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, values: dict[str, Any]) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"ODS_{name.upper()}", raising=False)
    for name, value in values.items():
        monkeypatch.setenv(f"ODS_{name.upper()}", value)


def put(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, text in variables.items():
        monkeypatch.setenv(f"ODS_{name}", text)


def read(settings: Settings, name: str) -> Any:
    value = getattr(settings, name.lower())
    return value.get_secret_value() if hasattr(value, "get_secret_value") else value


def refusal() -> InvalidSettingsError:
    with pytest.raises(InvalidSettingsError) as caught:
        Settings.load()
    return caught.value


def test_every_setting_is_in_the_tables_when_one_is_added() -> None:
    fields = {name.upper() for name in Settings.model_fields}
    assert set(READ) == fields
    assert set(REFUSED) | UNCHECKED == fields


@pytest.mark.parametrize("name", READ)
def test_variable_is_read_when_it_is_set(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    text, value = READ[name]
    put(monkeypatch, TOGETHER.get(name, {}) | {name: text})
    assert read(Settings.load(), name) == value


@pytest.mark.parametrize(("name", "text"), list(refused()))
def test_variable_is_named_and_its_value_is_not_when_the_value_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    put(monkeypatch, TOGETHER.get(name, {}) | {name: text})
    error = refusal()
    assert str(error).startswith(f"ODS_{name}: ")
    assert "\n" not in str(error)
    shown = "".join(traceback.format_exception(error))
    assert "bad-value" not in shown
    assert len(text) < 10 or text not in shown


@pytest.mark.parametrize("owner", ["ods_restore", "ods_restored"])
def test_owner_of_databases_is_refused_when_restored_code_may_run_as_it(
    monkeypatch: pytest.MonkeyPatch, owner: str
) -> None:
    monkeypatch.setenv("ODS_DATABASE_OWNER", owner)
    assert Settings.load().database_owner == owner
    monkeypatch.setenv("ODS_RESTORE_DSN", "postgresql://ods_restore:p@localhost/d")
    assert "ODS_DATABASE_OWNER: must be no role of ODS_RESTORE_DSN" in str(refusal())


def test_each_variable_is_named_when_several_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODS_TRIGGER", "bad-value")
    monkeypatch.setenv("ODS_DDL_ATTEMPTS", "0")
    monkeypatch.delenv("ODS_ADMIN_DSN")
    named = sorted(line.split(":")[0] for line in str(refusal()).splitlines())
    assert named == ["ODS_ADMIN_DSN", "ODS_DDL_ATTEMPTS", "ODS_TRIGGER"]


def test_every_required_variable_is_named_when_none_is_set(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, Any]
) -> None:
    for name in values:
        monkeypatch.delenv(f"ODS_{name.upper()}")
    named = {line.split(":")[0] for line in str(refusal()).splitlines()}
    assert named == {f"ODS_{name.upper()}" for name in values}


def test_no_secret_is_told_when_other_variables_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODS_TRIGGER", "never")
    monkeypatch.setenv("ODS_ENCRYPTION_KEY", "too-short-secret")
    assert "secret" not in "".join(traceback.format_exception(refusal()))


def test_no_secret_is_told_when_settings_are_represented(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODS_PAYLOAD_KEY", KEY)
    settings = Settings.load()
    told = f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"
    assert KEY not in told
    assert "secret" not in told.replace("console_oidc_client_secret", "")


@pytest.mark.parametrize("name", ["OIDC_ISSUER", "OIDC_JWKS_URL", "CONSOLE_OIDC_ISSUER"])
def test_address_without_tls_is_accepted_when_a_setting_says_so(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("ODS_OIDC_INSECURE", "true")
    monkeypatch.setenv(f"ODS_{name}", "http://login.example/x")
    assert read(Settings.load(), name) == "http://login.example/x"


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"ADMIN_API_ISSUER": "https://a.example"}, "must be set together with ODS_ADMIN_API_ISSUER"),
        ({"ADMIN_API_SIGNING_KEY": KEY}, "must not be set without ODS_ADMIN_API_ISSUER"),
        *(
            (
                {
                    "ADMIN_API_ISSUER": "https://a.example",
                    "ADMIN_API_SIGNING_KEY": f"{LONG_KEY}, {KEY}",
                    f"TOKEN_SIGNING_KEY{ending}": KEY,
                },
                "must be another key than those of ODS_TOKEN_SIGNING_KEY",
            )
            for ending in ("", "_PREVIOUS")
        ),
    ],
)
def test_tokens_of_an_admin_api_need_an_issuer_and_keys_of_its_own(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], reason: str
) -> None:
    put(monkeypatch, variables)
    assert str(refusal()).startswith(f"ODS_ADMIN_API_SIGNING_KEY: {reason}")


@pytest.mark.parametrize(
    "oidc_issuer", ["https://a.example/realm", "https://a.example/realm/", "https://A.example:443/realm"]
)
def test_issuer_of_an_admin_api_is_refused_when_it_is_the_other_issuer(
    monkeypatch: pytest.MonkeyPatch, oidc_issuer: str
) -> None:
    put(monkeypatch, {"ADMIN_API_ISSUER": "https://a.example/realm", "ADMIN_API_SIGNING_KEY": KEY})
    monkeypatch.setenv("ODS_OIDC_ISSUER", oidc_issuer)
    assert str(refusal()).startswith("ODS_ADMIN_API_ISSUER: must be another one than ODS_OIDC_ISSUER")
    monkeypatch.setenv("ODS_OIDC_ISSUER", "https://a.example/another")
    assert Settings.load().admin_api_keys == (bytes(range(32)),)


@pytest.mark.parametrize(
    ("address", "written"),
    [
        ("https://a.example", "https://a.example/"),
        ("https://A.example:443/", "https://a.example/"),
        ("http://a.example:8080/admin-api", "http://a.example:8080/admin-api"),
    ],
)
def test_issuer_of_an_admin_api_is_also_known_as_its_tokens_write_it(
    monkeypatch: pytest.MonkeyPatch, address: str, written: str
) -> None:
    assert Settings.load().admin_api_issuers == ()
    put(monkeypatch, {"ADMIN_API_ISSUER": address, "ADMIN_API_SIGNING_KEY": KEY})
    assert set(Settings.load().admin_api_issuers) == {address, written}


def test_final_backups_need_a_store_when_they_are_always_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODS_FINAL_BACKUP", "true")
    with pytest.raises(InvalidSettingsError, match=r"ODS_FINAL_BACKUP: .* without ODS_BACKUP_URL"):
        Settings.load()
    monkeypatch.setenv("ODS_BACKUP_URL", "s3://bucket")
    assert Settings.load().final_backup


@pytest.mark.parametrize(
    "address", ["", "bad-value", "/ui", "ftp://temporal.example", "temporal.example:8233"]
)
def test_codec_server_needs_an_origin_when_the_web_ui_has_an_address(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("ODS_PAYLOAD_KEY", KEY)
    monkeypatch.setenv("ODS_CODEC_SERVER", "true")
    assert Settings.load().codec_server
    monkeypatch.setenv("ODS_TEMPORAL_UI_URL", address)
    with pytest.raises(InvalidSettingsError, match=r"^ODS_CODEC_SERVER: needs an ODS_TEMPORAL_UI_URL"):
        Settings.load()


@pytest.mark.parametrize(
    ("address", "origin"),
    [
        ("http://127.0.0.1:8233", "http://127.0.0.1:8233"),
        ("HTTPS://Temporal.Example:443/ui/", "https://temporal.example"),
        ("http://temporal.example:80", "http://temporal.example"),
        ("https://temporal.example:80?a=b#c", "https://temporal.example:80"),
        ("http://[::1]:8233/", "http://[::1]:8233"),
        ("https://bücher.example/", "https://xn--bcher-kva.example"),
        ("https://user:password@temporal.example/", "https://temporal.example"),
    ],
)
def test_origin_of_the_web_ui_is_as_browsers_name_it(
    monkeypatch: pytest.MonkeyPatch, address: str, origin: str
) -> None:
    assert Settings.load().temporal_ui_origin is None
    monkeypatch.setenv("ODS_TEMPORAL_UI_URL", address)
    assert Settings.load().temporal_ui_origin == origin


def test_defaults_hold_when_only_the_required_variables_are_set() -> None:
    settings = Settings.load()
    assert settings.trigger is Trigger.IMMEDIATE
    assert settings.clone_strategy is CloneStrategy.AUTO
    assert settings.sweep_interval == 2 * 60 * 60
    assert settings.token_lifetime == 30 * 60
    assert settings.registration is False
    assert settings.temporal_ui_url is None
    assert settings.payload_key is None
    assert settings.codec_server is False


def test_queues_and_templates_follow_their_variables_when_they_are_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ODS_TASK_QUEUE", "q")
    monkeypatch.setenv("ODS_MINIMAL_TEMPLATE", "m")
    monkeypatch.setenv("ODS_SAMPLE_TEMPLATE", "s")
    settings = Settings.load()
    assert (settings.registry_queue, settings.ddl_queue) == ("q-registry", "q-ddl")
    assert settings.template_databases == {"Minimal": "m", "Sample": "s"}
    monkeypatch.setenv("ODS_TEMPLATES", '{"Year2027": "y"}')
    assert Settings.load().template_databases == {"Minimal": "m", "Sample": "s", "Year2027": "y"}


def test_privileges_are_listed_by_role_when_they_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODS_DATABASE_GRANTS", " ods_api: CONNECT,\u00a0TEMPORARY ;odd: name: connect; ")
    assert Settings.load().granted == (("ods_api", "CONNECT, TEMPORARY"), ("odd: name", "CONNECT"))


@pytest.mark.parametrize(
    "text", ["0 2 * * *", " */15 8-18/2 1,15 jan-DEC sun,SAT ", "59 23 31 12 6", "TZ=Europe/Berlin 0 2 * * 1"]
)
def test_schedule_is_read_when_cron_can_say_it(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("ODS_BACKUP_URL", "s3://bucket")
    monkeypatch.setenv("ODS_BACKUP_CRON", text)
    assert Settings.load().backup_cron == text.strip()


def test_backups_are_kept_as_long_as_the_variable_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings.load().kept_backups == KeptBackups(7, 4, 12)
    monkeypatch.setenv("ODS_BACKUP_KEEP", "monthly = 3 , daily=1")
    assert Settings.load().kept_backups == KeptBackups(daily=1, monthly=3)
    monkeypatch.setenv("ODS_BACKUP_KEEP", "")
    assert Settings.load().kept_backups is None


def test_foreign_variable_is_ignored_when_it_has_our_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODS_OF_SOMEBODY_ELSE", "x")
    Settings.load()
