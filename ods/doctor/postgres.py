"""A PostgreSQL database that a DSN names: whether it can be reached and written to, and how it is set."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import asyncpg

from ods.databases.errors import LOST
from ods.doctor.findings import Finding, fault, ok, warning
from ods.registry.rights.needs import quoted
from ods.registry.storage.connecting import READ_ONLY, connect
from ods.registry.storage.poolers import keeps_sessions
from ods.settings.settings import Address

_CONNECT_TIMEOUT = 4.0
_EXAMINE_TIMEOUT = 4.0
_OLDEST, _NEWEST = 16, 18
_CLOCK_SECONDS = 5
"""Beyond this, ages that are told and tokens that are checked begin to be wrong."""

_READ_ONLY = "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY; SET statement_timeout = '4s'"
_FACTS = """
SELECT current_setting('server_version') AS version, current_setting('server_version_num')::int AS number,
       pg_encoding_to_char(encoding) AS encoding, datcollate AS collation, datctype AS ctype,
       current_setting('TimeZone') AS zone, extract(epoch FROM clock_timestamp())::float8 AS now
FROM pg_database WHERE datname = current_database()
"""
_TRANSPORT = """
SELECT coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false) AS encrypted,
       coalesce(inet_client_addr() << '127.0.0.0/8' OR inet_client_addr() = '::1', true) AS local
"""
_COMMITS = """
SELECT setting, source, quote_ident(current_database()) AS database, quote_ident(current_user) AS role
FROM pg_settings WHERE name = 'synchronous_commit'
"""
_WHY_READ_ONLY = """
SELECT pg_is_in_recovery() AS standby, source, quote_ident(current_database()) AS database,
       quote_ident(current_user) AS role
