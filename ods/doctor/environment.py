"""The settings, as the environment gives them; of secrets only that they are set."""

import os
import re
from collections.abc import Iterator

from pydantic import BaseModel, SecretStr

from ods.doctor.findings import Finding, ok, warning
from ods.settings.settings import SECRETS, Address, AnySettings, unknown_variables, variables_of

_PREFIX = "ODS_"
_LOGIN = re.compile(r"(?<=://)[^/\s]*@")
"""The login in a web address."""
_DSNS = ("admin_dsn", "master_dsn", "restore_dsn")


def examine_settings(settings: AnySettings) -> Iterator[Finding]:
    """Each setting that the environment gives, and variables that nothing reads."""
    given = [name for name in sorted(type(settings).model_fields) if variables_of(name) & os.environ.keys()]
    for name in given:
        yield ok(f"setting {_PREFIX}{name.upper()}", _shown(settings, name))
    defaults = len(type(settings).model_fields) - len(given)
    yield ok("settings", f"{len(given)} are given, {defaults} have their defaults")
    for variable in unknown_variables():
        yield warning(f"variable {variable}", "No setting has this name", f"unset {variable}")


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
