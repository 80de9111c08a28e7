"""The sessions of the console: which client or person is signed in, and until when."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    LargeBinary,
    and_,
    any_,
    delete,
    false,
    func,
    insert,
    literal,
    not_,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncEngine

from ods.registry.clients.credentials import ClientScope
from ods.registry.storage.models import UTC_NOW, ConsoleSession
from ods.registry.storage.sessions import RegistrySessions

IDLE = timedelta(minutes=30)
"""A session ends when it has not been used for so long."""
LONGEST = timedelta(hours=12)
"""A session ends after that in any case."""
RECENT = timedelta(minutes=15)
"""For so long after signing in, a client or person may change who may sign in."""
LONGEST_UNCHECKED = timedelta(minutes=15)
"""A person whom the issuer has not confirmed for so long is signed in no more."""
_CHECK_IS_DUE_AFTER = timedelta(minutes=10)
_CHECK_TAKES = timedelta(seconds=15)
"""How long the issuer is asked, at most."""
_CHECKS_APART = timedelta(seconds=30)
"""How long after the issuer could not be asked it is asked again for the same session."""
_LOCKS = 0x636F6E736F6C65
"""The space of the locks on accounts."""
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
class Check:
    """Whether the issuer is to be asked if a person may still sign in. Of clients, it never is.

    Attributes:
        is_due: whether it was not asked for ten minutes, nor in vain within the last half minute.
        is_overdue: whether it was not asked for so long that the person may do nothing before.
        is_under_way: whether it is asked just now.
    """

    is_due: bool = False
    is_overdue: bool = False
    is_under_way: bool = False


_NO_CHECK = Check()


@dataclass(frozen=True)
class OpenSession:
    """A session that has not ended.

    Attributes:
        identity: the client or person that is signed in, with the generation of that time.
        kept: what was typed into a form when the session before had ended, with the form's path; or None.
        use_is_noted: whether the registry knows of a use within the last minute.
        is_recent: whether the client or person has signed in within the last 15 minutes.
        check: whether the issuer is to be asked about the person.
    """

    identity: Identity
    kept: Mapping[str, Any] | None
    use_is_noted: bool
    is_recent: bool = True
    check: Check = _NO_CHECK


@dataclass(frozen=True)
class ListedSession:
    """A session that has not ended, as the page of all sessions shows it.

    Attributes:
        id: by which it is ended; it does not open the session.
        digest: of what its browser has.
        name: the id of the client, or the name of the person.
        address: where it was begun from.
        created_at: when that was, in UTC without a zone.
        last_used_at: when it was used last, to a minute.
    """

    id: UUID
    digest: bytes
    name: str
    address: str
    created_at: datetime
    last_used_at: datetime


class ConsoleSessions:
    """The sessions of one tenant's clients and people, by the SHA-256 digests of their ids.

    `most` sessions of a client or person may be open at once.
    """

    def __init__(self, engine: AsyncEngine, most: int) -> None:
        self._sessions = RegistrySessions(engine)
        self._most = most

    async def open(
        self,
        digest: bytes,
        identity: Identity,
        kept: Mapping[str, Any] | None,
        address: str = "",
        renewal: bytes | None = None,
    ) -> None:
        """Begin a session; the oldest of the client or person ends if it has too many.

        Args:
            digest: by which it is found.
            identity: the client or person.
            kept: what was typed into a form before, with the form's path.
            address: where the session is begun from.
            renewal: with what the issuer is asked about the person, encrypted; None if it cannot be asked.
        """
        row = ConsoleSession
        values = {
            "digest": digest,
            "client": identity.name,
            "generation": identity.generation,
            "scope": identity.scope,
            "created_at": UTC_NOW,
            "last_used_at": UTC_NOW,
            "kept": kept,
            "address": address,
            "checked_at": UTC_NOW,
            "renewal": renewal,
        }
        own = select(row.digest).where(row.client == identity.name).order_by(row.created_at.desc())
        async with self._sessions.transaction() as session:
            lock = func.pg_advisory_xact_lock(func.hashtextextended(identity.name, _LOCKS))
            await session.execute(select(lock))
            await session.execute(delete(row).where(not_(_IS_OPEN)))
            await session.execute(delete(row).where(row.digest.in_(own.offset(self._most - 1))))
            await session.execute(insert(row).values(**values))

    async def find(self, digest: bytes) -> OpenSession | None:
        """The session, unless it has ended."""
        return (await self.find_all([digest])).get(digest)

    async def find_all(self, digests: Collection[bytes]) -> Mapping[bytes, OpenSession]:
        """Those of the sessions that have not ended."""
        listed = any_(literal(list(digests), ARRAY(LargeBinary)))  # a parameter for each might be too many
        judged = (~_USE_IS_DUE, _IS_RECENT, _CHECK_IS_DUE, _CHECK_IS_OVERDUE, _CHECK_IS_UNDER_WAY)
        query = select(ConsoleSession, *judged).where(ConsoleSession.digest == listed, _IS_OPEN)
        async with self._sessions.statement() as session:
            found = (await session.execute(query)).all()
        return {
            row.digest: _open_session(row, Check(*check), use_is_noted=noted, is_recent=recent)
            for row, noted, recent, *check in found
        }

    async def all(self, client: str | None) -> Sequence[ListedSession]:
        """The sessions that have not ended, those used last first; if a client is given, its own."""
        row = ConsoleSession
        its = _IS_OPEN if client is None else and_(_IS_OPEN, row.client == client)
        query = select(row).where(its).order_by(row.last_used_at.desc(), row.id)
        async with self._sessions.statement() as session:
            return [
                ListedSession(one.id, one.digest, one.client, one.address, one.created_at, one.last_used_at)
                for one in await session.scalars(query)
            ]

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

    async def end_listed(self, session_id: UUID, client: str | None) -> bytes | None:
        """End a session of the list, and return its digest; None if there is none, or it has ended.

        Args:
            session_id: the session.
            client: whose session it must be; None if it may be of any.
        """
        row = ConsoleSession
        its = (row.id == session_id, *(() if client is None else (row.client == client,)))
        async with self._sessions.statement() as session:
            ended: bytes | None = await session.scalar(delete(row).where(*its).returning(row.digest))
            return ended

    async def begin_check(self, digest: bytes) -> bytes | None:
        """What the issuer is to be asked with, encrypted; None if that is not due, or under way.

        Of several requests, one gets it; half a minute later another one, if the check has not ended.
        """
        row = ConsoleSession
        begun = (
            update(row)
            .where(row.digest == digest, _CHECK_IS_DUE)
            .values(check_begun_at=UTC_NOW)
            .returning(row.renewal)
        )
        async with self._sessions.statement() as session:
            renewal: bytes | None = await session.scalar(begun)
            return renewal

    async def end_check(self, digest: bytes, scope: ClientScope, renewal: bytes) -> None:
        """Record that the person may still sign in.

        The issuer is asked with the encrypted `renewal` the next time.
        """
        row = ConsoleSession
        values = {"checked_at": UTC_NOW, "check_begun_at": null(), "scope": scope, "renewal": renewal}
        async with self._sessions.statement() as session:
            await session.execute(update(row).where(row.digest == digest).values(**values))


def digest_of(session_id: str) -> bytes:
    """By which the registry knows a session: the SHA-256 digest of the id that only its browser has."""
    return hashlib.sha256(session_id.encode()).digest()


_IS_OPEN: ColumnElement[bool] = and_(
    ConsoleSession.last_used_at > UTC_NOW - IDLE,
    ConsoleSession.created_at > UTC_NOW - LONGEST,
    or_(
        ConsoleSession.scope.is_(None),
        ConsoleSession.renewal.is_not(None),
        ConsoleSession.checked_at > UTC_NOW - LONGEST_UNCHECKED,
    ),
)
_CHECK_IS_DUE: ColumnElement[bool] = and_(
    ConsoleSession.renewal.is_not(None),
    ConsoleSession.checked_at <= UTC_NOW - _CHECK_IS_DUE_AFTER,
    or_(
        ConsoleSession.check_begun_at.is_(None),
        ConsoleSession.check_begun_at <= UTC_NOW - _CHECKS_APART,
    ),
)
_CHECK_IS_OVERDUE: ColumnElement[bool] = and_(
    ConsoleSession.renewal.is_not(None), ConsoleSession.checked_at <= UTC_NOW - LONGEST_UNCHECKED
)
_CHECK_IS_UNDER_WAY: ColumnElement[bool] = func.coalesce(
    ConsoleSession.check_begun_at > UTC_NOW - _CHECK_TAKES, false()
)
_IS_RECENT: ColumnElement[bool] = ConsoleSession.created_at > UTC_NOW - RECENT
_USE_IS_DUE: ColumnElement[bool] = ConsoleSession.last_used_at < UTC_NOW - _USE_IS_NOTED_AFTER


def _open_session(row: ConsoleSession, check: Check, *, use_is_noted: bool, is_recent: bool) -> OpenSession:
    scope = None if row.scope is None else ClientScope(row.scope)
    return OpenSession(Identity(row.client, row.generation, scope), row.kept, use_is_noted, is_recent, check)
