"""Each row of the table of the instances, also one that an Admin API adds, has a row of its own database.

A trigger adds it, and stays with the table when that is renamed.
"""

from sqlalchemy import Connection, text

TRIGGER = "record_database"
"""The trigger on the table, and the function that it runs."""

_INSERT = "INSERT INTO adminapi.databases (instanceid, databaseid, databasetemplate)"
# The role of an Admin API needs no right on the table of the databases.
_FUNCTION = f"""
CREATE OR REPLACE FUNCTION adminapi.{TRIGGER}() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    {_INSERT} VALUES (NEW.id, NEW.databaseid, NEW.databasetemplate) ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$
"""  # noqa: S608 - constants
_ADD_MISSING = f"""
{_INSERT} SELECT id, databaseid, databasetemplate FROM adminapi.{{table}} AS instance WHERE NOT EXISTS (
    SELECT FROM adminapi.databases AS own
    WHERE own.instanceid = instance.id AND own.databaseid = instance.databaseid
)
"""  # noqa: S608 - constants
_TRIGGER = """
CREATE OR REPLACE TRIGGER {trigger} AFTER INSERT OR UPDATE OF id, databaseid ON adminapi.{table}
    FOR EACH ROW EXECUTE FUNCTION adminapi.{trigger}()
"""


def record_databases(connection: Connection, name: str) -> None:
    """Add the rows of databases that rows of the table `name` lack, and let none lack one from now on."""
    connection.execute(text(_FUNCTION))
    connection.execute(text(f"REVOKE EXECUTE ON FUNCTION adminapi.{TRIGGER}() FROM PUBLIC"))
    connection.execute(text(_TRIGGER.format(trigger=TRIGGER, table=name)))
    connection.execute(text(_ADD_MISSING.format(table=name)))
