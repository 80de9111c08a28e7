"""Idempotency keys: a request that a client repeats under the same key is carried out once.

The answer is committed in the transaction of the request itself. So there is never one without the other: a
process that dies leaves both or neither. While that transaction is open, a lock of it reserves the key; the
lock ends with the transaction, also when the process or its connection dies.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Row, Select, delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from ods.registry.storage.errors import KeyInUseError, KeyOfAnotherRequestError
from ods.registry.storage.models import UTC_NOW, IdempotencyKey
from ods.registry.storage.sessions import RegistrySessions
from ods.registry.storage.unit_of_work import unit_of_work

LONGEST_KEY = 255
"""Characters of a key."""
KEPT = timedelta(hours=24)
"""How long the answer to a request is kept."""

_LOCKS = 0x4F644B
"""Keeps the locks of keys apart from other locks of this database."""
_PRUNED_AT_ONCE = 1000


@dataclass(frozen=True)
class KeyedRequest:
    """A request that a client has sent under a key.

    Attributes:
        client: the id of the client; keys of other clients are other keys.
        key: the key.
        digest: SHA-256 of all that makes the request what it is.
    """

    client: str
    key: str
    digest: bytes


@dataclass(frozen=True)
class StoredAnswer:
    """The answer to a request, byte by byte."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Reservation:
    """A key that no other request can use before the transaction ends.

    Attributes:
        answer: the answer that is stored under the key; None if the request is new.
    """

    def __init__(
        self, connection: AsyncConnection, request: KeyedRequest, answer: StoredAnswer | None
    ) -> None:
        self._connection = connection
        self._request = request
        self.answer = answer

    async def store(self, answer: StoredAnswer) -> None:
        """Store the answer, which is committed with all that the request has changed."""
        row = IdempotencyKey
        its = (row.client == self._request.client, row.key == self._request.key)
        await self._connection.execute(delete(row).where(*its))  # one that is too old to count
        await self._connection.execute(
            insert(row).values(
                client=self._request.client,
                key=self._request.key,
                request=self._request.digest,
                status=answer.status,
                headers=dict(answer.headers),
                body=answer.body,
                created_at=UTC_NOW,
            )
        )


class IdempotencyKeys:
    """The keys of one tenant's clients."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._sessions = RegistrySessions(engine)

    @asynccontextmanager
    async def reserved(self, request: KeyedRequest) -> AsyncIterator[Reservation]:
        """Keep the key for this request; all that the block writes to the registry is committed at its end.

        Raises:
            KeyInUseError: a request under this key has not been answered yet.
            KeyOfAnotherRequestError: another request was answered under this key.
        """
        async with unit_of_work(self._engine) as connection:
            if not await connection.scalar(_locked(request)):
                raise KeyInUseError
            # A statement of its own: it sees what was committed before the lock was free.
            row = (await connection.execute(_stored(request))).one_or_none()
            yield Reservation(connection, request, _answer(row, request))

    async def answer_to(self, request: KeyedRequest) -> StoredAnswer | None:
        """The answer that is stored under the key; None if the request is new.

        Raises:
            KeyOfAnotherRequestError: another request was answered under this key.
        """
        async with self._sessions.statement() as session:
            return _answer((await session.execute(_stored(request))).one_or_none(), request)

    async def prune(self) -> bool:
        """Remove up to 1000 answers that do not count any more; returns whether there may be more."""
        old = (
            select(IdempotencyKey.client, IdempotencyKey.key)
            .where(IdempotencyKey.created_at < UTC_NOW - KEPT)
            .limit(_PRUNED_AT_ONCE)
            .with_for_update(skip_locked=True)
            .subquery()
        )
        outdated = delete(IdempotencyKey).where(
            IdempotencyKey.client == old.c.client,
            IdempotencyKey.key == old.c.key,
            IdempotencyKey.created_at < UTC_NOW - KEPT,
        )
        async with self._sessions.statement() as session:
            removed = await session.execute(outdated.returning(IdempotencyKey.key))
            return len(removed.all()) == _PRUNED_AT_ONCE


def _answer(row: Row[bytes, int, dict[str, str], bytes] | None, request: KeyedRequest) -> StoredAnswer | None:
    if row is None:
        return None
    if row.request != request.digest:
        raise KeyOfAnotherRequestError
    return StoredAnswer(row.status, row.headers, row.body)


def _locked(request: KeyedRequest) -> Select[bool]:
    """Whether the key is free; then it is this transaction's."""
    name = f"{len(request.client)}:{request.client}{request.key}"
    return select(func.pg_try_advisory_xact_lock(func.hashtextextended(name, _LOCKS)))


def _stored(request: KeyedRequest) -> Select[bytes, int, dict[str, str], bytes]:
    """What is stored under the key."""
    row = IdempotencyKey
    return select(row.request, row.status, row.headers, row.body).where(
        row.client == request.client, row.key == request.key, row.created_at >= UTC_NOW - KEPT
    )
