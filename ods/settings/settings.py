"""Every setting of the API and the worker, read from environment variables that begin with `ODS_`.

Temporal's own connection settings are not here: they follow Temporal's convention (`TEMPORAL_ADDRESS`,
`TEMPORAL_NAMESPACE`, `TEMPORAL_API_KEY`, `TEMPORAL_TLS…`) and are read by `temporalio.envconfig`.

Each secret may also be in a file: the variable with `_FILE` appended to its name holds the file's path.
"""

import base64
import binascii
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from enum import StrEnum
from functools import partial
from typing import Annotated, Any, ClassVar, NamedTuple, Self, TypeAlias
from urllib.parse import unquote

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    HttpUrl,
    PostgresDsn,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from ods.model.operations import Template
from ods.settings.schedule_settings import KeptBackups, require_cron, require_kept
from ods.settings.secret_files import FileSecret, UnreadableSecretError, from_environment

KEY_BYTES = 32
MAX_DATABASE_NAME_BYTES = 63
"""PostgreSQL silently cuts longer identifiers (NAMEDATALEN - 1)."""

SECRETS = (
    *("admin_dsn", "master_dsn", "restore_dsn", "instance_connection_string"),
    *("encryption_key", "encryption_key_previous"),
    *("token_signing_key", "token_signing_key_previous", "payload_key", "payload_key_previous", "tenants"),
    *("console_oidc_client_secret", "admin_api_signing_key"),
)
"""The settings that may be in files."""
_OF_COMMANDS = {
    *("ODS_API_URL", "ODS_CLIENT_ID", "ODS_CLIENT_SECRET", "ODS_CLIENT_SECRET_FILE", "ODS_TENANT"),
    *("ODS_TOKEN_URL", "ODS_POSTGRES"),
}
"""Variables that are read by commands and are no settings of the service."""
_PREFIX = "ODS_"
_FILE = "_file"

_DATABASE_PRIVILEGES = {"CONNECT", "CREATE", "TEMPORARY"}

_SCHEMES = {"postgresql", "postgres"}
_POSTGRES_PORT = 5432
_USUAL_PORTS = {"http": 80, "https": 443}
"""Browsers leave them out."""

_HOST_NAME = re.compile(r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*|\[[0-9A-Fa-f:.]+\]|\*")

_BUILD_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_DEPLOYMENT_NAME = re.compile(r"(?!__)[^.:]+")
"""Temporal writes a version as `deployment:build` or `deployment.build`, and has names with `__` itself."""

_BACKUP_URL = re.compile(r"(file:///|(s3|az|gs)://[^/@?#]+)[^@?#]*")
_RECIPIENT = re.compile(r"age1[a-z0-9]+")

MINIMAL_TEMPLATE = Template.MINIMAL.value
SAMPLE_TEMPLATE = Template.SAMPLE.value
"""The names of the templates that every tenant has."""
_TEMPLATE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]{0,19}")
"""Without underscores: the name of a database tells which template its instance was made of."""

DEFAULT_TENANT = "default"
"""The tenant every instance belongs to while multi-tenancy is off."""
TENANT_NAME = re.compile(r"[A-Za-z0-9-]{1,50}")
_VERSION = re.compile(r"v[0-9]+", re.IGNORECASE)
"""The segment of a path that names a version: no tenant may have such a name, or its paths were ambiguous."""


class InvalidSettingsError(Exception):
    """A setting has a value the service cannot run with; the message names each variable."""


class _RefusedSecret:
    """The value of a secret whose file cannot be used: validation refuses it with this reason."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


class Trigger(StrEnum):
    """When a requested job starts: at the request, or at the next sweep."""

    IMMEDIATE = "immediate"
    SCHEDULED = "scheduled"


class VerifyPolicy(StrEnum):
    """Which backups are verified without a request."""

    ALWAYS = "always"
    WEEKLY = "weekly"
    NEVER = "never"


class CloneStrategy(StrEnum):
    """How PostgreSQL copies a template; `auto` decides by the template's size."""

    AUTO = "auto"
    WAL_LOG = "wal_log"
    FILE_COPY = "file_copy"


class LogFormat(StrEnum):
    """How the lines of the log are written."""

    TEXT = "text"
    JSON = "json"


class LogLevel(StrEnum):
    """From which level on lines are logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"

    @property
    def number(self) -> int:
        """As Python's logging has it."""
        return logging.getLevelNamesMapping()[self.name]


def _require_readable(value: object) -> object:
    if isinstance(value, _RefusedSecret):
        raise ValueError(value.reason)  # noqa: TRY004 - pydantic reports a ValueError as an invalid value
    return value


def _postgres_dsn(value: SecretStr) -> SecretStr:
    try:
        dsn = PostgresDsn(value.get_secret_value())
    except ValidationError:
        raise ValueError("must look like postgresql://user:password@host:5432/database") from None
    if dsn.scheme not in _SCHEMES:
        raise ValueError("must begin with postgresql://, without the name of a driver")
    if not (dsn.path or "").strip("/"):
        raise ValueError("must name a database")
    return value


def _is_identifier(name: str) -> bool:
    return 1 <= len(name.encode()) <= MAX_DATABASE_NAME_BYTES


def _database_name(value: str) -> str:
    if not _is_identifier(value):
        raise ValueError(f"must have 1 to {MAX_DATABASE_NAME_BYTES} bytes")
    return value


