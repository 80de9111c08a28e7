"""Reading the education organizations of an ODS database, of whichever Ed-Fi Data Standard it is.

What is wrong there is put in words that name nothing of the connection string, for a person to mend.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import asyncpg

_CONNECT_TIMEOUT = 5
_READ_TIMEOUT = 8
_CLOSE_TIMEOUT = 1
_MOST = 200_000
"""So many are read at most; no state has a tenth of it, and a worker holds them all in memory."""
_MOST_BYTES = 32 * 1024 * 1024
"""They are as large at most, together: several databases are read at once."""
_BATCH = 1000

_ORGANIZATION = "educationorganization"
_NEEDED = {"educationorganizationid", "nameofinstitution"}


@dataclass(frozen=True)
class _Kind:
    """A table of one kind of organization: its key, and what it may belong to, the nearest first."""

    name: str
    key: str
    parents: tuple[str, ...] = ()

    @property
    def table(self) -> str:
        return self.name.lower()


_KINDS = (
    _Kind("School", "schoolid", ("localeducationagencyid",)),
    _Kind(
        "LocalEducationAgency",
        "localeducationagencyid",
        ("parentlocaleducationagencyid", "educationservicecenterid", "stateeducationagencyid"),
    ),
    _Kind("EducationServiceCenter", "educationservicecenterid", ("stateeducationagencyid",)),
    _Kind("StateEducationAgency", "stateeducationagencyid"),
    _Kind("CommunityOrganization", "communityorganizationid"),
    _Kind("CommunityProvider", "communityproviderid", ("communityorganizationid",)),
    _Kind("EducationOrganizationNetwork", "educationorganizationnetworkid"),
    _Kind("OrganizationDepartment", "organizationdepartmentid", ("parenteducationorganizationid",)),
    _Kind("PostSecondaryInstitution", "postsecondaryinstitutionid"),
)

# Not from information_schema: it hides what the role may not read, and a parent would seem to be missing.
_COLUMNS = """
SELECT relname, array_agg(attname) AS columns FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
WHERE relnamespace = to_regnamespace('edfi') AND relname = any($1::text[])
    AND relkind IN ('r', 'p', 'v', 'm', 'f') AND attnum > 0 AND NOT attisdropped
