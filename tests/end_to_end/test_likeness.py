"""What is restored or copied has the encoding, the locale and the rights of its source."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from ods.databases.locales import read_locale
from ods.embedded.postgres import EmbeddedPostgres
from ods.model.operations import JobStatus
from ods.registry.instances.jobs import InstanceJob
from ods.settings.settings import Settings
from tests.end_to_end.conftest import Operator
from tests.end_to_end.steps import rewrite_manifest
from tests.end_to_end.test_backups import backed_up, ended, verified
from tests.servers import make_settings, service_dsn, session

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("workers")]

_SERVICE = "ods_service"
_OTHER = "A vendor's role"
_ADMINISTRATOR = "The administrator's role"

_LOCALES = {
    "bytes": (
        "ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' LOCALE_PROVIDER libc",
        r"CREATE TABLE texts AS SELECT convert_from('\xe4'::bytea, 'SQL_ASCII') AS text",
        r"SELECT text::bytea = '\xe4' FROM texts",
    ),
    "Latin 1": (
        "ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' LOCALE_PROVIDER libc",
        "CREATE TABLE texts AS SELECT 'ä' AS text",
        "SELECT text = 'ä' FROM texts",
    ),
    # In C.UTF-8, the letter has another form as a capital.
    "plain": (
        "ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C' LOCALE_PROVIDER libc",
        "CREATE TABLE texts (text text CHECK (upper(text) = 'äX')); INSERT INTO texts VALUES ('äx')",
        "SELECT text = 'äx' FROM texts",
    ),
}

_RIGHTS = f"""
CREATE SCHEMA "some schema";
GRANT USAGE ON SCHEMA "some schema" TO "{_OTHER}" WITH GRANT OPTION;
CREATE TABLE "some schema".grades (student int, grade int);
GRANT SELECT (student) ON "some schema".grades TO "{_OTHER}";
CREATE TYPE "some schema".kind AS ENUM ('one');
REVOKE ALL ON TYPE "some schema".kind FROM PUBLIC;
CREATE FUNCTION "some schema".secret("some schema".kind, int[]) RETURNS int LANGUAGE sql
    AS 'SELECT 1';