def _role_grants(value: str) -> str:
    for role, privileges in _grants(value):
        known = _DATABASE_PRIVILEGES.issuperset(privileges.split(", "))
        if not _is_identifier(role) or role.upper() == "PUBLIC" or not known:
            raise ValueError(
                "must look like ods_api: CONNECT, TEMPORARY; reports: CONNECT, with roles of at most"
                f" {MAX_DATABASE_NAME_BYTES} bytes that are not PUBLIC, and the privileges"
                f" {', '.join(sorted(_DATABASE_PRIVILEGES))}"
            )
    return value


def _grants(value: str) -> Iterator[tuple[str, str]]:
    """Each role in the value of ODS_DATABASE_GRANTS, with its privileges as they are written in SQL."""
    for part in value.split(";"):
        if part.strip():
            role, _, privileges = part.rpartition(":")
            yield role.strip(), ", ".join(word.strip().upper() for word in privileges.split(","))


def _read_templates(source: object) -> object:
    """Read the JSON of `ODS_TEMPLATES`; within `ODS_TENANTS`, it was read before."""
    templates = source
    if isinstance(source, str):
        try:
            templates = json.loads(source, object_pairs_hook=_distinct)
        except (ValueError, RecursionError):
            templates = None
    if not isinstance(templates, Mapping) or not all(isinstance(name, str) for name in templates.values()):
        raise ValueError("must be JSON: an object with a database for each name, and no name twice")
    return templates


def _templates(templates: Mapping[str, str]) -> Mapping[str, str]:
    for name, database in templates.items():
        if not _TEMPLATE_NAME.fullmatch(name):
            raise ValueError("a name has 1 to 20 letters and digits, and begins with a letter")
        if name.lower() in {MINIMAL_TEMPLATE.lower(), SAMPLE_TEMPLATE.lower()}:
            raise ValueError(f"{name} must not be among them: ODS_{name.upper()}_TEMPLATE is its database")
        _database_name(database)
    return templates


def _web_address(value: str) -> str:
    try:
        HttpUrl(value)
    except ValidationError:
        raise ValueError("must look like https://server/path") from None
    return value  # unchanged: it is compared with claims of tokens


def _same_address(one: str, other: str) -> bool:
    """Whether two web addresses are the same but for how they are written."""
    return str(HttpUrl(one)).rstrip("/") == str(HttpUrl(other)).rstrip("/")


def _origin(address: str) -> str | None:
    """The origin of a page as browsers name it (RFC 6454, 6.2); None if it is no web address."""
    try:
        url = HttpUrl(address)
    except ValidationError:
        return None
    port = "" if url.port == _USUAL_PORTS[url.scheme] else f":{url.port}"
    return f"{url.scheme}://{url.host}{port}"


def _scopes(value: str) -> str:
    if "openid" not in value.split():
        raise ValueError("must be scopes with spaces between them, one of them openid")
    return value


def _claim_values(value: str) -> str:
    if not all(_split(value)):
        raise ValueError("must be values with commas between them")
    return value


def _split(value: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(","))


def _host_names(value: str) -> str:
    if not all(_HOST_NAME.fullmatch(name.strip()) for name in value.split(",")):
        raise ValueError("must be names without ports and with commas between them, such as ods.example.org")
    return value


def _backup_url(value: str) -> str:
    if not _BACKUP_URL.fullmatch(value):
        raise ValueError(
            "must begin with file:///, s3://, az:// or gs://, and have neither a login nor parameters:"
            " credentials belong in the environment"
        )
    return value


def _build_id(value: str) -> str:
    if not _BUILD_ID.fullmatch(value):
        raise ValueError("must have 1 to 100 letters, digits, dots, hyphens and underscores, such as 1.4.0")
    return value


def _recipients(value: str) -> str:
    if not all(_RECIPIENT.fullmatch(key.strip()) for key in value.split(",")):
        raise ValueError("must be public keys of age, which begin with age1, with commas between them")
    return value


def uses_tls(address: str) -> bool:
    """Whether the web address is one of HTTPS."""
    return address.lower().startswith("https://")


def _base64_key(value: SecretStr) -> SecretStr:
    _decoded(value.get_secret_value())
    return value


def _base64_keys(value: SecretStr) -> SecretStr:
    try:
        _decoded_list(value)
    except ValueError:
        raise ValueError(
            "must be keys as `openssl rand -base64 32` makes them, with commas between"
        ) from None
    return value


def _admin_api_keys(value: SecretStr) -> SecretStr:
    keys = _decoded_of_admin_api(value)
    if min(map(len, keys)) < KEY_BYTES:  # less is too weak for HS256 (RFC 7518, 3.2)
        raise ValueError(f"must be keys of {KEY_BYTES} bytes or more in base64, with commas between")
    return value


def _decoded_of_admin_api(value: SecretStr) -> tuple[bytes, ...]:
    return tuple(_base64(key.strip()) for key in value.get_secret_value().split(","))


def _decoded(text: str) -> bytes:
    key = _base64(text)
    if len(key) != KEY_BYTES:
        raise ValueError(f"must be the base64 form of {KEY_BYTES} bytes; `openssl rand -base64 32` makes one")
    return key


