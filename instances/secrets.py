"""The connection strings that the ODS/API reads from `dbo.odsinstances`: their database, their encryption.

The encrypted form is the ODS/API's: AES-256-CBC with PKCS7 padding and a random IV, then HMAC-SHA256 over the
ciphertext with the same key, stored as `base64(IV)|base64(ciphertext)|base64(HMAC)`.
"""

import base64
import os
from collections.abc import Mapping
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, hmac, padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from instances.connection_string import ConnectionString, InvalidConnectionStringError
from settings import MAX_DATABASE_NAME_BYTES, AnySettings, InvalidSettingsError, Settings

_IV_BYTES = 16
_KEY_BYTES = 32
_COLUMN_LENGTH = 1500


class UndecipherableError(ValueError):
    """A connection string was encrypted with another key, or altered."""


def encrypt(text: str, key: bytes) -> str:
    """`text` under a fresh IV and the 32-byte `key`."""
    iv = os.urandom(_IV_BYTES)
    padder = padding.PKCS7(algorithms.AES.block_size).padder()
    encryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
    ciphertext = encryptor.update(padder.update(text.encode()) + padder.finalize()) + encryptor.finalize()
    signer = hmac.HMAC(key, hashes.SHA256())
    signer.update(ciphertext)
    return "|".join(base64.b64encode(part).decode() for part in (iv, ciphertext, signer.finalize()))


def decrypt(text: str, key: bytes) -> str:
    """The text that was encrypted with `key`.

    Raises:
        UndecipherableError: it was not, or it was altered.
    """
    try:
        iv, ciphertext, signature = (base64.b64decode(part, validate=True) for part in text.split("|"))
        signer = hmac.HMAC(key, hashes.SHA256())
        signer.update(ciphertext)
        signer.verify(signature)
        decryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).decryptor()
        unpadder = padding.PKCS7(algorithms.AES.block_size).unpadder()
        padded = decryptor.update(ciphertext) + decryptor.finalize()
        return (unpadder.update(padded) + unpadder.finalize()).decode()
    except (ValueError, InvalidSignature):
        raise UndecipherableError("the text was not encrypted with this key, or was altered") from None


def fits_column(text: str) -> bool:
    """Whether `text`, once encrypted, is short enough for the columns that hold connection strings."""
    return len(encrypt(text, bytes(_KEY_BYTES))) <= _COLUMN_LENGTH  # any key makes it as long


class OdsConnectionStrings:
    """Makes the encrypted connection string of any ODS database from the configured shape."""

    def __init__(self, shape: ConnectionString, key: bytes) -> None:
        self._shape = shape
        self._key = key

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Read shape and key.

        Raises:
            InvalidSettingsError: the shape cannot be parsed, or would not fit its column once encrypted.
        """
        variable = "ODS_INSTANCE_CONNECTION_STRING"
        try:
            shape = ConnectionString.parse(settings.instance_connection_string.get_secret_value())
        except InvalidConnectionStringError:
            raise InvalidSettingsError(
                f"{variable}: must look like host=…;port=…;username=…;password=…;database=…"
            ) from None
        strings = cls(shape, base64.b64decode(settings.encryption_key.get_secret_value()))
        if not fits_column(str(shape.with_database("x" * MAX_DATABASE_NAME_BYTES))):
            raise InvalidSettingsError(
                f"{variable}: is too long; encrypted, it must fit {_COLUMN_LENGTH} characters"
            )
        return strings

    def encrypted(self, database: str) -> str:
        """What `dbo.odsinstances.connectionstring` holds for `database`."""
        return self.sealed(str(self._shape.with_database(database)))

    def sealed(self, text: str) -> str:
        """`text`, which somebody else has composed, as a column holds it."""
        return encrypt(text, self._key)

    def decrypted(self, encrypted: str | None) -> ConnectionString:
        """What `dbo.odsinstances.connectionstring` says.

        Raises:
            UndecipherableError: it was encrypted with another key, or altered, or there is none.
            InvalidConnectionStringError: it cannot be read.
        """
        return ConnectionString.parse(decrypt(encrypted or "", self._key))

    def local_database(self, encrypted: str | None) -> str | None:
        """The database an encrypted connection string names, if it is on the server of the configured shape.

        None as well for what cannot be read: it was made by others, for others.
        """
        try:
            found = self.decrypted(encrypted)
        except (UndecipherableError, InvalidConnectionStringError):
            return None
        return found.database if found.address == self._shape.address else None


def connection_strings(settings: AnySettings) -> Mapping[str, OdsConnectionStrings]:
    """Those of every tenant, by its name.

    Raises:
        InvalidSettingsError: the settings of a tenant do not make any.
    """
    return {
        name: _of_tenant(own, f"ODS_TENANTS: {name}: " if settings.multi_tenant else "")
        for name, own in settings.tenants.items()
    }


def _of_tenant(settings: Settings, place: str) -> OdsConnectionStrings:
    try:
        return OdsConnectionStrings.from_settings(settings)
    except InvalidSettingsError as error:
        raise InvalidSettingsError(f"{place}{error}") from None
