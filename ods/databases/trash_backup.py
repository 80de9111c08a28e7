"""Backing up a database in the trash before it is dropped: it is open for that time, and for nothing else.

Its name there is known to no client. The comment says which job has opened it: what a worker that died has
left open is told from what an operator has opened. A database is dropped only as it was backed up: each
ALTER DATABASE gives its row in `pg_database` another state, so that one which was opened since has another.

Everything here runs on a session that holds the fence of the instance, and is safe to repeat after any
interruption.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import asyncpg

from ods.databases.constants import INSUFFICIENT_PRIVILEGE
from ods.databases.dropping import drop_database
from ods.databases.errors import DatabaseFaultError, DisagreementError
from ods.databases.lookup import find, is_invalid
from ods.databases.ownership import KnownOwner, Owner, opened_by, with_opening
from ods.databases.renaming import END_SESSIONS
from ods.databases.statements import execute, fetch_rows, fetch_value
from ods.databases.trash import find_in_trash

_OPEN = "ALTER DATABASE %1$I ALLOW_CONNECTIONS true; COMMENT ON DATABASE %1$I IS %2$L"
_CLOSE = "ALTER DATABASE %1$I ALLOW_CONNECTIONS false; COMMENT ON DATABASE %1$I IS %2$L"
_COUNT_SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND usesysid IS NOT NULL"
_LONGEST_END = 10
"""Seconds that sessions have to end."""
_PAUSE_SECONDS = 0.05

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Trashed:
    """A database in the trash.

    Attributes:
        state: of its row in `pg_database`.
        invalid: whether a DROP of it was interrupted.
    """

    state: str
    invalid: bool


async def while_open(
    session: asyncpg.Connection,
    owner: KnownOwner,
    trash: str,
    job_id: str,
    work: Callable[[], Awaitable[_Result]],
) -> tuple[_Result, str]:
    """Do `work` while the database in the trash accepts connections; it is closed however that ends.

    Args:
        session: a fenced session.
        owner: the instance, and the latest attempt that can have put its database there.
        trash: the name of the database.
        job_id: the job that needs it open.
        work: what is done; `session` may be used for statements meanwhile.

    Returns:
        What `work` has returned, and the state of the closed database.

    Raises:
        NotOursError: the database of that name is not the instance's.
        DisagreementError: it is not in the trash by its comment, was put there later than the registry knows,
            was opened by another session, or a DROP of it has begun; or only another name has the mark.
        DatabaseFaultError: there is none, sessions cannot be ended, the server is away, …
    """
    await close_opened(session, owner, trash)  # what an earlier try has left
    row = await find_in_trash(session, owner, trash)
    if row is None:
        raise DatabaseFaultError(f"There is no database '{trash}' any more.", retryable=True)
    if is_invalid(row):
        raise _half_dropped(trash)
    await execute(session, _OPEN, trash, with_opening(row["comment"], job_id))
    try:
        result = await work()
    except BaseException:
        with suppress(DatabaseFaultError):  # the next try, the compensation or the pass closes it
            await asyncio.shield(close_opened(session, owner, trash))
        raise
    await close_opened(session, owner, trash)
    closed = await inspect_trash(session, owner, trash)
    return result, closed.state if closed else ""


async def close_opened(session: asyncpg.Connection, owner: Owner, trash: str) -> None:
    """Close the instance's database in the trash, and end the sessions on it, if a job has opened it.

    Raises:
        DatabaseFaultError: sessions cannot be ended, the server is away, …
    """
    row = (await find(session, owner, trash)).get(trash)
    if row is None or not owner.owns(row["comment"]) or opened_by(row["comment"]) is None:
        return
    reasons = {
        INSUFFICIENT_PRIVILEGE: f"The role of ODS_MASTER_DSN may not close the database '{trash}' or end the"
        " sessions on it. Make it the owner and grant it pg_signal_backend; close the sessions of superusers"
        " by hand. Then retry."
    }
    if row["datallowconn"]:
        await execute(session, "ALTER DATABASE %I ALLOW_CONNECTIONS false", trash, reasons=reasons)
    await _end_sessions(session, trash, reasons)
    await execute(session, _CLOSE, trash, with_opening(row["comment"], None), reasons=reasons)


async def inspect_trash(session: asyncpg.Connection, owner: KnownOwner, trash: str) -> Trashed | None:
    """The database in the trash; None if there is none any more.

    Raises:
        NotOursError: the database of that name is not the instance's.
        DisagreementError: as for `ods.databases.trash.find_in_trash`.
        DatabaseFaultError: the server is away, …
    """
    row = await find_in_trash(session, owner, trash)
    return None if row is None else Trashed(row["state"], is_invalid(row))


async def purge_backed_up(  # noqa: PLR0913, PLR0917 - which database, and what must hold
    session: asyncpg.Connection,
    owner: KnownOwner,
    trash: str,
    backed_up: str | None,
    require_stored: Callable[[], Awaitable[object]],
    before: Callable[[], Awaitable[object]],
) -> bool:
    """Drop the database from the trash as `ods.databases.trash.purge` does, if it is as it was backed up.

    Args:
        session: a fenced session.
        owner: the instance, and the latest attempt that can have put its database there.
        trash: the name of the database.
        backed_up: the state of the database of which there is a verified backup; None if there is none.
        require_stored: raises if that backup is not where it can be relied upon; awaited before the drop.
        before: as for `ods.databases.dropping.drop_database`.

    Returns:
        Whether there was a database to drop.

    Raises:
        NotOursError: the database of that name is not the instance's.
        DisagreementError: there is no verified backup of it, it was changed since that was made, or as for
            `ods.databases.trash.purge`.
        DatabaseFaultError: sessions cannot be ended, the server is away, …
    """
    row = await _as_backed_up(session, owner, trash, backed_up)
    if row is None:
        return False
    if not is_invalid(row):  # what a DROP has begun cannot be saved any more
        await require_stored()

    async def require_as_backed_up() -> None:
        """The same once more: meanwhile, the database may have been opened and written."""
        await before()
        await _as_backed_up(session, owner, trash, backed_up)

    # To close it again would give it another state, and the next try another backup to make.
    await drop_database(session, trash, invalid=is_invalid(row), closed=True, before=require_as_backed_up)
    return True


async def _as_backed_up(
    session: asyncpg.Connection, owner: KnownOwner, trash: str, backed_up: str | None
) -> asyncpg.Record | None:
    """The database in the trash, which is as it was backed up; None if there is none any more."""
    row = await find_in_trash(session, owner, trash)
    if row is None:
        return None
    if backed_up is None:
        raise DisagreementError(
            trash, f"There is no verified backup of the database '{trash}'. Nothing was dropped. Retry."
        )
    # Also if a DROP of it was interrupted, which leaves the state as it was.
    if row["state"] != backed_up:
        raise _half_dropped(trash) if is_invalid(row) else _changed(trash)
    return row


def _changed(trash: str) -> DisagreementError:
    return DisagreementError(
        trash,
        f"The database '{trash}' was opened or changed since it was backed up. Nothing was dropped. Retry: it"
        " is backed up again.",
    )


def _half_dropped(trash: str) -> DisagreementError:
    return DisagreementError(
        trash,
        f"A DROP of the database '{trash}' was interrupted: it cannot be backed up any more. If nothing of it"
        f' is wanted, remove it by hand (DROP DATABASE "{trash}"), then retry.',
    )


async def _end_sessions(session: asyncpg.Connection, database: str, reasons: dict[str, str]) -> None:
    """End the sessions on a closed database: none of them writes any more when this returns."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_LONGEST_END):
            while True:
                await fetch_rows(session, END_SESSIONS, [database], reasons=reasons)
                if not await fetch_value(session, _COUNT_SESSIONS, database):
                    return
                await asyncio.sleep(_PAUSE_SECONDS)
    raise DatabaseFaultError(f"Sessions on the database '{database}' do not end.", retryable=True)
