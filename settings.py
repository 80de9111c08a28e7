"""Every knob of the API and the worker, read from environment variables that begin with `ODS_`.

Temporal's own connection settings are not here: they follow Temporal's convention (`TEMPORAL_ADDRESS`,
`TEMPORAL_NAMESPACE`, `TEMPORAL_API_KEY`, `TEMPORAL_TLS…`) and are read by `temporalio.envconfig`.
"""

import base64
import binascii
import json
import os
import re
from collections.abc import Mapping
from enum import StrEnum
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
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

KEY_BYTES = 32
MAX_DATABASE_NAME_BYTES = 63
"""PostgreSQL silently cuts longer identifiers (NAMEDATALEN - 1)."""

_SCHEMES = {"postgresql", "postgres"}
_POSTGRES_PORT = 5432

DEFAULT_TENANT = "default"
"""The tenant every instance belongs to while multi-tenancy is off."""
TENANT_NAME = re.compile(r"[A-Za-z0-9-]{1,50}")


class InvalidSettingsError(Exception):
    """A setting has a value the service cannot run with; the message names each variable."""


class Trigger(StrEnum):
    """When a requested job starts: at the request, or only when the sweep comes by."""

    IMMEDIATE = "immediate"
    SCHEDULED = "scheduled"


class CloneStrategy(StrEnum):
    """How PostgreSQL copies a template; `auto` decides by the template's size."""

    AUTO = "auto"
    WAL_LOG = "wal_log"
    FILE_COPY = "file_copy"


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


def _database_name(value: str) -> str:
    if not 1 <= len(value.encode()) <= MAX_DATABASE_NAME_BYTES:
        raise ValueError(f"must have 1 to {MAX_DATABASE_NAME_BYTES} bytes")
    return value


def _web_address(value: str) -> str:
    try:
        HttpUrl(value)
    except ValidationError:
        raise ValueError("must look like https://server/path") from None
    return value  # as it was written: it is compared with what tokens say


def _base64_key(value: SecretStr) -> SecretStr:
    try:
        key = base64.b64decode(value.get_secret_value(), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise ValueError(f"must be the base64 form of {KEY_BYTES} bytes; `openssl rand -base64 32` makes one")
    return value


def _unused(value: object) -> None:
    if value is not None:
        raise ValueError("must not be set together with ODS_TENANTS, where each tenant has its own")


Dsn = Annotated[SecretStr, AfterValidator(_postgres_dsn)]
Key = Annotated[SecretStr, AfterValidator(_base64_key)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False, le=10 * 365 * 86_400)]
Interval = Annotated[float, Field(ge=1, allow_inf_nan=False, le=10 * 365 * 86_400)]
WebAddress = Annotated[str, AfterValidator(_web_address)]
DatabaseName = Annotated[str, AfterValidator(_database_name)]
_Unused = Annotated[None, BeforeValidator(_unused)]


class Address(NamedTuple):
    """Where a database is: neither who connects to it, nor how."""

    host: str
    port: str
    database: str

    @classmethod
    def of(cls, dsn: SecretStr) -> Self:
        """The address that `dsn` names; of a server that is several, all hosts and ports."""
        url = PostgresDsn(dsn.get_secret_value())
        hosts = [str(host["host"]).lower() for host in url.hosts()]
        ports = [str(host["port"] or _POSTGRES_PORT) for host in url.hosts()]
        return cls(",".join(hosts), ",".join(ports), unquote((url.path or "").strip("/")))


class ServiceSettings(BaseSettings):
    """What an API or worker process does alike for all its tenants."""

    model_config = SettingsConfigDict(
        env_prefix="ODS_", frozen=True, extra="ignore", hide_input_in_errors=True
    )

    token_signing_key: Key = Field(description="Key that signs bearer tokens: base64 of 32 bytes.")
    payload_key: Key | None = Field(
        default=None, description="Key that encrypts what Temporal stores: base64 of 32 bytes."
    )

    clone_strategy: CloneStrategy = Field(
        default=CloneStrategy.AUTO,
        description="`auto`, `wal_log` or `file_copy`; `auto` goes by template size.",
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
    registry_concurrency: int = Field(
        default=50, ge=1, le=1000, description="Registry activities a worker runs at once."
    )
    ddl_concurrency: int = Field(
        default=3, ge=1, le=100, description="Databases a worker creates or drops at once."
    )
    ddl_prefetch: int = Field(
        default=0, ge=0, le=100, description="Jobs a worker fetches beyond those, to have the next at hand."
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
        default=True, description="Whether instances can be managed; if not, their endpoints answer 400."
    )
    registration: bool = Field(
        default=False, description="Whether `/connect/register` always admits new clients."
    )
    rate_limiting: bool = Field(
        default=True,
        description="Whether an address may only so often register clients, ask for tokens and fail.",
    )
    token_lifetime: int = Field(default=1800, ge=1, description="Seconds a bearer token is valid.")
    oidc_issuer: WebAddress | None = Field(
        default=None, description="OpenID Connect issuer whose tokens are accepted, instead of our own."
    )
    oidc_audience: str = Field(
        default="edfi_admin_api", min_length=1, description="What `aud` in the issuer's tokens must name."
    )
    oidc_jwks_url: WebAddress | None = Field(
        default=None, description="Address of the issuer's keys; by default its discovery document says it."
    )
    temporal_ui_url: str | None = Field(
        default=None, description="Address of the Temporal Web UI, for links in answers."
    )

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
                f"{_place(fault['loc'])}: {fault['msg'].removeprefix('Value error, ')}" for fault in faults
            ]
            # What is alike for all tenants is refused once for each of them.
            raise InvalidSettingsError("\n".join(dict.fromkeys(lines))) from None


