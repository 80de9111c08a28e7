"""The sessions of the console: which client is signed in, and until when."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, and_, delete, insert, not_, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from registry.storage.models import UTC_NOW, ConsoleSession
from registry.storage.sessions import RegistrySessions

IDLE = timedelta(minutes=30)
"""A session ends when it has not been used for so long."""
LONGEST = timedelta(hours=12)
"""A session ends after that in any case."""
_USE_IS_NOTED_AFTER = timedelta(minutes=1)
"""The time of the last use is not updated more often than this."""


@dataclass(frozen=True)
class OpenSession:
    """A session that has not ended.

    Attributes:
        client: the id of the client that is signed in.
        generation: the generation that the client had when it signed in.
        kept: what was typed into a form when the session before had ended, with the form's path; or None.
        use_is_noted: whether the registry knows of a use within the last minute.
    """

    client: str
    generation: UUID | None
    kept: Mapping[str, Any] | None
    use_is_noted: bool


class ConsoleSessions:
    """The sessions of one tenant's clients, by the SHA-256 digests of their ids."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._sessions = RegistrySessions(engine)

    async def open(
        self, digest: bytes, client: str, generation: UUID | None, kept: Mapping[str, Any] | None
    ) -> None:
        """Begin a session, and remove those that have ended."""
        values = {
            "digest": digest,
            "client": client,
            "generation": generation,
            "created_at": UTC_NOW,
            "last_used_at": UTC_NOW,
            "kept": kept,
        }
        async with self._sessions.statement() as session:
            await session.execute(delete(ConsoleSession).where(not_(_IS_OPEN)))
            await session.execute(insert(ConsoleSession).values(**values))

    async def find(self, digest: bytes) -> OpenSession | None:
        """The session, unless it has ended."""
        query = select(ConsoleSession, ~_USE_IS_DUE).where(ConsoleSession.digest == digest, _IS_OPEN)
        async with self._sessions.statement() as session:
            found = (await session.execute(query)).one_or_none()
        if found is None:
            return None
        row, noted = found
        return OpenSession(row.client, row.generation, row.kept, use_is_noted=noted)

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
