"""Settings without a server behind them."""

import base64
from typing import Any

import pytest


@pytest.fixture(scope="session")
def required_values() -> dict[str, Any]:
    """The settings that must be given, with values that do."""
    return {
        "admin_dsn": "postgresql://service:admin-secret@localhost:5432/EdFi_Admin",
        "master_dsn": "postgresql://service:master-secret@localhost:5432/postgres",
        "instance_connection_string": "host=localhost;username=ods_api;password=instance-secret",
        "encryption_key": base64.b64encode(b"encryption-secret".ljust(32)).decode(),
        "token_signing_key": base64.b64encode(b"signing-secret".ljust(32)).decode(),
    }


@pytest.fixture
def values(required_values: dict[str, Any]) -> dict[str, Any]:
    """The same, for a test to change."""
    return dict(required_values)
