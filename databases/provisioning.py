"""Making an instance's database, and removing it: clone, publish, verify, drop.

Everything here runs on a fenced session and may be repeated after any interruption. Which database is the
instance's, two sides must say: the registry, which knows its name, and the database, which carries the
instance's mark. Where they disagree, nothing is done.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import asyncpg

from databases import errors, spares
from databases.errors import DatabaseFaultError, DisagreementError, NotOursError, translate_postgres_errors
from databases.locks import lock_holders_named
from databases.ownership import Owner
from databases.server import Server
from databases.spares import INVALID, Fingerprint, Spare, SpareMark
from settings import CloneStrategy

FILE_COPY_FROM_BYTES = 100 * 1024 * 1024
"""Template size from which copying files, with its two checkpoints, beats copying through the WAL."""

_SIZE_TOLERANCE = 0.05
_SIZE_ALLOWANCE_BYTES = 1024 * 1024
"""A clone may differ from its template by this much, for free-space maps and the like."""

Found = Mapping[str, asyncpg.Record]
"""Databases of the server, by name."""

# The oldest first: a restored dump may carry the comment of the database that it was taken of.
_FIND = """
SELECT datname, description AS comment, datallowconn, datconnlimit FROM pg_database
LEFT JOIN pg_shdescription ON objoid = oid AND classoid = 'pg_database'::regclass
WHERE datname = ANY($1::name[]) OR position($2 IN description) > 0
ORDER BY oid
"""

_FAULTS_OF_A_SPARE = (
    asyncpg.InvalidCatalogNameError,
    asyncpg.ObjectInUseError,
    asyncpg.InsufficientPrivilegeError,
    asyncpg.LockNotAvailableError,
)
"""It has vanished, sessions are on it, it was given to another role, another session holds a lock on it."""


@dataclass(frozen=True)
class Copy:
    """A closed database `name`, to be copied from `template`."""

    template: str
    name: str
    strategy: CloneStrategy


@dataclass(frozen=True)
class CloneRequest:
    """What shall be made: database `database` as a copy of `template`.

    With an `installation`, one of its spares may be taken for it.
    """

    owner: Owner
    template: str
    database: str
    strategy: CloneStrategy
    installation: str | None = None

    @property
    def copy(self) -> Copy:
        """The clone before it is published."""
        return Copy(self.template, self.owner.staging_name, self.strategy)


@dataclass(frozen=True)
class Made:
    """A database that is there. If it was `claimed`, it had proven that it answers when it became a spare."""

    size_bytes: int
    claimed: bool = False


class TemplateSizes:
    """What copies of templates take, read once for each state of a closed template.

    PostgreSQL asks the file system for the size of every single file: 5 ms for a template of 800 tables.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[Fingerprint, int]] = {}

    async def of(self, session: asyncpg.Connection, template: str) -> int:
        """Bytes that a copy of the template takes.

        Raises:
            DatabaseFaultError: the template is missing, or may not be read.
        """
        with translate_postgres_errors({}):
            state = await spares.fingerprint(session, template)
        known_state, size = self._known.get(template, (None, 0))
        if state is None or state != known_state:
            size = await _template_size(session, template)
            if state is not None:
                self._known[template] = state, size
        return size


async def provision(session: asyncpg.Connection, request: CloneRequest, sizes: TemplateSizes) -> Made:
    """Make the database, or find that an earlier attempt has made it.

    Raises:
        NotOursError: a database has the wanted name and is not the instance's.
        DisagreementError: the instance has a database of another name, or one that is closed or half dropped.
        DatabaseFaultError: the template is missing or in use, a right is missing, the server is away, …
    """
    owner = request.owner
    with translate_postgres_errors({}):
        found = await find(session, owner, request.database, owner.staging_name)
        if chosen(found, owner, [request.database]) is not None:
            _require_usable(found[request.database])
            return Made(await _size(session, request.database) or 0)
        if request.database in found:
            raise NotOursError(request.database)
        await _drop_staging(session, owner, found)
        if (claimed := await _claim(session, request)) is not None:
            return Made(claimed.size_bytes, claimed=True)
        size = await clone(session, request.copy, sizes)
        await _publish(session, request, request.owner.staging_name)
        return Made(size)


async def verify(server: Server, database: str) -> None:
    """Prove that `database` accepts a connection and answers.

    Raises:
        DatabaseFaultError: it does not.
    """
    async with server.connected(database):
        pass  # it has answered by now


async def drop(session: asyncpg.Connection, owner: Owner, names: list[str], *, published: bool) -> None:
    """Remove the instance's database with the sessions on it, and what a clone may have left.

    Only for a delete that a client has requested, and that the registry records under the instance's mark.

    Args:
        session: a fenced session.
        owner: the instance, at the attempt at the delete.
        names: what the registry calls the database, the name that decides first.
        published: whether the instance ever had that database. If not, a database of the first name that does
            not carry the mark is the reason why the instance never came to be, and is left alone.

    Raises:
        NotOursError: `published`, and the database of the first name is not the instance's.
        DisagreementError: the database was published later than the registry knows, or has another name.
        DatabaseFaultError: sessions cannot be ended, the server is away, …
    """
    with translate_postgres_errors({}):
        found = await find(session, owner, *names, owner.staging_name)
        database = _droppable(found, owner, names, published=published)
        await _drop_staging(session, owner, found)
        if database is not None:
            await drop_database(session, database, invalid=found[database]["datconnlimit"] == INVALID)


