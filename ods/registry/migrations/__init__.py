"""Brings a registry database up to date, adopting the tables an ODS/API or Admin API left there."""

import logging
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from ods.registry.migrations import shared_table, status_words
from ods.registry.storage.engine import create_registry_engine

VERSION_TABLE = {"version_table": "ods_migrations", "version_table_schema": "adminapi"}
"""Where Alembic notes which migrations were run."""

_logger = logging.getLogger(__name__)

_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('ods registry migrations', 0))"


async def upgrade(dsn: str) -> None:
    """Run the migrations that the registry database `dsn` lacks, in one transaction.

    The tables of a later release are left as they are: this one works with them.

    Raises:
        ConflictingRowsError: existing rows break a rule of the registry; nothing was changed.
    """
    engine = create_registry_engine(dsn, pool_size=1, statement_timeout=None)
    try:
        async with engine.begin() as connection:
            await connection.execute(text(_LOCK))
            await connection.execute(text("CREATE SCHEMA IF NOT EXISTS adminapi"))
            await connection.run_sync(_upgrade)
    finally:
        await engine.dispose()


def revisions() -> list[str]:
    """The revisions of the registry's tables, the newest first."""
    scripts = ScriptDirectory.from_config(_config())
    return [script.revision for script in scripts.walk_revisions()]


def _upgrade(connection: Connection) -> None:
    done = {*MigrationContext.configure(connection, opts=VERSION_TABLE).get_current_heads()}
    known = revisions()
    if later := done.difference(known):
        _logger.warning(
            "The registry has the tables of a later release (%s): they stay.", ", ".join(sorted(later))
        )
        return
    status_words.create_functions(connection)
    name = shared_table.find(connection)
    if known[0] not in done:
        config = _config()
        config.attributes["connection"] = connection
        with shared_table.under_first_name(connection, name):
            command.upgrade(config, "head")
    shared_table.share(connection, name)


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    return config
