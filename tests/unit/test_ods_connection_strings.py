"""The encryption of connection strings, checked by a cipher that was written from the format alone."""

import base64
import hashlib
import hmac
import traceback
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from ods.registry.connection_strings import encryption
from ods.registry.connection_strings.encryption import Keyring, UndecipherableError, encrypt
from ods.registry.connection_strings.ods_connection_strings import OdsConnectionStrings
from ods.settings.settings import InvalidSettingsError, Settings
from tests.ods_api import decrypt

KEY = b"0123456789abcdef0123456789ABCDEF"
keys = st.binary(min_size=32, max_size=32)


def encrypt_as_the_ods_api_does(text: str, key: bytes, iv: bytes) -> str:
    length = 16 - len(text.encode()) % 16
    encryptor = Cipher(algorithms.AES256(key), modes.CBC(iv)).encryptor()
    ciphertext = encryptor.update(text.encode() + bytes([length]) * length) + encryptor.finalize()
    signature = hmac.digest(key, ciphertext, hashlib.sha256)
    return "|".join(base64.b64encode(part).decode() for part in (iv, ciphertext, signature))


@given(st.text(max_size=200), keys)
def test_text_is_read_back_when_it_was_encrypted(text: str, key: bytes) -> None:
    assert decrypt(encrypt(text, key), key) == text


@given(st.text(max_size=200), keys, st.binary(min_size=16, max_size=16))
def test_text_is_understood_when_the_ods_api_encrypted_it(text: str, key: bytes, iv: bytes) -> None:
    assert encryption.decrypt(encrypt_as_the_ods_api_does(text, key, iv), key) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "host=h;password=hidden",
        "hidden|hidden|hidden",
        encrypt("hidden", KEY[::-1]),
        encrypt("hidden", KEY).rpartition("|")[0],
        encrypt("hidden", KEY) + "|",
        "é|é|é",
    ],
    ids=["empty", "in the clear", "no base64", "another key", "two parts", "four parts", "no ASCII"],
)
def test_text_is_refused_without_being_told_when_it_cannot_be_deciphered(text: str) -> None:
    with pytest.raises(UndecipherableError) as refusal:
        encryption.decrypt(text, KEY)
    assert "hidden" not in "".join(traceback.format_exception(refusal.value))


def test_two_encryptions_differ_in_iv_and_ciphertext_when_the_text_is_the_same() -> None:
    first, second = (encrypt("text", KEY).split("|") for _ in range(2))
    assert all(one != other for one, other in zip(first, second, strict=True))


@given(st.data())
def test_decryption_fails_when_ciphertext_or_signature_was_altered(data: st.DataObject) -> None:
    parts = [base64.b64decode(part) for part in encrypt("host=h;password=p", KEY).split("|")]
    number = data.draw(st.sampled_from([1, 2]))
    position = data.draw(st.integers(0, len(parts[number]) - 1))
    flipped = parts[number][position] ^ data.draw(st.integers(1, 255))
    parts[number] = parts[number][:position] + bytes([flipped]) + parts[number][position + 1 :]
    altered = "|".join(base64.b64encode(part).decode() for part in parts)
    with pytest.raises(ValueError, match="signature"):
        decrypt(altered, KEY)
    with pytest.raises(UndecipherableError):
        encryption.decrypt(altered, KEY)


def test_decryption_fails_when_the_key_is_another() -> None:
    with pytest.raises(ValueError, match="signature"):
        decrypt(encrypt("text", KEY), KEY[::-1])


def test_text_is_read_when_it_was_encrypted_with_any_of_the_keys() -> None:
    current, previous, oldest = KEY, KEY[::-1], bytes(32)
    ring = Keyring([current, previous, oldest])
    for key in (current, previous, oldest):
        assert ring.decrypt(encrypt("text", key)) == "text"
    assert decrypt(ring.encrypt("text"), current) == "text"
    with pytest.raises(UndecipherableError):
        ring.decrypt(encrypt("text", bytes([1]) * 32))


def test_text_is_encrypted_anew_only_when_it_was_with_a_previous_key() -> None:
    ring = Keyring([KEY, KEY[::-1]])
    assert ring.renewed(encrypt("text", KEY)) is None
    assert decrypt(ring.renewed(encrypt("text", KEY[::-1])) or "", KEY) == "text"
    with pytest.raises(UndecipherableError):
        ring.renewed(encrypt("text", bytes(32)))


def test_stored_strings_are_alike_when_they_say_the_same_under_different_keys(values: dict[str, Any]) -> None:
    other = bytes(32)
    values["encryption_key_previous"] = base64.b64encode(other).decode()
    strings = OdsConnectionStrings.from_settings(Settings(**values))
    key = base64.b64decode(values["encryption_key"])
    assert strings.are_alike(encrypt("host=a", key), encrypt("host=a", other))
    assert not strings.are_alike(encrypt("host=a", key), encrypt("host=b", other))
    assert not strings.are_alike(encrypt("host=a", key), encrypt("host=a", KEY))
    assert not strings.are_alike(encrypt("host=a", key), None)


