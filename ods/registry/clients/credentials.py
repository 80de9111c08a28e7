"""What API clients may do, and what their secrets must be."""

import re
from enum import StrEnum
from secrets import token_urlsafe
from typing import assert_never

from ods.registry.storage.rules import required_text_errors

LONGEST_CLIENT_TEXT = 256
"""Characters of a client's id, and of its display name."""

PERSON_PREFIX = "oidc:"
"""In the audit trail, names of people whom an issuer has identified begin so; ids of new clients may not."""

_SHORTEST_SECRET = 32
_LONGEST_SECRET = 128

STRONG_SECRET = re.compile(
    rf"(?=.*[a-z])(?=.*[A-Z])(?=.*[0-9])(?=.*[^A-Za-z0-9\s]).{{{_SHORTEST_SECRET},{_LONGEST_SECRET}}}",
    re.DOTALL,
)
"""What a whole secret must match."""

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

BACKUP_DOWNLOAD = "edfi_admin_api/backup_download"
"""The scope in tokens that may download backups; a token has it beside one of `OAUTH_SCOPES`."""

LEEWAY_SECONDS = 5
"""By how much the clock of what has issued a token may differ from that of the process that verifies it."""


def may_download(scope: ClientScope, *, given: bool | None, shared: bool) -> bool:
    """Whether a client may download backups.

    Args:
        scope: what it may do.
        given: what its row says; None if no operator has decided it, as in rows that an Admin API has added.
        shared: whether an Admin API adds clients as well. Then only an operator lets one download; otherwise,
            full access includes downloads unless an operator says otherwise.
    """
    return scope == ClientScope.FULL_ACCESS and not shared if given is None else given


def client_id_errors(client_id: str) -> list[str]:
    """Everything that is wrong with the id of a new client, in words for its author."""
    if client_id.lower().startswith(PERSON_PREFIX):
        return [f"'Client Id' must not begin with {PERSON_PREFIX}, as names of people in the audit trail do."]
    return required_text_errors("Client Id", client_id, LONGEST_CLIENT_TEXT)


def secret_errors(secret: str) -> list[str]:
    """Everything that is wrong with `secret` as the secret of a new client, in words for its author."""
    if not secret.strip():
        return ["'Client Secret' must not be empty."]
    if not STRONG_SECRET.fullmatch(secret):
        kinds = "one lowercase letter, one uppercase letter, one number, and one special character"
        lengths = f"must be {_SHORTEST_SECRET} to {_LONGEST_SECRET} characters"
        return [f"'Client Secret' must contain at least {kinds}, and {lengths} long."]
    return []


def new_secret() -> str:
    """A strong secret of characters that need no quotes in a shell and no encoding in a form."""
    while not STRONG_SECRET.fullmatch(secret := token_urlsafe(_SECRET_BYTES)):
        pass
    return secret
