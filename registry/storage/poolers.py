"""Recognising a pooler in transaction mode, which runs the transactions of one client in several sessions.

The service holds advisory locks over many transactions and relies on the parameters of its sessions.
PgBouncer in transaction mode would lose both without an error: two workers could work on one database. So
such a pooler is refused. In session mode, a client keeps its session, which is all that is needed.

A session is the server's own if the process id in the server's first message is the one that
`pg_backend_pid()` returns. A pooler has to make up that id, which serves to cancel statements. Behind one, a
second client opens a transaction as soon as the first one's has ended. If each client keeps its session,
neither ever gets the other's. Else the second one gets the session that the first one has left or, if a third
client was faster, the first one gets another session while the second one holds its own. One client is not
enough: alone, it gets the same session each time.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress

import asyncpg
from pydantic import SecretStr

from registry.storage.connecting import connect
from settings import AnySettings, InvalidSettingsError

_SECONDS = 5
"""Seconds for the whole check of one DSN: the start of the process waits for it."""
_AT_ONCE = 20
_AGAIN_SECONDS = 5
_CLOSE_SECONDS = 1
_ROUNDS = 5
"""How often the two clients are compared: a third one may be faster once, but not each time."""

_STATEMENT_MODE = "statement pooling"
"""Part of the error that PgBouncer sends to a client that begins a transaction in this mode."""
_SESSION = "SELECT pg_backend_pid() || ' of ' || pg_postmaster_start_time()"

_REFUSAL = (
    "leads to a pooler in transaction or statement mode, which loses advisory locks and the settings of"
    " sessions. Set its pool_mode to session, or name the server itself."
)

_logger = logging.getLogger(__name__)


class PoolerCheck:
    """Checks each DSN of `settings` once, as soon as its server can be reached."""

    def __init__(self, settings: AnySettings) -> None:
        self._open: Mapping[str, SecretStr] = dict(_dsns(settings))
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def check(self) -> None:
        """Check every DSN; one that cannot be reached is left for `keep_checking`.

        Raises:
            InvalidSettingsError: naming each variable whose DSN leads to a pooler in transaction mode.
        """
        await self._check()
        if self._open:
            _logger.warning("Whether a pooler is there is not known yet: %s.", ", ".join(self._open))

    async def keep_checking(self) -> None:
        """Go on until every DSN has been checked.

        Raises:
            InvalidSettingsError: as `check` does.
        """
        while self._open:
            await asyncio.sleep(_AGAIN_SECONDS)
            await self._check()

    async def _check(self) -> None:
        found = await asyncio.gather(*(self._keeps_sessions(dsn) for dsn in self._open.values()))
        kept = dict(zip(self._open, found, strict=True))
        self._open = {name: dsn for name, dsn in self._open.items() if kept[name] is None}
        refused = [f"{name}: {_REFUSAL}" for name, known in kept.items() if known is False]
        if refused:
            raise InvalidSettingsError("\n".join(refused))

    async def _keeps_sessions(self, dsn: SecretStr) -> bool | None:
        """Whether each client of `dsn` keeps its session; None if that cannot be found out now."""
        try:
            async with self._slots, asyncio.timeout(_SECONDS):
                return await keeps_sessions(dsn.get_secret_value())
        except asyncpg.PostgresError as error:
            return False if _STATEMENT_MODE in str(error) else None
        except (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError):
            return None


async def keeps_sessions(dsn: str) -> bool:
    """Whether a client of `dsn` has one session from its first transaction to its last.

    Raises:
        asyncpg.PostgresError: the server refuses.
        OSError: the server cannot be reached in time.
    """
    async with _client(dsn) as first:
        async with first.transaction():
            if await first.fetchval("SELECT pg_backend_pid()") == first.get_server_pid():
                return True
        async with _client(dsn) as second:
            for _ in range(_ROUNDS):
                if await _meet(first, second):
                    return False
    return True


async def _meet(first: asyncpg.Connection, second: asyncpg.Connection) -> bool:
    """Whether `second` got the session of `first`, or `first` another one than before."""
    async with first.transaction():
        session = await first.fetchval(_SESSION)
    async with second.transaction():
        if await second.fetchval(_SESSION) == session:
            return True
        async with first.transaction():
            return bool(await first.fetchval(_SESSION) != session)


@asynccontextmanager
async def _client(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    # A pooler in transaction mode would lose prepared statements as well.
    connection = await connect(dsn, timeout=_SECONDS, statement_cache_size=0)
    try:
        yield connection
    finally:
        with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            await connection.close(timeout=_CLOSE_SECONDS)


def _dsns(settings: AnySettings) -> Iterator[tuple[str, SecretStr]]:
    """Every DSN, by the name of its setting."""
    for tenant, own in settings.tenants.items():
        place = f"ODS_TENANTS: {tenant}: " if settings.multi_tenant else "ODS_"
        for field in ("admin_dsn", "master_dsn"):
            dsn: SecretStr = getattr(own, field)
            yield f"{place}{field if settings.multi_tenant else field.upper()}", dsn