def test_connection_string_names_the_database_when_it_is_made(values: dict[str, Any]) -> None:
    values["encryption_key"] = base64.b64encode(KEY).decode()
    values["instance_connection_string"] = (
        "Host=h;Port=90;Username=u;Password='p;w';Database=old;Pooling=false"
    )
    stored = OdsConnectionStrings.from_settings(Settings(**values)).encrypted("EdFi_Ods_Foo_Minimal")
    text = 'Host=h;Port=90;Username=u;Password="p;w";Pooling=false;database=EdFi_Ods_Foo_Minimal'
    assert decrypt(stored, KEY) == text


@pytest.mark.parametrize(
    ("shape", "stored", "database"),
    [
        ("host=h;port=5432", "Server=h;Username=u;DB=EdFi_Ods_Foo", "EdFi_Ods_Foo"),
        ("host=h;port=6000", "host=h;port=6000;database='a;b'", "a;b"),
        ("host=h", "host=h", None),
        ("host=h", "host=other;database=d", None),
        ("host=h", "host=h;port=6000;database=d", None),
        ("host=h", "no connection string", None),
        ("host=h;port=5433", "host=h:5433;database=d", "d"),
        ("host=h:5433", "port=1;SERVER=H;port=5433;database=d", "d"),
        ("host=::1", "host=[::1]:5432;database=d", "d"),
        ("host=a:1,b:2", "host=b:2,a:1;database=d", "d"),
        ("host=a:1,b:2", "host=a:1;database=d", "d"),
        ("host=a:1", "host=b:2,a:1;database=d", "d"),
        ("host=a:1,b:2", "host=a:2,b:1;database=d", None),
        ("host=h", "host=other;server=h;database=d;db=e", "e"),
        ("host=h", "host=h;server=other;database=d", None),
        ("host=h", "host=h:5433;database=d", None),
        ("host=h", "host=h;port=0;database=d", None),
        ("host=h", "host=h:none;database=d", None),
    ],
)
def test_database_is_known_when_a_stored_string_is_of_the_configured_server(
    values: dict[str, Any], shape: str, stored: str, database: str | None
) -> None:
    strings = OdsConnectionStrings.from_settings(Settings(**values | {"instance_connection_string": shape}))
    key = base64.b64decode(values["encryption_key"])
    assert strings.local_database(encrypt(stored, key)) == database
    assert strings.local_database(encrypt(stored, KEY)) is None
    assert strings.local_database(stored) is None
    assert strings.local_database(None) is None


@pytest.mark.parametrize(
    "shape",
    [
        "username=hidden-1;password=hidden-2",
        "host=hidden-1;hidden-2=x",
        "host=hidden-1;password=hidden-2'",
        "host=hidden-1:hidden-2",
        "host=hidden-1;password=hidden-2;timeout=soon",
        "",
    ],
)
def test_start_is_refused_without_telling_the_string_when_npgsql_cannot_read_it(
    values: dict[str, Any], shape: str
) -> None:
    values["instance_connection_string"] = shape
    with pytest.raises(InvalidSettingsError, match=r"^ODS_INSTANCE_CONNECTION_STRING: ") as refusal:
        OdsConnectionStrings.from_settings(Settings(**values))
    assert "hidden" not in str(refusal.value)
    assert refusal.value.__context__ is None


@pytest.mark.parametrize(
    "allowed",
    [
        "h:0",
        "h:65536",
        "h:",
        "h;x",
        "http://h",
        "/run",
        "*",
        "*h",
        "a..b",
        "10.1.2.3/8",
        "[h",
        "a b",
    ],
)
def test_start_is_refused_when_the_allowed_hosts_cannot_be_read(values: dict[str, Any], allowed: str) -> None:
    settings = Settings(**values, allowed_ods_hosts=f"ods.example.org, {allowed}")
    with pytest.raises(InvalidSettingsError, match=r"^ODS_ALLOWED_ODS_HOSTS: must be hosts, addresses"):
        OdsConnectionStrings.from_settings(settings)


@pytest.mark.parametrize(("filling", "fits"), [(900, True), (1200, False)])
def test_start_is_refused_when_the_encrypted_string_would_not_fit_its_column(
    values: dict[str, Any], filling: int, *, fits: bool
) -> None:
    values["instance_connection_string"] = f"host=h;password={'x' * filling}"
    settings = Settings(**values)
    if fits:
        assert len(OdsConnectionStrings.from_settings(settings).encrypted("d" * 63)) <= 1500
    else:
        with pytest.raises(InvalidSettingsError, match=r"^ODS_INSTANCE_CONNECTION_STRING: is too long"):
            OdsConnectionStrings.from_settings(settings)


def test_no_secret_is_told_when_the_maker_is_represented(values: dict[str, Any]) -> None:
    values["instance_connection_string"] = "host=h;password=hidden"
    strings = OdsConnectionStrings.from_settings(Settings(**values))
    assert "hidden" not in repr(strings)
    assert values["encryption_key"] not in repr(strings)
