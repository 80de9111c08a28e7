"""The table of the instances, which this service and an Admin API share under either of its two names.

It is `adminapi.dbinstances`; a script of the Admin API renames it to `adminapi.odsinstancemanages`, before
this service is installed, afterwards, or while it runs. So this service reads and writes through a view of a
name of its own, which stays with the table. Only the migrations name the table.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, text

from ods.registry.migrations import two_tables
from ods.registry.migrations.adopted_rows import adopt_rows
from ods.registry.migrations.conflicts import require_none
from ods.registry.migrations.database_rows import record_databases
from ods.registry.migrations.locks import lock_tables
from ods.registry.migrations.status_words import keep_in_step
from ods.registry.migrations.table_names import rename
from ods.registry.storage.models import FIRST_NAME, DbInstance

VIEW = f"adminapi.{DbInstance.__tablename__}"

_IN_THE_WAY = f"""
SELECT 'adminapi.{FIRST_NAME}' FROM pg_class
WHERE oid = to_regclass('adminapi.{FIRST_NAME}') AND relkind NOT IN ('r', 'p')
"""  # noqa: S608 - constants
_COLUMNS = """
SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
WHERE attrelid = CAST(:table AS regclass) AND attname = ANY (:names)
"""


def find(connection: Connection) -> str:
    """The name of the table, or the one that it will get if there is none; of two, one is set aside.

    Until the transaction ends, the running service waits, and no other session renames the table or writes
    to it.

    Raises:
        ConflictingRowsError: there are tables of both names, which cannot become one.
    """
    names = lock_tables(connection, VIEW)
    if len(names) > 1:
        return two_tables.make_one(connection)
    return names[0] if names else FIRST_NAME


@contextmanager
def under_first_name(connection: Connection, name: str) -> Iterator[None]:
    """While the block runs, the table `name` has the name that the migrations know.

    Raises:
        ConflictingRowsError: a view or the like has that name.
    """
    require_none(
        connection,
        "What is no table has the first name of the table of the instances",
        _IN_THE_WAY,
        remedy="Drop it, or give it another name",
    )
    rename(connection, name, FIRST_NAME)
    yield
    rename(connection, FIRST_NAME, name)


def share(connection: Connection, name: str) -> None:
    """Make or repair what lets this service use the table `name`, and adopt the rows that were added to it.

    Raises:
        ConflictingRowsError: these rows break a rule of instances.
    """
    table = f"adminapi.{name}"
    ours = {"table": table, "names": list(DbInstance.__table__.columns.keys())}
    columns = connection.scalar(text(_COLUMNS), ours)
    connection.execute(text(f"CREATE OR REPLACE VIEW {VIEW} AS SELECT {columns} FROM {table}"))  # noqa: S608 - the catalog's names
    keep_in_step(connection, name)
    record_databases(connection, name)
    if connection.scalar(text(f"SELECT EXISTS (SELECT FROM {table} WHERE jobnumber = 0)")):  # noqa: S608 - a constant
        adopt_rows(connection, table)
