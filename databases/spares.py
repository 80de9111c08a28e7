"""Spare databases: clones of a template that are ready before anybody asks for one.

The server alone knows which there are; nothing is written down elsewhere. A spare has a private name that
tells the installation it belongs to. Its comment, written last, says of which template it is a copy, and of
which state of that template. Without the comment it is unfinished.

Whoever works on a spare holds the advisory lock whose key is its name.
"""

import json
import re
import uuid
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Self

import asyncpg

from databases.errors import LOST

PREFIX = "ods_spare_"

INVALID = -2
"""`datconnlimit` of a database whose DROP was interrupted."""

_NAME = re.compile(rf"{PREFIX}[0-9a-f]{{16}}_[0-9a-f]{{32}}")
_ROWS = """
SELECT datname, db.oid::int8, db.xmin::text::int8, datallowconn, datconnlimit, description AS comment
FROM pg_database AS db
LEFT JOIN pg_shdescription ON objoid = db.oid AND classoid = 'pg_database'::regclass
WHERE starts_with(datname, $1) OR datname = ANY($2::text[])
ORDER BY random()  -- so that those who look at once do not all reach for the same one
"""
_STATE = """
SELECT oid::int8, xmin::text::int8 FROM pg_database WHERE datname = $1 AND NOT datallowconn
"""
_TRY_LOCK = "SELECT pg_try_advisory_lock(hashtextextended($1, 0))"
_UNLOCK = "SELECT pg_advisory_unlock(hashtextextended($1, 0))"


@dataclass(frozen=True)
class Fingerprint:
    """The state of a closed template: nobody can have changed it while this is the same.

    Nobody connects to a closed database. To open it takes an ALTER DATABASE, which writes its row in
    `pg_database` anew and so changes `xmin`; so does closing it again. Another database of its name has
    another `oid`.
    """

    oid: int
    xmin: int


@dataclass(frozen=True)
class SpareMark:
    """What the comment of a ready spare says: whose it is, what it is a copy of, and how large it is."""

    installation: str
    template: str
    fingerprint: Fingerprint
    size_bytes: int

    @property
    def comment(self) -> str:
        """The comment that makes a spare ready."""
        return json.dumps(
            {
                "installation": self.installation,
                "template": self.template,
                "oid": self.fingerprint.oid,
                "xmin": self.fingerprint.xmin,
                "bytes": self.size_bytes,
            }
        )

    @classmethod
    def read(cls, comment: str | None) -> Self | None:
        """What `comment` says; None if it is not that of a spare."""
        try:
            fields = json.loads(comment or "")
            state = Fingerprint(int(fields["oid"]), int(fields["xmin"]))
            return cls(fields["installation"], fields["template"], state, int(fields["bytes"]))
        except (ValueError, TypeError, KeyError, RecursionError):  # as deep as a comment may be
            return None


@dataclass(frozen=True)
class Spare:
    """A spare database, as it was found; without a mark it is unfinished."""

    name: str
    mark: SpareMark | None
    invalid: bool


@dataclass(frozen=True)
class Stock:
    """The spares of an installation, and the states of those of its templates that are closed."""

    spares: Sequence[Spare]
    states: Mapping[str, Fingerprint]

    def ready(self, template: str) -> list[tuple[Spare, SpareMark]]:
        """The spares that are copies of `template` as it is now."""
        state = self.states.get(template)
        return [
            (spare, mark)
            for spare in self.spares
            if (mark := spare.mark) and (mark.template, mark.fingerprint) == (template, state)
        ]


def new_name(installation: str) -> str:
    """A name for one more spare."""
    return f"{_prefix(installation)}{uuid.uuid4().hex}"


def is_spare(database: str) -> bool:
    """Whether the name is that of a spare, of whichever installation."""
    return _NAME.fullmatch(database) is not None


async def look(session: asyncpg.Connection, installation: str, templates: Collection[str]) -> Stock:
    """The spares of an installation, and the states of these templates, at one moment."""
    prefix = _prefix(installation)
    rows = await session.fetch(_ROWS, prefix, list(templates))
    return Stock(
        spares=[_spare(row, installation) for row in rows if _is_ours(row["datname"], prefix)],
        states={
            row["datname"]: Fingerprint(row["oid"], row["xmin"])
            for row in rows
            if row["datname"] in templates and not row["datallowconn"]
        },
    )


async def fingerprint(session: asyncpg.Connection, template: str) -> Fingerprint | None:
    """The state of a template; None if it is open, or missing."""
    row = await session.fetchrow(_STATE, template)
    return None if row is None else Fingerprint(row["oid"], row["xmin"])


@asynccontextmanager
async def held(session: asyncpg.Connection, spare: str) -> AsyncIterator[bool]:
    """The lock of a spare, if it is free: nobody else claims, fills or removes it meanwhile."""
    free = await session.fetchval(_TRY_LOCK, spare)
    try:
        yield free
    finally:
        if free:
            with suppress(*LOST, asyncpg.PostgresError):  # the session has ended, and with it the lock
                await session.execute(_UNLOCK, spare)


def _prefix(installation: str) -> str:
    return f"{PREFIX}{uuid.UUID(installation).hex[:16]}_"


def _is_ours(database: str, prefix: str) -> bool:
    return database.startswith(prefix) and is_spare(database)


def _spare(row: asyncpg.Record, installation: str) -> Spare:
    """A spare whose comment somebody else wrote, or that a DROP has damaged, counts as unfinished."""
    mark = SpareMark.read(row["comment"])
    invalid = row["datconnlimit"] == INVALID
    whole = mark is not None and mark.installation == installation and not invalid
    return Spare(row["datname"], mark if whole else None, invalid)
