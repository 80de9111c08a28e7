"""Hashes of clients' secrets: argon2id, and PBKDF2, which is all that an Admin API makes and reads.

A row may hold anything: a hash that would take longer to verify than those made here, or by an Admin API, is
refused.
"""

import base64
import hashlib
import hmac
import secrets
import struct
from dataclasses import dataclass
from functools import cache
from typing import Self

from argon2 import PasswordHasher, extract_parameters
from argon2.exceptions import InvalidHashError, VerificationError

_LONGEST_HASH = 256
_HEADER = struct.Struct(">BIII")
_VERSION = 1
_FUNCTIONS = {0: "sha1", 1: "sha256", 2: "sha512"}
_ITERATIONS = range(1, 600_000 + 1)
"""An Admin API makes 10,000, ASP.NET Identity 100,000; the most here take some 0.3 s."""
_SALT_BYTES = range(16, 64 + 1)
_KEY_BYTES = range(16, 32 + 1)
_NEW_FUNCTION, _NEW_ITERATIONS, _NEW_SALT_BYTES, _NEW_KEY_BYTES = 1, 10_000, 16, 32
"""Of those that are made here: the same as an Admin API's."""


# Secrets of 32 characters and more cannot be guessed; more work would only slow every token down.
_ARGON2 = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)


@dataclass(frozen=True)
class _Pbkdf2Hash:
    """A hash in the layout of ASP.NET Identity's version 3, which OpenIddict writes as well."""

    function: str
    iterations: int
    salt: bytes
    key: bytes

    @classmethod
    def read(cls, stored: str) -> Self | None:
        """The hash that `stored` holds in base64; None if it is none, or would take too long to verify."""
        try:
            content = base64.b64decode(stored, validate=True)
            version, function, iterations, salt_length = _HEADER.unpack_from(content)
        except (ValueError, struct.error):
            return None
        salt, key = content[_HEADER.size :][:salt_length], content[_HEADER.size + salt_length :]
        if version != _VERSION or function not in _FUNCTIONS or iterations not in _ITERATIONS:
            return None
        if len(salt) not in _SALT_BYTES or len(key) not in _KEY_BYTES:
            return None
        return cls(_FUNCTIONS[function], iterations, salt, key)

    def matches(self, secret: str) -> bool:
        """Whether it is the hash of `secret`."""
        key = hashlib.pbkdf2_hmac(self.function, secret.encode(), self.salt, self.iterations, len(self.key))
        return hmac.compare_digest(key, self.key)


@dataclass(frozen=True)
class Verdict:
    """Whether a secret is the right one, and the hash that shall replace an outdated one."""

    matches: bool
    replacement: str | None = None


class SecretHasher:
    """Makes hashes, and compares secrets with hashes of either kind.

    Args:
        shared: whether an Admin API verifies the same secrets. Then hashes are made as it reads them, and its
            own are kept; otherwise they are argon2id.
    """

    def __init__(self, *, shared: bool = False) -> None:
        self._shared = shared
        self._decoy = _decoy()

    def hash(self, secret: str) -> str:
        """The hash to keep."""
        return _pbkdf2(secret) if self._shared else _ARGON2.hash(secret)

    def judge(self, stored: str | None, secret: str) -> Verdict:
        """Compare `secret` with a hash; what is not a hash is refused as slowly as a wrong secret."""
        if stored is None or len(stored) > _LONGEST_HASH or not stored.isascii():
            stored = self._decoy
        legacy = _Pbkdf2Hash.read(stored)
        if legacy is not None and legacy.matches(secret):
            return Verdict(matches=True, replacement=None if self._shared else self.hash(secret))
        return Verdict(matches=self._verify(stored if self._is_affordable(stored) else self._decoy, secret))

    def _verify(self, hashed: str, secret: str) -> bool:
        try:
            return _ARGON2.verify(hashed, secret)
        except (InvalidHashError, VerificationError):
            return False

    def _is_affordable(self, stored: str) -> bool:
        """Whether `stored` is an argon2 hash that takes no more than ours to verify."""
        try:
            asked = extract_parameters(stored)
        except InvalidHashError:
            return False
        ours = _ARGON2
        return (
            asked.time_cost <= ours.time_cost
            and asked.memory_cost <= ours.memory_cost
            and asked.parallelism <= ours.parallelism
        )


def _pbkdf2(secret: str) -> str:
    salt = secrets.token_bytes(_NEW_SALT_BYTES)
    function = _FUNCTIONS[_NEW_FUNCTION]
    key = hashlib.pbkdf2_hmac(function, secret.encode(), salt, _NEW_ITERATIONS, _NEW_KEY_BYTES)
    header = _HEADER.pack(_VERSION, _NEW_FUNCTION, _NEW_ITERATIONS, _NEW_SALT_BYTES)
    return base64.b64encode(header + salt + key).decode()


@cache
def _decoy() -> str:
    """The hash of no client's secret. One is enough for all tenants: each takes 40 ms of their start."""
    return _ARGON2.hash(secrets.token_urlsafe())