class Settings(ServiceSettings):
    """The settings of one tenant: the only one, or one of several."""

    multi_tenant: ClassVar[bool] = False

    admin_dsn: Dsn = Field(description="Registry: the `EdFi_Admin` database.")
    master_dsn: Dsn = Field(description="Maintenance database of the server that holds the ODS databases.")
    instance_connection_string: SecretStr = Field(
        description="Npgsql-style string the ODS/API shall connect with; its database is replaced."
    )
    encryption_key: Key = Field(description="AES-256 key shared with the ODS/API: base64 of 32 bytes.")
    minimal_template: DatabaseName = Field(
        default="EdFi_Ods_Minimal_Template", description="Database behind the template `Minimal`."
    )
    sample_template: DatabaseName = Field(
        default="EdFi_Ods_Populated_Template", description="Database behind the template `Sample`."
    )

    security_database: DatabaseName = Field(
        default="EdFi_Security",
        description="Security database of the ODS/API, beside the registry; `/v2/tenants` names it.",
    )

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
        """Task queue of the activities that read ODS databases, which may hang."""
        return f"{self.task_queue}-refresh"

    @property
    def template_databases(self) -> dict[str, str]:
        """Name of the database behind each template."""
        return {"Minimal": self.minimal_template, "Sample": self.sample_template}


_OWN = Settings.model_fields.keys() - ServiceSettings.model_fields.keys()


class MultiTenantSettings(ServiceSettings):
    """The settings of several tenants."""

    multi_tenant: ClassVar[bool] = True

    admin_dsn: _Unused = None
    master_dsn: _Unused = None
    instance_connection_string: _Unused = None
    tenants: Annotated[Mapping[str, Settings], NoDecode] = Field(
        min_length=1, description="Several tenants instead of one: see [below](#several-tenants)."
    )

    @field_validator("tenants", mode="before")
    @classmethod
    def _read(cls, text: str, info: ValidationInfo) -> Mapping[str, Mapping[str, Any]]:
        """Read the JSON; each tenant gets task queues of its own, where it holds up nobody else."""
        shared = {name: value for name, value in info.data.items() if name in ServiceSettings.model_fields}
        prefix = info.data.get("task_queue", "")
        return {
            name: shared | own | {"task_queue": prefix if name == DEFAULT_TENANT else f"{prefix}-{name}"}
            for name, own in _tenants(text).items()
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


def load_settings() -> AnySettings:
    """Read the settings, of one tenant or of several, from the environment.

    Raises:
        InvalidSettingsError: naming each variable that is missing or has an unusable value.
    """
    return MultiTenantSettings.load() if "ODS_TENANTS" in os.environ else Settings.load()


def _tenants(text: str) -> dict[str, dict[str, Any]]:
    try:
        tenants = json.loads(text, object_pairs_hook=_distinct)
    except (ValueError, RecursionError):
        tenants = None
    if not isinstance(tenants, dict) or not all(isinstance(own, dict) for own in tenants.values()):
        raise ValueError("must be JSON: an object that holds an object for each tenant, and no name twice")
    if not all(map(TENANT_NAME.fullmatch, tenants)):
        raise ValueError("the name of a tenant has 1 to 50 letters (A to Z), digits and hyphens")
    for name, own in tenants.items():
        if own.keys() - _OWN:
            raise ValueError(f"{name}: may have {', '.join(sorted(_OWN))}, and nothing else")
    return tenants


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name.lower() for name, _ in pairs}) < len(pairs):
        raise ValueError
    return dict(pairs)


def _place(location: tuple[int | str, ...]) -> str:
    """Where the value stands that was refused."""
    field = location[-1]
    variable = f"ODS_{str(field).upper()}"
    if len(location) == 1 or field in ServiceSettings.model_fields:
        return variable
    place = f"ODS_TENANTS: {location[1]}: {field}"
    return (
        place if field in MultiTenantSettings.model_fields else f"{place} (or, for all tenants, {variable})"
    )
