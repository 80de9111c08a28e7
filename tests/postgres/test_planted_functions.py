"""Functions that other roles make in an instance's database are not called with the rights of the service."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

import asyncpg
import pytest

from ods.backups.figures import read_figures
from ods.backups.snapshots import Database
from ods.databases.education_organizations.reading import Address, education_organizations, reading
from ods.databases.inspection.change_sign import is_quiet, read_sign
from ods.databases.inspection.usage import UsageReader
from ods.databases.locales import read_locale
from ods.databases.ownership import Owner
from ods.databases.rights.inner import give_rights, read_rights
from ods.databases.scratch import scratch_database
from ods.databases.server import Server
from ods.databases.statements import execute
from ods.embedded.polling import wait_until
from ods.embedded.postgres import EmbeddedPostgres
from tests.ods import SCHEMA
from tests.servers import NUMBERS, SERVICE_PASSWORD, service_dsn, session

_ROLE, _SERVICE = "ods_planter", "ods_service"
# PostgreSQL prefers a function of just these types to its own, which takes any.
_PLANTED = f"""
GRANT CREATE ON SCHEMA public TO {_ROLE};
CREATE TABLE public.kept (id serial);
ALTER TABLE public.kept OWNER TO {_SERVICE};
GRANT SELECT ON public.kept TO {_ROLE};
SET ROLE {_ROLE};
CREATE FUNCTION public.planted() RETURNS text LANGUAGE plpgsql AS
    $$BEGIN RAISE 'called with the rights of %', current_user; END$$;
CREATE FUNCTION public.format(text, text, text) RETURNS text LANGUAGE sql AS 'SELECT public.planted()';
CREATE FUNCTION public.format(text, name, name) RETURNS text LANGUAGE sql AS 'SELECT public.planted()';
CREATE FUNCTION public.format(text, VARIADIC text[]) RETURNS text LANGUAGE sql AS 'SELECT public.planted()';
CREATE FUNCTION public.pg_total_relation_size(oid) RETURNS bigint LANGUAGE sql
    AS 'SELECT public.planted()::bigint';
CREATE FUNCTION public.equal(oid, regnamespace) RETURNS boolean LANGUAGE sql
    AS 'SELECT public.planted()::boolean';
CREATE OPERATOR public.= (LEFTARG = oid, RIGHTARG = regnamespace, FUNCTION = public.equal);
CREATE TABLE public.indexed (name text);
CREATE FUNCTION public.called() RETURNS int IMMUTABLE LANGUAGE plpgsql AS
    $$BEGIN IF current_user = '{_SERVICE}' THEN PERFORM public.planted(); END IF; RETURN 1; END$$;
CREATE INDEX ON public.indexed ((public.called()));
INSERT INTO public.indexed VALUES (E'two\\nlines'), (NULL), ('');
CREATE SEQUENCE public.moved;
SELECT nextval('public.moved');
GRANT SELECT ON public.moved TO {_SERVICE};
GRANT SELECT ON public.indexed TO {_SERVICE}
"""  # noqa: S608 - constants
_SWAPPED = f"""
SET ROLE {_ROLE};
ALTER SEQUENCE public.moved RENAME TO sequence;
CREATE VIEW public.moved AS SELECT public.called() AS last_value, true AS is_called;
GRANT SELECT ON public.moved TO {_SERVICE}
"""
_WAITS = "SELECT EXISTS (SELECT FROM pg_locks WHERE pid = $1 AND NOT granted)"
_Visit = Callable[[Server, Owner, str], Awaitable[object]]


@pytest.fixture
async def planted(postgres: EmbeddedPostgres, admin: asyncpg.Connection, owner: Owner) -> AsyncIterator[str]:
    """The name of an instance's database in which another role has made functions."""
    name = f"planted_{next(NUMBERS)}"
    await admin.execute(f"CREATE ROLE {_ROLE}")
    await admin.execute(f"CREATE DATABASE {name} OWNER {_SERVICE}")
    try:
        await admin.execute(f"COMMENT ON DATABASE {name} IS '{owner.comment}'")
        async with session(service_dsn(postgres, name)) as inside:
            await inside.execute(SCHEMA)
        async with session(postgres.dsn(name)) as inside:
            await inside.execute(_PLANTED)
        yield name
    finally:
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.execute(f"DROP ROLE {_ROLE}")


async def _rights(server: Server, _: Owner, database: str) -> None:
    async with server.connected(database) as inside:
        await execute(inside, "COMMENT ON SCHEMA %I IS %L", "edfi", "As before")
        rights = await read_rights(inside)
        assert _ROLE in {right["role"] for right in rights}
        await give_rights(inside, rights)


async def _sign(server: Server, _: Owner, database: str) -> None:
    async with server.connected(database) as inside:
        assert await read_sign(inside) is not None
        assert await is_quiet(inside) in {True, False}


async def _figures(server: Server, _: Owner, database: str) -> None:
    counted = (await read_figures(Database(server, database))).tables
    assert (counted["public.kept"], counted["public.indexed"]) == (0, 3)


async def _usage(server: Server, owner: Owner, database: str) -> None:
    assert await UsageReader(server).tables(owner, database) is not None


VISITS: Mapping[str, _Visit] = {
    "rights": _rights,
    "the sign of a change": _sign,
    "the figures of a backup": _figures,
    "usage": _usage,
}


@pytest.mark.parametrize("visit", VISITS)
async def test_functions_of_other_roles_are_not_called_when_the_service_works_in_the_database(
    server: Server, owner: Owner, planted: str, visit: str
) -> None:
    await VISITS[visit](server, owner, planted)


async def test_view_is_not_read_when_its_owner_has_given_it_the_name_of_a_sequence_meanwhile(
    server: Server, postgres: EmbeddedPostgres, admin: asyncpg.Connection, planted: str
) -> None:
    async with session(postgres.dsn(planted)) as planter, server.connected(planted) as inside:
        await planter.execute("BEGIN")
        await planter.execute(_SWAPPED)  # until this is committed, other sessions see the sequence
        pid = await inside.fetchval("SELECT pg_backend_pid()")
        reading = asyncio.create_task(read_sign(inside))

        async def waits() -> bool:
            return bool(await admin.fetchval(_WAITS, pid))

        await wait_until(waits, 10)
        await planter.execute("COMMIT")
        assert await reading is not None


async def test_functions_of_other_roles_are_not_called_when_education_organizations_are_read(
    postgres: EmbeddedPostgres, planted: str
) -> None:
    address = Address([("127.0.0.1", postgres.port)], planted, _SERVICE, SERVICE_PASSWORD, None)
    async with reading(address) as inside:
        assert await education_organizations(inside)


async def test_other_roles_cannot_connect_where_a_backup_is_restored_to_be_verified(
    server: Server, reader: str
) -> None:
    """A function of theirs that runs with the rights of its owner belongs to the service there."""
    async with server.session() as session:
        locale = await read_locale(session, "postgres")
    async with scratch_database(server, str(uuid.uuid4()), uuid.uuid4(), locale) as name:
        async with server.connected(name) as inside:
            await execute(inside, "CREATE TABLE public.restored (id int)")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await asyncpg.connect(f"{reader}/{name}")
