"""The operator's changes of API clients: each is recorded in the audit trail."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

from sqlalchemy import ColumnElement, Update, delete, func, insert, literal, select, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from ods.registry.audit import AuditEntry, append, command_entry
from ods.registry.clients.credentials import ClientScope, may_download
from ods.registry.clients.secret_hashes import SecretHasher
from ods.registry.clients.store import TOKENS_SINCE, ClientExistsError
from ods.registry.storage.models import UTC_NOW, ApiClient, ConsoleSession
from ods.registry.storage.rules import is_storable
from ods.registry.storage.sessions import INTEGRITY_VIOLATION, Conflicts, RegistrySessions

_OPTIONS = {True: "--backup-download", False: "--no-backup-download"}
"""In the words of the command line: whether a client may download backups."""
_WITHOUT_TOKENS = {"generation": func.gen_random_uuid(), "tokens_since": TOKENS_SINCE}
"""Makes tokens from before void, of this service and of an Admin API."""


class ClientNotFoundError(Exception):
    """No client has this id."""


class ClientInUseError(Exception):
    """The client cannot be removed: rows of an Admin API, such as authorizations, refer to it."""


@dataclass(frozen=True)
class NewClient:
    """A client to be added.

    Args:
        client_id: the id with which it will ask for tokens.
        display_name: its name for the operator.
        scope: what it may do.
        expires: when it ends, in UTC without a zone, or how long it lasts; None for never.
        backup_download: whether it may download backups; None if that is as its scope has it.
    """

    client_id: str
    display_name: str
    scope: ClientScope = ClientScope.FULL_ACCESS
    expires: datetime | timedelta | None = None
    backup_download: bool | None = None


@dataclass(frozen=True)
class Client:
    """A client as the operator sees it, without anything of its secret; times are UTC, without a zone.

    Args:
        client_id: the id with which it asks for tokens.
        display_name: its name for the operator.
        scope: what it may do.
        enabled: whether it is not disabled.
        created: when it was added; None if that was before this was recorded.
        last_used: when it got a token last, to the minute.
        expires: when it ends.
        generation: changes when it is disabled, gets another secret, or may download or no longer; None until
            that happens to an old one.
        backup_download: whether it may download backups.
    """

    client_id: str
    display_name: str | None
    scope: ClientScope
    enabled: bool
    created: datetime | None
    last_used: datetime | None
    expires: datetime | None
    generation: UUID | None
    backup_download: bool


class ClientAdministration:
    """The changes of one tenant's clients; `ClientNotFoundError` if there is no such client.

    Args:
        engine: where they are.
        entry: makes the entry of the audit trail for a change, which it is given in the words of the
            command line; or, for changes at the command line, which user of which host makes them.
        shared: whether an Admin API adds clients as well.
    """

    def __init__(
        self, engine: AsyncEngine, entry: str | Callable[[str], AuditEntry], *, shared: bool
    ) -> None:
        self._sessions = RegistrySessions(engine)
        self._shared = shared
        self._entry = partial(command_entry, operator=entry) if isinstance(entry, str) else entry

    async def clients(self) -> Sequence[Client]:
        """All clients, by their ids."""
        query = select(ApiClient).where(ApiClient.client_id.is_not(None)).order_by(ApiClient.client_id)
        async with self._sessions.statement() as session:
            return [self._client(row) for row in await session.scalars(query)]

    async def find(self, client_id: str) -> Client:
        """One client."""
        if not is_storable(client_id):
            raise ClientNotFoundError
        query = select(ApiClient).where(ApiClient.client_id == client_id)
        async with self._sessions.statement() as session:
            return self._found(await session.scalar(query))

    def hash(self, secret: str) -> str:
        """The hash of a new secret, as the registry keeps it; takes some hundredths of a second."""
        return SecretHasher(shared=self._shared).hash(secret)

    async def add(self, client: NewClient, secret_hash: str) -> Client:
        """Add a client."""
        # Said in the row, which no Admin API has added.
        download = may_download(client.scope, given=client.backup_download, shared=False)
        adding = (
            insert(ApiClient)
            .values(
                client_id=client.client_id,
                client_secret=secret_hash,
                display_name=client.display_name,
                scope=client.scope,
                backup_download=download,
                expires_at=_end(client.expires),
                tokens_since=TOKENS_SINCE,
            )
            .returning(ApiClient)
        )
        option = "" if client.backup_download is None else f" {_OPTIONS[client.backup_download]}"
        command = f"ods client add {client.client_id} --scope {client.scope}{option}"
        async with self._recorded(command, {INTEGRITY_VIOLATION: ClientExistsError}) as session:
            return self._client((await session.scalars(adding)).one())

    async def disable(self, client_id: str) -> Client:
        """Refuse the client, and every token that it has: those are not valid again when it is enabled.

        Its sessions of the console end.
        """
        return await self._change("disable", client_id, enabled=False, **_WITHOUT_TOKENS)

    async def enable(self, client_id: str) -> Client:
        """Let the client get tokens again."""
        return await self._change("enable", client_id, enabled=True)

    async def rotate(self, client_id: str, secret_hash: str) -> Client:
        """Give the client another secret, and refuse every token that it got with the old one.

        Its sessions of the console end.
        """
        return await self._change("rotate", client_id, client_secret=secret_hash, **_WITHOUT_TOKENS)

    async def change(self, client_id: str, *, backup_download: bool) -> Client:
        """Let the client download backups, or no longer; refuse every token that it has, which say otherwise.

        Its sessions of the console end.
        """
        return await self._change(
            "change",
            client_id,
            _OPTIONS[backup_download],
            backup_download=backup_download,
            **_WITHOUT_TOKENS,
        )

    async def remove(self, client_id: str) -> Client:
        """Remove the client, and refuse every token that it has, also if its id is used again.

        Returns what it was.
        """
        removing = delete(ApiClient).where(ApiClient.client_id == client_id).returning(ApiClient)
        command = f"ods client remove {client_id}"
        async with self._recorded(command, {INTEGRITY_VIOLATION: ClientInUseError}) as session:
            return self._found((await session.scalars(removing)).one_or_none())

    async def _change(self, verb: str, client_id: str, *options: str, **values: object) -> Client:
        changing: Update = update(ApiClient).where(ApiClient.client_id == client_id).values(**values)
        command = " ".join(("ods client", verb, client_id, *options))
        async with self._recorded(command, {}) as session:
            changed = self._found((await session.scalars(changing.returning(ApiClient))).one_or_none())
            if "generation" in values:
                await session.execute(delete(ConsoleSession).where(ConsoleSession.client == client_id))
            return changed

    @asynccontextmanager
    async def _recorded(self, command: str, conflicts: Conflicts) -> AsyncIterator[AsyncSession]:
        """A transaction that changes clients and records `command` in the audit trail."""
        async with self._sessions.transaction(conflicts) as session:
            yield session
            await append(session, self._entry(command))

    def _found(self, row: ApiClient | None) -> Client:
        if row is None:
            raise ClientNotFoundError
        return self._client(row)

    def _client(self, row: ApiClient) -> Client:
        scope = ClientScope(row.scope)
        return Client(
            client_id=row.client_id,
            display_name=row.display_name,
            scope=scope,
            enabled=row.enabled,
            created=row.created_at,
            last_used=row.last_used_at,
            expires=row.expires_at,
            generation=row.generation,
            backup_download=may_download(scope, given=row.backup_download, shared=self._shared),
        )


def _end(expires: datetime | timedelta | None) -> datetime | ColumnElement[datetime] | None:
    return UTC_NOW + literal(expires) if isinstance(expires, timedelta) else expires
