"""Whether a role is a superuser: code that runs with its rights could do everything, also on the host."""

from collections.abc import Mapping, Sequence

import asyncpg

# A member of a superuser role becomes that one by SET ROLE; a member of the two groups runs what it likes on
# the host, and so becomes one, too. What clouds call their administrator is none.
_SUPERUSERS = """
SELECT login.rolname::text AS role,
       min(CASE WHEN login.rolsuper THEN format('ALTER ROLE %I NOSUPERUSER', login.rolname)
                ELSE format('REVOKE %I FROM %I', super.rolname, login.rolname) END) AS remedy
FROM pg_roles AS login
JOIN pg_roles AS super
    ON (super.rolsuper OR super.rolname IN ('pg_execute_server_program', 'pg_write_server_files'))
    AND pg_has_role(login.oid, super.oid, 'MEMBER')
WHERE login.rolname = ANY ($1::text[] || session_user::text)
GROUP BY login.rolname
"""
IS_SUPERUSER = (
    "is a superuser, or a member of a role that may do as much: what runs with its rights may do everything"
    " on the server and its host"
)
"""What is wrong with such a role, after its name."""


async def superusers(session: asyncpg.Connection, roles: Sequence[str] = ()) -> Mapping[str, str]:
    """Those of `roles`, and of the session's login, that are superusers, with the statement against each."""
    return {row["role"]: row["remedy"] for row in await session.fetch(_SUPERUSERS, list(roles))}
