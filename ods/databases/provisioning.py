"""Making an instance's database: a clone of the template, made under a private name, or a spare is published.

Publishing is one transaction, see `ods.databases.publishing`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import asyncpg

from ods.databases.changing import end_sessions, is_marked, mark_anew
from ods.databases.constants import (
    DIVISION_BY_ZERO,
    INSUFFICIENT_PRIVILEGE,
    INTERNAL_ERROR,
    LOCK_NOT_AVAILABLE,
    NAME_IN_USE,
    OBJECT_IN_USE,
    UNDEFINED_DATABASE,
)
from ods.databases.dropping import drop_found_staging, drop_staging
from ods.databases.errors import DatabaseFaultError, NotOursError
from ods.databases.left_names import require_not_left
from ods.databases.locales import AFTER_UPDATE_OF_SYSTEM, sorted_anew
from ods.databases.lookup import changed_meanwhile, choose, find, require_usable
from ods.databases.ownership import KnownOwner
from ods.databases.publishing import AS_TEMPLATE, DatabaseAccess, Publication, publish
from ods.databases.rights.service_role import grants_named
from ods.databases.server import Server
from ods.databases.statements import NO_REASONS, execute, fetch_value
from ods.databases.templates import spares
from ods.databases.templates.marks import generation_copied, generation_of
from ods.databases.templates.spares import Fingerprint, Spare, SpareMark
from ods.observability.metrics.job_phases import phase
from ods.settings.settings import CloneStrategy

FILE_COPY_FROM_BYTES = 100 * 1024 * 1024
"""Template size from which copying files, with its two checkpoints, beats copying through the WAL."""

_SIZE_TOLERANCE = 0.05
_SIZE_ALLOWANCE_BYTES = 1024 * 1024
"""A clone may differ from its template by both, for free-space maps and the like."""

_UNUSABLE_SPARE = {UNDEFINED_DATABASE, OBJECT_IN_USE, INSUFFICIENT_PRIVILEGE, LOCK_NOT_AVAILABLE}
"""SQLSTATEs of a spare that has vanished, has sessions on it, was given to another role, or is locked."""


@dataclass(frozen=True)
class Copy:
    """A closed database `name`, to be copied from `template`."""

    template: str
    name: str
    strategy: CloneStrategy


@dataclass(frozen=True)
class CloneRequest:
    """What shall be made: `database` as a copy of `template`."""

    owner: KnownOwner
    template: str
    database: str
    strategy: CloneStrategy
    installation: str | None = None
    """If given, one of its spares may be claimed."""
    access: DatabaseAccess = AS_TEMPLATE

    @property
    def copy(self) -> Copy:
        """The clone before it is published."""
        return Copy(self.template, self.owner.staging_name, self.strategy)


@dataclass(frozen=True)
class ProvisionedDatabase:
    """A database that was made; the generation of its template is None if it is not known."""

    size_bytes: int
    template_generation: int | None
    claimed: bool = False
    """Whether it was a spare, which had accepted a connection before it became one."""


class TemplateSizes:
    """Sizes of templates in bytes, read once for each state of a closed template.

    PostgreSQL asks the file system for the size of every single file: 5 ms for a template of 800 tables.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[Fingerprint, int]] = {}

    async def of(self, session: asyncpg.Connection, template: str) -> int:
        """The size of the template."""
        state = await spares.fingerprint(session, template)
        known_state, size = self._known.get(template, (None, 0))
        if state is None or state != known_state:
            size = await self._read(session, template)
            if state is not None:
                self._known[template] = state, size
        return size

    async def _read(self, session: asyncpg.Connection, template: str) -> int:
        reasons = {
            INSUFFICIENT_PRIVILEGE: f"The role of ODS_MASTER_DSN may not read the template '{template}'."
            " Grant it CONNECT on that database, then retry."
        }
        if (size := await size_of(session, template, reasons)) is None:
            words = f"The template database '{template}' does not exist. Create it, then retry."
            raise DatabaseFaultError(words)
        return size


async def provision(
    session: asyncpg.Connection, request: CloneRequest, sizes: TemplateSizes
) -> ProvisionedDatabase:
    """Make the database, or find that an earlier attempt has made it."""
    if (made := await already_made(session, request)) is not None:
        return made
    if (claimed := await _claim(session, request)) is not None:
        return ProvisionedDatabase(claimed.size_bytes, claimed.template_generation, claimed=True)
    with phase("clone"):
        copy = await clone(session, request.copy, sizes)
    await publish_made(session, request, request.owner.staging_name, copy.template_generation)
    return copy


async def already_made(session: asyncpg.Connection, request: CloneRequest) -> ProvisionedDatabase | None:
    """The database, if an earlier attempt has made it; otherwise what such an attempt has left is dropped."""
    owner = request.owner
    found = await find(session, owner, request.database, owner.staging_name)
    if choose(found, owner, [request.database]) is not None:
        row = found[request.database]
        require_usable(row)
        if not is_marked(row, owner):  # another request has published it
            await mark_anew(session, owner, row)
        published = row.marked
        return ProvisionedDatabase(
            await size_of(session, request.database) or 0,
            published.template_generation if published else None,
        )
    if request.database in found:
        raise NotOursError(request.database)
    await require_not_left(session, owner, request.database)  # before hours are spent on it
    await drop_found_staging(session, owner, found)
    return None


