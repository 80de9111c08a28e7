"""Publishing a clone: its mark, who may use it, its settings, and its final name, in one transaction.

PostgreSQL copies what is within a database, but not privileges on the database itself, nor its settings
(`ALTER DATABASE … SET`). A clone gets these from its template as it is now; so does a database that takes the
place of a template.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from ods.databases.constants import INSUFFICIENT_PRIVILEGE, UNDEFINED_OBJECT
from ods.databases.errors import DatabaseFaultError, translate_postgres_errors
from ods.databases.statements import fetch_value

_TEMPLATE_SETTINGS = """
SELECT setting.name, setting.value, coalesce(
    (SELECT context IN ('user', 'backend') OR has_parameter_privilege(parameter, 'SET')
     FROM pg_settings AS known (parameter) WHERE parameter = setting.name),
    has_parameter_privilege(setting.name, 'SET')) AS may_set
FROM pg_database
JOIN pg_db_role_setting ON setdatabase = pg_database.oid AND setrole = 0
CROSS JOIN unnest(setconfig) AS item
CROSS JOIN LATERAL (
    SELECT split_part(item, '=', 1) AS name, substr(item, strpos(item, '=') + 1) AS value
) AS setting
WHERE datname = $1::text
"""
"""Those of the template $1. Parameters of extensions that are not loaded are not in `pg_settings`."""

_INSTANCE_SETTINGS = f"""
SELECT * FROM ({_TEMPLATE_SETTINGS}) AS of_template WHERE name <> 'default_transaction_read_only'
"""  # noqa: S608 - constants
"""Read-only protects a template; instances are not."""

# PUBLIC gets what it has on the template; without an ACL, it has that on the clone already. A role that is
# gone, but still in the ACL, gets nothing.
_GRANTS = """
CASE WHEN datacl IS NULL THEN '' ELSE format('REVOKE ALL ON DATABASE %I FROM PUBLIC; ', $2::text) END
|| coalesce((
    SELECT string_agg(format('GRANT %s ON DATABASE %I TO %s%s; ', privilege_type, $2::text,
        CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(rolname) END,
        CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END), '')
    FROM aclexplode(datacl) LEFT JOIN pg_roles ON pg_roles.oid = grantee
    WHERE grantee = 0 OR rolname <> current_user), '')
"""
# In a list, each element is a literal of its own; one in quotes may contain commas. A parameter that the role
# may not set is left out.
_SETTINGS = r"""
coalesce((
    SELECT string_agg(format('ALTER DATABASE %I SET %I TO %s; ', $2::text, name,
        CASE WHEN name IN
            ('search_path', 'temp_tablespaces', 'local_preload_libraries', 'session_preload_libraries')
        THEN (SELECT coalesce(string_agg(quote_literal(
                  replace(regexp_replace(element[1], '^"(.*)"$', '\1'), '""', '"')), ', '), $$''$$)
              FROM regexp_matches(value, '"(?:[^"]|"")*"|[^",\s]+', 'g') AS element)
        ELSE quote_literal(value) END), '')
    FROM settings WHERE may_set), '')
"""
_ADDED = """
coalesce((SELECT string_agg(format('GRANT %s ON DATABASE %I TO %I; ', privileges, $2::text, role), '')
          FROM unnest($5::text[], $6::text[]) AS added (role, privileges)), '')
|| CASE WHEN $7::text IS NULL THEN '' ELSE format('ALTER DATABASE %I OWNER TO %I; ', $2::text, $7::text) END
"""
_PUBLICATION = f"""
WITH settings AS ({_INSTANCE_SETTINGS})
SELECT format('COMMENT ON DATABASE %I IS %L; ', $2::text, $3::text) || {_GRANTS} || {_SETTINGS}
    || format('ALTER DATABASE %I ALLOW_CONNECTIONS true; ', $2::text) || {_ADDED}
    || format('ALTER DATABASE %I RENAME TO %I', $2::text, $4::text)
FROM pg_database WHERE datname = $1::text
"""  # noqa: S608 - constants
_ACCESS = f"""
WITH settings AS ({_TEMPLATE_SETTINGS})
SELECT {_GRANTS} || {_SETTINGS} FROM pg_database WHERE datname = $1::text
"""  # noqa: S608 - constants
_OWN_SETTINGS = f"""
WITH settings AS ({_INSTANCE_SETTINGS}) SELECT {_SETTINGS} FROM pg_database WHERE datname = $1::text
"""  # noqa: S608 - constants
_LEFT_OUT = f"SELECT name FROM ({_INSTANCE_SETTINGS}) AS settings WHERE NOT may_set ORDER BY name"  # noqa: S608 - constants


@dataclass(frozen=True)
class DatabaseAccess:
    """What new databases get beyond what their template has."""

    owner: str | None = None
    """The role that they are given to; None: they stay the service's."""
    grants: Sequence[tuple[str, str]] = ()
    """Roles, each with the privileges that it gets, as `GRANT` lists them."""


AS_TEMPLATE = DatabaseAccess()


@dataclass(frozen=True)
class Publication:
    """A clone with a private name, and what it becomes."""

    template: str
    private_name: str
    comment: str
    name: str
    access: DatabaseAccess


async def publish(session: asyncpg.Connection, publication: Publication, guard: str) -> None:
    """Mark the clone, let roles use it as they may use its template, open and rename it: all or nothing.

    The `guard` is a statement that is run after that, and undoes it if it fails.
    """
    access = publication.access
    statements = await fetch_value(
        session,
        _PUBLICATION,
        publication.template,
        publication.private_name,
        publication.comment,
        publication.name,
        [role for role, _ in access.grants],
        [privileges for _, privileges in access.grants],
        access.owner,
    )
    if statements is None:
        raise DatabaseFaultError(
            f"The template '{publication.template}' is gone since it was cloned. Create it, then retry.",
            retryable=True,
        )
    with translate_postgres_errors(_reasons(access)):
        await session.execute(f"{statements}; {guard}")


async def access_statements(session: asyncpg.Connection, template: str, database: str) -> str:
    """The statements that give `database` the privileges and settings of `template`; none without it.

    Settings that the session's role may not set are left out.
    """
    return await fetch_value(session, _ACCESS, template, database) or ""


async def settings_statements(session: asyncpg.Connection, source: str, database: str) -> str:
    """The statements that give `database` the settings of `source`, except read-only; none without it."""
    return await fetch_value(session, _OWN_SETTINGS, source, database) or ""


async def settings_left_out(session: asyncpg.Connection, template: str) -> list[str]:
    """Settings of the template that its clones do not get, because the session's role may not set them.

    Raises:
        asyncpg.PostgresError: the server refuses.
    """
    return [row["name"] for row in await session.fetch(_LEFT_OUT, template)]


def _reasons(access: DatabaseAccess) -> dict[str, str]:
    reasons = {
        UNDEFINED_OBJECT: "A role of ODS_DATABASE_OWNER or ODS_DATABASE_GRANTS does not exist on the"
        " PostgreSQL server. Create it, then retry."
    }
    if access.owner is not None:
        reasons[INSUFFICIENT_PRIVILEGE] = (
            f"The role of ODS_MASTER_DSN may not give databases to the role '{access.owner}' of"
            " ODS_DATABASE_OWNER. Make it a member of that role (GRANT … TO …), then retry."
        )
    return reasons
