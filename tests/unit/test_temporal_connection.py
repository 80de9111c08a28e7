"""Temporal's own variables reach the connection: TLS, certificates and keys."""

import os
from pathlib import Path

import pytest
from temporalio.service import TLSConfig

from ods.settings.settings import InvalidSettingsError
from ods.temporal import client


@pytest.fixture(autouse=True)
def _only_these_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("TEMPORAL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TEMPORAL_CONFIG_FILE", os.devnull)


def test_server_is_the_local_one_and_unencrypted_when_nothing_is_set() -> None:
    assert client.configuration() == {"target_host": "localhost:7233"}


def test_key_is_sent_over_tls_when_an_api_key_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", "example.tmprl.cloud:7233")
    monkeypatch.setenv("TEMPORAL_NAMESPACE", "example.a1b2c")
    monkeypatch.setenv("TEMPORAL_API_KEY", "an-api-key")
    configuration = client.configuration()

    assert configuration["target_host"] == "example.tmprl.cloud:7233"
    assert configuration["namespace"] == "example.a1b2c"
    assert configuration["api_key"] == "an-api-key"
    assert configuration["tls"] is True


def test_connection_is_encrypted_when_tls_is_switched_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPORAL_TLS", "true")
    assert client.configuration()["tls"]


def test_certificates_are_read_when_their_files_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("CLIENT_CERT", "CLIENT_KEY", "SERVER_CA_CERT"):
        (tmp_path / name).write_text(f"content of {name}")
        monkeypatch.setenv(f"TEMPORAL_TLS_{name}_PATH", str(tmp_path / name))
    monkeypatch.setenv("TEMPORAL_TLS_SERVER_NAME", "temporal.example")
    tls = client.configuration()["tls"]

    assert isinstance(tls, TLSConfig)
    assert tls.client_cert == b"content of CLIENT_CERT"
    assert tls.client_private_key == b"content of CLIENT_KEY"
    assert tls.server_root_ca_cert == b"content of SERVER_CA_CERT"
    assert tls.domain == "temporal.example"


def test_certificates_are_taken_when_they_are_in_the_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPORAL_TLS_CLIENT_CERT_DATA", "a certificate")
    monkeypatch.setenv("TEMPORAL_TLS_CLIENT_KEY_DATA", "a key")
    tls = client.configuration()["tls"]

    assert isinstance(tls, TLSConfig)
    assert (tls.client_cert, tls.client_private_key) == (b"a certificate", b"a key")


def test_variables_are_blamed_and_not_quoted_when_a_certificate_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TEMPORAL_TLS_CLIENT_CERT_PATH", str(tmp_path / "missing-file"))
    monkeypatch.setenv("TEMPORAL_TLS_CLIENT_KEY_DATA", "a-secret-key")
    with pytest.raises(InvalidSettingsError, match="TEMPORAL_TLS") as refused:
        client.configuration()
    assert "a-secret-key" not in str(refused.value)
