"""Migrations of a registry database, with errors for the person at the terminal."""

import asyncpg
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from ods.databases.constants import INSUFFICIENT_PRIVILEGE
from ods.embedded.errors import CommandError
from ods.registry.migrations import upgrade
from ods.registry.migrations.conflicts import ConflictingRowsError


async def migrate(dsn: str) -> None:
    """Bring the registry database `dsn` up to date.

    Raises:
        CommandError: it cannot be reached, rows in it conflict with a migration, or a right is missing.
    """
    try:
        await upgrade(dsn)
    except ConflictingRowsError as error:
        raise CommandError(str(error)) from None
    except (OSError, asyncpg.PostgresError, SQLAlchemyError) as error:
        if isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) == INSUFFICIENT_PRIVILEGE:
            raise CommandError(
                "The role of ODS_ADMIN_DSN may not change the tables that are there;"
                " docs/production.md has the statements that hand them over."
            ) from None
        raise CommandError(
            f"The registry database cannot be migrated ({type(error).__name__});"
            " check ODS_ADMIN_DSN, or the admin_dsn of the tenant, and look at the log of its server."
        ) from None
