"""Alembic's environment: the connection, and with it the transaction, comes from `upgrade`."""

from alembic import context

from ods.registry.migrations import VERSION_TABLE
from ods.registry.storage.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE["version_table"],
    version_table_schema=VERSION_TABLE["version_table_schema"],
)
context.run_migrations()
