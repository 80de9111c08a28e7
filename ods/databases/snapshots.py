"""Snapshots: read-only copies of the databases of instances, for the readers of the ODS/API.

Until it is published, a snapshot has the private name of its instance's staging database, and is removed as
such. A published one carries a mark of its own, so that nothing takes it for the instance's database.
"""

import json
import uuid
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

import asyncpg

from ods.databases.constants import (
    INSUFFICIENT_PRIVILEGE,
    INVALID_CONNECTION_LIMIT,
    NAME_IN_USE,
    OBJECT_IN_USE,
    UNDEFINED_OBJECT,
    UNREADABLE,
)
from ods.databases.copying import create_like
from ods.databases.dropping import drop_database, drop_staging
from ods.databases.errors import DatabaseFaultError, NotOursError
from ods.databases.lookup import choose, find, require_usable
from ods.databases.ownership import Owner
from ods.databases.publishing import settings_statements
from ods.databases.server import Server
from ods.databases.statements import analyze, execute, fetch_row, fetch_value

_KIND = "snapshot"

# Tables of extensions are among them. The ODS/API reads the version of the last change from a sequence.
_READING = """
SELECT coalesce(string_agg(statement, '; '), '') FROM (
    SELECT format('GRANT USAGE ON SCHEMA %I TO %I', nspname, $1::text) AS statement FROM pg_namespace
    WHERE nspname <> 'information_schema' AND NOT starts_with(nspname, 'pg_')
        AND pg_has_role(nspowner, 'USAGE')
    UNION ALL
    SELECT format('GRANT SELECT ON %s %s TO %I',
                  CASE relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, pg_class.oid::regclass, $1::text)
    FROM pg_class JOIN pg_namespace AS ns ON ns.oid = relnamespace
    WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND pg_has_role(relowner, 'USAGE')
        AND nspname <> 'information_schema' AND NOT starts_with(nspname, 'pg_')
) AS grants
"""
"""The statements that let the role $1 read what the session's role owns."""
_FIND = """
SELECT shobj_description(oid, 'pg_database') AS comment, datconnlimit = $2 AS invalid,
       (SELECT count(*) FROM pg_stat_activity WHERE datid = pg_database.oid
        AND coalesce(backend_type, 'client backend') = 'client backend') AS sessions
FROM pg_database WHERE datname = $1
"""
_PUBLISH = (
    "%5$s"
    "COMMENT ON DATABASE %1$I IS %3$L;"
    "GRANT CONNECT ON DATABASE %1$I TO %4$I;"
    "ALTER DATABASE %1$I RENAME TO %2$I"
)
# Only a role itself, or an administrator of it, may set what its sessions begin with.
_READ_ONLY = """
SELECT CASE
    WHEN $1 = current_user THEN 'ALTER ROLE %4$I IN DATABASE %1$I SET default_transaction_read_only = on;'
    WHEN has_database_privilege($1, current_database(), 'CREATE') OR EXISTS (
        SELECT FROM pg_class
        WHERE relkind IN ('r', 'p') AND has_table_privilege($1, oid, 'INSERT, UPDATE, DELETE, TRUNCATE'))
        THEN 'ALTER DATABASE %1$I SET default_transaction_read_only = on;'
    ELSE '' END
"""
"""The statement that lets sessions of the role $1 begin as read-only; none if its rights let it only read.

A setting for all roles is avoided where possible: pg_dumpall writes it before the contents of the database,
so that psql can load neither this database nor those after it.
"""


@dataclass(frozen=True)
class SnapshotMark:
    """What the comment of a snapshot says: `instance` is the mark of its instance, `mark` its own."""

    tenant: str
    ods_instance_id: int
    instance: str
    mark: str
    installation: str

    @property
    def comment(self) -> str:
        """The comment that a snapshot is published with."""
        return json.dumps(
            {
                "kind": _KIND,
                "installation": self.installation,
                "tenant": self.tenant,
                "odsInstanceId": self.ods_instance_id,
                "instance": self.instance,
                "snapshot": self.mark,
                "publishedAt": datetime.now(UTC).isoformat(timespec="seconds"),
            }
        )

    def owns(self, comment: str | None) -> bool:
        """Whether `comment` is that of this very snapshot, of this installation."""
        other = self.read(comment)
        its = (self.mark, self.instance, self.installation)
        return other is not None and (other.mark, other.instance, other.installation) == its

    @classmethod
    def read(cls, comment: str | None) -> Self | None:
        """What `comment` says; None if it is not that of a snapshot."""
        with suppress(*UNREADABLE):
            fields: Any = json.loads(comment or "")
            if fields["kind"] == _KIND:
                return cls(
                    tenant=str(fields["tenant"]),
                    ods_instance_id=int(fields["odsInstanceId"]),
                    instance=str(uuid.UUID(fields["instance"])),
                    mark=str(uuid.UUID(fields["snapshot"])),
                    installation=str(uuid.UUID(fields["installation"])),
                )
        return None


