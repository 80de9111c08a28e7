"""Ids of sessions, which prove by themselves that the service has given them out.

So an invented one costs no question to the registry, and counts for no limit: a stranger that sends many of
them keeps no operator at the same address, such as that of a proxy, from working.
"""

import hmac
import secrets
from collections.abc import Sequence

_BYTES = 32


def new_id(keys: Sequence[bytes]) -> str:
    """An id that cannot be guessed, of the first of these keys."""
    secret = secrets.token_urlsafe(_BYTES)
    return f"{secret}.{_seal(keys[0], secret)}"


def is_own(session_id: str, keys: Sequence[bytes]) -> bool:
    """Whether the id was made with one of these keys, be there such a session or not."""
    secret, _, seal = session_id.partition(".")
    return any(hmac.compare_digest(seal.encode(), _seal(key, secret).encode()) for key in keys)


def _seal(key: bytes, secret: str) -> str:
    return hmac.digest(key, f"console session {secret}".encode(), "sha256").hex()
