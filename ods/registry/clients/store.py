"""The API clients of `adminapi.applications`, as the API asks for them."""

import json
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, func, insert, literal, or_, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from ods.registry.clients.credentials import (
    BACKUP_DOWNLOAD,
    LEEWAY_SECONDS,
    OAUTH_SCOPES,
    ClientScope,
    may_download,
)
from ods.registry.storage.models import UTC_NOW, ApiClient
from ods.registry.storage.rules import is_storable
from ods.registry.storage.sessions import INTEGRITY_VIOLATION, RegistrySessions

_FULL_ACCESS_PERMISSION = f"scp:{OAUTH_SCOPES[ClientScope.FULL_ACCESS]}"
"""The permission by which an Admin API lets a client have the scope."""

TOKENS_SINCE = UTC_NOW + literal(timedelta(seconds=LEEWAY_SECONDS))
"""Refuses all tokens that an Admin API has issued until now, if its clock is ahead by the leeway at most."""

_USE_NOTED_FOR = timedelta(minutes=1)
"""The time of a client's last use is not updated more often than this."""


class ClientExistsError(Exception):
    """Another client has this id."""


@dataclass(frozen=True)
class Standing:
    """What a client that may have tokens may do now.

    Args:
        scope: what it may do.
        generation: what our tokens must name; None for tokens that name none.
        backup_download: whether it may download backups.
        tokens_since: tokens that an Admin API has issued until then do not count; in UTC, without a zone.
    """

    scope: ClientScope
    generation: uuid.UUID | None
    backup_download: bool
    tokens_since: datetime | None = None

    @property
    def token_scopes(self) -> frozenset[str]:
        """The scopes of OAuth 2.0 that its tokens may have."""
        words = {word for scope, word in OAUTH_SCOPES.items() if self.scope.includes(scope)}
        return frozenset(words | {BACKUP_DOWNLOAD} if self.backup_download else words)


@dataclass(frozen=True)
class Credentials:
    """What a client's log-in is checked by.

    Args:
        secret_hash: the hash of its secret.
        standing: what it may do.
        use_is_noted: whether the registry knows of a use within the last minute.
    """

    secret_hash: str | None
    standing: Standing
    use_is_noted: bool


class ClientStore:
    """The queries and changes of the API about its clients.

    One that is disabled, has expired or may not have the scope has neither credentials nor standing.
    """

    def __init__(self, engine: AsyncEngine, *, shared: bool) -> None:
        self._sessions = RegistrySessions(engine)
        self._shared = shared

    async def add(self, client_id: str, secret_hash: str, display_name: str) -> None:
        """Add a client that may do everything, as one that registers itself.

        Raises:
            ClientExistsError: there is a client with this id, in whatever state.
        """
        values = {
            "client_id": client_id,
            "client_secret": secret_hash,
            "display_name": display_name,
            "backup_download": True,
            "tokens_since": TOKENS_SINCE,
        }
        async with self._sessions.statement({INTEGRITY_VIOLATION: ClientExistsError}) as session:
            await session.execute(insert(ApiClient).values(**values))

    async def exists(self, client_id: str) -> bool:
        """Whether there is a client with this id, in whatever state."""
        async with self._sessions.statement() as session:
            found = await session.scalar(select(ApiClient.id).where(ApiClient.client_id == client_id))
        return found is not None

    async def standing(self, client_id: str) -> Standing | None:
        """What the client may do now; None if it may not have tokens."""
        found = await self.credentials(client_id)
        return found.standing if found else None

    async def credentials(self, client_id: str) -> Credentials | None:
        """What its log-in is checked by; None if it may not have tokens."""
        if not is_storable(client_id):
            return None
        query = select(ApiClient, ~_USE_IS_DUE).where(ApiClient.client_id == client_id, _IS_ALIVE)
        async with self._sessions.statement() as session:
            found = (await session.execute(query)).one_or_none()
        if found is None:
            return None
        client, noted = found
        if not _may_do_everything(client):
            return None
        scope = ClientScope(client.scope)
        download = may_download(scope, given=client.backup_download, shared=self._shared)
        standing = Standing(
            scope,
            client.generation,
            backup_download=download,
            tokens_since=client.tokens_since,
        )
        return Credentials(client.client_secret, standing, use_is_noted=noted)

    async def replace_hash(self, client_id: str, outdated: str | None, replacement: str) -> None:
        """Store the hash `replacement`, unless the hash is another one than `outdated` by now."""
        unchanged = (ApiClient.client_id == client_id, ApiClient.client_secret == outdated)
        async with self._sessions.statement() as session:
            await session.execute(update(ApiClient).where(*unchanged).values(client_secret=replacement))

    async def note_use(self, client_id: str) -> None:
        """Record that the client was used now, at most once a minute, however many processes try."""
        due = (ApiClient.client_id == client_id, _USE_IS_DUE)
        async with self._sessions.statement() as session:
            await session.execute(update(ApiClient).where(*due).values(last_used_at=UTC_NOW))


_IS_ALIVE: ColumnElement[bool] = ApiClient.enabled & or_(
    ApiClient.expires_at.is_(None), ApiClient.expires_at > UTC_NOW
)
_USE_IS_DUE: ColumnElement[bool] = func.coalesce(
    ApiClient.last_used_at < UTC_NOW - literal(_USE_NOTED_FOR), literal(value=True)
)


def _may_do_everything(client: ApiClient) -> bool:
    """Whether an Admin API, which can restrict what a client may do, lets it have the full scope."""
    if client.permissions is None:
        return True
    try:
        permissions = json.loads(client.permissions)
    except (ValueError, RecursionError):
        return False
    return isinstance(permissions, list) and _FULL_ACCESS_PERMISSION in permissions
