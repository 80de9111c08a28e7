"""Sessions on a registry: the one place that says how they begin and end."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from types import MappingProxyType
from typing import TypeAlias, TypeVar

import asyncpg
from sqlalchemy import Executable
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from ods.registry.rights.missing import is_missing_right, missing_rights_error
from ods.registry.storage.errors import RowNotFoundError
from ods.registry.storage.models import Base
from ods.registry.storage.unit_of_work import Action, after_commit, joined

INTEGRITY_VIOLATION = "23"
"""The class of the SQLSTATEs with which PostgreSQL refuses rows that break a constraint."""
UNIQUE_VIOLATION = "23505"
FOREIGN_KEY_VIOLATION = "23503"

Conflicts: TypeAlias = Mapping[str, Callable[[], Exception]]
"""What is wrong with a request when PostgreSQL refuses its rows: makes the error that is raised then.

The keys are names of constraints, SQLSTATEs, or `INTEGRITY_VIOLATION`; the most specific one counts.
"""
NO_CONFLICTS: Conflicts = MappingProxyType({})

_ACTIONS = "when committed"
"""In the information of a session: what is done once its writes are committed."""

_Model = TypeVar("_Model", bound=Base)


class RegistrySessions:
    """Gives out sessions of one registry's connection pool; every store of that registry uses it.

    Choose by what must hold together:

    * `statement` if one statement is all there is to do, or each of several may be committed by itself. It
      saves the round trips of BEGIN and COMMIT, and frees the rows that it has locked at once.
    * `transaction` if several statements must be committed together, or rows that were read must stay as
      they are until something is written.
    * `snapshot` if several queries must see the registry as it was at one moment. It can change nothing.

    Rows that a session has read keep their values after it has ended.

    The rules of a request are checked before its rows are written. Only PostgreSQL can refuse what another
    session has written since, past the locks of this service: for that, `statement` and `transaction` take
    the `conflicts` to be expected.

    Within a `unit_of_work`, `statement` and `transaction` are parts of its transaction, committed with it.

    If the service's role lacks a right for a statement, each of them raises `MissingRightsError`, which names
    the grants.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
        one_moment = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        self._statements = async_sessionmaker(autocommit, expire_on_commit=False)
        self._transactions = async_sessionmaker(engine, expire_on_commit=False)
        self._snapshots = async_sessionmaker(one_moment, expire_on_commit=False)

    @asynccontextmanager
    async def statement(self, conflicts: Conflicts = NO_CONFLICTS) -> AsyncIterator[AsyncSession]:
        """A session in which each statement is committed by itself (autocommit).

        Raises:
            MissingRightsError: the service's role may not run a statement.
            Exception: that of `conflicts`, if PostgreSQL refuses a row for one of these reasons.
            sqlalchemy.exc.IntegrityError: it refuses a row for another reason.
        """
        async with self._rights_explained():
            with _explained(conflicts):
                async with self._joined() or self._statements() as session:
                    yield session
                await _act(session)

    @asynccontextmanager
    async def transaction(self, conflicts: Conflicts = NO_CONFLICTS) -> AsyncIterator[AsyncSession]:
        """One transaction (READ COMMITTED), committed at the end of the block, rolled back if that raises.

        Raises:
            MissingRightsError: the service's role may not run a statement.
            Exception: that of `conflicts`, if PostgreSQL refuses a row for one of these reasons.
            sqlalchemy.exc.IntegrityError: it refuses a row for another reason.
        """
        async with self._rights_explained():
            with _explained(conflicts):
                async with self._joined() or self._transactions.begin() as session:
                    yield session
                await _act(session)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[AsyncSession]:
        """A session whose queries all see the state of its first one (REPEATABLE READ, READ ONLY)."""
        async with self._rights_explained(), self._snapshots() as session:
            yield session

    async def finds(self, query: Executable) -> bool:
        """Whether a `statement` returns a row."""
        async with self.statement() as session:
            return await session.scalar(query) is not None

    def _joined(self) -> AbstractAsyncContextManager[AsyncSession] | None:
        """A part of the transaction that is open in this task, if there is one."""
        session = joined(self._engine)
        return None if session is None else _begun(session)

    @asynccontextmanager
    async def _rights_explained(self) -> AsyncIterator[None]:
        """Raise what names the grants instead of PostgreSQL's refusal for a missing right."""
        try:
            yield
        except (DBAPIError, asyncpg.PostgresError) as error:
            if not is_missing_right(error):
                raise
            raise await missing_rights_error(self._engine) from None


@asynccontextmanager
async def _begun(session: AsyncSession) -> AsyncIterator[AsyncSession]:
    async with session, session.begin():
        yield session


@contextmanager
def _explained(conflicts: Conflicts) -> Iterator[None]:
    """Raise what `conflicts` says instead of PostgreSQL's refusal of a row."""
    try:
        yield
    except IntegrityError as error:
        state = str(getattr(error.orig, "sqlstate", ""))
        constraint = getattr(getattr(error.orig, "__cause__", None), "constraint_name", None)
        for key in (str(constraint), state, state[: len(INTEGRITY_VIOLATION)]):
            if (explained := conflicts.get(key)) is not None:
                raise explained() from None
        raise


def when_committed(session: AsyncSession, action: Action) -> None:
    """Have `action` done when what the session has written is committed; not at all if it is rolled back."""
    session.info.setdefault(_ACTIONS, []).append(action)


async def _act(session: AsyncSession) -> None:
    """Do what waits for the commit, which is done; or let it wait for that of the transaction joined."""
    for action in session.info.get(_ACTIONS, ()):
        await after_commit(action)


async def locked(session: AsyncSession, model: type[_Model], identifier: int, resource: str) -> _Model:
    """The row with this id, which no other session can change before the transaction ends.

    Args:
        session: the transaction.
        model: the table.
        identifier: the row's primary key.
        resource: what the row is, in the word that clients use.

    Raises:
        RowNotFoundError: there is no such row.
    """
    row = await session.get(model, identifier, with_for_update=True)
    if row is None:
        raise RowNotFoundError(resource, identifier)
    return row
