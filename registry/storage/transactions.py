"""Transactions that judge what they write, and tell what is wrong with it."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TypeVar

from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from registry.storage.errors import InvalidError, RowNotFoundError
from registry.storage.models import Base

UNIQUE_VIOLATION = "23505"
FOREIGN_KEY_VIOLATION = "23503"

Faults = Mapping[str, list[str]]
"""Per property, in PascalCase, everything that is wrong with it."""

_Model = TypeVar("_Model", bound=Base)


@asynccontextmanager
async def transaction(
    sessions: async_sessionmaker[AsyncSession], conflicts: Mapping[str, Faults]
) -> AsyncIterator[AsyncSession]:
    """One transaction; `conflicts` says what is wrong, by the SQLSTATE with which PostgreSQL refuses it.

    Raises:
        InvalidError: PostgreSQL refused for one of these reasons: somebody else wrote past this service.
    """
    try:
        async with sessions.begin() as session:
            yield session
    except IntegrityError as error:
        faults = conflicts.get(getattr(error.orig, "sqlstate", ""))
        raise error if faults is None else InvalidError(faults) from None


async def locked(session: AsyncSession, model: type[_Model], identifier: int, resource: str) -> _Model:
    """The row with this id, which nobody else can change before the transaction ends.

    Raises:
        RowNotFoundError: there is none.
    """
    row = await session.get(model, identifier, with_for_update=True)
    if row is None:
        raise RowNotFoundError(resource, identifier)
    return row


def require_none(faults: Faults) -> None:
    """Go on if nothing is wrong.

    Raises:
        InvalidError: something is.
    """
    if any(faults.values()):
        raise InvalidError(faults)
