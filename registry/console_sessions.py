"""The sessions of the console: which client or person is signed in, and until when."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    LargeBinary,
    and_,
    any_,
    delete,
    insert,
    literal,
    not_,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncEngine

from registry.clients.credentials import ClientScope
from registry.storage.models import UTC_NOW, ConsoleSession
from registry.storage.sessions import RegistrySessions

IDLE = timedelta(minutes=30)
"""A session ends when it has not been used for so long."""
LONGEST = timedelta(hours=12)
"""A session ends after that in any case."""
_USE_IS_NOTED_AFTER = timedelta(minutes=1)
"""The time of the last use is not updated more often than this."""


@dataclass(frozen=True)
class Identity:
    """A client of the registry, or a person whom an issuer has identified.

    Attributes:
        name: the id of the client, or the name of the person in the audit trail.
        generation: of the client, or of the rules by which people may enter; a session ends when it changes.
        scope: what the person may do; None for a client, whose scope the registry has.
    """

    name: str
    generation: UUID | None
    scope: ClientScope | None = None


@dataclass(frozen=True)
class OpenSession:
    """A session that has not ended.

    Attributes:
        identity: the client or person that is signed in, with the generation of that time.
        kept: what was typed into a form when the session before had ended, with the form's path; or None.
        use_is_noted: whether the registry knows of a use within the last minute.
    """

    identity: Identity
    kept: Mapping[str, Any] | None
    use_is_noted: bool


class ConsoleSessions:
    """The sessions of one tenant's clients and people, by the SHA-256 digests of their ids."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._sessions = RegistrySessions(engine)

    async def open(self, digest: bytes, identity: Identity, kept: Mapping[str, Any] | None) -> None:
        """Begin a session, and remove those that have ended."""
        values = {
            "digest": digest,
            "client": identity.name,
            "generation": identity.generation,
            "scope": identity.scope,
            "created_at": UTC_NOW,
            "last_used_at": UTC_NOW,
            "kept": kept,
        }
        async with self._sessions.statement() as session:
            await session.execute(delete(ConsoleSession).where(not_(_IS_OPEN)))
            await session.execute(insert(ConsoleSession).values(**values))

    async def find(self, digest: bytes) -> OpenSession | None:
        """The session, unless it has ended."""
        return (await self.find_all([digest])).get(digest)

    async def find_all(self, digests: Collection[bytes]) -> Mapping[bytes, OpenSession]:
        """Those of the sessions that have not ended."""
        listed = any_(literal(list(digests), ARRAY(LargeBinary)))  # a parameter for each might be too many
        query = select(ConsoleSession, ~_USE_IS_DUE).where(ConsoleSession.digest == listed, _IS_OPEN)
        async with self._sessions.statement() as session:
            found = (await session.execute(query)).all()
        return {row.digest: _open_session(row, use_is_noted=noted) for row, noted in found}

    async def note_use(self, digest: bytes) -> None:
        """Record that the session was used now, at most once a minute, however many processes try."""
        due = (ConsoleSession.digest == digest, _USE_IS_DUE)
        async with self._sessions.statement() as session:
            await session.execute(update(ConsoleSession).where(*due).values(last_used_at=UTC_NOW))

    async def forget_kept(self, digest: bytes) -> None:
        """Forget what was typed into a form: it is shown again, once."""
        async with self._sessions.statement() as session:
            its = ConsoleSession.digest == digest
            await session.execute(update(ConsoleSession).where(its).values(kept=None))

    async def end(self, digest: bytes) -> None:
        """End the session."""
        async with self._sessions.statement() as session:
            await session.execute(delete(ConsoleSession).where(ConsoleSession.digest == digest))


_IS_OPEN: ColumnElement[bool] = and_(
    ConsoleSession.last_used_at > UTC_NOW - IDLE, ConsoleSession.created_at > UTC_NOW - LONGEST
)
_USE_IS_DUE: ColumnElement[bool] = ConsoleSession.last_used_at < UTC_NOW - _USE_IS_NOTED_AFTER


def _open_session(row: ConsoleSession, *, use_is_noted: bool) -> OpenSession:
    scope = None if row.scope is None else ClientScope(row.scope)
    return OpenSession(Identity(row.client, row.generation, scope), row.kept, use_is_noted=use_is_noted)
