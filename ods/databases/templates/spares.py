"""Spare databases: clones of a template that are made before a client requests an instance.

The registry does not know them. A spare has a private name with the id of its installation. Its comment,
written last, says of which template it is a copy, and of which state of that template. Without a comment it
is unfinished; with any other comment, it is none.

A session that claims, makes or removes a spare holds the advisory lock whose key is the spare's name.
"""

import json
import re
import uuid
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Self

import asyncpg

from ods.databases.constants import INVALID_CONNECTION_LIMIT, SPARE_PREFIX, UNREADABLE, private_prefix
from ods.databases.errors import DatabaseFaultError
from ods.databases.statements import fetch_row, fetch_rows, fetch_value
from ods.databases.templates.marks import generation_in

_NAME = re.compile(rf"{SPARE_PREFIX}[0-9a-f]{{16}}_[0-9a-f]{{32}}")
_ROWS = """
SELECT datname, db.oid::int8, db.xmin::text::int8, datallowconn, datconnlimit, description AS comment
FROM pg_database AS db
LEFT JOIN pg_shdescription ON objoid = db.oid AND classoid = 'pg_database'::regclass
WHERE starts_with(datname, $1) OR datname = ANY($2::text[])
ORDER BY random()  -- so that sessions which list them at the same time do not all try the same one first
"""
_STATE = """
SELECT oid::int8, xmin::text::int8 FROM pg_database WHERE datname = $1 AND NOT datallowconn
"""
_TRY_LOCK = "SELECT pg_try_advisory_lock(hashtextextended($1, 0))"
_UNLOCK = "SELECT pg_advisory_unlock(hashtextextended($1, 0))"


@dataclass(frozen=True)
class Fingerprint:
    """The state of a closed template: while it is the same, no session has changed the template.

    A closed database accepts no session. Opening or closing it changes `xmin` of its row in `pg_database`.
    """

    oid: int
    xmin: int


@dataclass(frozen=True)
class SpareMark:
    """What the comment of a ready spare says; the generation of its template is None if it is not known."""

    installation: str
    template: str
    fingerprint: Fingerprint
    size_bytes: int
    template_generation: int | None = None

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
                "generation": self.template_generation,
            }
        )

    @classmethod
    def read(cls, comment: str | None) -> Self | None:
        """What `comment` says; None if it is not the comment of a spare."""
        with suppress(*UNREADABLE):
            fields = json.loads(comment or "")
            state = Fingerprint(int(fields["oid"]), int(fields["xmin"]))
            return cls(
                *(fields["installation"], fields["template"], state, int(fields["bytes"])),
                template_generation=generation_in(fields["generation"]),
            )
        return None


@dataclass(frozen=True)
class Spare:
    """A spare database, as it was when it was listed."""

    name: str
    mark: SpareMark | None
    """None while it is unfinished."""
    invalid: bool
    """Whether a DROP of it was interrupted: then it counts as unfinished."""


@dataclass(frozen=True)
class SpareList:
    """The spares of an installation, and the states of those of its templates that are closed, by name."""

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
    return f"{private_prefix(SPARE_PREFIX, installation)}{uuid.uuid4().hex}"


def is_spare(database: str, comment: str | None) -> bool:
    """Whether this is a spare of any installation, finished or not."""
    return _NAME.fullmatch(database) is not None and (comment is None or SpareMark.read(comment) is not None)


async def list_spares(
    session: asyncpg.Connection, installation: str, templates: Collection[str]
) -> SpareList:
    """The spares of an installation, and the states of these templates, at one moment."""
    prefix = private_prefix(SPARE_PREFIX, installation)
    rows = await fetch_rows(session, _ROWS, prefix, list(templates))
    spares, states = [], {}
    for row in rows:
        name, comment, mark = row["datname"], row["comment"], SpareMark.read(row["comment"])
        is_ours = mark is None or mark.installation == installation
        if name.startswith(prefix) and is_spare(name, comment) and is_ours:
            invalid = row["datconnlimit"] == INVALID_CONNECTION_LIMIT
            spares.append(Spare(name, None if invalid else mark, invalid))
        if name in templates and not row["datallowconn"]:
            states[name] = Fingerprint(row["oid"], row["xmin"])
    return SpareList(spares, states)


async def fingerprint(session: asyncpg.Connection, template: str) -> Fingerprint | None:
    """The state of a template; None if it is open, or missing."""
    row = await fetch_row(session, _STATE, template)
    return None if row is None else Fingerprint(row["oid"], row["xmin"])


@asynccontextmanager
async def locked(session: asyncpg.Connection, key: str) -> AsyncIterator[bool]:
    """Hold the lock of a name, or the fence of an instance by its mark, while the body runs.

    Gives whether the lock was free: if another session holds it, the body runs without it.
    """
    acquired = await fetch_value(session, _TRY_LOCK, key)
    try:
        yield acquired
    finally:
        if acquired:
            with suppress(DatabaseFaultError):  # the session has ended, and with it the lock
                await fetch_value(session, _UNLOCK, key)
