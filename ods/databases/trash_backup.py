"""Backing up a database in the trash before it is dropped: it is open for that time only.

No client knows its name there. The comment says which job has opened it, to distinguish what a dead worker
has left open from what an operator has opened. A database is dropped only in the state in which it was backed
up: each ALTER DATABASE, such as opening it, changes the state of its row in `pg_database`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

import asyncpg

from ods.databases.changing import CLOSE, MARK, OPEN, change, end_all, end_sessions, no_right
from ods.databases.constants import INSUFFICIENT_PRIVILEGE
from ods.databases.droppable import find_backed_up, find_in_trash
from ods.databases.dropping import drop_found
from ods.databases.errors import DatabaseFaultError
from ods.databases.lookup import find, half_dropped
from ods.databases.ownership import KnownOwner, Owner, opened_by, with_opening

_LONGEST_END = 10
"""Seconds that sessions have to end."""

_Result = TypeVar("_Result")


async def while_open(
    session: asyncpg.Connection,
    owner: KnownOwner,
    trash: str,
    job_id: str,
    work: Callable[[], Awaitable[_Result]],
) -> tuple[_Result, str]:
    """Do `work` while the database in the trash is open, and close it however that ends.

    Returns what `work` has returned, and the state of the closed database.
    """
    await close_opened(session, owner, trash)  # what an earlier try has left
    row = await find_in_trash(session, owner, trash)
    if row is None:
        raise DatabaseFaultError(f"There is no database '{trash}' any more.", retryable=True)
    if row.is_invalid:
        raise half_dropped(trash)
    opening = with_opening(row.comment, job_id)
    await change(session, trash, row.oid, OPEN, MARK, comment=opening)
    try:
        result = await work()
    except BaseException:
        with suppress(DatabaseFaultError):  # the next try, the compensation or the pass closes it
            await asyncio.shield(close_opened(session, owner, trash))
        raise
    await close_opened(session, owner, trash)
    closed = await find_in_trash(session, owner, trash)
    return result, closed.state if closed else ""


async def close_opened(session: asyncpg.Connection, owner: Owner, trash: str) -> None:
    """Close the instance's database in the trash and end the sessions on it, if a job has opened it."""
    row = (await find(session, owner, trash)).get(trash)
    if row is None or not owner.owns(row.comment) or opened_by(row.comment) is None:
        return
    reasons = {INSUFFICIENT_PRIVILEGE: no_right("close", trash)}
    if row.is_open:
        await change(session, trash, row.oid, CLOSE, reasons=reasons)
    ending = partial(end_sessions, session, trash, reasons=reasons)
    await end_all(ending, _LONGEST_END, f"Sessions on the database '{trash}' do not end.")
    closing = with_opening(row.comment, None)
    await change(session, trash, row.oid, CLOSE, MARK, comment=closing, reasons=reasons)


async def purge_backed_up(  # noqa: PLR0913, PLR0917 - which database, and what must hold
    session: asyncpg.Connection,
    owner: KnownOwner,
    trash: str,
    backed_up: str | None,
    require_stored: Callable[[], Awaitable[object]],
    before: Callable[[], Awaitable[object]],
) -> bool:
    """Drop the database from the trash if it is in the state that was backed up; whether there was one.

    Args:
        backed_up: the state of the database of which there is a verified backup; None if there is none.
        require_stored: raises if that backup is not stored safely; awaited before the drop.
        before: as of `drop_found`.
    """
    row = await find_backed_up(session, owner, trash, backed_up)
    if row is None:
        return False
    if not row.is_invalid:  # what a DROP has begun cannot be saved any more
        await require_stored()

    async def require_as_backed_up() -> None:
        await before()
        await find_backed_up(session, owner, trash, backed_up)

    # Closing it again would change its state, and the next try would have to make another backup.
    await drop_found(session, row, require_as_backed_up, closed=True)
    return True