GROUP BY relname
"""

_REASONS = {
    "22003": "an id of an education organization is not a whole number of 64 bits",
    "22P02": "an id of an education organization is not a whole number of 64 bits",
    "3D000": "the database does not exist",
    "42501": "its role may not read the education organizations",
    "53300": "the server has no free connections",
    "55000": "the database does not accept connections",
    "57014": "the database did not answer in time",
}
_UNREACHABLE = "the server cannot be reached"


class UnreadableError(Exception):
    """An ODS database cannot be read; the message says why."""


_SslMode: TypeAlias = Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]
_SSL_MODES: dict[str, _SslMode] = {
    "disable": "disable",
    "allow": "allow",
    "require": "require",
    "verifyca": "verify-ca",
    "verifyfull": "verify-full",
}


@dataclass(frozen=True)
class Address:
    """Where a database is, as whom to log in, and how securely, in the words of Npgsql.

    `servers` are hosts and ports, which are tried in their order.
    """

    servers: Sequence[tuple[str, int]]
    database: str
    user: str
    password: str = field(repr=False)
    ssl_mode: str | None


@asynccontextmanager
async def reading(address: Address) -> AsyncIterator[asyncpg.Connection]:
    """A session on the database, in a transaction that can only read.

    Raises:
        UnreadableError: the database cannot be connected to.
    """
    with _faults_explained():
        session = await asyncpg.connect(
            host=[host for host, _ in address.servers],
            port=[port for _, port in address.servers],
            database=address.database,
            user=address.user,
            password=address.password,
            ssl=_SSL_MODES.get(re.sub("[ _-]", "", address.ssl_mode or "").lower(), "prefer"),
            timeout=_CONNECT_TIMEOUT,
            # Between here and there may be PgBouncer, which knows no prepared statements and few parameters.
            statement_cache_size=0,
            server_settings={"application_name": "ods instance management"},
        )
    try:
        with _faults_explained():
            async with asyncio.timeout(_READ_TIMEOUT):
                await session.execute(
                    f"BEGIN READ ONLY; SET LOCAL statement_timeout = '{_READ_TIMEOUT}s';"
                    " SET LOCAL cursor_tuple_fraction = 1"  # all of it is read
                )
        yield session
        with suppress(Exception):  # all was read: what answers to the farewell does not matter
            await session.close(timeout=_CLOSE_TIMEOUT)
    finally:
        session.terminate()  # whatever is still open has failed: an answer is not waited for


async def education_organizations(session: asyncpg.Connection) -> Sequence[asyncpg.Record]:
    """Every education organization: its id, name, short name, discriminator and the id of its parent.

    Raises:
        UnreadableError: there are none, or too many, the role may not read them, the database does not answer
            in time.
    """
    with _faults_explained():
        async with asyncio.timeout(_READ_TIMEOUT):
            tables = [_ORGANIZATION, *(kind.table for kind in _KINDS)]
            found = {row["relname"]: set(row["columns"]) for row in await session.fetch(_COLUMNS, tables)}
            if not found.get(_ORGANIZATION, set()) >= _NEEDED:
                raise UnreadableError("it has no table edfi.educationorganization")
            await session.execute(f"DECLARE organizations NO SCROLL CURSOR FOR {_query(found)}")
            return await _bounded(session)


async def _bounded(session: asyncpg.Connection) -> list[asyncpg.Record]:
    """Everything the cursor yields; no more is asked for once that is too much."""
    organizations: list[asyncpg.Record] = []
    size = 0
    while batch := await session.fetch(f"FETCH {_BATCH} FROM organizations"):
        organizations += batch
        size += sum(map(_size, batch))
        if len(organizations) > _MOST:
            raise UnreadableError(f"it has more than {_MOST} education organizations")
        if size > _MOST_BYTES:
            raise UnreadableError(f"its education organizations take more than {_MOST_BYTES >> 20} MB")
    return organizations


def _size(organization: asyncpg.Record) -> int:
    """Bytes that PostgreSQL has sent for it, about."""
    if organization["id"] is None:
        raise UnreadableError("an education organization has no id")
    return sum(len(value.encode()) if isinstance(value, str) else 8 for value in organization)


def _query(found: Mapping[str, set[str]]) -> str:
    """The query for those tables and columns that this database has."""
    own = found[_ORGANIZATION]
    kinds = [kind for kind in _KINDS if kind.key in found.get(kind.table, ())]
    joins = [
        f"LEFT JOIN edfi.{kind.table} ON {kind.table}.{kind.key} = organization.educationorganizationid"
        for kind in kinds
    ]
    names = [f"CASE WHEN {kind.table}.{kind.key} IS NOT NULL THEN 'edfi.{kind.name}' END" for kind in kinds]
    parents = [
        f"{kind.table}.{parent}" for kind in kinds for parent in kind.parents if parent in found[kind.table]
    ]
    discriminator = [_cut("discriminator", 128, own), *names, "'edfi.EducationOrganization'"]
    return f"""
        SELECT organization.educationorganizationid::bigint AS id,
            coalesce({_cut("nameofinstitution", 75, own)}, '') AS name,
            {_cut("shortnameofinstitution", 75, own)} AS short_name,
            coalesce({", ".join(discriminator)}) AS discriminator,
            coalesce({", ".join([*parents, "NULL"])})::bigint AS parent_id
        FROM edfi.{_ORGANIZATION} AS organization {" ".join(joins)}
        LIMIT {_MOST + 1}
    """  # noqa: S608 - all of it is written here


def _cut(column: str, length: int, own: set[str]) -> str:
    """The column, no longer than the registry can hold it; NULL if this database has none."""
    return f"left(organization.{column}::text, {length})" if column in own else "NULL"


@contextmanager
def _faults_explained() -> Iterator[None]:
    try:
        yield
    except UnreadableError:
        raise
    except asyncpg.PostgresError as error:
        raise UnreadableError(_reason(error.sqlstate or "")) from None
    except TimeoutError:
        raise UnreadableError(_REASONS["57014"]) from None
    except (OSError, asyncpg.InterfaceError):
        raise UnreadableError(_UNREACHABLE) from None
    except Exception:  # noqa: BLE001 - what answers there need not be a PostgreSQL
        raise UnreadableError("what answers there was not understood") from None


def _reason(sqlstate: str) -> str:
    if sqlstate.startswith("28"):
        return "the server refused the login"
    if sqlstate.startswith(("08", "57P")):
        return _UNREACHABLE
    return _REASONS.get(sqlstate) or f"the server answered SQLSTATE {sqlstate}"
