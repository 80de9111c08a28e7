"""Brings a registry database up to date, adopting the tables an ODS/API or Admin API left there."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

from registry.storage.engine import create_registry_engine

_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('ods registry migrations', 0))"


async def upgrade(dsn: str) -> None:
    """Run the migrations that the registry database `dsn` lacks, in one transaction.

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


def _upgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
