"""The server of the ODS databases: rights, templates, what DROPs have left, room for sessions, settings."""

from collections.abc import Iterator, Mapping, Sequence

import asyncpg

from ods.databases.constants import INVALID_CONNECTION_LIMIT
from ods.databases.locales import AFTER_UPDATE_OF_SYSTEM, sorted_anew
from ods.databases.ownership import Owner
from ods.databases.publishing import settings_left_out
from ods.databases.retiring import owner_in_trash
from ods.databases.rights.restore_login import missing_for_restores
from ods.databases.rights.service_role import missing_on_server
from ods.doctor.findings import Finding, fault, ok, warning
from ods.doctor.postgres import Examine, one_row
from ods.doctor.registry import of_rights, of_superusers
from ods.registry.rights.needs import literal, quoted
from ods.registry.rights.superusers import superusers
from ods.settings.settings import CloneStrategy, Settings, login_of

_MEGABYTE = 1024 * 1024

_TEMPLATES = """
SELECT datname AS name, quote_ident(current_user) AS role, datallowconn AS open, datistemplate AS template,
       CASE WHEN has_database_privilege(oid, 'CONNECT') THEN pg_database_size(oid) END AS bytes,
       (SELECT count(*) FROM pg_stat_activity WHERE datid = pg_database.oid) AS sessions,
       shobj_description(oid, 'pg_database') AS comment
FROM pg_database WHERE datname = ANY ($1::text[])
"""
_INVALID = "SELECT datname FROM pg_database WHERE datconnlimit = $1 ORDER BY datname"
_SLOTS = """
SELECT slot_name, datname, shobj_description(oid, 'pg_database') AS comment
FROM pg_replication_slots JOIN pg_database ON datname = database ORDER BY slot_name
"""
_ROOM = """
SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
           - coalesce(current_setting('reserved_connections', true)::int, 0) AS server,
       (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user) AS role,
       quote_ident(current_user) AS name
"""
_SETTINGS = """
SELECT name, setting, unit FROM pg_settings
WHERE name IN ('wal_level', 'max_wal_size', 'fsync', 'full_page_writes')
"""
_SIZES = """
SELECT count(*) AS databases, sum(pg_database_size(oid))::int8 AS bytes
FROM pg_database WHERE has_database_privilege(oid, 'CONNECT')
"""


def server_parts(subject: str, settings: Settings, sessions: int) -> list[tuple[str, Examine]]:
    """What there is to examine on a server.

    Args:
        subject: what the server is called.
        settings: those of a tenant that uses it.
        sessions: how many sessions an API process and a worker open there at most, for all tenants.
    """
    templates = settings.template_databases

    async def rights(session: asyncpg.Connection) -> Sequence[Finding]:
        grants = await missing_on_server(session, templates.values(), settings.needed_memberships)
        return [
            *of_rights(f"{subject}: rights", grants),
            *of_superusers(f"{subject}: role", await superusers(session), settings),
        ]

    async def each_template(session: asyncpg.Connection) -> Sequence[Finding]:
        found = {row["name"]: row for row in await session.fetch(_TEMPLATES, list(templates.values()))}
        return [
            finding
            for word, name in templates.items()
            for finding in _template(
                f"{subject}: template {word}", name, found.get(name), await settings_left_out(session, name)
            )
        ]

    async def invalid(session: asyncpg.Connection) -> Sequence[Finding]:
        names = [row["datname"] for row in await session.fetch(_INVALID, INVALID_CONNECTION_LIMIT)]
        words = "A DROP of it was interrupted; it can only be dropped"
        return [
            fault(f"{subject}: database {name}", words, f"DROP DATABASE {quoted(name)};") for name in names
        ] or [ok(f"{subject}: databases", "None is left half dropped")]

    async def collations(session: asyncpg.Connection) -> Sequence[Finding]:
        return [_collations(f"{subject}: collations", await sorted_anew(session))]

    async def slots(session: asyncpg.Connection) -> Sequence[Finding]:
        return _slots(f"{subject}: replication slots", await session.fetch(_SLOTS))

    async def room(session: asyncpg.Connection) -> Sequence[Finding]:
        return [_room(f"{subject}: connections", await one_row(session, _ROOM), sessions)]

    async def parameters(session: asyncpg.Connection) -> Sequence[Finding]:
        values = {row["name"]: row for row in await session.fetch(_SETTINGS)}
        rows = await session.fetch(_TEMPLATES, list(templates.values()))
        largest = max((row["bytes"] or 0 for row in rows), default=0)
        return list(_parameters(subject, values, settings.clone_strategy, largest))

    async def restores(session: asyncpg.Connection) -> Sequence[Finding]:
        return await _restores(f"{subject}: restores", session, settings)

    async def disk(session: asyncpg.Connection) -> Sequence[Finding]:
        row = await one_row(session, _SIZES)
        words = (
            f"{row['databases']} databases take {(row['bytes'] or 0) // _MEGABYTE} MB; how much is free,"
            " PostgreSQL does not tell: df on its data directory"
        )
        return [ok(f"{subject}: disk", words)]

    return [
        (f"{subject}: rights", rights),
        (f"{subject}: templates", each_template),
        (f"{subject}: databases", invalid),
        (f"{subject}: collations", collations),
        (f"{subject}: replication slots", slots),
        (f"{subject}: connections", room),
        (f"{subject}: parameters", parameters),
        (f"{subject}: restores", restores),
        (f"{subject}: disk", disk),
    ]


