"""Reading the education organizations of an ODS database, of any version of the Ed-Fi Data Standard.

An `UnreadableError` says what the operator must mend, and contains nothing of the connection string.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import asyncpg

from ods.databases.constants import APPLICATION_NAME

_CONNECT_TIMEOUT = 5
_READ_TIMEOUT = 8
_CLOSE_TIMEOUT = 1
_MAX_ORGANIZATIONS = 50_000
"""More are not read; no state has a third of it."""
_MAX_BYTES = 8 * 1024 * 1024
"""Of all organizations of a database together: a worker reads several databases at once."""
_BATCH = 1000
_LONGEST_NAME = 75
_LONGEST_KIND = 128
"""Both in characters, as the registry can hold them."""
_SQLSTATE = re.compile("[0-9A-Z]{5}")

_ORGANIZATION = "educationorganization"
_NEEDED = {"educationorganizationid", "nameofinstitution"}


@dataclass(frozen=True)
class _Kind:
    """A table of one kind of organization: its key, and the columns of its parents, the nearest first."""

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
_NOT_UNDERSTOOD = "the answer of the server was not understood"


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
    """Hosts and ports that are tried in their order, login and TLS mode of a database."""

    servers: Sequence[tuple[str, int]]
    database: str
    user: str
    password: str = field(repr=False)
    ssl_mode: str | None
    """As Npgsql writes it, such as `VerifyFull`; None for its default."""


@asynccontextmanager
async def reading(address: Address) -> AsyncIterator[asyncpg.Connection]:
    """A session on the database, in a transaction that can only read."""
    with _translate_errors():
        session = await asyncpg.connect(
            host=[host for host, _ in address.servers],
            port=[port for _, port in address.servers],
            database=address.database,
            user=address.user,
            password=address.password,
            ssl=_SSL_MODES.get(re.sub("[ _-]", "", address.ssl_mode or "").lower(), "prefer"),
            timeout=_CONNECT_TIMEOUT,
            # Between this service and the server may be PgBouncer, which knows no prepared statements and
            # few parameters.
            statement_cache_size=0,
            server_settings={"application_name": APPLICATION_NAME},
        )
    try:
        with _translate_errors():
            async with asyncio.timeout(_READ_TIMEOUT):
                await session.execute(
                    # Other roles may have made functions and operators there, as in `ods.databases.server`.
                    "BEGIN READ ONLY; SET LOCAL search_path = pg_catalog;"
                    f" SET LOCAL statement_timeout = '{_READ_TIMEOUT}s';"
                    " SET LOCAL cursor_tuple_fraction = 1"  # all of it is read
                )
        yield session
        with suppress(Exception):  # everything was read: an error while closing does not matter
            await session.close(timeout=_CLOSE_TIMEOUT)
    finally:
        session.terminate()  # if it is still open, reading has failed: no answer is waited for


async def education_organizations(session: asyncpg.Connection) -> Sequence[asyncpg.Record]:
    """Every education organization: its id, name, short name, discriminator and the id of its parent."""
    with _translate_errors():
        async with asyncio.timeout(_READ_TIMEOUT):
            tables = [_ORGANIZATION, *(kind.table for kind in _KINDS)]
            found = {row["relname"]: set(row["columns"]) for row in await session.fetch(_COLUMNS, tables)}
            if not found.get(_ORGANIZATION, set()) >= _NEEDED:
                raise UnreadableError("it has no table edfi.educationorganization")
            await session.execute(f"DECLARE organizations NO SCROLL CURSOR FOR {_query(found)}")
            return await _fetch_bounded(session)


async def _fetch_bounded(session: asyncpg.Connection) -> list[asyncpg.Record]:
    organizations: list[asyncpg.Record] = []
    size = 0
    while batch := await session.fetch(f"FETCH {_BATCH} FROM organizations"):
        organizations += batch
        size += sum(map(_size, batch))
        if len(organizations) > _MAX_ORGANIZATIONS:
            raise UnreadableError(f"it has more than {_MAX_ORGANIZATIONS} education organizations")
        if size > _MAX_BYTES:
            raise UnreadableError(f"its education organizations take more than {_MAX_BYTES >> 20} MB")
    return organizations


def _size(organization: asyncpg.Record) -> int:
    """Bytes that PostgreSQL has sent for it, about."""
    if organization["id"] is None:
        raise UnreadableError("an education organization has no id")
    identifier, name, short_name, discriminator, parent_id = organization
    if not (
        isinstance(identifier, int)
        and isinstance(parent_id, int | None)
        and _is_text(name, _LONGEST_NAME)
        and (short_name is None or _is_text(short_name, _LONGEST_NAME))
        and _is_text(discriminator, _LONGEST_KIND)
    ):
        raise UnreadableError(_NOT_UNDERSTOOD)
    return sum(len(value.encode()) if isinstance(value, str) else 8 for value in organization)


def _is_text(value: object, longest: int) -> bool:
    return isinstance(value, str) and len(value) <= longest


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
    discriminator = [_truncated("discriminator", _LONGEST_KIND, own), *names, "'edfi.EducationOrganization'"]
    return f"""
        SELECT organization.educationorganizationid::bigint AS id,
            coalesce({_truncated("nameofinstitution", _LONGEST_NAME, own)}, '') AS name,
            {_truncated("shortnameofinstitution", _LONGEST_NAME, own)} AS short_name,
            coalesce({", ".join(discriminator)}) AS discriminator,
            coalesce({", ".join([*parents, "NULL"])})::bigint AS parent_id
        FROM edfi.{_ORGANIZATION} AS organization {" ".join(joins)}
        LIMIT {_MAX_ORGANIZATIONS + 1}
    """  # noqa: S608 - every part of it is a constant of this module


def _truncated(column: str, length: int, own: set[str]) -> str:
    """The column, cut to that length; NULL if this database has none."""
    return f"left(organization.{column}::text, {length})" if column in own else "NULL"


@contextmanager
def _translate_errors() -> Iterator[None]:
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
    except Exception:  # noqa: BLE001 - the server at that address need not be PostgreSQL
        raise UnreadableError(_NOT_UNDERSTOOD) from None


def _reason(sqlstate: str) -> str:
    if sqlstate.startswith("28"):
        return "the server refused the login"
    if sqlstate.startswith(("08", "57P")):
        return _UNREACHABLE
    if not _SQLSTATE.fullmatch(sqlstate):
        return _NOT_UNDERSTOOD
    return _REASONS.get(sqlstate) or f"the server answered SQLSTATE {sqlstate}"
