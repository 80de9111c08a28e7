"""Encryption of what Temporal stores: arguments, results, summaries, details, messages of failures."""

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from temporalio.api.common.v1 import Payload
from temporalio.converter import (
    CompositePayloadConverter,
    DefaultPayloadConverter,
    EncodingPayloadConverter,
    JSONPlainPayloadConverter,
    PayloadCodec,
)

from ods.temporal.strict_json import StrictJsonConverter

_ENCODING = b"binary/encrypted"
_KEY_ID = "encryption-key-id"
"""In the metadata of a payload, beside its encoding: which key it was encrypted with."""
_KEY_ID_BYTES = 8
_NONCE_BYTES = 12


class UnreadablePayloadError(Exception):
    """A payload was encrypted with a key that is not known, or changed."""

    def __init__(self) -> None:
        super().__init__(
            "A payload cannot be decrypted; ODS_PAYLOAD_KEY or ODS_PAYLOAD_KEY_PREVIOUS must have the key"
            " it was encrypted with."
        )


class EncryptionCodec(PayloadCodec):
    """AES-256-GCM with a random nonce before each ciphertext, which holds the whole payload.

    Payloads that are not encrypted pass unchanged: jobs that began before there was a key still end.

    Its metadata name the key by the beginning of the key's SHA-256, so that the key may be changed while
    payloads of the earlier one are still read.

    Args:
        keys: each of 32 bytes; the first one encrypts.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._ciphers = {_key_id(key): AESGCM(key) for key in keys}
        self._current = _key_id(keys[0])

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Encrypt each of `payloads`."""
        return [self._encrypted(payload) for payload in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Decrypt each of `payloads` that is encrypted.

        Raises:
            UnreadablePayloadError: one cannot be decrypted with any of the keys.
        """
        return [self._decoded(payload) for payload in payloads]

    def _decoded(self, payload: Payload) -> Payload:
        return self._decrypted(payload) if payload.metadata.get("encoding") == _ENCODING else payload

    def _encrypted(self, payload: Payload) -> Payload:
        nonce = os.urandom(_NONCE_BYTES)
        cipher = self._ciphers[self._current]
        ciphertext = cipher.encrypt(nonce, payload.SerializeToString(), _ENCODING)
        return Payload(metadata={"encoding": _ENCODING, _KEY_ID: self._current}, data=nonce + ciphertext)

    def _decrypted(self, payload: Payload) -> Payload:
        nonce, ciphertext = payload.data[:_NONCE_BYTES], payload.data[_NONCE_BYTES:]
        if cipher := self._ciphers.get(payload.metadata.get(_KEY_ID, b"")):
            with suppress(InvalidTag, ValueError):
                return Payload.FromString(cipher.decrypt(nonce, ciphertext, _ENCODING))
        raise UnreadablePayloadError


class LeavingCodec(EncryptionCodec):
    """Leaves payloads that no key decrypts as they are; who needs one meets `LeftPayloadConverter`.

    Temporal hands each run of a schedule the result of the last one, which no workflow here reads. Without
    its key, the run could not begin, nor could any later one.
    """

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Decrypt each of `payloads` that can be."""
        return [self._decoded_or_left(payload) for payload in payloads]

    def _decoded_or_left(self, payload: Payload) -> Payload:
        try:
            return self._decoded(payload)
        except UnreadablePayloadError:
            return payload


class _LeftPayload(EncodingPayloadConverter):
    @property
    def encoding(self) -> str:
        return _ENCODING.decode()

    def to_payload(self, _value: object) -> None:
        return None

    def from_payload(self, _payload: Payload, _type_hint: type | None = None) -> NoReturn:
        raise UnreadablePayloadError


class LeftPayloadConverter(CompositePayloadConverter):
    """Refuses payloads that are still encrypted, by `UnreadablePayloadError`.

    `LeavingCodec` has left them so, or there is no key, and so no codec.
    """

    def __init__(self) -> None:
        others = DefaultPayloadConverter.default_encoding_payload_converters
        known = [one for one in others if not isinstance(one, JSONPlainPayloadConverter)]
        super().__init__(*known, StrictJsonConverter(), _LeftPayload())


def _key_id(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()[:_KEY_ID_BYTES].hex().encode()
