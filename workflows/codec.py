"""Encryption of what Temporal stores: arguments, results, summaries, details, words of failures."""

import os
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from temporalio.api.common.v1 import Payload
from temporalio.converter import PayloadCodec

_ENCODING = b"binary/encrypted"
_NONCE_BYTES = 12


class UnreadablePayloadError(Exception):
    """A payload was encrypted with another key, or changed."""


class EncryptionCodec(PayloadCodec):
    """AES-256-GCM with a random nonce before each ciphertext, which holds the whole payload.

    Payloads that are not encrypted pass unchanged: jobs that began before there was a key still end.

    Args:
        key: 32 bytes.
    """

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Encrypt each of `payloads`."""
        return [self._encrypted(payload) for payload in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Decrypt each of `payloads` that is encrypted.

        Raises:
            UnreadablePayloadError: one cannot be decrypted with this key.
        """
        return [
            self._decrypted(payload.data) if payload.metadata.get("encoding") == _ENCODING else payload
            for payload in payloads
        ]

    def _encrypted(self, payload: Payload) -> Payload:
        nonce = os.urandom(_NONCE_BYTES)
        ciphertext = self._cipher.encrypt(nonce, payload.SerializeToString(), _ENCODING)
        return Payload(metadata={"encoding": _ENCODING}, data=nonce + ciphertext)

    def _decrypted(self, data: bytes) -> Payload:
        try:
            plaintext = self._cipher.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], _ENCODING)
        except (InvalidTag, ValueError):
            raise UnreadablePayloadError(
                "A payload cannot be decrypted; ODS_PAYLOAD_KEY must be the key it was encrypted with."
            ) from None
        return Payload.FromString(plaintext)
