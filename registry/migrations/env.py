"""Alembic's environment: the connection, and with it the transaction, comes from `upgrade`."""

from alembic import context

from registry.storage.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table="ods_migrations",
    version_table_schema="adminapi",
)
context.run_migrations()