async def drop_obstacle(session: asyncpg.Connection, owner: Owner, names: list[str]) -> str | None:
    """Why `drop` would refuse the published database of these names; None if it would not.

    Raises:
        DatabaseFaultError: the server is away, …
    """
    found = await find(session, owner, *names)
    try:
        _droppable(found, owner, names, published=True)
    except (NotOursError, DisagreementError) as refusal:
        return refusal.reason
    return None


async def drop_staging(session: asyncpg.Connection, owner: Owner) -> None:
    """Remove what a clone for the instance has left, which was never published.

    Raises:
        DatabaseFaultError: the server is away, …
    """
    with translate_postgres_errors({}):
        await _drop_staging(session, owner, await find(session, owner, owner.staging_name))


async def published_by(session: asyncpg.Connection, owner: Owner, database: str) -> Owner | None:
    """The attempt that published the instance's database of that name; None if it has none that is usable.

    Raises:
        DatabaseFaultError: the server is away, …
    """
    found = (await find(session, owner, database)).get(database)
    if found is None or not owner.owns(found["comment"]) or not _is_usable(found):
        return None
    return Owner.read(found["comment"])


def _droppable(found: Found, owner: Owner, names: list[str], *, published: bool) -> str | None:
    database = chosen(found, owner, names)
    if database is None:
        if published and names[0] in found:
            raise NotOursError(names[0])
        return None
    latest = Owner.read(found[database]["comment"])
    # A comment of version 1 does not tell the attempt: it may be one that the registry does not know.
    is_outdated = latest and (latest.publication > owner.publication or not (published or latest.attempt))
    if latest and is_outdated:
        raise DisagreementError(
            database,
            f"The database '{database}' was published by {latest.job_id}, attempt {latest.attempt}, which is"
            " later than the registry knows: it was restored to an earlier state. Nothing was dropped."
            f" `ods drift` tells more; `ods instance adopt {owner.ods_instance_id} --database {database}`"
            " makes the registry's word count again, then retry.",
        )
    return database


def chosen(found: Found, owner: Owner, names: list[str]) -> str | None:
    """Which of `names` is the instance's database; None if it has none.

    The registry's name for it decides. Others that carry the mark as well, such as a copy that was set aside,
    are left alone.

    Raises:
        DisagreementError: only databases of other names carry the mark.
    """
    for name in names:
        if name in found and owner.owns(found[name]["comment"]):
            return name
    for name, row in found.items():
        if name not in names and owner.owns(row["comment"]):
            raise DisagreementError(
                name,
                f"The registry calls the instance's database '{names[0]}', but '{name}' carries its mark."
                f" Nothing was done to it. Rename it back, or hand it to the instance: `ods instance adopt"
                f" {owner.ods_instance_id} --database {name}`. Then retry.",
            )
    return None


def _is_usable(found: asyncpg.Record) -> bool:
    """Whether a published database is open, and no removal of it was begun and interrupted."""
    return bool(found["datallowconn"]) and found["datconnlimit"] != INVALID


def _require_usable(found: asyncpg.Record) -> None:
    name = found["datname"]
    if found["datconnlimit"] == INVALID:
        raise DisagreementError(
            name,
            f"A DROP of the instance's database '{name}' was interrupted, so it cannot be used. Delete the"
            " instance, then create it again.",
        )
    if not found["datallowconn"]:
        raise DisagreementError(
            name,
            f"The instance's database '{name}' is there, but accepts no connections. Open it (ALTER DATABASE"
            f' "{name}" ALLOW_CONNECTIONS true), then retry.',
        )


async def _drop_staging(session: asyncpg.Connection, owner: Owner, found: Found) -> None:
    if owner.staging_name in found:
        await _drop(session, owner.staging_name)


async def _claim(session: asyncpg.Connection, request: CloneRequest) -> SpareMark | None:
    """Publish a spare as the wanted database; None if there is none to be had."""
    if request.installation is None:
        return None
    stock = await spares.look(session, request.installation, [request.template])
    for spare, mark in stock.ready(request.template):
        if await _claimed(session, request, request.installation, spare):
            return mark
    return None


async def _claimed(
    session: asyncpg.Connection, request: CloneRequest, installation: str, spare: Spare
) -> bool:
    try:
        async with spares.held(session, spare.name) as free:
            if not free:
                return False
            # What it was before the lock was taken, somebody may have changed.
            stock = await spares.look(session, installation, [request.template])
            if spare not in [ready for ready, _ in stock.ready(request.template)]:
                return False
            await _publish(session, request, spare.name)
    except _FAULTS_OF_A_SPARE:
        return False
    return True


