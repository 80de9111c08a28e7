"""Both tables of instances in one registry, `dbinstances` and `odsinstancemanages`, become one.

An earlier release of this service has made its own beside that of an Admin API, or an early script of the
Admin API was run again. Only one of them may have rows. The other is set aside under another name; nothing is
dropped.
"""

from collections.abc import Collection, Sequence

from sqlalchemy import Connection, text

from registry.migrations.adoption import require_unique
from registry.migrations.conflicts import ConflictingRowsError
from registry.migrations.table_names import rename
from registry.storage.models import FIRST_NAME, RENAMED_TABLE

_SET_ASIDE = "{}_set_aside"

_SHARED = (
    "id, name, odsinstanceid, odsinstancename, databasetemplate, databasename, lastrefreshed,"
    " lastmodifieddate"
)
_HAS_OURS = """
SELECT FROM pg_attribute WHERE attrelid = 'adminapi.{table}'::regclass AND attname = 'jobnumber'
"""
_COPY = f"""
INSERT INTO adminapi.{{ours}} ({_SHARED}, status, operation) OVERRIDING SYSTEM VALUE
SELECT {_SHARED},
       CASE WHEN status = 'DeleteInProgress' THEN 'Pending_Delete' ELSE adminapi.state_of_status(status) END,
       CASE WHEN status LIKE '%Delete%' THEN 'Delete' ELSE 'Create' END
FROM adminapi.{{other}}
"""  # noqa: S608 - constants
_GO_ON_COUNTING = """
SELECT setval(pg_get_serial_sequence('adminapi.{ours}', 'id'), max(id)) FROM adminapi.{ours}
"""
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
        ConflictingRowsError: both have rows, or the rows of the Admin API's break a rule of instances.
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
    if other in filled:
        _copy_rows(connection, kept, other)
    for grant in connection.scalars(text(_GRANTS.format(ours=kept, other=other))).all():
        connection.execute(text(grant))
    rename(connection, other, _SET_ASIDE.format(other))
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
    require_unique(connection, f"adminapi.{other}", "adminapi.state_of_status(status)")
    connection.execute(text(_COPY.format(ours=ours, other=other)))
    connection.execute(text(_GO_ON_COUNTING.format(ours=ours)))


def _any(connection: Connection, query: str) -> bool:
    return bool(connection.scalar(text(f"SELECT EXISTS ({query})")))
