"""Both tables of instances in one registry, `dbinstances` and `odsinstancemanages`, become one.

An early script of the Admin API was run again after a later one, or a later one beside the table of this
service. Only one of them may have rows. The other is set aside under another name; nothing is dropped.
"""

from collections.abc import Collection, Sequence
from itertools import chain, count

from sqlalchemy import Connection, text

from ods.registry.migrations import database_rows, numbers
from ods.registry.migrations.adopted_rows import require_unique
from ods.registry.migrations.conflicts import ConflictingRowsError, require_none
from ods.registry.migrations.status_words import TRIGGER
from ods.registry.migrations.table_names import exists, rename
from ods.registry.storage.models import FIRST_NAME, RENAMED_TABLE

_SHARED = (
    "id, name, odsinstanceid, odsinstancename, databasetemplate, databasename, lastrefreshed,"
    " lastmodifieddate"
)
_HAS_OURS = """
SELECT FROM pg_attribute WHERE attrelid = 'adminapi.{table}'::regclass AND attname = 'jobnumber'
"""
# What is being deleted waits for its delete. The trigger gives the rows `state` and `operation`.
_COPY = f"""
INSERT INTO adminapi.{{ours}} ({_SHARED}, status) OVERRIDING SYSTEM VALUE
SELECT {_SHARED},
       CASE WHEN status = 'DeleteInProgress' THEN 'Pending_Delete' ELSE adminapi.state_of_status(status) END
FROM adminapi.{{other}}
"""  # noqa: S608 - constants
# What other products have given the one table, and the other would not have.
_LOST = f"""
SELECT format('column %I', attname) FROM pg_attribute
WHERE attrelid = 'adminapi.{{other}}'::regclass AND attnum > 0 AND NOT attisdropped AND attname NOT IN (
    SELECT attname FROM pg_attribute
    WHERE attrelid = 'adminapi.{{kept}}'::regclass AND NOT attisdropped)
UNION ALL
SELECT format('foreign key %I of %s', conname, conrelid::regclass) FROM pg_constraint
WHERE contype = 'f' AND 'adminapi.{{other}}'::regclass IN (conrelid, confrelid)
UNION ALL
SELECT format('trigger %I', tgname) FROM pg_trigger
WHERE tgrelid = 'adminapi.{{other}}'::regclass AND NOT tgisinternal
    AND tgname NOT IN ('{TRIGGER}', '{database_rows.TRIGGER}')
"""  # noqa: S608 - constants
_GRANTS = """
SELECT format('GRANT %s ON adminapi.{ours} TO %s', string_agg(privilege_type, ', '),
              CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END)
FROM pg_class, aclexplode(coalesce(relacl, acldefault('r', relowner)))
WHERE pg_class.oid = 'adminapi.{other}'::regclass
GROUP BY grantee
"""


def make_one(connection: Connection) -> str:
    """Leave one of the two tables, with all rows; returns its name.

    Raises:
        ConflictingRowsError: both have rows, the rows of the Admin API's break a rule of instances, or its
            table has what the other one lacks.
    """
    both = (FIRST_NAME, RENAMED_TABLE)
    filled = [name for name in both if _any(connection, f"SELECT FROM adminapi.{name}")]
    if len(filled) > 1:
        raise ConflictingRowsError(
            f"Both adminapi.{FIRST_NAME} and adminapi.{RENAMED_TABLE} have rows. Move those of the Admin"
            " API to the other table, as docs/operations/beside-an-admin-api.md shows, then migrate again."
        )
    kept = _kept(connection, both, filled)
    (other,) = (name for name in both if name != kept)
    require_none(
        connection,
        f"adminapi.{other} has what adminapi.{kept}, which takes its place, lacks",
        _LOST.format(other=other, kept=kept),
        remedy=f"Give it to adminapi.{kept}, and drop it from the other",
    )
    if other in filled:
        _copy_rows(connection, kept, other)
    for grant in connection.scalars(text(_GRANTS.format(ours=kept, other=other))).all():
        connection.exec_driver_sql(grant)
    rename(connection, other, _free_name(connection, f"{other}_set_aside"))
    # It may be the one that the Admin API does not know any more.
    rename(connection, kept, RENAMED_TABLE)
    return RENAMED_TABLE


def _kept(connection: Connection, both: Sequence[str], filled: Collection[str]) -> str:
    """The table that stays: the one with our columns, or else the one with rows."""
    with_ours = [name for name in both if _any(connection, _HAS_OURS.format(table=name))]
    # Of two with our columns, or of two without, the one with rows.
    candidates = with_ours or list(both)
    return next((name for name in candidates if name in filled), candidates[-1])


def _copy_rows(connection: Connection, ours: str, other: str) -> None:
    tables = (f"adminapi.{ours}", f"adminapi.{other}")
    require_unique(connection, tables[1], "adminapi.state_of_status(status)")
    connection.execute(text(_COPY.format(ours=ours, other=other)))
    numbers.go_on_after(connection, tables[0], numbers.highest(connection, *tables))


def _free_name(connection: Connection, wanted: str) -> str:
    """`wanted`, with a number if a table that was set aside before has that name."""
    names = chain((wanted,), (f"{wanted}_{number}" for number in count(2)))
    return next(name for name in names if not exists(connection, name))


def _any(connection: Connection, query: str) -> bool:
    return bool(connection.scalar(text(f"SELECT EXISTS ({query})")))
