"""The locks of the tables whose rows and numbers `ods migrate` changes, also those that an Admin API has."""

from collections.abc import Sequence

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from ods.registry.migrations.table_names import found

_TIMEOUT = "500ms"
"""Shorter than the second after which PostgreSQL ends one of the transactions that wait for each other."""
_IN_VAIN = ("55P03", "42P01")
"""SQLSTATEs: the lock was not to be had in that time; the table was given another name meanwhile."""


def lock_tables(connection: Connection, view: str) -> Sequence[str]:
    """Keep other sessions from the tables of instances, and from adding ODS instances; the former's names.

    Other products lock the ODS instances first, this service the instances. So locks that are not to be had
    soon are given back, and asked for again, until all are there.

    Args:
        connection: the transaction of the migrations, at whose end they are free again.
        view: the view through which this service uses its table. Its sessions lock it before that table.
    """
    before = connection.scalar(text("SELECT current_setting('lock_timeout')"))
    _set_timeout(connection, _TIMEOUT)
    while True:
        names = found(connection)
        tables = [view, *(f"adminapi.{name}" for name in names)]
        if _locked(connection, tables) and found(connection) == names:
            break
    _set_timeout(connection, str(before))
    return names


def _locked(connection: Connection, tables: Sequence[str]) -> bool:
    try:
        with connection.begin_nested():
            for table in tables:
                _lock_if_there(connection, table, "ACCESS EXCLUSIVE")
            _lock_if_there(connection, "dbo.odsinstances", "SHARE ROW EXCLUSIVE")
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) not in _IN_VAIN:
            raise
        return False
    return True


def _lock_if_there(connection: Connection, table: str, mode: str) -> None:
    if connection.scalar(text("SELECT to_regclass(:name)"), {"name": table}) is not None:
        connection.execute(text(f"LOCK TABLE {table} IN {mode} MODE"))


def _set_timeout(connection: Connection, timeout: str) -> None:
    connection.execute(text("SELECT set_config('lock_timeout', :timeout, true)"), {"timeout": timeout})
