"""Constants of PostgreSQL, and prefixes of the names of our own databases, that several modules use.

SQLSTATEs are those of PostgreSQL's documentation, appendix A.
"""

import uuid

APPLICATION_NAME = "ods instance management"
"""What `pg_stat_activity` shows of our sessions."""

PROGRAMS = ("pg_dump", "pg_restore")
"""The programs that read and fill databases."""

UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)
"""What reading the JSON of a comment may raise: a comment may be anything, and nested as deep as it likes."""

DISK_FULL = "53100"
DIVISION_BY_ZERO = "22012"
INSUFFICIENT_PRIVILEGE = "42501"
INTERNAL_ERROR = "XX000"
"""Among others: two sessions changed one row of a catalogue at once ("tuple concurrently updated")."""
LOCK_NOT_AVAILABLE = "55P03"
OBJECT_IN_USE = "55006"
QUERY_CANCELED = "57014"
UNDEFINED_DATABASE = "3D000"
UNDEFINED_OBJECT = "42704"
WRONG_OBJECT_TYPE = "42809"

NAME_IN_USE = {"42P04", "23505"}
"""duplicate_database; unique_violation, if the other session commits its CREATE or RENAME meanwhile."""

INVALID_CONNECTION_LIMIT = -2
"""`datconnlimit` of a database whose DROP was interrupted: it can only be dropped again."""

_SHOWN_BYTES = 63
"""How much of the name of an application PostgreSQL shows."""

STAGING_PREFIX = "ods_staging_"
"""Begins the private name of an instance's database until it is published; its mark is at the end."""
SPARE_PREFIX = "ods_spare_"
SCRATCH_PREFIX = "ods_scratch_"
"""Of a database that a backup is restored to in order to be verified."""
TEMPLATE_PREFIX = "ods_template_"
"""Of a template that is being loaded, or was replaced."""


def private_prefix(kind: str, installation: str) -> str:
    """How an installation's private names of such a kind begin; a part that differs for each follows."""
    return f"{kind}{uuid.UUID(installation).hex[:16]}_"


def program_name(program: str, label: str) -> str:
    """What `pg_stat_activity` shows of the sessions of such a program, which works for `label`.

    Cut as PostgreSQL cuts it: `ods.databases.dropping.end_programs` must find it.
    """
    return f"{program} {label}"[:_SHOWN_BYTES]
