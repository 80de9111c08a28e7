"""The login that fills databases from backups and from other databases: it has no right elsewhere.

While a database is filled, PostgreSQL runs code in it, such as functions of constraints, indexes and views,
with the rights of the role that restores. Others may have written that code. So the role that restores owns
nothing, and may only work in the private database that is lent to it. Afterwards, a role without a login owns
what was made: code that runs as a login could change the login's password, and let others in.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import asyncpg
from pydantic import SecretStr

from ods.databases.constants import INSUFFICIENT_PRIVILEGE
from ods.databases.errors import DatabaseFaultError, translate_postgres_errors
from ods.databases.statements import execute, fetch_rows, fetch_value
from ods.registry.storage.connecting import connect
from ods.settings.secret_files import DsnSource, current
from ods.settings.settings import login_of

# All that code which runs as the login $1, or as the owner $2, could use beyond the one database; and what
# the session's role needs. Among it are settings of the role, which it may set itself, and which would hold
# for the next restore. In ASCII: the database may have any encoding.
_MISSING = """
WITH both_roles AS (SELECT * FROM pg_roles WHERE rolname IN ($1::text, $2::text))
SELECT array_agg(statement ORDER BY place, statement) FROM (
    SELECT 1 AS place, format('CREATE ROLE %I %s', name, attributes) AS statement
    FROM (VALUES ($1::text, 'LOGIN PASSWORD ''...'''), ($2::text, 'NOLOGIN')) AS wanted (name, attributes)
    WHERE name NOT IN (SELECT rolname FROM pg_roles)
    UNION ALL
    SELECT 2, format('ALTER ROLE %I NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS', rolname)
    FROM both_roles WHERE rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls
    UNION ALL
    SELECT 2, format('ALTER ROLE %I NOLOGIN', rolname) FROM both_roles WHERE rolname = $2 AND rolcanlogin
    UNION ALL
    SELECT 3, format('REVOKE %I FROM %I', pg_get_userbyid(roleid), rolname)
    FROM pg_auth_members JOIN both_roles ON both_roles.oid = member
    UNION ALL
    SELECT 4, format('ALTER ROLE %I %sRESET ALL', rolname, 'IN DATABASE ' || quote_ident(datname) || ' ')
    FROM pg_db_role_setting JOIN both_roles ON both_roles.oid = setrole
    LEFT JOIN pg_database ON pg_database.oid = setdatabase WHERE rolname = $1
    UNION ALL
    SELECT 5, format('ALTER DATABASE %I OWNER TO %I', datname, current_user)
    FROM pg_database JOIN both_roles ON both_roles.oid = datdba
    UNION ALL
    SELECT 6, format('GRANT %I TO %I', rolname, current_user)
    FROM both_roles WHERE NOT (pg_has_role(oid, 'USAGE') AND pg_has_role(oid, 'SET'))
) AS statements
"""
_LEND = (
    "GRANT CONNECT, CREATE ON DATABASE %1$I TO %2$I;"
    "GRANT CREATE ON DATABASE %1$I TO %3$I;"  # to own publications
    "ALTER SCHEMA public OWNER TO %2$I"  # to make objects in it, and to comment on it
)
# First: a role is given a table or a function only if it may make one in the schema.
_SCHEMAS = """
SELECT format('ALTER SCHEMA %I OWNER TO %I', nspname, $2::text) AS statement
FROM pg_namespace WHERE pg_get_userbyid(nspowner) = $1::text
"""
# Sequences of columns follow their tables.
_TABLES = """
SELECT format('ALTER TABLE %s OWNER TO %I', pg_class.oid::regclass, $2::text) AS statement
FROM pg_class
WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND pg_get_userbyid(relowner) = $1::text
  AND NOT EXISTS (
      SELECT FROM pg_depend
      WHERE classid = 'pg_class'::regclass AND objid = pg_class.oid AND relkind = 'S'
        AND refclassid = 'pg_class'::regclass AND deptype IN ('a', 'i')
  )
