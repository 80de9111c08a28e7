"""What the server tells of the template databases, without opening one that is closed."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import asyncpg

from ods.databases import spares
from ods.databases.constants import INVALID_CONNECTION_LIMIT
from ods.databases.errors import DatabaseFaultError
from ods.databases.server import Server
from ods.databases.spares import SpareList
from ods.databases.statements import fetch_rows
from ods.databases.template_leftovers import TemplateLeftover, list_leftovers
from ods.databases.template_marks import Contents, TemplateMark, TemplateState, read_contents

_READ_SECONDS = 2
"""How long an open template may take to tell what it holds: a create waits for our session on it."""

# Sizes of databases that our role may not connect to would be refused. Autovacuum has no user.
_ROWS = """
SELECT datname, datallowconn, datconnlimit = $2 AS invalid,
       shobj_description(db.oid, 'pg_database') AS comment,
       CASE WHEN has_database_privilege(db.oid, 'CONNECT') OR pg_has_role('pg_read_all_stats', 'USAGE')
            THEN pg_database_size(db.oid) END AS size_bytes,
       datistemplate OR pg_has_role(datdba, 'USAGE') AS may_copy,
       (SELECT count(*) FROM pg_stat_activity AS activity
        WHERE activity.datid = db.oid AND usesysid IS NOT NULL) AS sessions
FROM pg_database AS db
WHERE datname = ANY($1::name[])
"""


@dataclass(frozen=True)
class TemplateReport:
    """A template, as the server tells of it; what it does not tell is None.

    Attributes:
        open: whether the database accepts connections, which hold up creates.
        spares: how many spares are copies of it as it is now.
        generation: counts the databases that were loaded as this template.
        loaded_at: when it was loaded, if its comment tells.
        obstacle: why no instance can be made of it now, and what to do about it; None if one can.
    """

    name: str
    database: str
    size_bytes: int | None = None
    open: bool | None = None
    sessions: int | None = None
    spares: int = 0
    generation: int | None = None
    loaded_at: datetime | None = None
    contents: Contents | None = None
    obstacle: str | None = None

    @property
    def ready(self) -> bool:
        """Whether an instance can be made of it now."""
        return self.obstacle is None


class TemplateInspector:
    """Reads what there is of a tenant's templates.

    Args:
        databases: the name of the database behind each template.
    """

    def __init__(
        self, server: Server, installation: Callable[[], Awaitable[str]], databases: Mapping[str, str]
    ) -> None:
        self._server = server
        self._installation = installation
        self._databases = databases

    async def report(self) -> Sequence[TemplateReport]:
        """All templates, in the order of the settings."""
        names = list(self._databases.values())
        async with self._server.session() as session:
            listed = await spares.list_spares(session, await self._installation(), names)
            found = await fetch_rows(session, _ROWS, names, INVALID_CONNECTION_LIMIT)
        rows = {row["datname"]: row for row in found}
        return [
            await self._report(template, database, rows.get(database), listed)
            for template, database in self._databases.items()
        ]

    async def leftovers(self) -> Sequence[TemplateLeftover]:
        """What loads have left, and those that run now, by name of database."""
        async with self._server.session() as session:
            return await list_leftovers(session, await self._installation(), set(self._databases.values()))

    async def _report(
        self, template: str, database: str, row: asyncpg.Record | None, listed: SpareList
    ) -> TemplateReport:
        if row is None:
            words = f"The database does not exist. Load it: `ods template load {template} FILE`."
            return TemplateReport(template, database, obstacle=words)
        report = TemplateReport(
            template,
            database,
            size_bytes=row["size_bytes"],
            open=row["datallowconn"],
            sessions=row["sessions"],
            spares=len(listed.ready(database)),
            contents=await self._contents(database) if row["datallowconn"] else None,
            obstacle=_obstacle(row),
        )
        mark = TemplateMark.read(row["comment"])
        if mark is None or mark.state is not TemplateState.PUBLISHED:
            return report
        return replace(
            report,
            generation=mark.generation,
            loaded_at=mark.loaded_at,
            contents=report.contents or mark.contents,
        )

    async def _contents(self, database: str) -> Contents | None:
        """What an open template holds; None if it does not answer, or does not let us in."""
        try:
            async with asyncio.timeout(_READ_SECONDS), self._server.connected(database) as session:
                return await read_contents(session)
        except (DatabaseFaultError, TimeoutError):
            return None


def _obstacle(row: asyncpg.Record) -> str | None:
    if row["invalid"]:
        return "A DROP of the database was interrupted. Drop it, then create it again."
    if not row["may_copy"]:
        return (
            "The role of ODS_MASTER_DSN may not copy the database. Mark it as a template (ALTER DATABASE …"
            " IS_TEMPLATE true), or make the role its owner."
        )
    if row["size_bytes"] is None:
        return "The role of ODS_MASTER_DSN may not read the database's size. Grant it CONNECT on it."
    if row["sessions"]:
        return (
            "Sessions on the database hold up every create. End them, and close it (ALTER DATABASE …"
            " ALLOW_CONNECTIONS false)."
        )
    return None
