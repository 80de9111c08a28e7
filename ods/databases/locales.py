"""The encoding and the locale of a database: with others, a copy may refuse or re-sort what it is given."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import asyncpg
from pydantic import TypeAdapter

from ods.databases.constants import INVALID_CONNECTION_LIMIT
from ods.databases.errors import DatabaseFaultError
from ods.databases.statements import execute, fetch_row, fetch_rows

AFTER_UPDATE_OF_SYSTEM = "docs/operations/postgresql-versions.md#after-an-update-of-the-operating-system"
"""How to mend databases whose texts the operating system sorts otherwise than before."""

_Provider: TypeAlias = Literal["libc", "icu", "builtin"]
_LOCALE = """
SELECT pg_encoding_to_char(encoding) AS encoding, datcollate AS collate, datctype AS ctype,
       CASE datlocprovider WHEN 'i' THEN 'icu' WHEN 'b' THEN 'builtin' ELSE 'libc' END AS provider,
       -- Its column has another name in PostgreSQL 16.
       coalesce(to_jsonb(db) ->> 'datlocale', to_jsonb(db) ->> 'daticulocale') AS name,
       to_jsonb(db) ->> 'daticurules' AS rules
FROM pg_database AS db WHERE datname = $1
"""
_SORTED_ANEW = """
SELECT datname FROM pg_database
WHERE datcollversion IS NOT NULL AND datcollversion IS DISTINCT FROM pg_database_collation_actual_version(oid)
      AND datconnlimit <> $1
ORDER BY datname
"""
_CLAUSES: Mapping[_Provider, str] = {
    "libc": "LOCALE_PROVIDER libc",
    "icu": "LOCALE_PROVIDER icu ICU_LOCALE %4$L",
    "builtin": "LOCALE_PROVIDER builtin BUILTIN_LOCALE %4$L",
}
_REFUSALS = ("0A000", "22023", "42704", "42809", "42P17")
"""SQLSTATEs for an encoding, provider or locale that PostgreSQL does not know."""


@dataclass(frozen=True)
class Locale:
    """The encoding and the locale of a database, as `CREATE DATABASE` takes them.

    Of a provider other than the operating system (libc), `name` and `rules` are the locale.
    """

    encoding: str
    collate: str
    ctype: str
    provider: _Provider
    name: str | None = None
    rules: str | None = None

    @property
    def in_words(self) -> str:
        """For an error message."""
        provider = f" {self.name}" if self.name else ""
        return f"{self.encoding}, {self.collate}, {self.provider}{provider}"


_ADAPTER = TypeAdapter(Locale)


async def read_locale(session: asyncpg.Connection, database: str) -> Locale:
    """Those of a database."""
    row = await fetch_row(session, _LOCALE, database)
    if row is None:
        raise DatabaseFaultError(f"There is no database '{database}'.", retryable=True)
    return Locale(**row)


async def sorted_anew(session: asyncpg.Connection) -> list[str]:
    """The databases whose texts the operating system sorts otherwise than when their indexes were made.

    PostgreSQL makes no copy of them (its documentation of `ALTER DATABASE … REFRESH COLLATION VERSION`).
    """
    return [row["datname"] for row in await fetch_rows(session, _SORTED_ANEW, INVALID_CONNECTION_LIMIT)]


def parse_locale(fields: Any) -> Locale:  # noqa: ANN401 - of JSON
    """The locale in a backup's manifest.

    Raises:
        ValueError: it is none.
    """
    return _ADAPTER.validate_python(fields)


async def create_empty(session: asyncpg.Connection, database: str, locale: Locale, options: str) -> None:
    """Make an empty database; `options` are more clauses of `CREATE DATABASE`, with a space before them."""
    clauses = f" ENCODING %2$L LC_COLLATE %3$L LC_CTYPE %5$L {_CLAUSES[locale.provider]}"
    clauses += " ICU_RULES %6$L" if locale.rules else ""
    reasons = dict.fromkeys(
        _REFUSALS,
        f"The PostgreSQL server refuses the encoding and locale of the database ({locale.in_words})."
        " Install the locale there, then retry.",
    )
    await execute(
        session,
        f"CREATE DATABASE %1$I TEMPLATE template0{clauses}{options}",
        *(database, locale.encoding, locale.collate, locale.name or "", locale.ctype, locale.rules or ""),
        reasons=reasons,
    )
