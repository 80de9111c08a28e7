"""Rights within a database, on schemas, tables and sequences: a dump without privileges has none of them.

They are read when a backup is made, and given again in a database that was restored from it, to the roles
that are there. What they are given on belongs to the service's role by then.
"""

import json
from typing import Any, TypeAlias

import asyncpg

from databases.errors import translate_postgres_errors
from databases.statements import fetch_rows, fetch_value

Rights: TypeAlias = list[Any]
"""Objects of JSON: `kind`, `schema`, `name` (of the table or sequence, or empty), `role`, `privileges`."""

# What is restored belongs to the service's role: another owner, as which the ODS/API may connect, needs its
# rights as any other role does. The role of PUBLIC is written as the empty text. What an extension makes
# has the rights in a copy that the extension gives.
_RIGHTS = """
SELECT kind, nspname AS schema, name, coalesce(rolname, '') AS role,
       array_agg(privilege_type ORDER BY privilege_type) AS privileges
FROM (
    SELECT 'pg_namespace'::regclass AS class, oid, 'SCHEMA' AS kind, nspname, '' AS name,
           coalesce(nspacl, acldefault('n', nspowner)) AS acl
    FROM pg_namespace
    UNION ALL
    SELECT 'pg_class'::regclass, pg_class.oid, CASE relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END,
           nspname, relname,
           coalesce(relacl, acldefault(CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", relowner))
    FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
) AS object, aclexplode(acl) AS held LEFT JOIN pg_roles ON pg_roles.oid = held.grantee
WHERE coalesce(rolname NOT IN (current_user, 'pg_database_owner'), held.grantee = 0)
  AND nspname <> 'information_schema' AND NOT starts_with(nspname, 'pg_')
  AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = class AND objid = object.oid AND deptype = 'e')
GROUP BY kind, nspname, name, rolname ORDER BY kind, nspname, name, rolname
"""
_GRANTS = """
SELECT string_agg(format('GRANT %s ON %s %s TO %s', array_to_string(privileges, ', '), kind,
    CASE kind WHEN 'SCHEMA' THEN quote_ident(schema) ELSE format('%I.%I', schema, name) END,
    CASE role WHEN '' THEN 'PUBLIC' ELSE quote_ident(role) END), '; ')
FROM jsonb_to_recordset($1::jsonb) AS wanted (kind text, schema text, name text, role text, privileges text[])
LEFT JOIN pg_roles ON rolname = role
WHERE (role = '' OR rolname IS NOT NULL) AND kind IN ('SCHEMA', 'TABLE', 'SEQUENCE')
  AND cardinality(privileges) > 0
  AND privileges <@ ARRAY['CREATE', 'USAGE', 'SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES',
                          'TRIGGER', 'MAINTAIN']
  AND CASE kind WHEN 'SCHEMA' THEN to_regnamespace(quote_ident(schema)) IS NOT NULL
      ELSE to_regclass(format('%I.%I', schema, name)) IS NOT NULL END
"""


async def read_rights(session: asyncpg.Connection) -> Rights:
    """The rights of roles other than that of the session, in its database.

    Raises:
        DatabaseFaultError: the server is away, …
    """
    return [dict(row) for row in await fetch_rows(session, _RIGHTS)]


async def give_rights(session: asyncpg.Connection, rights: Rights) -> None:
    """Give these rights in the database of the session, as far as roles and objects are there: all or none.

    Raises:
        DatabaseFaultError: one cannot be given, the server is away, …
    """
    statements = await fetch_value(session, _GRANTS, json.dumps(rights))
    if statements:
        with translate_postgres_errors({}):
            await session.execute(statements)
