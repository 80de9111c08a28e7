"""Rights that the service's role lacks on the ODS server: which grants a step needs that was refused."""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager

import asyncpg

from ods.databases.constants import INSUFFICIENT_PRIVILEGE
from ods.databases.errors import DatabaseFaultError, translate_postgres_errors
from ods.registry.rights.missing import explanation, missing_grants
from ods.registry.rights.needs import server_needs, statistics_need


async def missing_on_server(
    session: asyncpg.Connection, templates: Iterable[str], groups: Iterable[str] = ()
) -> list[str]:
    """The statements that give the session's role what it lacks on the server.

    Args:
        session: a session on the maintenance database.
        templates: the databases that are cloned.
        groups: roles that the session's role must be a member of, beside those of PostgreSQL.

    Raises:
        DatabaseFaultError: the server is away, …
    """
    with translate_postgres_errors({}):
        database = await session.fetchval("SELECT current_database()")
        return await missing_grants(session, server_needs(database, templates, groups))


def rights_fault(grants: Sequence[str]) -> DatabaseFaultError:
    """What to raise when the service's role lacks rights on the server; its reason names the `grants`."""
    reason = explanation("the server of the ODS databases", grants)
    return DatabaseFaultError(reason, sqlstate=INSUFFICIENT_PRIVILEGE)


async def require_statistics(session: asyncpg.Connection) -> None:
    """Check that the session's role sees what sessions of other roles do: PostgreSQL hides it, unasked.

    Raises:
        DatabaseFaultError: it does not, and the reason names the grant; or the server is away, …
    """
    with translate_postgres_errors({}):
        grants = await missing_grants(session, [statistics_need()])
    if grants:
        raise rights_fault(grants)


@asynccontextmanager
async def grants_named(session: asyncpg.Connection, template: str) -> AsyncIterator[None]:
    """Add the grants to the reason of a step with `template` that is refused for a missing right.

    Raises:
        DatabaseFaultError: the step failed.
    """
    try:
        yield
    except DatabaseFaultError as fault:
        if fault.sqlstate != INSUFFICIENT_PRIVILEGE:
            raise
        grants = await missing_on_server(session, [template])
        reason = f"{fault.reason} {'; '.join(grants)};" if grants else fault.reason
        raise DatabaseFaultError(reason, sqlstate=fault.sqlstate) from None