def _base64(text: str) -> bytes:
    """The bytes that the text stands for; none if it is no base64."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""


def _decoded_list(value: SecretStr | None) -> tuple[bytes, ...]:
    text = value.get_secret_value().strip() if value else ""
    return tuple(_decoded(key.strip()) for key in text.split(",")) if text else ()


def _decoded_keys(key: SecretStr, previous: SecretStr | None) -> tuple[bytes, ...]:
    return (_decoded(key.get_secret_value()), *_decoded_list(previous))


def _not_empty(value: SecretStr) -> SecretStr:
    if not value.get_secret_value():
        raise ValueError("must not be empty")
    return value


def _unused(value: object) -> None:
    if value is not None:
        raise ValueError("must not be set together with ODS_TENANTS, where each tenant has its own")


Secret = Annotated[SecretStr, BeforeValidator(_require_readable)]
Dsn = Annotated[Secret, AfterValidator(_postgres_dsn)]
SecretText = Annotated[Secret, AfterValidator(_not_empty)]
Key = Annotated[Secret, AfterValidator(_base64_key)]
Keys = Annotated[Secret, AfterValidator(_base64_keys)]
AdminApiKeys = Annotated[Secret, AfterValidator(_admin_api_keys)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False, le=10 * 365 * 86_400)]
Interval = Annotated[float, Field(ge=1, allow_inf_nan=False, le=10 * 365 * 86_400)]
BackupUrl = Annotated[str, AfterValidator(_backup_url)]
BuildId = Annotated[str, AfterValidator(_build_id)]
Recipients = Annotated[str, AfterValidator(_recipients)]
Cron = Annotated[str, AfterValidator(require_cron)]
Kept = Annotated[str, AfterValidator(require_kept)]
WebAddress = Annotated[str, AfterValidator(_web_address)]
HostNames = Annotated[str, AfterValidator(_host_names)]
Scopes = Annotated[str, AfterValidator(_scopes)]
ClaimValues = Annotated[str, AfterValidator(_claim_values)]
DatabaseName = Annotated[str, AfterValidator(_database_name)]
RoleName = Annotated[str, AfterValidator(_database_name)]
RoleGrants = Annotated[str, AfterValidator(_role_grants)]
Templates = Annotated[
    Mapping[str, str], NoDecode, BeforeValidator(_read_templates), AfterValidator(_templates)
]
_Unused = Annotated[None, BeforeValidator(_unused)]


class Address(NamedTuple):
    """Hosts, ports and name of a database, without login and parameters."""

    host: str
    port: str
    database: str

    @classmethod
    def of(cls, dsn: SecretStr) -> Self:
        """The address that `dsn` names; for several hosts, all hosts and ports, separated by commas."""
        url = PostgresDsn(dsn.get_secret_value())
        hosts = [str(host["host"]).lower() for host in url.hosts()]
        ports = [str(host["port"] or _POSTGRES_PORT) for host in url.hosts()]
        return cls(",".join(hosts), ",".join(ports), unquote((url.path or "").strip("/")))


def login_of(dsn: SecretStr) -> str:
    """The role that `dsn` logs in as."""
    return unquote(str(PostgresDsn(dsn.get_secret_value()).hosts()[0]["username"] or ""))


class _SecretFiles(PydanticBaseSettingsSource):
    """A source of pydantic settings: the secrets that are in files."""

    def __call__(self) -> dict[str, Any]:
        values = {name: self._secret(name) for name in SECRETS if name in self.settings_cls.model_fields}
        return {name: value for name, value in values.items() if value is not None}

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002 - the base class's
        return self._secret(field_name), field_name, False

    @staticmethod
    def _secret(name: str) -> FileSecret | _RefusedSecret | None:
        try:
            return from_environment(f"{_PREFIX}{name.upper()}")
        except UnreadableSecretError as error:
            return _RefusedSecret(str(error))


class ServiceSettings(BaseSettings):
    """The settings of an API or worker process that all its tenants share."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, frozen=True, extra="ignore", hide_input_in_errors=True
    )

    token_signing_key: Key = Field(description="Key that signs bearer tokens: base64 of 32 bytes.")
    token_signing_key_previous: Keys | None = Field(
        default=None, description="Other keys whose tokens are accepted, separated by commas."
    )
    payload_key: Key | None = Field(
        default=None, description="Key that encrypts what Temporal stores: base64 of 32 bytes."
    )
    payload_key_previous: Keys | None = Field(
        default=None, description="Other keys that still decrypt what Temporal stores, separated by commas."
    )

    backup_url: BackupUrl | None = Field(
        default=None,
        description="Where backups are: `file:///…`, `s3://…`, `az://…` or `gs://…`; without, none are made.",
    )
    backup_recipients: Recipients | None = Field(
        default=None,
        description="Public keys of age, separated by commas: backups are encrypted to them.",
    )
    backup_verify: VerifyPolicy = Field(
        default=VerifyPolicy.WEEKLY,
        description="`always` verifies each backup, `weekly` one of an instance in seven days, `never` none.",
    )
    backup_concurrency: int = Field(
        default=2, ge=1, le=100, description="Backups a worker makes, or restores to verify them, at once."
    )
    final_backup: bool = Field(
        default=False,
        description="Whether a backup is made, and verified, before an instance's database is dropped.",
    )

    trash_days: int = Field(
        default=7,
        ge=0,
        le=3650,
        description="Days that a deleted instance, or a database that a reset has replaced, can come back; 0:"
        " it is dropped at once.",
    )

    snapshot_keep: int = Field(
        default=2,
        ge=1,
        le=100,
        description="Snapshots of an instance that stay; when a newer one is made, the oldest goes.",
    )

    clone_strategy: CloneStrategy = Field(
        default=CloneStrategy.AUTO,
        description="`auto`, `wal_log` or `file_copy`; `auto` chooses by the template's size.",
    )

    spares: int = Field(
        default=0, ge=0, le=100, description="Spare databases to keep ready for each template; 0 for none."
    )
    spares_limit: int = Field(
        default=10, ge=0, le=100, description="Spare databases of all templates together, at most."
    )
    spares_megabytes: int = Field(
        default=10_240, ge=0, le=10**9, description="Megabytes that all spare databases may take together."
    )

    shared_server: bool = Field(
        default=False, description="Whether other installations may have databases on the same server."
    )

    trigger: Trigger = Field(
        default=Trigger.IMMEDIATE,
        description="`immediate` starts a job at the request, `scheduled` leaves it to the sweep.",
    )
    sweep_interval: Interval = Field(default=7200, description="Seconds between two sweeps.")
    reconcile_interval: Interval = Field(
        default=300, description="Seconds between two comparisons of rows, workflows and databases."
    )
    refresh_interval: Interval = Field(
        default=3600, description="Seconds between two readings of all education organizations."
    )

    task_queue: str = Field(
        default="ods", min_length=1, max_length=200, description="Prefix of the Temporal task queues."
    )
    worker_deployment_version: BuildId | None = Field(
        default=None,
        description="Version that workers tell Temporal, such as `1.4.0`: one that is [not made the current"
        " one](upgrading.md) gets no tasks. Without, every worker gets tasks.",
    )
    registry_concurrency: int = Field(
        default=50,
        ge=1,
        le=1000,
        description="Registry activities a worker runs at once, beside those that wait for scheduled jobs.",
    )
    ddl_concurrency: int = Field(
        default=3, ge=1, le=100, description="Databases a worker creates or drops at once."
    )
    ddl_prefetch: int = Field(
        default=0,
        ge=0,
        le=100,
        description="Jobs a worker fetches beyond those, so that the next can begin at once.",
    )
    refresh_concurrency: int = Field(
        default=8,
        ge=1,
        le=100,
        description="ODS databases a worker reads at once for their organizations.",
    )
    ddl_attempts: int = Field(
        default=8, ge=1, le=1000, description="Tries to create or drop a database before the job gives up."
    )
    heartbeat_timeout: Seconds = Field(
        default=5,
        ge=1,
        description="Seconds without a heartbeat after which a clone or drop is tried elsewhere.",
    )
    decision_window: Seconds = Field(
        default=86_400, description="Seconds a failed job waits for `retry` or `abandon`."
    )
    outage_timeout: Seconds = Field(
        default=3600, description="Seconds a job waits for a registry or server that is away."
    )
    shutdown_timeout: Seconds = Field(
        default=20, description="Seconds a worker lets running activities finish after SIGTERM."
    )

    instance_management: bool = Field(
        default=True,
        description="Whether instances can be managed; if not, their endpoints answer 400, and the console"
        " changes none of them. Jobs can be cancelled.",
    )
    console: bool = Field(
        default=True, description="Whether the console, the page for operators, is served at `/console`."
    )
    registration: bool = Field(
        default=False, description="Whether `/connect/register` always accepts new clients."
    )
    allowed_hosts: HostNames | None = Field(
        default=None,
        description="Hosts that requests may name, separated by commas; `*.` for subdomains. Without, any.",
    )
    json_limit: int = Field(
        default=1024 * 1024,
        ge=1024,
        le=4 * 1024 * 1024,
        description="Bytes that the JSON of a request may have.",
    )
    rate_limiting: bool = Field(
        default=True,
        description="Whether registrations, token requests and failures are limited for each client address.",
    )
    costly_requests: int = Field(
        default=32,
        ge=0,
        le=10_000,
        description="Requests that write or read lists which an API process serves at once; others wait, and"
        " are [refused after five seconds](production.md#load). 0: no limit.",
    )
    # Of the ten connections to its registry, two are left for what is cheap.
    costly_requests_per_tenant: int = Field(
        default=8, ge=0, le=10_000, description="The same, of each tenant."
    )
    downloads: int = Field(
        default=10,
        ge=0,
        le=10_000,
        description="Downloads of backups that an API process serves at once, of which one client may have"
        " half; others are [refused](production.md#load). 0: no limit.",
    )
    audit_retention: int = Field(
        default=400,
        ge=30,  # the function `adminapi.prune_audit` removes nothing that is younger
        le=36_500,
        description="Days that an entry of the audit trail is kept.",
    )
    token_lifetime: int = Field(default=1800, ge=1, description="Seconds a bearer token is valid.")
    oidc_insecure: bool = Field(
        default=False, description="Whether addresses of issuers may begin with `http://`: only for tests."
    )
    oidc_issuer: WebAddress | None = Field(
        default=None, description="OpenID Connect issuer whose tokens are accepted, instead of our own."
    )
    oidc_audience: str = Field(
        default="edfi_admin_api", min_length=1, description="What `aud` in the issuer's tokens must name."
    )
    oidc_jwks_url: WebAddress | None = Field(
        default=None, description="Address of the issuer's keys; by default, that of its discovery document."
    )
    admin_api_issuer: WebAddress | None = Field(
        default=None,
        description="`Authentication:IssuerUrl` of an [Admin API whose tokens are"
        " accepted](production.md#tokens-of-an-admin-api) as well.",
    )
    admin_api_signing_key: AdminApiKeys | None = Field(
        default=None,
        validate_default=True,
        description="Its `Authentication:SigningKey`: base64 of 32 bytes or more; while it is changed,"
        " both, separated by commas.",
    )
    console_oidc_issuer: WebAddress | None = Field(
        default=None, description="OpenID Connect issuer with which people sign in to the console."
    )
    console_oidc_client_id: str = Field(
        default="ods-console", min_length=1, description="The console's id at that issuer."
    )
    console_oidc_client_secret: SecretText | None = Field(
        default=None, description="The console's secret there; without, it is a public client."
    )
    console_oidc_scopes: Scopes = Field(
        default="openid profile",
        description="Scopes that the console asks for, separated by spaces; `openid` is one of them.",
    )
    console_oidc_claim: str = Field(
        default="groups",
        min_length=1,
        description="Claim of the ID token that says what a person may do: a text, or a list of texts.",
    )
    console_client_sign_in: bool | None = Field(
        default=None,
        description="Whether clients sign in to the console with their secrets; without, they do unless"
        " `ODS_CONSOLE_OIDC_ISSUER` is set.",
    )
    console_sessions: int = Field(
        default=10,
        ge=1,
        le=10_000,
        description="Sessions of the console that a client or person may have at once; the oldest ends.",
    )
    metrics_port: int | None = Field(
        default=None,
        ge=1,
        le=65_535,
        description="Port of `/metrics`, `/livez`, `/readyz` and `/startupz`, one for each process; without,"
        " there is none.",
    )
    metrics_host: str = Field(
        default="127.0.0.1", min_length=1, description="Address that this port is opened on."
    )
    temporal_ui_url: str | None = Field(
        default=None, description="Address of the Temporal Web UI, for links in answers."
    )
    codec_server: bool = Field(
        default=False,
        description="Whether `/codec/decode` decrypts payloads for Temporal's [Web UI and command"
        " line](temporal.md#encrypted-histories).",
    )
    log_format: LogFormat = Field(
        default=LogFormat.TEXT, description="`text` or `json`: how the lines of the log are written."
    )
    log_level: LogLevel = Field(
        default=LogLevel.INFO,
        description="`debug`, `info`, `warning` or `error`: from which level on lines are logged.",
    )

    @field_validator("final_backup")
    @classmethod
    def _require_store_for_final_backups(cls, final_backup: bool, info: ValidationInfo) -> bool:  # noqa: FBT001 - pydantic's
        if final_backup and "backup_url" in info.data and info.data["backup_url"] is None:
            raise ValueError("must not be set without ODS_BACKUP_URL, where the backups would be")
        return final_backup

    @field_validator("worker_deployment_version")
    @classmethod
    def _require_deployment_name(cls, version: str | None, info: ValidationInfo) -> str | None:
        if version and not _DEPLOYMENT_NAME.fullmatch(info.data.get("task_queue", "ods")):
            raise ValueError(
                "needs an ODS_TASK_QUEUE without dots and colons that does not begin with __: Temporal's"
                " worker deployment is called like it"
            )
        return version

    @field_validator("oidc_issuer", "oidc_jwks_url", "console_oidc_issuer")
    @classmethod
    def _require_tls(cls, address: str | None, info: ValidationInfo) -> str | None:
        if address is not None and not info.data.get("oidc_insecure") and not uses_tls(address):
            raise ValueError("must begin with https://, or else ODS_OIDC_INSECURE must be true")
        return address

    @field_validator("admin_api_issuer")
    @classmethod
    def _require_another_issuer(cls, address: str | None, info: ValidationInfo) -> str | None:
        oidc_issuer = info.data.get("oidc_issuer")
        if address is not None and oidc_issuer is not None and _same_address(address, oidc_issuer):
            raise ValueError("must be another one than ODS_OIDC_ISSUER: each has keys of its own")
        return address

    @field_validator("admin_api_signing_key")
    @classmethod
    def _require_issuer_and_key(cls, keys: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if "admin_api_issuer" not in info.data:
            return keys
        if keys is None:
            if info.data["admin_api_issuer"] is not None:
                raise ValueError("must be set together with ODS_ADMIN_API_ISSUER, whose tokens it verifies")
            return keys
        if info.data["admin_api_issuer"] is None:
            raise ValueError("must not be set without ODS_ADMIN_API_ISSUER, whose tokens it verifies")
        key = info.data.get("token_signing_key")
        own = _decoded_keys(key, info.data.get("token_signing_key_previous")) if key else ()
        if not set(own).isdisjoint(_decoded_of_admin_api(keys)):
            raise ValueError("must be another key than those of ODS_TOKEN_SIGNING_KEY, which sign our tokens")
        return keys

    @field_validator("codec_server")
    @classmethod
    def _require_codec(cls, codec_server: bool, info: ValidationInfo) -> bool:  # noqa: FBT001 - pydantic's
        if codec_server and "payload_key" in info.data and info.data["payload_key"] is None:
            raise ValueError("must not be set without ODS_PAYLOAD_KEY, the key to decrypt with")
        ui = info.data.get("temporal_ui_url")
        if codec_server and ui is not None and _origin(ui) is None:
            raise ValueError("needs an ODS_TEMPORAL_UI_URL that looks like https://server/path, or none")
        return codec_server

    @field_validator("payload_key_previous")
    @classmethod
    def _require_payload_key(cls, previous: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if _decoded_list(previous) and "payload_key" in info.data and info.data["payload_key"] is None:
            raise ValueError("must not be set without ODS_PAYLOAD_KEY, the key to encrypt with")
        return previous

    @property
    def token_signing_keys(self) -> tuple[bytes, ...]:
        """The keys whose tokens are accepted; the first one signs."""
        return _decoded_keys(self.token_signing_key, self.token_signing_key_previous)

    @property
    def admin_api_issuers(self) -> tuple[str, ...]:
        """What `iss` may be in tokens of the Admin API; empty: none of its tokens are accepted.

        It is the address as .NET writes it: with a slash at the end if there is no path.
        """
        address = self.admin_api_issuer
        return () if address is None else (address, str(HttpUrl(address)))

    @property
    def shares_clients(self) -> bool:
        """Whether an Admin API adds clients to `adminapi.applications` and verifies their secrets as well."""
        return self.admin_api_issuer is not None

    @property
    def admin_api_keys(self) -> tuple[bytes, ...]:
        """The keys whose tokens of the Admin API are accepted."""
        keys = self.admin_api_signing_key
        return () if keys is None else _decoded_of_admin_api(keys)

    @property
    def payload_keys(self) -> tuple[bytes, ...]:
        """The keys that decrypt what Temporal stores; the first one encrypts. Empty: nothing is encrypted."""
        if self.payload_key is None:
            return ()
        return _decoded_keys(self.payload_key, self.payload_key_previous)

    @property
    def clients_sign_in(self) -> bool:
        """Whether clients sign in to the console with their secrets."""
        if self.oidc_issuer is not None:
            return False
        if self.console_client_sign_in is None:
            return self.console_oidc_issuer is None
        return self.console_client_sign_in

    @property
    def temporal_ui_origin(self) -> str | None:
        """The origin of the Temporal Web UI, as browsers name it; None if its address is not known."""
        return None if self.temporal_ui_url is None else _origin(self.temporal_ui_url)

    @property
    def recipients(self) -> tuple[str, ...]:
        """The public keys that backups are encrypted to; empty: they are not encrypted."""
        return tuple(key.strip() for key in (self.backup_recipients or "").split(",") if key.strip())

    @property
    def stores_unencrypted(self) -> bool:
        """Whether backups are made that are not encrypted."""
        return self.backup_url is not None and not self.recipients

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - there is no such file
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - nor such a folder
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read files before variables, so that a secret that is given by both is refused."""
        return init_settings, _SecretFiles(settings_cls), env_settings

    @classmethod
    def load(cls) -> Self:
        """Read the settings from the environment.

        Raises:
            InvalidSettingsError: naming each variable that is missing or has an unusable value.
        """
        try:
            return cls()
        except ValidationError as error:
            faults = error.errors(include_input=False, include_url=False, include_context=False)
            lines = [
                f"{_setting_path(fault['loc'])}: "
                + (
                    "must be set"
                    if fault["type"] == "missing"
                    else fault["msg"].removeprefix("Value error, ")
                )
                for fault in faults
            ]
            # A shared setting is refused once for each tenant.
            raise InvalidSettingsError("\n".join(dict.fromkeys(lines))) from None


class Settings(ServiceSettings):
    """The settings of one tenant: the only one, or one of several."""

    multi_tenant: ClassVar[bool] = False

    admin_dsn: Dsn = Field(description="Registry: the `EdFi_Admin` database.")
    master_dsn: Dsn = Field(description="Maintenance database of the server that holds the ODS databases.")
    restore_dsn: Dsn | None = Field(
        default=None,
        description="The same server with the [login that"
        " restores](operations/backups.md#the-login-that-restores).",
    )
    restore_as_service: bool = Field(
        default=False,
        description="Whether, without that login, the service's role restores, with all its rights; else"
        " restores, verifications, online copies and snapshots are refused.",
    )
    restored_owner: RoleName = Field(
        default="ods_restored", description="Role that what that login has restored belongs to."
    )
    allow_superuser: bool = Field(
        default=False,
        description="Whether API and worker start although a role of these addresses is a superuser.",
    )
    instance_connection_string: Secret = Field(
        description="Npgsql-style string the ODS/API shall connect with; its database is replaced."
    )
    allowed_ods_hosts: str | None = Field(
        default=None,
        description="Servers that [workers read](production.md#servers-that-clients-name) beside that one if"
        " clients name them: hosts, addresses and networks, with a port or without, separated by commas; `*.`"
        " for subdomains.",
    )
    encryption_key: Key = Field(description="AES-256 key shared with the ODS/API: base64 of 32 bytes.")
    encryption_key_previous: Keys | None = Field(
        default=None, description="Other keys that still decrypt connection strings, separated by commas."
    )
    minimal_template: DatabaseName = Field(
        default="EdFi_Ods_Minimal_Template", description="Database behind the template `Minimal`."
    )
    sample_template: DatabaseName = Field(
        default="EdFi_Ods_Populated_Template", description="Database behind the template `Sample`."
    )

    database_owner: RoleName | None = Field(
        default=None, description="Role that new databases are given to; by default, the service's."
    )
    database_grants: RoleGrants | None = Field(
        default=None,
        description="Privileges on new databases beside those on the template: `ods_api: CONNECT; other: …`.",
    )

    protect_new: bool = Field(
        default=False, description="Whether new instances are protected, unless the request says otherwise."
    )

    backup_cron: Cron | None = Field(
        default=None,
        description="When backups of all instances are made: five fields as cron has them, in UTC unless"
        " `CRON_TZ=…` is before them.",
    )
    backup_keep: Kept = Field(
        default="daily=7,weekly=4,monthly=12",
        description="How many of these backups of an instance stay: the first ones of so many days, weeks and"
        " months; empty: all.",
    )
    snapshot_cron: Cron | None = Field(
        default=None, description="When snapshots of all instances are made, in the same form."
    )

    console_oidc_full_access: ClaimValues | None = Field(
        default=None,
        description="Values of that claim, separated by commas, with which a person may do everything.",
    )
    console_oidc_read_only: ClaimValues | None = Field(
        default=None, description="The same, with which a person may only read."
    )

    templates: Templates = Field(
        default={}, description='Further templates, as JSON: `{"Name": "database"}`.'
    )
    security_database: DatabaseName = Field(
        default="EdFi_Security",
        description="Security database of the ODS/API, beside the registry; `/v2/tenants` names it.",
    )

    @field_validator("restore_dsn")
    @classmethod
    def _require_login_of_its_own(cls, dsn: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        master = info.data.get("master_dsn")
        if dsn is None or master is None:
            return dsn
        if not login_of(dsn):
            raise ValueError("must name the role that restores: postgresql://role:password@…")
        if Address.of(dsn)[:2] != Address.of(master)[:2]:
            raise ValueError("must name the server of ODS_MASTER_DSN, with the same hosts and ports")
        if login_of(dsn) == login_of(master):
            raise ValueError("must name another role than ODS_MASTER_DSN: what is restored runs as that role")
        return dsn

    @field_validator("restored_owner")
    @classmethod
    def _require_other_owner(cls, owner: str, info: ValidationInfo) -> str:
        dsns = [dsn for name in ("master_dsn", "restore_dsn") if (dsn := info.data.get(name)) is not None]
        if owner in map(login_of, dsns):
            raise ValueError("must be another role than those of ODS_MASTER_DSN and ODS_RESTORE_DSN")
        return owner

    @field_validator("database_owner")
    @classmethod
    def _require_owner_without_planted_code(cls, owner: str | None, info: ValidationInfo) -> str | None:
        restore_dsn = info.data.get("restore_dsn")
        restoring = {info.data.get("restored_owner"), login_of(restore_dsn)} if restore_dsn else set()
        if owner is not None and owner in restoring:
            raise ValueError(
                "must be no role of ODS_RESTORE_DSN or ODS_RESTORED_OWNER: restored code runs as these"
            )
        return owner

    @field_validator("backup_cron")
    @classmethod
    def _require_store_for_schedule(cls, cron: str | None, info: ValidationInfo) -> str | None:
        if cron and "backup_url" in info.data and info.data["backup_url"] is None:
            raise ValueError("must not be set without ODS_BACKUP_URL, where the backups go")
        return cron

    @property
    def needed_memberships(self) -> tuple[str, ...]:
        """Roles that the service's role must be a member of on the server, beside those of PostgreSQL."""
        restores = (login_of(self.restore_dsn), self.restored_owner) if self.restore_dsn else ()
        return (*((self.database_owner,) if self.database_owner else ()), *restores)

    @property
    def encryption_keys(self) -> tuple[bytes, ...]:
        """The keys that decrypt connection strings; the first one encrypts."""
        return _decoded_keys(self.encryption_key, self.encryption_key_previous)

    @property
    def full_access_values(self) -> tuple[str, ...]:
        """The values of the issuer's claim with which a person may do everything on the console."""
        return _split(self.console_oidc_full_access) if self.console_oidc_full_access else ()

    @property
    def read_only_values(self) -> tuple[str, ...]:
        """The values of the issuer's claim with which a person may only read on the console."""
        return _split(self.console_oidc_read_only) if self.console_oidc_read_only else ()

    @property
    def tenants(self) -> Mapping[str, Self]:
        """The settings of each tenant, by its name."""
        return {DEFAULT_TENANT: self}

    @property
    def registry_queue(self) -> str:
        """Task queue of workflows and registry activities."""
        return f"{self.task_queue}-registry"

    @property
    def ddl_queue(self) -> str:
        """Task queue of the activities that create and drop databases."""
        return f"{self.task_queue}-ddl"

    @property
    def refresh_queue(self) -> str:
        """Task queue of the activities that read ODS databases, whose servers may not answer."""
        return f"{self.task_queue}-refresh"

    @property
    def backup_queue(self) -> str:
        """Task queue of the activities that make and read backups, which take long."""
        return f"{self.task_queue}-backup"

    @property
    def kept_backups(self) -> KeptBackups | None:
        """How many scheduled backups of an instance stay; None: all of them."""
        return KeptBackups.of(self.backup_keep)

    @property
    def granted(self) -> tuple[tuple[str, str], ...]:
        """Roles that get privileges on new databases, each with those privileges."""
        return tuple(_grants(self.database_grants or ""))

    @property
    def template_databases(self) -> dict[str, str]:
        """Name of the database behind each template, by the template's name."""
        return {
            MINIMAL_TEMPLATE: self.minimal_template,
            SAMPLE_TEMPLATE: self.sample_template,
            **self.templates,
        }


_OWN = Settings.model_fields.keys() - ServiceSettings.model_fields.keys()
_OWN_FILES = {f"{name}{_FILE}": name for name in SECRETS if name in _OWN}


class MultiTenantSettings(ServiceSettings):
    """The settings of several tenants."""

    multi_tenant: ClassVar[bool] = True

    admin_dsn: _Unused = None
    master_dsn: _Unused = None
    restore_dsn: _Unused = None
    instance_connection_string: _Unused = None
    tenants: Annotated[Mapping[str, Settings], NoDecode] = Field(
        description="Several tenants instead of one: see [below](#several-tenants)."
    )

    @field_validator("codec_server")
    @classmethod
    def _require_one_tenant(cls, codec_server: bool) -> bool:  # noqa: FBT001 - pydantic's
        if codec_server:
            raise ValueError(
                "must not be set together with ODS_TENANTS: a payload does not say which tenant's it is"
            )
        return codec_server

    @field_validator("tenants", mode="before")
    @classmethod
    def _read(
        cls, source: str | FileSecret | _RefusedSecret, info: ValidationInfo
    ) -> Mapping[str, Mapping[str, Any]]:
        """Read the JSON; each tenant gets task queues of its own, so that none delays another."""
        shared = {name: value for name, value in info.data.items() if name in ServiceSettings.model_fields}
        prefix = info.data.get("task_queue", "")
        return {
            name: shared | own | {"task_queue": prefix if name == DEFAULT_TENANT else f"{prefix}-{name}"}
            for name, own in _tenants(source).items()
        }

    @field_validator("tenants")
    @classmethod
    def _require_own_registries(cls, tenants: Mapping[str, Settings]) -> Mapping[str, Settings]:
        owners: dict[Address, str] = {}
        for name, own in tenants.items():
            if (other := owners.setdefault(Address.of(own.admin_dsn), name)) != name:
                raise ValueError(
                    f"{other} and {name} have the same admin_dsn; each needs a registry of its own"
                )
        return tenants


AnySettings: TypeAlias = Settings | MultiTenantSettings


def other_registries(settings: AnySettings, tenant: str) -> Mapping[str, str]:
    """The DSNs of the registries of the other tenants, by their names."""
    return {
        name: own.admin_dsn.get_secret_value() for name, own in settings.tenants.items() if name != tenant
    }


def load_settings(*, tenants_needed: bool = True) -> AnySettings:
    """Read the settings, of one tenant or of several, from the environment.

    Args:
        tenants_needed: whether `ODS_TENANTS` must name a tenant. The API tells its clients if it names none.

    Raises:
        InvalidSettingsError: naming each variable that is missing or has an unusable value.
    """
    several = not os.environ.keys().isdisjoint(variables_of("tenants"))
    settings = MultiTenantSettings.load() if several else Settings.load()
    if tenants_needed and not settings.tenants:
        raise InvalidSettingsError(f"{_variable('tenants')}: must name at least one tenant")
    return settings


def variables_of(name: str) -> set[str]:
    """The environment variables that give the setting `name`."""
    variable = f"{_PREFIX}{name.upper()}"
    return {variable, f"{variable}{_FILE.upper()}"} if name in SECRETS else {variable}


def unknown_variables() -> list[str]:
    """The variables that look like settings, as misspelt ones do, and that nothing reads."""
    fields = Settings.model_fields.keys() | MultiTenantSettings.model_fields.keys()
    known = {variable for name in fields for variable in variables_of(name)} | _OF_COMMANDS
    return sorted({name for name in os.environ if name.startswith(_PREFIX)} - known)


def warn_of_unknown_variables(logger: logging.Logger) -> None:
    """Write a line for each of the `unknown_variables`: what a misspelt one was to keep might be dropped."""
    for variable in unknown_variables():
        logger.warning("%s has no effect: no setting has this name.", variable)


def _tenants(source: str | FileSecret | _RefusedSecret) -> dict[str, dict[str, Any]]:
    _require_readable(source)
    tenants = _parsed_tenants(source.get_secret_value() if isinstance(source, FileSecret) else str(source))
    if not all(map(TENANT_NAME.fullmatch, tenants)):
        raise ValueError("the name of a tenant has 1 to 50 letters (A to Z), digits and hyphens")
    for name, own in tenants.items():
        if _VERSION.fullmatch(name):
            raise ValueError(f"{name} cannot be the name of a tenant: in paths, it names a version")
        if own.keys() - _OWN - _OWN_FILES.keys():
            raise ValueError(
                f"{name}: may have {', '.join(sorted(_OWN))}; in files {', '.join(sorted(_OWN_FILES))};"
                " and nothing else"
            )
    return {name: _own(name, own, source) for name, own in tenants.items()}


def _parsed_tenants(text: str) -> dict[str, dict[str, Any]]:
    try:
        tenants = json.loads(text, object_pairs_hook=_distinct)
    except (ValueError, RecursionError):
        tenants = None
    if not isinstance(tenants, dict) or not all(isinstance(own, dict) for own in tenants.values()):
        raise ValueError("must be JSON: an object that holds an object for each tenant, and no name twice")
    return tenants


def _own(tenant: str, own: dict[str, Any], source: object) -> dict[str, Any]:
    """A tenant's own settings; secrets from a file, its own or that of all, can be read again."""
    values = {name: value for name, value in own.items() if name in _OWN}
    if isinstance(source, FileSecret):
        for name in values.keys() & set(SECRETS):
            if isinstance(values[name], str):
                values[name] = FileSecret(values[name], partial(_read_tenant_secret, source, tenant, name))
    return values | {
        name: _secret_of_file(own[file], twice=name in own)
        for file, name in _OWN_FILES.items()
        if file in own
    }


def _secret_of_file(path: object, *, twice: bool) -> FileSecret | _RefusedSecret:
    if twice:
        return _RefusedSecret(f"must not be set twice, with {_FILE} and without")
    try:
        return FileSecret.of(str(path))
    except UnreadableSecretError as error:
        return _RefusedSecret(f"the file {error}")


def _read_tenant_secret(source: FileSecret, tenant: str, name: str) -> str:
    """A secret of a tenant, read again from the file of all tenants.

    Raises:
        UnreadableSecretError: the file no longer holds it.
    """
    try:
        member = _parsed_tenants(source.read_again()).get(tenant, {}).get(name)
    except ValueError:
        member = None
    if not isinstance(member, str):
        raise UnreadableSecretError("does not hold it any more")
    return member


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name.lower() for name, _ in pairs}) < len(pairs):
        raise ValueError
    return dict(pairs)


def _setting_path(location: tuple[int | str, ...]) -> str:
    """The variable, and for a tenant's setting its path in the JSON, of the value that was refused."""
    field = location[-1]
    variable = _variable(str(field))
    if len(location) == 1 or field in ServiceSettings.model_fields:
        return variable
    path = f"{_variable('tenants')}: {location[1]}: {field}"
    return path if field in MultiTenantSettings.model_fields else f"{path} (or, for all tenants, {variable})"


def _variable(field: str) -> str:
    """The variable that gives `field`: with `_FILE` if the environment has that."""
    variable = f"{_PREFIX}{field.upper()}"
    file = f"{variable}{_FILE.upper()}"
    return file if file in os.environ else variable