async def verify(server: Server, database: str) -> None:
    """Prove that `database` accepts a connection and answers."""
    async with server.connected(database):
        pass  # it has answered by now


async def clone(session: asyncpg.Connection, copy: Copy, sizes: TemplateSizes) -> ProvisionedDatabase:
    """Copy the template, and check that the copy has about its size."""
    async with grants_named(session, copy.template):
        expected = await sizes.of(session, copy.template)
        before = await generation_of(session, copy.template)
        await _copy(session, copy, expected)
    generation = await generation_copied(session, copy.template, copy.name, before)
    actual = await size_of(session, copy.name) or 0
    if not _are_alike(actual, expected):
        # Another template may have been loaded under the name before the copy began.
        expected = await sizes.of(session, copy.template)
    if not _are_alike(actual, expected):
        raise DatabaseFaultError(
            f"The clone has {actual} bytes, the template '{copy.template}' {expected}: it was not published.",
            retryable=True,
        )
    return ProvisionedDatabase(actual, generation)


async def _claim(session: asyncpg.Connection, request: CloneRequest) -> SpareMark | None:
    """Publish a spare as the wanted database; None if there is none that can be claimed."""
    for spare, mark in await _ready(session, request):
        try:
            async with spares.locked(session, spare.name) as acquired:
                # Before the lock was acquired, another session may have claimed, changed or removed it.
                if acquired and (spare, mark) in await _ready(session, request):
                    await publish_made(session, request, spare.name, mark.template_generation)
                    return mark
        except DatabaseFaultError as fault:
            if fault.sqlstate not in _UNUSABLE_SPARE:
                raise
    return None


async def _ready(session: asyncpg.Connection, request: CloneRequest) -> list[tuple[Spare, SpareMark]]:
    if request.installation is None:
        return []
    listed = await spares.list_spares(session, request.installation, [request.template])
    return listed.ready(request.template)


async def copy_files(
    session: asyncpg.Connection, copy: Copy, source_bytes: int, reasons: Mapping[str, str]
) -> None:
    """Make the copy, closed, of a database of that size that no session uses."""
    strategy = copy.strategy
    if strategy is CloneStrategy.AUTO:
        by_files = source_bytes >= FILE_COPY_FROM_BYTES
        strategy = CloneStrategy.FILE_COPY if by_files else CloneStrategy.WAL_LOG
    try:
        await execute(
            session,
            f"CREATE DATABASE %I TEMPLATE %I STRATEGY {strategy.upper()} ALLOW_CONNECTIONS false",
            copy.name,
            copy.template,
            reasons=reasons,
        )
    except DatabaseFaultError as fault:
        if fault.sqlstate == INTERNAL_ERROR and copy.template in await sorted_anew(session):
            raise DatabaseFaultError(
                f"The operating system sorts texts otherwise than when the indexes of '{copy.template}' were"
                " made, so PostgreSQL does not copy it. Make them anew, as the page"
                f" {AFTER_UPDATE_OF_SYSTEM} says, then retry.",
                sqlstate=fault.sqlstate,
            ) from None
        raise


async def _copy(session: asyncpg.Connection, copy: Copy, template_bytes: int) -> None:
    reasons = {
        OBJECT_IN_USE: f"The template '{copy.template}' is in use by other sessions. Close them and"
        " keep the template closed (ALTER DATABASE … ALLOW_CONNECTIONS false), then retry.",
        INSUFFICIENT_PRIVILEGE: "The role of ODS_MASTER_DSN may not create databases from the template"
        f" '{copy.template}'. Grant it CREATEDB and mark the template with IS_TEMPLATE true, then retry.",
    }
    await copy_files(session, copy, template_bytes, reasons)


def _are_alike(actual: int, expected: int) -> bool:
    return abs(actual - expected) <= _SIZE_TOLERANCE * expected + _SIZE_ALLOWANCE_BYTES


async def publish_made(
    session: asyncpg.Connection, request: CloneRequest, private_name: str, generation: int | None
) -> None:
    """Publish what was made under a private name as the wanted database."""
    owner = replace(request.owner, template_generation=generation)
    publication = Publication(request.template, private_name, owner.comment, request.database, request.access)
    try:
        with phase("publish"):
            await publish(session, publication, await require_not_left(session, owner, request.database))
    except DatabaseFaultError as fault:
        if fault.sqlstate == DIVISION_BY_ZERO:
            raise changed_meanwhile(request.database) from None
        if fault.sqlstate not in NAME_IN_USE:
            raise
        # Another session has made a database of that name while the clone ran.
        await drop_staging(session, request.owner)
        raise NotOursError(request.database) from None


async def publish_filled(
    session: asyncpg.Connection, request: CloneRequest, generation: int | None
) -> ProvisionedDatabase:
    """Publish a staging database that was filled; sessions that still are on it are ended."""
    await end_sessions(session, request.owner.staging_name)
    await publish_made(session, request, request.owner.staging_name, generation)
    return ProvisionedDatabase(await size_of(session, request.database) or 0, generation)


async def size_of(
    session: asyncpg.Connection, database: str, reasons: Mapping[str, str] = NO_REASONS
) -> int | None:
    """The size of a database in bytes; None if there is none of that name."""
    size: int | None = await fetch_value(
        session, "SELECT pg_database_size(oid) FROM pg_database WHERE datname = $1", database, reasons=reasons
    )
    return size