FROM pg_settings WHERE name = 'default_transaction_read_only'
"""

Examine = Callable[[asyncpg.Connection], Awaitable[Sequence[Finding]]]


@dataclass(frozen=True)
class Target:
    """A database.

    Attributes:
        subject: what it is for.
        variable: the setting that names it.
        dsn: the value of that setting.
        address: the value without login.
        login: the role that it logs in as.
    """

    subject: str
    variable: str
    dsn: str
    address: Address
    login: str

    async def examine(self, parts: Sequence[tuple[str, Examine]]) -> Sequence[Finding]:
        """Whether it can be reached; if it can, its `parts`, one after the other in one session.

        The session can change nothing.
        """
        started = time.perf_counter()
        try:
            session = await connect(self.dsn, timeout=_CONNECT_TIMEOUT)
        except (asyncpg.PostgresError, *LOST) as error:
            return [await self._unreachable(error)]
        took = 1000 * (time.perf_counter() - started)
        found = [ok(self.subject, f"{self._place} accepts sessions that can write, in {took:.0f} ms")]
        try:
            await session.execute(_READ_ONLY)
            for subject, part in [(self.subject, self._facts), *parts]:
                found += await _examined(subject, part, session)
        finally:
            session.terminate()
        return found

    async def examine_login(self) -> Sequence[Finding]:
        """Whether its role can log in, and no more."""
        try:
            session = await connect(self.dsn, timeout=_CONNECT_TIMEOUT)
        except (asyncpg.PostgresError, *LOST) as error:
            return [await self._unreachable(error)]
        session.terminate()
        return [ok(self.subject, f"{self._place} accepts the login of the role {quoted(self.login)}")]

    async def examine_pooler(self) -> Sequence[Finding]:
        """Whether each client keeps its session, as it must; nothing if it cannot be reached."""
        subject = f"{self.subject}: sessions"
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT):
                kept = await keeps_sessions(self.dsn)
        except (asyncpg.PostgresError, *LOST):
            return []
        if kept:
            return [ok(subject, "Each client keeps its session")]
        words = "A pooler in transaction mode is in between, which loses locks and settings of sessions"
        return [fault(subject, words, f"pool_mode = session, or name the server itself in {self.variable}")]

    @property
    def _place(self) -> str:
        return f"{self.address.host}:{self.address.port}, database {self.address.database}"

    async def _facts(self, session: asyncpg.Connection) -> Sequence[Finding]:
        before = time.time()
        facts = await one_row(session, _FACTS)
        here = (before + time.time()) / 2
        return [
            _version(self.subject, facts),
            _encoding(self.subject, facts, self.address.database),
            ok(f"{self.subject}: time zone", f"{facts['zone']}; times are written in UTC whatever it is"),
            _clock(self.subject, facts["now"] - here),
            self._commits(await one_row(session, _COMMITS)),
            self.transport(**await one_row(session, _TRANSPORT)),
        ]

    def transport(self, *, encrypted: bool, local: bool) -> Finding:
        """Whether what the session sends can be read or changed on its way.

        Args:
            encrypted: whether it comes to the server by TLS.
            local: whether it does not leave the machine.
        """
        subject = f"{self.subject}: transport"
        if encrypted and "sslmode=verify-full" in self.dsn:
            return ok(subject, "TLS, and the server's certificate is checked")
        if local:
            return ok(subject, "The connection does not leave this machine")
        words = "TLS, but the server's certificate is not checked" if encrypted else "There is no TLS"
        return warning(subject, words, f"add ?sslmode=verify-full&sslrootcert=… to {self.variable}")

    def _commits(self, row: asyncpg.Record) -> Finding:
        """Whether what is committed is on the disk by then."""
        subject = f"{self.subject}: commits"
        if row["setting"] != "off":
            return ok(subject, "What is committed is on the disk")
        words = "synchronous_commit is off: a crash of the server loses what was committed last"
        everywhere = "ALTER SYSTEM RESET synchronous_commit; SELECT pg_reload_conf();"
        return warning(subject, words, self._places("synchronous_commit", row).get(row["source"], everywhere))

    def _places(self, parameter: str, row: asyncpg.Record) -> dict[str, str]:
        """How a parameter is reset that is set elsewhere than for the whole server, by where it is set."""
        return {
            "database": f"ALTER DATABASE {row['database']} RESET {parameter};",
            "user": f"ALTER ROLE {row['role']} RESET {parameter};",
            "client": f"remove {parameter} from {self.variable}",
        }

    async def _unreachable(self, error: Exception) -> Finding:
        state = getattr(error, "sqlstate", None) or ""
        role = quoted(self.login)
        if state == READ_ONLY:
            return await self._read_only()
        if state.startswith("28"):
            return fault(
                self.subject,
                f"{self._place} refuses the login of the role {role}",
                f"ALTER ROLE {role} LOGIN PASSWORD '…'; or correct {self.variable}",
            )
        if state == "3D000":
            database = quoted(self.address.database)
            words = f"The database {database} does not exist on {self.address.host}:{self.address.port}"
            return fault(self.subject, words, f"CREATE DATABASE {database}; or correct {self.variable}")
        if state == "42501":
            grant = f"GRANT CONNECT ON DATABASE {quoted(self.address.database)} TO {role};"
            return fault(self.subject, f"The role {role} may not connect to {self._place}", grant)
        if state:
            words = f"{self._place} refuses sessions (SQLSTATE {state})"
            return fault(self.subject, words, "see the server's log")
        return fault(
            self.subject,
            f"{self._place} cannot be reached",
            f"pg_isready --host {self.address.host.split(',')[0]} --port {self.address.port.split(',')[0]};"
            f" start the server, unless another one has taken over; or correct {self.variable}",
        )

    async def _read_only(self) -> Finding:
        """Why no session can write, from a session that cannot."""
        separator = "&" if "?" in self.dsn else "?"
        any_session = f"{self.dsn}{separator}target_session_attrs=any"
        session = await connect(any_session, timeout=_CONNECT_TIMEOUT)
        try:
            why = await one_row(session, _WHY_READ_ONLY)
        finally:
            session.terminate()
        # No command that makes a second server take writes: the first one may be away for a minute alone.
        remedy = (
            f"start its primary, or name that in {self.variable}; the standby takes over only once the"
            " primary is dead and stays so: docs/operations/failover.md#after-a-crash"
        )
        if not why["standby"]:
            everywhere = (
                f"name the server that has taken over in {self.variable}; only if none has:"
                " ALTER SYSTEM RESET default_transaction_read_only; SELECT pg_reload_conf();"
            )
            remedy = self._places("default_transaction_read_only", why).get(why["source"], everywhere)
        kind = "a standby" if why["standby"] else "read-only"
        return fault(self.subject, f"{self._place} is {kind}: nothing can be written", remedy)


async def one_row(session: asyncpg.Connection, query: str, *arguments: object) -> asyncpg.Record:
    """The row of a query that has one."""
    (row,) = await session.fetch(query, *arguments)
    return row


async def _examined(subject: str, part: Examine, session: asyncpg.Connection) -> Sequence[Finding]:
    """The findings of one part; what it may not read, or is not there, is a fault of its own."""
    try:
        async with asyncio.timeout(_EXAMINE_TIMEOUT):
            return await part(session)
    except asyncpg.InsufficientPrivilegeError:
        return [fault(subject, "The service's role may not read it", "ods grants --check")]
    except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError, asyncpg.InvalidSchemaNameError):
        return [fault(subject, "Tables or columns are missing", "ods migrate")]
    except TimeoutError:
        return [fault(subject, "It did not answer in time", "SELECT * FROM pg_stat_activity;")]


def _version(subject: str, facts: asyncpg.Record) -> Finding:
    subject, version = f"{subject}: version", f"PostgreSQL {facts['version']}"
    if _OLDEST <= facts["number"] // 10_000 <= _NEWEST:
        return ok(subject, version)
    return warning(subject, f"{version} is not tested", f"use PostgreSQL {_OLDEST} to {_NEWEST}")


def _encoding(subject: str, facts: asyncpg.Record, database: str) -> Finding:
    subject = f"{subject}: locale"
    words = f"encoding {facts['encoding']}, collation {facts['collation']}, character type {facts['ctype']}"
    if facts["encoding"] == "UTF8":
        return ok(subject, words)
    remedy = f"CREATE DATABASE {quoted(database)} ENCODING 'UTF8' TEMPLATE template0; then restore a dump"
    return fault(subject, f"{words}: names with other characters are refused", remedy)


def _clock(subject: str, difference: float) -> Finding:
    subject, words = f"{subject}: clock", f"{difference:+.1f} s from the clock here"
    if abs(difference) <= _CLOCK_SECONDS:
        return ok(subject, words)
    return warning(subject, words, "timedatectl set-ntp true, on both hosts")