@dataclass(frozen=True)
class SnapshotRequest:
    """A snapshot to be made of the instance's database `source`, for the ODS/API's role `reader`."""

    owner: Owner
    source: str
    name: str
    mark: SnapshotMark
    reader: str


async def prepare(session: asyncpg.Connection, wanted: SnapshotRequest) -> str | None:
    """Make an empty private database for the copy, and return the OID of the instance's database.

    Returns None if an earlier try has published the snapshot.
    """
    owner = wanted.owner
    if not wanted.reader:
        raise DatabaseFaultError("ODS_INSTANCE_CONNECTION_STRING names no user that could read a snapshot.")
    found = await find(session, owner, wanted.source, wanted.name)
    if wanted.name in found:
        if not wanted.mark.owns(found[wanted.name].comment):
            raise NotOursError(wanted.name)
        return None
    if choose(found, owner, [wanted.source]) is None:
        raise DatabaseFaultError(f"There is no database '{wanted.source}' with the mark of this instance.")
    require_usable(found[wanted.source])
    private = owner.staging_name
    await drop_staging(session, owner)
    await create_like(session, wanted.source, private)
    await execute(session, "REVOKE ALL ON DATABASE %I FROM PUBLIC", private)
    return found[wanted.source].oid


async def publish(server: Server, session: asyncpg.Connection, wanted: SnapshotRequest) -> None:
    """Let the reader read the private database and no more, then mark it and name it: all or nothing."""
    private = wanted.owner.staging_name
    reasons = {
        UNDEFINED_OBJECT: f"The role '{wanted.reader}' of ODS_INSTANCE_CONNECTION_STRING does not exist on"
        " the PostgreSQL server. Create it, then request the snapshot again.",
        OBJECT_IN_USE: "Sessions on the database of the unfinished snapshot do not end. Close them, then"
        " request the snapshot again.",
    }
    async with server.connected(private) as inside:
        await analyze(inside)
        if wanted.reader != await fetch_value(inside, "SELECT current_user"):
            statements = await fetch_value(inside, _READING, wanted.reader)
            await execute(inside, "%s", statements, reasons=reasons)
        read_only = await fetch_value(inside, _READ_ONLY, wanted.reader, reasons=reasons)
    settings = await settings_statements(session, wanted.source, private)
    names = (private, wanted.name, wanted.mark.comment, wanted.reader, settings)
    try:
        await execute(session, read_only + _PUBLISH, *names, reasons=reasons)
    except DatabaseFaultError as fault:
        if fault.sqlstate not in NAME_IN_USE:
            raise
        raise NotOursError(wanted.name) from None


async def remove(session: asyncpg.Connection, name: str, mark: SnapshotMark, *, by_force: bool) -> bool:
    """Drop a snapshot; true if it is gone, false if sessions use it, which only `by_force` ends.

    Another database of its name is left alone: then the snapshot is gone.
    """
    found = await fetch_row(session, _FIND, name, INVALID_CONNECTION_LIMIT)
    if found is None or not mark.owns(found["comment"]):
        return True
    if by_force or found["invalid"]:
        await drop_database(session, name, invalid=found["invalid"])
        return True
    if found["sessions"]:
        return False
    reasons = {
        INSUFFICIENT_PRIVILEGE: f"The role of ODS_MASTER_DSN may not drop the snapshot '{name}'. Make it the"
        " owner."
    }
    try:
        await execute(session, "DROP DATABASE IF EXISTS %I", name, reasons=reasons)
    except DatabaseFaultError as fault:
        if fault.sqlstate != OBJECT_IN_USE:  # a reader came meanwhile
            raise
        return False
    return True