ORDER BY pg_class.oid
"""
_TAKE_REST = (
    "REASSIGN OWNED BY %2$I TO %3$I;"
    "ALTER SCHEMA public OWNER TO pg_database_owner;"
    "REVOKE ALL ON DATABASE %1$I FROM %2$I, %3$I"
)
_REFUSED = (
    "The server refuses the login of ODS_RESTORE_DSN: its password is another one, which code of a restored"
    " database may have set. Nothing that was restored is used. Have a superuser set the password again, then"
    " retry."
)
NOT_ADMITTED: Mapping[str, str] = dict.fromkeys(("28000", "28P01"), _REFUSED)
"""SQLSTATEs of a login that the server refuses, and what that means."""
_CONNECT_TIMEOUT = 10
_BATCH = 50
"""Tables whose owner is changed in one transaction, which locks their indexes as well: locks are limited."""


async def missing_for_restores(session: asyncpg.Connection, role: str, owner: str) -> list[str]:
    """The statements after which the login `role` may be used, and `owner` may own what it has restored."""
    return await fetch_value(session, _MISSING, role, owner) or []


@dataclass(frozen=True)
class RestoreLogin:
    """A login without rights, which gets some in one database while it fills that."""

    source: DsnSource
    owner: str
    """The role without a login that owns afterwards what the login has made."""

    def as_now(self) -> Self:
        """The same with its present address, whatever its file says later."""
        return replace(self, source=self.dsn)

    @property
    def dsn(self) -> str:
        """The address with the login, as it is now."""
        return current(self.source)

    @property
    def role(self) -> str:
        """The role of the login."""
        return login_of(SecretStr(self.dsn))

    async def lend(self, inside: asyncpg.Connection, database: str) -> None:
        """Let the login fill an empty database; if the login or a right is wrong, that is an outage."""
        await self._require_confined(inside, outage=True)
        await execute(inside, _LEND, database, self.role, self.owner)
        await self._require_password(database, outage=True)

    async def take_back(self, inside: asyncpg.Connection, database: str) -> None:
        """Give what the login has made to the owner, and leave the login without rights there."""
        await self._require_confined(inside, outage=False)
        role = self.role
        for query in (_SCHEMAS, _TABLES):
            statements = [row["statement"] for row in await fetch_rows(inside, query, role, self.owner)]
            for start in range(0, len(statements), _BATCH):
                with translate_postgres_errors({}):  # in one message, which is one transaction
                    await inside.execute("; ".join(statements[start : start + _BATCH]))
        await execute(inside, _TAKE_REST, database, role, self.owner)
        await self._require_password(database, outage=False)

    async def _require_password(self, database: str, *, outage: bool) -> None:
        """Check that the login still has its password: otherwise others could have changed the database."""
        try:
            with translate_postgres_errors({}):
                proof = await connect(self.dsn, database=database, timeout=_CONNECT_TIMEOUT)
        except DatabaseFaultError as fault:
            if fault.sqlstate in NOT_ADMITTED:
                raise DatabaseFaultError(_REFUSED, outage=outage, sqlstate=fault.sqlstate) from None
            if fault.sqlstate != INSUFFICIENT_PRIVILEGE:  # as it may not enter the database any more
                raise
        else:
            await proof.close()

    async def _require_confined(self, session: asyncpg.Connection, *, outage: bool) -> None:
        missing = await missing_for_restores(session, self.role, self.owner)
        if missing:
            raise DatabaseFaultError(
                "Nothing is restored with the login of ODS_RESTORE_DSN as it is: it has more than that"
                " takes, code of a restored database has changed it, or the service's role lacks it. Have"
                f" this run by a superuser, then retry: {'; '.join(missing)};",
                outage=outage,
                sqlstate=INSUFFICIENT_PRIVILEGE,
            )
