"""Rights that the service's role lacks, on the ODS server and in a database that is to be copied online."""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager

import asyncpg

from ods.databases.constants import INSUFFICIENT_PRIVILEGE
from ods.databases.errors import DatabaseFaultError, translate_postgres_errors
from ods.databases.statements import fetch_row
from ods.registry.rights.missing import explanation, missing_grants
from ods.registry.rights.needs import server_needs, statistics_need

# PostgreSQL notes each owner in `pg_shdepend`, except the role that it was initialized with (10). In the
# copy, an extension makes its objects itself. Default privileges and user mappings are not given to roles.
#
# A role is given an object only if it has CREATE on its schema. In the copy, only the owner of the schema has
# that then: in `public`, which belongs to the owner of the database, the service's role.
_OUT_OF_REACH = """
WITH noted AS (
    SELECT classid, objid, refobjid AS owner FROM pg_shdepend
    WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND refclassid = 'pg_authid'::regclass AND deptype = 'o'
      AND classid NOT IN ('pg_extension'::regclass, 'pg_default_acl'::regclass, 'pg_user_mapping'::regclass)
    UNION ALL
    SELECT 'pg_class'::regclass, oid, relowner FROM pg_class
    WHERE relowner = 10 AND oid >= 16384 AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
    UNION ALL
    SELECT 'pg_namespace'::regclass, oid, nspowner FROM pg_namespace
    WHERE nspowner = 10 AND oid >= 16384 AND NOT starts_with(nspname, 'pg_')
    UNION ALL
    SELECT 'pg_proc'::regclass, oid, proowner FROM pg_proc WHERE proowner = 10 AND oid >= 16384
), owned AS (
    SELECT quote_ident(rolname) AS role,
           NOT pg_has_role(owner, 'SET') AS is_foreign,
           relkind IN ('r', 'p', 'S') AND NOT has_table_privilege(relation.oid, 'SELECT') AS is_unreadable,
           owner <> current_user::regrole AND NOT pg_has_role(
               owner,
               CASE nspowner WHEN 'pg_database_owner'::regrole THEN current_user::regrole ELSE nspowner END,
               'USAGE') AS is_misplaced
    FROM noted JOIN pg_roles ON pg_roles.oid = owner
    LEFT JOIN pg_class AS relation ON classid = 'pg_class'::regclass AND relation.oid = objid
    LEFT JOIN pg_proc ON classid = 'pg_proc'::regclass AND pg_proc.oid = objid
    LEFT JOIN pg_type ON classid = 'pg_type'::regclass AND pg_type.oid = objid
    LEFT JOIN pg_namespace ON pg_namespace.oid = coalesce(relnamespace, pronamespace, typnamespace)
    WHERE relpersistence IS DISTINCT FROM 't'
      AND NOT EXISTS (
          SELECT FROM pg_depend
          WHERE pg_depend.classid = noted.classid AND pg_depend.objid = noted.objid AND deptype = 'e'
      )
)
SELECT quote_ident(current_user) AS own,
       string_agg(DISTINCT role, ', ') FILTER (WHERE is_unreadable) AS unreadable,
       string_agg(DISTINCT role, ', ') FILTER (WHERE is_foreign OR is_unreadable) AS others,
       string_agg(DISTINCT role, ', ') FILTER (WHERE is_misplaced) AS misplaced
FROM owned WHERE current_setting('is_superuser') = 'off'
"""
_CLOSED = 'copy the instance closed ("mode": "closed").'


async def missing_on_server(
    session: asyncpg.Connection, templates: Iterable[str], groups: Iterable[str] = ()
) -> list[str]:
    """The statements that give the session's role what it lacks, membership in `groups` included."""
    with translate_postgres_errors({}):
        database = await session.fetchval("SELECT current_database()")
        return await missing_grants(session, server_needs(database, templates, groups))


def rights_fault(grants: Sequence[str]) -> DatabaseFaultError:
    """What to raise when the service's role lacks these `grants` on the server."""
    reason = explanation("the server of the ODS databases", grants)
    return DatabaseFaultError(reason, sqlstate=INSUFFICIENT_PRIVILEGE)


async def require_statistics(session: asyncpg.Connection) -> None:
    """Check that the session's role sees what sessions of other roles do: PostgreSQL hides it silently."""
    with translate_postgres_errors({}):
        grants = await missing_grants(session, [statistics_need()])
    if grants:
        raise rights_fault(grants)


@asynccontextmanager
async def grants_named(session: asyncpg.Connection, template: str) -> AsyncIterator[None]:
    """Add the grants to the reason of a step with `template` that is refused for a missing right."""
    try:
        yield
    except DatabaseFaultError as fault:
        if fault.sqlstate != INSUFFICIENT_PRIVILEGE:
            raise
        grants = await missing_on_server(session, [template])
        reason = f"{fault.reason} {'; '.join(grants)};" if grants else fault.reason
        raise DatabaseFaultError(reason, sqlstate=fault.sqlstate) from None


async def online_copy_obstacle(session: asyncpg.Connection, *, keeps_owners: bool) -> str | None:
    """Why the session's role could not copy the session's database online; None if it could.

    With `keeps_owners`, objects in the copy are given to the roles that own them in the source.
    """
    found = await fetch_row(session, _OUT_OF_REACH)
    if found is None:
        return None
    own, others, misplaced = found["own"], found["others"], found["misplaced"]
    if not keeps_owners:
        unreadable = found["unreadable"]
        return unreadable and (
            f"The role of ODS_MASTER_DSN, {own}, may not read all tables and sequences in its database that"
            f" belong to {unreadable}. Grant it (GRANT {unreadable} TO {own}), or {_CLOSED}"
        )
    if others is not None:
        return (
            f"The role of ODS_MASTER_DSN, {own}, is no member of the roles that own what is in its database,"
            f" and could not give it to them: {others}. Grant it (GRANT {others} TO {own}), or {_CLOSED}"
        )
    if misplaced is not None:
        return (
            "In its database are objects of roles that do not own the schemas which they are in, and could"
            f" not be given them in a copy: {misplaced}. Let them own these schemas, or {_CLOSED}"
        )
    return None
