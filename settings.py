"""Every knob of the API and the worker, read from environment variables that begin with `ODS_`.

Temporal's own connection settings are not here: they follow Temporal's convention (`TEMPORAL_ADDRESS`,
`TEMPORAL_NAMESPACE`, `TEMPORAL_API_KEY`, `TEMPORAL_TLS…`) and are read by `temporalio.envconfig`.
"""

import base64
import binascii
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Self

from pydantic import AfterValidator, Field, HttpUrl, PostgresDsn, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

KEY_BYTES = 32
MAX_DATABASE_NAME_BYTES = 63
"""PostgreSQL silently cuts longer identifiers (NAMEDATALEN - 1)."""

_SCHEMES = {"postgresql", "postgres"}

DEFAULT_TENANT = "default"
"""The tenant every instance belongs to while multi-tenancy is off."""


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


Dsn = Annotated[SecretStr, AfterValidator(_postgres_dsn)]
Key = Annotated[SecretStr, AfterValidator(_base64_key)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False, le=10 * 365 * 86_400)]
Interval = Annotated[float, Field(ge=1, allow_inf_nan=False, le=10 * 365 * 86_400)]
WebAddress = Annotated[str, AfterValidator(_web_address)]
DatabaseName = Annotated[str, AfterValidator(_database_name)]


class Settings(BaseSettings):
    """The configuration of one API or worker process.

    Raises:
        InvalidSettingsError: from `Settings.load`, naming each variable and what it must be.
    """

    model_config = SettingsConfigDict(
        env_prefix="ODS_", frozen=True, extra="ignore", hide_input_in_errors=True
    )

    admin_dsn: Dsn = Field(description="Registry: the `EdFi_Admin` database.")
    master_dsn: Dsn = Field(description="Maintenance database of the server that holds the ODS databases.")
    instance_connection_string: SecretStr = Field(
        description="Npgsql-style string the ODS/API shall connect with; its database is replaced."
    )
    encryption_key: Key = Field(description="AES-256 key shared with the ODS/API: base64 of 32 bytes.")
    token_signing_key: Key = Field(description="Key that signs bearer tokens: base64 of 32 bytes.")
    payload_key: Key | None = Field(
        default=None, description="Key that encrypts what Temporal stores: base64 of 32 bytes."
    )

    minimal_template: DatabaseName = Field(
        default="EdFi_Ods_Minimal_Template", description="Database behind the template `Minimal`."
    )
    sample_template: DatabaseName = Field(
        default="EdFi_Ods_Populated_Template", description="Database behind the template `Sample`."
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
        default="ods", min_length=1, max_length=200, description="Prefix of the three Temporal task queues."
    )
    registry_concurrency: int = Field(
        default=50, ge=1, le=1000, description="Registry activities a worker runs at once."
    )
    ddl_concurrency: int = Field(
        default=3, ge=1, le=100, description="Databases a worker creates or drops at once."
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
    shutdown_timeout: Seconds = Field(
        default=20, description="Seconds a worker lets running activities finish after SIGTERM."
    )

    instance_management: bool = Field(
        default=True, description="Whether instances can be managed; if not, their endpoints answer 400."
    )
    registration: bool = Field(default=True, description="Whether `/connect/register` admits new clients.")
    rate_limiting: bool = Field(
        default=True, description="Whether an address may only so often register clients and ask for tokens."
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

    @classmethod
    def load(cls) -> Self:
        """Read the settings from the environment.

        Raises:
            InvalidSettingsError: a variable is missing or has an unusable value.
        """
        try:
            return cls()
        except ValidationError as error:
            lines = [
                f"ODS_{str(fault['loc'][0]).upper()}: {fault['msg'].removeprefix('Value error, ')}"
                for fault in error.errors(include_input=False, include_url=False, include_context=False)
            ]
            raise InvalidSettingsError("\n".join(lines)) from None
