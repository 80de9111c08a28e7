"""Links that sign a client in to the console once, within five minutes, on the machine of the API.

A command that makes one has the registry's credentials, with which it could add a client as well.
"""

import hashlib
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from secrets import token_urlsafe
from urllib.parse import urlencode
from uuid import UUID

from sqlalchemy import delete, insert
from sqlalchemy.ext.asyncio import AsyncEngine

from ods.registry.audit import AuditEntry, append
from ods.registry.clients.administration import ClientNotFoundError
from ods.registry.clients.store import ClientStore
from ods.registry.storage.models import UTC_NOW, SignInLink
from ods.registry.storage.sessions import RegistrySessions

VALID = timedelta(minutes=5)
"""How long a link counts."""
PATH = "/console/sign-in/link"
"""Where a link leads, below the address of the API."""
FIELD = "with"
"""The field of a link's query that has the tenant and the secret."""
_SECRET_BYTES = 32


@dataclass(frozen=True)
class LinkedClient:
    """The client that a link signs in."""

    client: str
    generation: UUID | None


class SignInLinks:
    """The links of one tenant; the registry has only the SHA-256 digests of their secrets."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._sessions = RegistrySessions(engine)
        self._clients = ClientStore(engine, shared=True)  # whether or not: downloads are not asked about

    async def create(self, client: str) -> str:
        """Make a link, and remove those that count no more; returns its secret.

        Raises:
            ClientNotFoundError: there is no such client, or it may not sign in.
        """
        standing = await self._clients.standing(client)
        if standing is None:
            raise ClientNotFoundError
        secret = token_urlsafe(_SECRET_BYTES)
        values = {
            "digest": _digest(secret),
            "client": client,
            "generation": standing.generation,
            "created_at": UTC_NOW,
        }
        async with self._sessions.statement() as session:
            await session.execute(delete(SignInLink).where(SignInLink.created_at <= UTC_NOW - VALID))
            await session.execute(insert(SignInLink).values(**values))
        return secret

    async def take(self, secret: str, address: str) -> LinkedClient | None:
        """The client of the link, which counts no more then; the audit trail tells of it.

        Of several requests with the same link, one gets the client. None if the link was used before, is too
        old, or was never made.
        """
        taking = (
            delete(SignInLink)
            .where(SignInLink.digest == _digest(secret), SignInLink.created_at > UTC_NOW - VALID)
            .returning(SignInLink)
        )
        async with self._sessions.transaction() as session:
            row = (await session.scalars(taking)).one_or_none()
            if row is None:
                return None
            entry = AuditEntry(row.client, address, "GET", PATH, None, None, HTTPStatus.SEE_OTHER, None)
            await append(session, entry)
            return LinkedClient(row.client, row.generation)


def address_of(api_url: str, tenant: str, secret: str) -> str:
    """The address of a link."""
    return f"{api_url}{PATH}?{urlencode({FIELD: f'{tenant}.{secret}'})}"


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode(errors="replace")).digest()
