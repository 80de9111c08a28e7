"""Rights within a database: read when a backup is made, and given again in what is restored from it.

A dump without privileges has none of them, and what is restored belongs to the service's role.
"""

import json
from typing import Any, TypeAlias

import asyncpg

from ods.databases.errors import translate_postgres_errors
from ods.databases.statements import fetch_rows, fetch_value

Rights: TypeAlias = list[Any]
"""Objects of JSON, one for each role and object: `kind`, `schema`, `name` and `part` of the object; `role`,
which is empty for PUBLIC; `privileges`; `grantable`, whether the role may give them to others.

| kind | name | part |
|---|---|---|
| SCHEMA | empty | empty |
| TABLE, SEQUENCE, TYPE | its name | empty |
| COLUMN | of the table | of the column |
| ROUTINE | its name | the types of its arguments but those of OUT |
| DEFAULT | TABLES, SEQUENCES, FUNCTIONS, TYPES or SCHEMAS | the role that makes them; empty: the service's |

DEFAULT are rights on objects to be made, in all schemas if `schema` is empty. An entry of PUBLIC without
privileges says that it has not those that PostgreSQL gives it by default.
"""

# What is restored belongs to the service's role, or to the owner $1 of `RestoreLogin`: any other role needs
# its rights, a former owner included. An extension gives the rights on its objects itself.
_RIGHTS = """
SELECT kind, coalesce(nspname, '') AS schema, name, part, role, grantable, privileges
FROM (
    SELECT 'pg_namespace'::regclass AS class, oid, 'SCHEMA' AS kind, oid AS namespace, '' AS name, '' AS part,
           coalesce(nspacl, acldefault('n', nspowner)) AS acl, true AS open, NULL::oid AS creator
    FROM pg_namespace
    UNION ALL
    SELECT 'pg_class'::regclass, oid, CASE relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, relnamespace,
           relname, '',
           coalesce(relacl, acldefault(CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", relowner)),
           false, NULL
    FROM pg_class WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
    UNION ALL
    SELECT 'pg_class'::regclass, attrelid, 'COLUMN', relnamespace, relname, attname, attacl, false, NULL
    FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid WHERE attacl IS NOT NULL AND NOT attisdropped
    UNION ALL
    SELECT 'pg_proc'::regclass, oid, 'ROUTINE', pronamespace, proname, oidvectortypes(proargtypes), proacl,
           true, NULL
    FROM pg_proc WHERE proacl IS NOT NULL
    UNION ALL
    SELECT 'pg_type'::regclass, oid, 'TYPE', typnamespace, typname, '', typacl, true, NULL
    FROM pg_type WHERE typacl IS NOT NULL
    UNION ALL
    SELECT 'pg_default_acl'::regclass, oid, 'DEFAULT', defaclnamespace,
           CASE defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES' WHEN 'f' THEN 'FUNCTIONS'
               WHEN 'T' THEN 'TYPES' ELSE 'SCHEMAS' END,
           CASE pg_get_userbyid(defaclrole) WHEN current_user THEN '' ELSE pg_get_userbyid(defaclrole) END,
           defaclacl, defaclnamespace = 0, defaclrole
    FROM pg_default_acl WHERE defaclobjtype IN ('r', 'S', 'f', 'T', 'n')
) AS object
LEFT JOIN pg_namespace AS ns ON ns.oid = namespace
CROSS JOIN LATERAL (
    SELECT coalesce(rolname, '') AS role, is_grantable AS grantable,
           array_agg(privilege_type ORDER BY privilege_type) AS privileges
    FROM aclexplode(acl) AS held LEFT JOIN pg_roles ON pg_roles.oid = held.grantee
    WHERE coalesce(
            rolname NOT IN (current_user, 'pg_database_owner', coalesce($1::text, '')), held.grantee = 0)
        AND held.grantee IS DISTINCT FROM creator
    GROUP BY rolname, is_grantable
    UNION ALL
    SELECT '', false, '{}' WHERE open AND NOT EXISTS (SELECT FROM aclexplode(acl) WHERE grantee = 0)
) AS held
WHERE (namespace = 0 OR nspname <> 'information_schema' AND NOT starts_with(nspname, 'pg_'))
  AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = class AND objid = object.oid AND deptype = 'e')
ORDER BY kind, schema, name, part, role, grantable
"""
# Rights on columns are given last: a REVOKE on the table would take them away. Two procedures can have the
# same types of arguments without their modes, IN or OUT; two functions, aggregates included, can not.
_GRANTS = """
SELECT string_agg(
    CASE WHEN role = '' AND (kind IN ('SCHEMA', 'ROUTINE', 'TYPE') OR kind = 'DEFAULT' AND schema = '')
        THEN format('%sREVOKE ALL ON %s FROM PUBLIC; ', defaults, object) ELSE '' END
    || CASE WHEN privileges <> '{}'
        THEN format('%sGRANT %s ON %s TO %s%s; ', defaults, wanted, object,
                    CASE role WHEN '' THEN 'PUBLIC' ELSE quote_ident(role) END,
                    CASE WHEN grantable THEN ' WITH GRANT OPTION' ELSE '' END) ELSE '' END,
    '' ORDER BY kind = 'COLUMN')
FROM jsonb_to_recordset($1::jsonb) AS rights (
    kind text, schema text, name text, part text, role text, privileges text[], grantable boolean)
LEFT JOIN pg_roles ON rolname = role
CROSS JOIN LATERAL (
    SELECT CASE kind
        WHEN 'SCHEMA' THEN 'SCHEMA ' || to_regnamespace(quote_ident(schema))::text
        WHEN 'TABLE' THEN 'TABLE ' || to_regclass(format('%I.%I', schema, name))::text
        WHEN 'SEQUENCE' THEN 'SEQUENCE ' || to_regclass(format('%I.%I', schema, name))::text
        WHEN 'COLUMN' THEN 'TABLE ' || (
            SELECT attrelid::regclass::text FROM pg_attribute
            WHERE attrelid = to_regclass(format('%I.%I', schema, name)) AND attname = part)
        WHEN 'ROUTINE' THEN (
            SELECT CASE prokind
                WHEN 'p' THEN format(
                    'PROCEDURE %I.%I(%s)', schema, proname, pg_get_function_identity_arguments(oid))
                ELSE 'FUNCTION ' || oid::regprocedure::text END
            FROM pg_proc WHERE oid = to_regprocedure(format('%I.%I(%s)', schema, name, part)))
        WHEN 'TYPE' THEN 'TYPE ' || (
            SELECT oid::regtype::text FROM pg_type  -- since 17, a multirange has the rights of its range
            WHERE oid = to_regtype(format('%I.%I', schema, name))
                AND (typtype <> 'm' OR current_setting('server_version_num')::int < 170000))
        WHEN 'DEFAULT' THEN CASE
            WHEN name IN ('TABLES', 'SEQUENCES', 'FUNCTIONS', 'TYPES', 'SCHEMAS')
                AND (schema = '' OR to_regnamespace(quote_ident(schema)) IS NOT NULL)
                AND (part = '' OR EXISTS (
                    SELECT FROM pg_roles AS maker WHERE maker.rolname = part AND pg_has_role(oid, 'USAGE')))
            THEN name END
        END AS object,
        CASE kind WHEN 'DEFAULT' THEN 'ALTER DEFAULT PRIVILEGES '
            || CASE part WHEN '' THEN '' ELSE format('FOR ROLE %I ', part) END
            || CASE schema WHEN '' THEN '' ELSE format('IN SCHEMA %I ', schema) END ELSE '' END AS defaults,
        (SELECT string_agg(CASE kind WHEN 'COLUMN' THEN format('%s (%I)', it, part) ELSE it END, ', ')
         FROM unnest(privileges) AS it) AS wanted
) AS words
WHERE (role = '' OR rolname IS NOT NULL) AND object IS NOT NULL
  AND privileges <@ ARRAY['CREATE', 'USAGE', 'SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES',
                          'TRIGGER', 'MAINTAIN', 'EXECUTE']
"""


async def read_rights(session: asyncpg.Connection, restored_owner: str | None = None) -> Rights:
    """The rights of other roles in the session's database, except `restored_owner`'s (of `RestoreLogin`)."""
    return [dict(row) for row in await fetch_rows(session, _RIGHTS, restored_owner)]


async def give_rights(session: asyncpg.Connection, rights: Rights) -> None:
    """Give these rights in the session's database, as far as roles and objects are there: all or none.

    Default rights on objects of another role are set only if the session's role may act as that role.
    """
    statements = await fetch_value(session, _GRANTS, json.dumps(rights))
    if statements:
        with translate_postgres_errors({}):
            await session.execute(statements)  # in one message, which is one transaction