def _template(
    subject: str, name: str, row: asyncpg.Record | None, left_out: Sequence[str]
) -> Iterator[Finding]:
    database = quoted(name)
    if row is None:
        yield fault(
            subject,
            f"The database {database} does not exist: no instance can be created from it",
            f"createdb {database} && pg_restore --dbname {database} template.dump;"
            " docs/production.md has the whole of it",
        )
        return
    size = "of unknown size" if row["bytes"] is None else f"with {row['bytes'] // _MEGABYTE} MB"
    yield ok(subject, f"The database {database}, {size}")
    if (owner := Owner.read(row["comment"])) is not None:
        words = f"It is the database of the OdsInstanceId {owner.ods_instance_id}, by its comment"
        yield fault(subject, words, "Do not close it: name another database in ODS_TEMPLATES")
        return
    if row["open"]:
        words = f"It accepts connections, of which it has {row['sessions']}: each holds up every create"
        yield fault(subject, words, f"ALTER DATABASE {database} ALLOW_CONNECTIONS false;")
    elif row["sessions"]:
        words = f"It has {row['sessions']} sessions, which hold up every create"
        ending = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname ="
        yield warning(subject, words, f"{ending} {literal(name)};")
    if not row["template"]:
        words = "It is not marked as a template: only its owner may clone it"
        yield warning(subject, words, f"ALTER DATABASE {database} IS_TEMPLATE true;")
    for parameter in left_out:
        words = f"New databases do not get its setting {parameter}: the service's role may not set it"
        yield warning(subject, words, f"GRANT SET ON PARAMETER {parameter} TO {row['role']};")


async def _restores(subject: str, session: asyncpg.Connection, settings: Settings) -> Sequence[Finding]:
    """Whether what is restored can do nothing elsewhere."""
    if settings.restore_dsn is None:
        role = await session.fetchval("SELECT quote_ident(current_user)")
        refused = "Nothing is restored, verified by a restore or copied online, and no snapshot is made"
        accepted = (
            "Backups and online copies are restored with all rights of the service: so runs code in them"
        )
        remedy = (
            "CREATE ROLE ods_restore LOGIN PASSWORD '…'; CREATE ROLE ods_restored NOLOGIN;"
            f" GRANT ods_restore, ods_restored TO {role}; and set ODS_RESTORE_DSN"
        )
        if settings.restore_as_service:
            return [warning(subject, accepted, remedy)]
        return [fault(subject, refused, remedy)]
    login = login_of(settings.restore_dsn)
    of_service = await missing_on_server(session, (), settings.needed_memberships)  # another line tells them
    missing = [
        statement
        for statement in await missing_for_restores(session, login, settings.restored_owner)
        if statement not in of_service
    ]
    words = f"The login {quoted(login)} is not as it must be: nothing is restored"
    return [fault(subject, words, f"{statement};") for statement in missing] or [
        ok(subject, f"The login {quoted(login)} restores, and has no rights elsewhere")
    ]


def _collations(subject: str, databases: Sequence[str]) -> Finding:
    if not databases:
        return ok(subject, "The operating system sorts texts as when the indexes of the databases were made")
    words = (
        "The operating system sorts texts otherwise than when the indexes of these databases were made, so"
        f" that searches may miss rows, and none is copied: {', '.join(quoted(name) for name in databases)}"
    )
    return fault(subject, words, AFTER_UPDATE_OF_SYSTEM)


def _slots(subject: str, rows: Sequence[asyncpg.Record]) -> Sequence[Finding]:
    """The logical replication slots of databases in the trash: nothing can read from them there."""
    return [
        warning(
            subject,
            f"{row['slot_name']} keeps WAL for {quoted(row['datname'])}, which is in the trash of the"
            f" installation {owner.installation}, tenant {owner.tenant}",
            "If that is this installation, and it is not to be brought back:"
            f" SELECT pg_drop_replication_slot({literal(row['slot_name'])});",
        )
        for row in rows
        if (owner := owner_in_trash(row["datname"], row["comment"])) is not None
    ] or [ok(subject, "None keeps WAL for a database in the trash")]


def _room(subject: str, row: asyncpg.Record, sessions: int) -> Finding:
    is_limited = 0 <= row["role"] < row["server"]
    limit = row["role"] if is_limited else row["server"]
    words = f"{limit} may be open; an API process and a worker open {sessions} at most"
    if sessions <= limit:
        return ok(subject, words)
    if is_limited:
        return fault(subject, words, f"ALTER ROLE {row['name']} CONNECTION LIMIT -1;")
    wanted = 2 * sessions
    return fault(subject, words, f"ALTER SYSTEM SET max_connections = {wanted}; then restart the server")


def _parameters(
    subject: str, values: Mapping[str, asyncpg.Record], strategy: CloneStrategy, largest: int
) -> Iterator[Finding]:
    for name in ("fsync", "full_page_writes"):
        if name in values and values[name]["setting"] == "off":
            words = "off: a crash of the host can destroy databases"
            yield warning(f"{subject}: {name}", words, f"ALTER SYSTEM RESET {name}; SELECT pg_reload_conf();")
    level = values["wal_level"]["setting"]
    if level == "minimal":
        remedy = "ALTER SYSTEM SET wal_level = 'replica'; then restart the server"
        yield warning(f"{subject}: wal_level", "minimal: no standby, no base back-up", remedy)
    else:
        yield ok(f"{subject}: wal_level", level)
    wal = int(values["max_wal_size"]["setting"])  # its unit is a megabyte
    words = f"{wal} MB; the largest template has {largest // _MEGABYTE} MB"
    if strategy is CloneStrategy.WAL_LOG and largest > wal * _MEGABYTE / 2:
        remedy = (
            f"ALTER SYSTEM SET max_wal_size = '{4 * largest // _MEGABYTE}MB'; SELECT pg_reload_conf();"
            " or ODS_CLONE_STRATEGY=auto"
        )
        yield warning(f"{subject}: max_wal_size", f"{words}: clones force checkpoints", remedy)
    else:
        yield ok(f"{subject}: max_wal_size", words)
