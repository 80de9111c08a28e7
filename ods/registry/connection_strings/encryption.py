"""The encryption of connection strings, as the ODS/API does it.

AES-256-CBC with PKCS7 padding and a random IV, then HMAC-SHA256 over the ciphertext with the same key,
stored as `base64(IV)|base64(ciphertext)|base64(HMAC)`.
"""

import base64
import os
from collections.abc import Sequence
from contextlib import suppress

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, hmac, padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

_IV_BYTES = 16
_KEY_BYTES = 32
COLUMN_LENGTH = 1500
"""Characters of the columns that hold connection strings."""


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
    """The text that was encrypted with `key`."""
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
    return len(encrypt(text, bytes(_KEY_BYTES))) <= COLUMN_LENGTH  # any key makes it as long


class Keyring:
    """Encrypts with the current key, and decrypts with previous ones as well.

    Args:
        keys: each of 32 bytes; the first one encrypts.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._current, *self._previous = keys

    def encrypt(self, text: str) -> str:
        """`text` under the current key."""
        return encrypt(text, self._current)

    def decrypt(self, text: str) -> str:
        """The text that was encrypted with one of the keys."""
        for key in (self._current, *self._previous):
            with suppress(UndecipherableError):
                return decrypt(text, key)
        raise UndecipherableError("the text was not encrypted with any of the keys, or was altered")

    def renewed(self, text: str) -> str | None:
        """`text`, encrypted with the current key instead; None if it is already."""
        try:
            decrypt(text, self._current)
        except UndecipherableError:
            return self.encrypt(self.decrypt(text))
        return None
