"""The settings, as the environment gives them; of secrets only that they are set."""

import os
import re
from collections.abc import Iterator

from pydantic import BaseModel, SecretStr

from doctor.findings import Finding, ok, warning
from settings import SECRETS, Address, AnySettings, MultiTenantSettings, Settings

_PREFIX = "ODS_"
_LOGIN = re.compile(r"(?<=://)[^/\s]*@")
"""The login in a web address."""
_DSNS = ("admin_dsn", "master_dsn", "restore_dsn")
_OF_COMMANDS = {
    *("ODS_API_URL", "ODS_CLIENT_ID", "ODS_CLIENT_SECRET", "ODS_CLIENT_SECRET_FILE", "ODS_TENANT"),
    *("ODS_TOKEN_URL", "ODS_POSTGRES"),
}
"""Variables that are read by commands and are no settings of the service."""


def examine_settings(settings: AnySettings) -> Iterator[Finding]:
    """Each setting that the environment gives, and variables that nothing reads."""
    given = [name for name in sorted(type(settings).model_fields) if _variables(name) & os.environ.keys()]
    for name in given:
        yield ok(f"setting {_PREFIX}{name.upper()}", _shown(settings, name))
    defaults = len(type(settings).model_fields) - len(given)
    yield ok("settings", f"{len(given)} are given, {defaults} have their defaults")
    for variable in sorted(_unknown()):
        yield warning(f"variable {variable}", "No setting has this name", f"unset {variable}")


def _variables(name: str) -> set[str]:
    variable = f"{_PREFIX}{name.upper()}"
    return {variable, f"{variable}_FILE"} if name in SECRETS else {variable}


def _shown(settings: BaseModel, name: str) -> str:
    value = getattr(settings, name)
    if name in _DSNS and isinstance(value, SecretStr):
        address = Address.of(value)
        return f"{address.host}:{address.port}, database {address.database}"
    if name == "tenants":
        return ", ".join(value)
    if name in SECRETS:
        return f"set, {len(value.get_secret_value())} characters" if value is not None else "not set"
    return _LOGIN.sub("…@", str(value))


def _unknown() -> set[str]:
    fields = Settings.model_fields.keys() | MultiTenantSettings.model_fields.keys()
    known = {variable for name in fields for variable in _variables(name)} | _OF_COMMANDS
    return {name for name in os.environ if name.startswith(_PREFIX)} - known
