"""Which of its rights the service's role lacks, asked of PostgreSQL's catalogues.

A refusal of PostgreSQL (SQLSTATE 42501) names the object in a sentence, in the language of the server, and no
privilege at all. So the catalogues are asked instead which needs are not met.
"""

from collections.abc import Sequence
from typing import Any

import asyncpg
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from ods.registry.rights.needs import Need, registry_needs

_NO_LOGIN = ("GRANT CONNECT ON its database TO the role of ODS_ADMIN_DSN",)


class MissingRightsError(SQLAlchemyError):
    """The service's role lacks rights on the registry; the message names the grants.

    Attributes:
        grants: the statements that give them; none if all rights that are known to be needed are there.
    """

    def __init__(self, grants: Sequence[str]) -> None:
        super().__init__(explanation("the registry", grants))
        self.grants = grants


def explanation(where: str, grants: Sequence[str]) -> str:
    """What is wrong, and what a database administrator can do about it.

    Args:
        where: "the registry", or the server.
        grants: the statements that give the missing rights.
    """
    if not grants:
        return (
            f"The role of the service lacks a right on {where}. The log of PostgreSQL tells which; `ods"
            " grants` prints those that it usually needs."
        )
    return f"The role of the service lacks rights on {where}. Have them granted: {'; '.join(grants)};"


def is_missing_right(error: BaseException) -> bool:
    """Whether PostgreSQL refused because of a right, be it a statement of SQLAlchemy's or a login."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return getattr(cause, "sqlstate", None) == asyncpg.InsufficientPrivilegeError.sqlstate


async def missing_grants(session: asyncpg.Connection, needs: Sequence[Need]) -> list[str]:
    """The statements that give the session's role what it lacks of `needs`; it takes one query.

    What is not there, such as a table of another product, is not missed.
    """
    role = await session.fetchval("SELECT quote_ident(current_user)")
    conditions = [condition for need in needs for condition in need.held.values()]
    held = iter(await session.fetchval(f"SELECT ARRAY[{', '.join(conditions)}]"))
    lacking = [[privilege for privilege in need.held if next(held) is False] for need in needs]
    return [
        need.grant(", ".join(privileges), role)
        for need, privileges in zip(needs, lacking, strict=True)
        if privileges
    ]


async def missing_in_registry(engine: AsyncEngine) -> list[str]:
    """The statements that give the service's role what it lacks in a registry."""
    async with engine.connect() as connection:
        raw: Any = await connection.get_raw_connection()
        session: asyncpg.Connection = raw.driver_connection
        database = await session.fetchval("SELECT current_database()")
        return await missing_grants(session, registry_needs(database))


async def missing_rights_error(engine: AsyncEngine) -> MissingRightsError:
    """What to raise when the registry has refused something because of a right."""
    try:
        return MissingRightsError(await missing_in_registry(engine))
    except (SQLAlchemyError, asyncpg.PostgresError, OSError) as error:
        # That a role may not log in is refused with the same SQLSTATE.
        return MissingRightsError(_NO_LOGIN if is_missing_right(error) else ())