async def clone(session: asyncpg.Connection, copy: Copy, sizes: TemplateSizes) -> int:
    """Copy the template; returns the size of the copy in bytes, which is about that of the template.

    Raises:
        DatabaseFaultError: the template is missing or in use, a right is missing, …
    """
    expected = await sizes.of(session, copy.template)
    await _copy(session, copy, _strategy(copy, expected))
    actual = await _size(session, copy.name) or 0
    if abs(actual - expected) > _SIZE_TOLERANCE * expected + _SIZE_ALLOWANCE_BYTES:
        raise DatabaseFaultError(
            f"The clone has {actual} bytes, the template '{copy.template}' {expected}: it was not published.",
            retryable=True,
        )
    return actual


async def _copy(session: asyncpg.Connection, copy: Copy, strategy: CloneStrategy) -> None:
    reasons = {
        errors.OBJECT_IN_USE: f"The template '{copy.template}' is in use by other sessions. Close them and"
        " keep the template closed (ALTER DATABASE … ALLOW_CONNECTIONS false), then retry.",
        errors.INSUFFICIENT_PRIVILEGE: "The role of ODS_MASTER_DSN may not create databases from the template"
        f" '{copy.template}'. Grant it CREATEDB and mark the template with IS_TEMPLATE true, then retry.",
    }
    with translate_postgres_errors(reasons):
        await execute(
            session,
            f"CREATE DATABASE %I TEMPLATE %I STRATEGY {strategy.upper()} ALLOW_CONNECTIONS false",
            copy.name,
            copy.template,
        )


async def _template_size(session: asyncpg.Connection, template: str) -> int:
    with translate_postgres_errors(
        {
            errors.INSUFFICIENT_PRIVILEGE: "The role of ODS_MASTER_DSN may not read the template"
            f" '{template}'. Grant it CONNECT on that database, then retry."
        }
    ):
        size = await _size(session, template)
    if size is None:
        raise DatabaseFaultError(f"The template database '{template}' does not exist. Create it, then retry.")
    return size


def _strategy(copy: Copy, template_bytes: int) -> CloneStrategy:
    if copy.strategy is not CloneStrategy.AUTO:
        return copy.strategy
    by_files = template_bytes >= FILE_COPY_FROM_BYTES
    return CloneStrategy.FILE_COPY if by_files else CloneStrategy.WAL_LOG


async def _publish(session: asyncpg.Connection, request: CloneRequest, private_name: str) -> None:
    """Mark, open and rename a clone in one transaction: it is there whole, or not at all."""
    try:
        await execute(
            session,
            "COMMENT ON DATABASE %1$I IS %2$L;"
            " ALTER DATABASE %1$I ALLOW_CONNECTIONS true;"
            " ALTER DATABASE %1$I RENAME TO %3$I",
            private_name,
            request.owner.comment,
            request.database,
        )
    except (asyncpg.DuplicateDatabaseError, asyncpg.UniqueViolationError):
        # Another session took the name while the clone ran.
        await _drop(session, request.owner.staging_name)
        raise NotOursError(request.database) from None


async def drop_database(session: asyncpg.Connection, database: str, *, invalid: bool) -> None:
    """Close a database, end the sessions on it, and drop it.

    Raises:
        DatabaseFaultError: sessions cannot be ended, a right is missing, …
    """
    reasons = {
        errors.OBJECT_IN_USE: f"Sessions on the database '{database}' do not end. Close them, then retry.",
        errors.INSUFFICIENT_PRIVILEGE: "The role of ODS_MASTER_DSN may not remove the database"
        f" '{database}' or end the sessions on it. Make it the owner and grant it pg_signal_backend; close"
        " the sessions of superusers by hand. Then retry.",
    }
    with translate_postgres_errors(reasons):
        async with lock_holders_named(session, database):
            if not invalid:
                # Otherwise connection pools come back as fast as their sessions are ended.
                await execute(session, "ALTER DATABASE %I ALLOW_CONNECTIONS false", database)
            await _drop(session, database)


async def _drop(session: asyncpg.Connection, database: str) -> None:
    await execute(session, "DROP DATABASE IF EXISTS %I WITH (FORCE)", database)


async def find(session: asyncpg.Connection, owner: Owner, *names: str) -> Found:
    """The databases with these names, and all that carry the mark of the owner's instance.

    Raises:
        DatabaseFaultError: the server is away, …
    """
    with translate_postgres_errors({}):
        # Names of the type `name`, which refuses what PostgreSQL would cut.
        rows = await session.fetch(_FIND, names, owner.mark)
    return {row["datname"]: row for row in rows}


async def _size(session: asyncpg.Connection, database: str) -> int | None:
    size: int | None = await session.fetchval(
        "SELECT pg_database_size(oid) FROM pg_database WHERE datname = $1", database
    )
    return size


async def execute(session: asyncpg.Connection, statement: str, *names: str) -> None:
    """Run DDL, which takes no parameters; PostgreSQL itself quotes the names (%I) and literals (%L).

    Several statements, with semicolons between them, go in one message, and are one transaction.
    """
    quoted = await session.fetchval("SELECT format($1, VARIADIC $2::text[])", statement, names)
    await session.execute(quoted)
