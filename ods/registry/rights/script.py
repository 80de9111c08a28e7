"""The statements that give the service's role what it needs.

A database administrator runs them, or `ods migrate` runs those of the registry as the tables' owner.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import asyncpg

from ods.registry.rights.needs import Need, literal, quoted, registry_needs


@dataclass(frozen=True)
class Part:
    """What a role needs in one database.

    Attributes:
        title: what the database is.
        role: the role of the service there.
        database: the database to run the statements in.
        needs: what the role needs.
    """

    title: str
    role: str
    database: str
    needs: Sequence[Need]


def script(parts: Sequence[Part]) -> Iterator[str]:
    """The lines of a script for psql; it may be run again at any time."""
    roles = ", ".join(dict.fromkeys(quoted(part.role) for part in parts))
    yield f"-- What the service needs as the role {roles}, and no more: for psql, as a superuser."
    yield "-- The role is there, and `ods migrate`, as the tables' owner, has made what they lacked."
    for part in parts:
        yield ""
        yield f"-- {part.title}"
        yield f"\\connect {quoted(part.database)}"
        yield from (_line(need, part.role) for need in part.needs)


async def grant(session: asyncpg.Connection, role: str) -> list[str]:
    """Give a role what the service's role needs in a registry; returns the statements that were refused.

    Those are about tables of other products, which do not belong to the session's role.

    Args:
        session: of the tables' owner, on the registry.
        role: its name.

    Raises:
        asyncpg.UndefinedObjectError: there is no such role.
    """
    refused = []
    for need in registry_needs(await session.fetchval("SELECT current_database()")):
        statement = _line(need, role)
        try:
            await session.execute(statement)
        except asyncpg.InsufficientPrivilegeError:
            refused.append(statement)
    return refused


def _line(need: Need, role: str) -> str:
    statement = need.grant(", ".join(need.held), quoted(role))
    if need.only_if is None:
        return f"{statement};"
    return f"DO $$ BEGIN IF {need.only_if(literal(role))} THEN {statement}; END IF; END $$;"
