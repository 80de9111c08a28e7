"""What API clients may do, and what their secrets must be."""

import re
from enum import StrEnum
from secrets import token_urlsafe
from typing import assert_never

LONGEST_CLIENT_TEXT = 256
"""Characters of a client's id, and of its display name."""

STRONG_SECRET = re.compile(r"(?=.*[a-z])(?=.*[A-Z])(?=.*[0-9])(?=.*[^A-Za-z0-9\s]).{32,128}", re.DOTALL)
"""The pattern of a client's secret, from its first character to its last."""

_SECRET_BYTES = 32


class ClientScope(StrEnum):
    """What a client may do."""

    FULL_ACCESS = "full_access"
    READ_ONLY = "read_only"

    def includes(self, other: "ClientScope") -> bool:
        """Whether a client that may do this may do `other` as well."""
        match self:
            case ClientScope.FULL_ACCESS:
                return True
            case ClientScope.READ_ONLY:
                return other == ClientScope.READ_ONLY
            case _:
                assert_never(self)


OAUTH_SCOPES = {
    ClientScope.FULL_ACCESS: "edfi_admin_api/full_access",
    ClientScope.READ_ONLY: "edfi_admin_api/readonly_access",
}
"""Scopes in tokens: the first is the Admin API's, the other that of Ed-Fi's Configuration Service."""


def new_secret() -> str:
    """A strong secret of characters that need no quotes in a shell and no encoding in a form."""
    while not STRONG_SECRET.fullmatch(secret := token_urlsafe(_SECRET_BYTES)):
        pass
    return secret
