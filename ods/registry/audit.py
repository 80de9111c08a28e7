"""The audit trail: which client requested what of the service, and the outcome.

Each entry is also a line of the logger `ods.audit`, so that a copy can be kept where the service cannot
change it.
"""

import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from typing import Any

from sqlalchemy import ColumnElement, false, func, insert, literal, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from ods.registry.storage.engine import fetch_all
from ods.registry.storage.models import UTC_NOW, AuditRow
from ods.registry.storage.rules import is_storable, printable
from ods.registry.storage.sessions import RegistrySessions, when_committed

_PRUNED_AT_ONCE = 1000
_READ_AT_ONCE = 1000

_logger = logging.getLogger("ods.audit")


@dataclass(frozen=True)
class AuditEntry:
    """One request and its outcome.

    Args:
        client: the id of the authenticated client; None if there is none.
        address: where the request came from.
        method: the HTTP method.
        path: the path, without its query.
        instance: the instance it was about, if any.
        job: the job that it led to, if any.
        status: the HTTP status of the answer.
        title: what was wrong, if anything was; of a download, how far it is.
        omitted: further refusals of the same network, in the minute before, that this entry stands for.
        sent_bytes: of a download that has ended: how many bytes were sent.
    """

    client: str | None
    address: str
    method: str
    path: str
    instance: int | None
    job: str | None
    status: int
    title: str | None
    omitted: int = 0
    sent_bytes: int | None = None


@dataclass(frozen=True)
class AuditFilter:
    """Which entries are meant: those that fulfil all that is given.

    Args:
        client: the id of the client; empty for any.
        instance_id: the instance that they are about; None for any.
        refused: only refusals: answers with a status of 400 or more.
    """

    client: str = ""
    instance_id: int | None = None
    refused: bool = False

    @property
    def conditions(self) -> list[ColumnElement[bool]]:
        """The filter as SQL."""
        found: list[ColumnElement[bool]] = []
        if self.client:
            # What no column can hold is the id of no client.
            found.append(AuditRow.client == self.client if is_storable(self.client) else false())
        if self.instance_id is not None:
            found.append(AuditRow.instance_id == self.instance_id)
        if self.refused:
            found.append(AuditRow.status >= HTTPStatus.BAD_REQUEST)
        return found


_ALL = AuditFilter()


class AuditTrail:
    """Reads the trail and appends to it; entries are never changed, and removed only when they are old.

    The service's role may do no more, unless it owns the tables.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._sessions = RegistrySessions(engine)

    async def record(self, entry: AuditEntry) -> None:
        """Append `entry`, at the database's time; what is too long for its column ends in `…`."""
        row = _row(entry)
        # Neither this request nor the commits of later ones wait until the entry is on the disk.
        asynchronous = func.set_config("synchronous_commit", "off", True).alias("asynchronous")
        values = select(*map(_expression, row, row.values())).select_from(asynchronous)
        async with self._sessions.statement() as session:
            await session.execute(insert(AuditRow).from_select(list(row), values))

    async def prune(self, retention: timedelta) -> bool:
        """Remove up to 1000 entries that are older than `retention`; returns whether there may be more.

        Args:
            retention: how long an entry is kept; for less than 30 days, none is.
        """
        async with self._sessions.statement() as session:
            removed = await session.scalar(select(func.adminapi.prune_audit(retention, _PRUNED_AT_ONCE)))
            return removed == _PRUNED_AT_ONCE

    async def page(
        self, *, offset: int = 0, limit: int, chosen: AuditFilter = _ALL, before: int | None = None
    ) -> Sequence[AuditRow]:
        """A page of entries, the newest first.

        Only entries with a lower id than `before`, which are older.
        """
        query = select(AuditRow).where(*chosen.conditions).order_by(AuditRow.id.desc())
        if before is not None:
            query = query.where(AuditRow.id < before)
        async with self._sessions.statement() as session:
            return await fetch_all(session, query.offset(offset).limit(limit))

    async def all(self, chosen: AuditFilter) -> AsyncIterator[AuditRow]:
        """All entries that are chosen, the newest first; few are in memory at once."""
        before = None
        while rows := await self.page(limit=_READ_AT_ONCE, chosen=chosen, before=before):
            for row in rows:
                yield row
            before = rows[-1].id


async def append(session: AsyncSession, entry: AuditEntry) -> None:
    """Append `entry` within the transaction of the change that it records."""
    await session.execute(
        insert(AuditRow).values({column.key: value for column, value in _row(entry).items()})
    )

    async def committed() -> None:
        announce(entry)

    when_committed(session, committed)


def announce(entry: AuditEntry, tenant: str | None = None) -> None:
    """Write `entry` to the log, whether or not it gets into the registry.

    It is in the trail of `tenant`; None: that of the task, as lines tell it.
    """
    fields = {column.key: value for column, value in _row(entry).items() if column is not AuditRow.at}
    fields |= {} if tenant is None else {"tenant": tenant}
    _logger.info("%s %s %s", fields["method"], fields["path"], fields["status"], extra={"audit": fields})


def command_entry(command: str, operator: str) -> AuditEntry:
    """The entry of a change that the operator made at the command line, past the API.

    Args:
        command: what was changed, in the words of the command line; never a secret.
        operator: which user of which host has called it.
    """
    return _changed("command line", operator, "CLI", command)


def console_entry(command: str, client: str, address: str) -> AuditEntry:
    """The entry of a change that the command line can make as well, made on the console.

    Args:
        command: what was changed, in the words of the command line; never a secret.
        client: the id of the client that is signed in.
        address: where the request came from.
    """
    return _changed(client, address, "CONSOLE", command)


def _changed(client: str, address: str, method: str, command: str) -> AuditEntry:
    return AuditEntry(client, address, method, command, None, None, HTTPStatus.OK, None)


def _row(entry: AuditEntry) -> dict[InstrumentedAttribute[Any], object]:
    return {
        AuditRow.at: UTC_NOW,
        AuditRow.client: _fitting(entry.client, 256),
        AuditRow.address: _fitting(entry.address, 64),
        AuditRow.method: _fitting(entry.method, 16),
        AuditRow.path: _fitting(entry.path, 512),
        AuditRow.instance_id: entry.instance,
        AuditRow.job_id: entry.job,
        AuditRow.status: entry.status,
        AuditRow.title: _fitting(entry.title, 256),
        AuditRow.omitted: entry.omitted,
        AuditRow.sent_bytes: entry.sent_bytes,
    }


def _expression(column: InstrumentedAttribute[Any], value: object) -> ColumnElement[Any]:
    return value if isinstance(value, ColumnElement) else literal(value, column.type)


def _fitting(text: str | None, length: int) -> str | None:
    """`text` as a column of `length` characters can hold it."""
    if text is None:
        return None
    clean = printable(text)
    return clean if len(clean) <= length else f"{clean[: length - 1]}…"
