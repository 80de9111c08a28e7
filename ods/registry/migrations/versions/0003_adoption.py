"""What tables lack that an ODS/API or an Admin API made.

Nothing is taken from them: columns are added, widened, and relieved of what keeps this service from writing.
"""

from alembic import op
from sqlalchemy import inspect, text

from ods.registry.migrations.conflicts import require_none

revision = "0003"
down_revision = "0002"

_COLUMNS = """
ALTER TABLE dbo.odsinstances
    ADD COLUMN IF NOT EXISTS instancetype varchar(100),
    ADD COLUMN IF NOT EXISTS connectionstring varchar(1500);
ALTER TABLE dbo.odsinstances ALTER COLUMN instancetype DROP NOT NULL;
ALTER TABLE dbo.odsinstancederivatives ADD COLUMN IF NOT EXISTS connectionstring varchar(1500);
ALTER TABLE dbo.apiclientodsinstances ADD COLUMN IF NOT EXISTS apiclientodsinstanceid serial;
ALTER TABLE adminapi.applications
    ADD COLUMN IF NOT EXISTS clientsecret text,
    ADD COLUMN IF NOT EXISTS displayname varchar(256),
    ADD COLUMN IF NOT EXISTS permissions text
"""

_WIDEST = 1_000_000_000
_TYPES = {
    ("dbo", "odsinstances", "connectionstring"): ("varchar(1500)", 1500),
    ("dbo", "odsinstancederivatives", "connectionstring"): ("varchar(1500)", 1500),
    ("adminapi", "jobstatuses", "errormessage"): ("text", _WIDEST),
}
_LENGTH = """
SELECT character_maximum_length FROM information_schema.columns
WHERE table_schema = :schema AND table_name = :table AND column_name = :column
"""

_UNIQUE = {
    ("dbo", "odsinstances", "odsinstanceid"): ("name", "instancetype"),
    ("dbo", "odsinstancecontexts", "odsinstancecontextid"): ("odsinstance_odsinstanceid", "contextkey"),
    ("dbo", "odsinstancederivatives", "odsinstancederivativeid"): (
        "odsinstance_odsinstanceid",
        "derivativetype",
    ),
    ("adminapi", "applications", "id"): ("clientid",),
    ("adminapi", "jobstatuses", "id"): ("jobid",),
}

# Columns that must not be empty and have no default, besides those that every row gets that is written here.
# A neutral value would break a foreign key or another rule of the column.
_DEMANDING = """
SELECT relation, attname, typcategory::text, EXISTS (
    SELECT FROM pg_constraint
    WHERE conrelid = attrelid AND attnum = ANY (conkey) AND contype IN ('c', 'f', 'p', 'u')
) AS has_rules
FROM (VALUES
    ('dbo.odsinstances', '{odsinstanceid, name}'),
    ('dbo.odsinstancecontexts', '{odsinstance_odsinstanceid, contextkey, contextvalue}'),
    ('dbo.odsinstancederivatives', '{odsinstance_odsinstanceid, derivativetype, connectionstring}'),
    ('adminapi.applications', '{clientid, clientsecret, displayname}'),
    ('adminapi.dbinstances', '{name, odsinstanceid, status, databasetemplate, databasename, operation}'),
    ('adminapi.jobstatuses', '{jobid, status, createdat}')
) AS written (relation, columns)
JOIN pg_attribute ON attrelid = relation::regclass AND attname <> ALL (columns::text[])
JOIN pg_type ON pg_type.oid = atttypid
WHERE attnum > 0 AND NOT attisdropped AND attnotnull AND NOT atthasdef AND attidentity = ''
"""
_NEUTRAL = {"S": "''", "N": "0", "B": "false", "D": "now()"}
"""By the category of their type, the default of columns that this service does not know."""


def upgrade() -> None:
    """Add and widen columns, then set the rules, unless rows break them."""
    for statement in _COLUMNS.split(";"):
        op.execute(text(statement))
    _widen()
    _relieve()
    for (schema, table, key), columns in _UNIQUE.items():
        if not _is_unique(schema, table, columns):
            _make_unique(schema, table, key, columns)


def _widen() -> None:
    for (schema, table, column), (wanted, length) in _TYPES.items():
        where = {"schema": schema, "table": table, "column": column}
        found = op.get_bind().scalar(text(_LENGTH), where)
        if found is not None and found < length:
            op.execute(text(f"ALTER TABLE {schema}.{table} ALTER COLUMN {column} TYPE {wanted}"))


def _relieve() -> None:
    categories = ", ".join(f"'{category}'" for category in _NEUTRAL)
    require_none(
        "Columns must not be empty, and have no default",
        f"SELECT format('%s.%I', relation, attname) FROM ({_DEMANDING}) AS demanding"  # noqa: S608 - constants
        f" WHERE has_rules OR typcategory NOT IN ({categories})",
        remedy="Give them a default, or let them be empty",
    )
    for relation, column, category, _ in op.get_bind().execute(text(_DEMANDING)).all():
        op.alter_column(
            relation.partition(".")[2],
            column,
            schema=relation.partition(".")[0],
            server_default=text(_NEUTRAL[category]),
        )


def _is_unique(schema: str, table: str, columns: tuple[str, ...]) -> bool:
    return any(
        index["unique"]
        and set(index["column_names"]) == set(columns)
        and not index["dialect_options"].get("postgresql_where")
        for index in inspect(op.get_bind()).get_indexes(table, schema)
    )


def _make_unique(schema: str, table: str, key: str, columns: tuple[str, ...]) -> None:
    listed = ", ".join(columns)
    require_none(
        f"Rows of {schema}.{table} share {' and '.join(columns)}",
        f"SELECT format('ids %s: %s', string_agg({key}::text, ', ' ORDER BY {key}), concat_ws(' ', {listed}))"  # noqa: S608 - constants
        f" FROM {schema}.{table} WHERE num_nulls({listed}) = 0"
        f" GROUP BY {listed} HAVING count(*) > 1 ORDER BY min({key})",
    )
    op.create_unique_constraint(None, table, list(columns), schema=schema)
