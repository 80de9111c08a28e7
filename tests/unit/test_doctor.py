"""What the doctor tells of the settings."""

from typing import Any

import pytest

from ods.doctor.environment import examine_settings
from ods.settings.settings import Settings


def test_no_secret_is_told_when_the_settings_are_examined(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, Any]
) -> None:
    for name, value in values.items():
        monkeypatch.setenv(f"ODS_{name.upper()}", value)
    for name in ("TEMPORAL_UI_URL", "OIDC_ISSUER", "OIDC_JWKS_URL"):
        monkeypatch.setenv(f"ODS_{name}", "https://reader:a-secret@login.example/keys?page=1")
    monkeypatch.setenv("ODS_CLIENT_SECRET", "client-secret")
    monkeypatch.setenv("ODS_UNKNOWN", "unknown-secret")
    told = {finding.subject: finding.found for finding in examine_settings(Settings.load())}
    assert "secret" not in " ".join(told.values())
    assert told["setting ODS_OIDC_ISSUER"] == "https://…@login.example/keys?page=1"
    for value in values.values():
        assert value not in " ".join(told.values())
