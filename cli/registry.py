"""The service's settings and its registry's migrations; what fails is told to the person at the terminal."""

import asyncpg
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from cli.errors import CommandError
from databases.errors import INSUFFICIENT_PRIVILEGE
from instances.migrations import upgrade
from instances.migrations.conflicts import ConflictingRowsError
from settings import InvalidSettingsError, Settings


def load_settings() -> Settings:
    """The settings of the environment.

    Raises:
        CommandError: a variable is missing or has an unusable value.
    """
    try:
        return Settings.load()
    except InvalidSettingsError as error:
        raise CommandError(str(error)) from None


async def migrate(dsn: str) -> None:
    """Bring the registry database `dsn` up to date.

    Raises:
        CommandError: it cannot be reached, or rows in it are in the way.
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
            " check ODS_ADMIN_DSN, and look at the log of its server."
        ) from None