REVOKE ALL ON FUNCTION "some schema".secret FROM PUBLIC;
CREATE PROCEDURE "some schema".tidy() LANGUAGE sql AS 'SELECT 1';
REVOKE ALL ON PROCEDURE "some schema".tidy FROM PUBLIC;
GRANT EXECUTE ON PROCEDURE "some schema".tidy TO "{_OTHER}";
ALTER DEFAULT PRIVILEGES IN SCHEMA "some schema" GRANT SELECT ON TABLES TO "{_OTHER}";
ALTER DEFAULT PRIVILEGES REVOKE ALL ON FUNCTIONS FROM PUBLIC;
REVOKE ALL ON SCHEMA public FROM PUBLIC
"""  # noqa: S608 - of the test

_NO_STATISTICS = """
CREATE TABLE results AS SELECT 7 AS points, 0 AS tries;
CREATE STATISTICS ratio ON (points / tries), tries FROM results
"""


@pytest.fixture
def settings(postgres: EmbeddedPostgres, registry_dsn: str, tmp_path: Path) -> Settings:
    store = tmp_path / "backups"
    store.mkdir()
    return make_settings(postgres, registry_dsn, backup_url=store.as_uri(), backup_verify="never")


@pytest.fixture
async def roles(admin: asyncpg.Connection) -> AsyncIterator[None]:
    """A role that has rights, and one that gives some, which the service may not act as."""
    for role in (_OTHER, _ADMINISTRATOR):
        await admin.execute(f'CREATE ROLE "{role}"')
    yield
    for (database,) in await admin.fetch(
        "SELECT DISTINCT datname FROM pg_shdepend JOIN pg_database ON pg_database.oid = dbid"
        " JOIN pg_roles ON pg_roles.oid = refobjid WHERE rolname = ANY($1::text[])",
        [_OTHER, _ADMINISTRATOR],
    ):
        await admin.execute(f'DROP DATABASE "{database}" WITH (FORCE)')
    for role in (_OTHER, _ADMINISTRATOR):
        await admin.execute(f'DROP ROLE "{role}"')


async def source_of(operator: Operator, name: str) -> InstanceJob:
    job = await operator.create(name)
    assert await operator.ended(job) is JobStatus.COMPLETED
    return job


async def exchange(admin: asyncpg.Connection, database: str, clauses: str) -> None:
    """Make the database anew, with another encoding and locale."""
    comment = await admin.fetchval(
        "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = $1", database
    )
    await admin.execute(f'DROP DATABASE "{database}" WITH (FORCE)')
    await admin.execute(f'CREATE DATABASE "{database}" TEMPLATE template0 OWNER {_SERVICE} {clauses}')
    await admin.execute(f"COMMENT ON DATABASE \"{database}\" IS '{comment}'")


async def made(api: httpx.AsyncClient, body: dict[str, Any]) -> str:
    """The name of the database of an instance that a request has made."""
    answer = await api.post("/v2/dbInstances", json=body)
    assert answer.status_code == 202, answer.text
    job = await ended(api, answer.json()["jobId"])
    assert job["status"] == "Completed", job
    shown = (await api.get(f"/v2/dbInstances/{answer.json()['id']}")).json()
    return str(shown["databaseName"])


Likeness = Callable[[httpx.AsyncClient, InstanceJob], Awaitable[str]]


async def restored(api: httpx.AsyncClient, source: InstanceJob) -> str:
    backup = await backed_up(api, source)
    return await made(api, {"name": f"{source.name} restored", "backupId": backup["id"]})


async def copied(api: httpx.AsyncClient, source: InstanceJob) -> str:
    return await made(api, {"name": f"{source.name} copied", "copyOf": source.instance_id})


each_likeness = pytest.mark.parametrize("make", [restored, copied])


@each_likeness
@pytest.mark.parametrize("locale", _LOCALES)
async def test_texts_are_as_at_the_source_when_its_encoding_or_locale_is_not_that_of_the_server(
    operator: Operator,
    api: httpx.AsyncClient,
    admin: asyncpg.Connection,
    postgres: EmbeddedPostgres,
    name: str,
    make: Likeness,
    locale: str,
) -> None:
    clauses, contents, question = _LOCALES[locale]
    source = await source_of(operator, name)
    await exchange(admin, source.database, clauses)
    async with session(service_dsn(postgres, source.database)) as inside:
        await inside.execute(contents)
    database = await make(api, source)
    assert await read_locale(admin, database) == await read_locale(admin, source.database)
    assert await read_locale(admin, database) != await read_locale(admin, "template0")
    async with session(service_dsn(postgres, database)) as inside:
        assert await inside.fetchval(question)


@pytest.mark.parametrize("locale", _LOCALES)
async def test_backup_is_whole_when_its_encoding_or_locale_is_not_that_of_the_server(
    operator: Operator,
    api: httpx.AsyncClient,
    admin: asyncpg.Connection,
    postgres: EmbeddedPostgres,
    name: str,
    locale: str,
) -> None:
    clauses, contents, _ = _LOCALES[locale]
    source = await source_of(operator, name)
    await exchange(admin, source.database, clauses)
    async with session(service_dsn(postgres, source.database)) as inside:
        await inside.execute(contents)
    backup = await verified(api, await backed_up(api, source))
    assert (backup["verification"], backup["verificationError"]) == ("Completed", None)


@each_likeness
async def test_database_is_made_when_the_statistics_of_a_table_cannot_be_collected(
    operator: Operator, api: httpx.AsyncClient, postgres: EmbeddedPostgres, name: str, make: Likeness
) -> None:
    source = await source_of(operator, name)
    async with session(service_dsn(postgres, source.database)) as inside:
        await inside.execute(_NO_STATISTICS)
    async with session(service_dsn(postgres, await make(api, source))) as inside:
        assert await inside.fetchval("SELECT points FROM results") == 7


async def test_reason_names_the_locale_when_the_server_has_it_not(
    operator: Operator, api: httpx.AsyncClient, rows: asyncpg.Connection, name: str
) -> None:
    backup = await backed_up(api, await source_of(operator, name))
    manifest = Path(backup["location"].removeprefix("file://"), "manifest.json")
    text = manifest.read_text()  # noqa: ASYNC240 - a small file
    await rewrite_manifest(rows, manifest, text.replace('"collate": "', '"collate": "tlh_QO', 1))
    answer = await api.post("/v2/dbInstances", json={"name": f"{name} back", "backupId": backup["id"]})
    job = await ended(api, answer.json()["jobId"])
    assert job["status"] == "Error"
    assert "refuses the encoding and locale of the database (UTF8, tlh_QO" in job["errorMessage"]


@each_likeness
async def test_roles_may_do_what_they_might_at_the_source_and_no_more(
    operator: Operator,
    api: httpx.AsyncClient,
    postgres: EmbeddedPostgres,
    name: str,
    make: Likeness,
    roles: None,
) -> None:
    source = await source_of(operator, name)
    async with session(service_dsn(postgres, source.database)) as inside:
        await inside.execute(_RIGHTS)
    async with session(postgres.dsn(source.database)) as inside:
        await inside.execute(
            f'ALTER DEFAULT PRIVILEGES FOR ROLE "{_ADMINISTRATOR}" GRANT SELECT ON TABLES TO "{_OTHER}"'
        )
    expected = {
        """schema_privilege($1, 'some schema', 'USAGE WITH GRANT OPTION')""": True,
        "schema_privilege($1, 'public', 'USAGE')": False,
        """column_privilege($1, '"some schema".grades', 'student', 'SELECT')""": True,
        """column_privilege($1, '"some schema".grades', 'grade', 'SELECT')""": False,
        """type_privilege($1, '"some schema".kind', 'USAGE')""": False,
        """function_privilege($1, '"some schema".secret("some schema".kind, int[])', 'EXECUTE')""": False,
        """function_privilege($1, '"some schema".tidy()', 'EXECUTE')""": True,
        """table_privilege($1, '"some schema".later', 'SELECT')""": True,
        """function_privilege($1, '"some schema".later()', 'EXECUTE')""": False,
    }
    database = await make(api, source)
    for each in (source.database, database):
        async with session(service_dsn(postgres, each)) as inside:
            await inside.execute("""
                CREATE TABLE "some schema".later ();
                CREATE FUNCTION "some schema".later() RETURNS int LANGUAGE sql AS 'SELECT 1'
            """)
            found = {it: await inside.fetchval(f"SELECT has_{it}", _OTHER) for it in expected}
        assert found == expected, each
