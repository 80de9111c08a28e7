"""ODS databases are read as they are: what is there, what is missing, and what is wrong with them."""

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any, TypeAlias

import asyncpg
import pytest
from temporalio.testing import ActivityEnvironment

from activities.education_organizations import EducationOrganizationActivities, PageRead, PageToRead
from ods.databases.education_organizations.reading import (
    Address,
    UnreadableError,
    education_organizations,
    reading,
)
from ods.embedded import seeding
from ods.embedded.ports import free_port
from ods.embedded.postgres import EmbeddedPostgres
from ods.registry.connection_strings.encryption import encrypt
from ods.registry.education_organizations.refreshes import Scope
from ods.registry.education_organizations.store import EducationOrganizations, OdsDatabase, Organization
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.store import InstanceStore
from ods.tenants.tenant import Tenant
from tests.ods import ROWS, SCHEMA, add_ods_instance, connection_string, ods_database, organizations
from tests.postgres.instance_states import bring_to
from tests.servers import (
    ENCRYPTION_KEY,
    SAMPLE_TEMPLATE,
    SERVICE_PASSWORD,
    service_dsn,
    session,
    with_statements,
)

Read: TypeAlias = Callable[..., Awaitable[PageRead]]

NOT_ALLOWED = (
    "its connection string names a server that is not one of this installation's servers: name it in"
    " ODS_ALLOWED_ODS_HOSTS if it is to be read"
)
EVERY_KIND = """
CREATE SCHEMA edfi;
CREATE TABLE edfi.educationorganization (
    educationorganizationid bigint PRIMARY KEY,
    nameofinstitution varchar(200) NOT NULL,
    shortnameofinstitution varchar(200),
    discriminator varchar(128)
);
CREATE TABLE edfi.stateeducationagency (stateeducationagencyid bigint PRIMARY KEY);
CREATE TABLE edfi.educationservicecenter
    (educationservicecenterid bigint PRIMARY KEY, stateeducationagencyid bigint);
CREATE TABLE edfi.localeducationagency (
    localeducationagencyid bigint PRIMARY KEY, stateeducationagencyid bigint,
    educationservicecenterid bigint, parentlocaleducationagencyid bigint
);
CREATE TABLE edfi.school (schoolid bigint PRIMARY KEY, localeducationagencyid bigint);
CREATE TABLE edfi.communityorganization (communityorganizationid bigint PRIMARY KEY);
CREATE TABLE edfi.communityprovider (communityproviderid bigint PRIMARY KEY, communityorganizationid bigint);
CREATE TABLE edfi.educationorganizationnetwork (educationorganizationnetworkid bigint PRIMARY KEY);
CREATE TABLE edfi.organizationdepartment
    (organizationdepartmentid bigint PRIMARY KEY, parenteducationorganizationid bigint);
CREATE TABLE edfi.postsecondaryinstitution (postsecondaryinstitutionid bigint PRIMARY KEY);
INSERT INTO edfi.stateeducationagency VALUES (1);
INSERT INTO edfi.educationservicecenter VALUES (2, 1);
INSERT INTO edfi.localeducationagency VALUES (3, 1, 2, NULL), (4, 1, 2, 3), (5, 1, NULL, NULL);
INSERT INTO edfi.school VALUES (6, 3), (7, NULL);
INSERT INTO edfi.communityorganization VALUES (8);
INSERT INTO edfi.communityprovider VALUES (9, 8);
INSERT INTO edfi.educationorganizationnetwork VALUES (10);
INSERT INTO edfi.organizationdepartment VALUES (11, 6);
INSERT INTO edfi.postsecondaryinstitution VALUES (12);
INSERT INTO edfi.educationorganization (educationorganizationid, nameofinstitution)
    SELECT id, 'Organization ' || id FROM generate_series(1, 13) AS id;
INSERT INTO edfi.educationorganization VALUES
    (9000000000000000000, repeat('long ', 20), repeat('x', 80), 'tpdm.EducatorPreparationProvider');
"""


@pytest.fixture
def read(tenant: Tenant) -> Read:
    """Reads a page, or one ODS instance."""
    activities = EducationOrganizationActivities(
        EducationOrganizations(tenant.reading_engine, tenant.connection_strings),
        tenant.connection_strings,
        at_once=16,
    )

    async def read(only: int | None = None, after: int = 0, size: int = 50) -> PageRead:
        return await ActivityEnvironment().run(activities.read_page, PageToRead(Scope(only), after, size))

    return read


@pytest.fixture(scope="module")
async def north(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    """An ODS database."""
    async with ods_database(postgres) as database:
        yield database


async def test_kinds_and_parents_are_found_when_the_database_has_every_kind(
    read: Read, postgres: EmbeddedPostgres, rows: asyncpg.Connection
) -> None:
    async with ods_database(postgres, EVERY_KIND) as database:
        added = await add_ods_instance(rows, "Every kind", connection_string(postgres.port, database))
        await read()
    found = await organizations(rows, added)
    assert [(identifier, kind, parent) for identifier, _, _, kind, parent in found] == [
        (1, "edfi.StateEducationAgency", None),
        (2, "edfi.EducationServiceCenter", 1),
        (3, "edfi.LocalEducationAgency", 2),
        (4, "edfi.LocalEducationAgency", 3),
        (5, "edfi.LocalEducationAgency", 1),
        (6, "edfi.School", 3),
        (7, "edfi.School", None),
        (8, "edfi.CommunityOrganization", None),
        (9, "edfi.CommunityProvider", 8),
        (10, "edfi.EducationOrganizationNetwork", None),
        (11, "edfi.OrganizationDepartment", 6),
        (12, "edfi.PostSecondaryInstitution", None),
        (13, "edfi.EducationOrganization", None),
        (9_000_000_000_000_000_000, "tpdm.EducatorPreparationProvider", None),
    ]
    assert found[-1][1:3] == (("long " * 20)[:75], "x" * 75)


async def test_organizations_are_read_when_the_database_has_no_tables_of_kinds(
    read: Read, postgres: EmbeddedPostgres, rows: asyncpg.Connection
) -> None:
    bare = (
        "CREATE SCHEMA edfi;"
        " CREATE TABLE edfi.educationorganization (educationorganizationid int, nameofinstitution text);"
        " INSERT INTO edfi.educationorganization VALUES (1, 'One')"
    )
    async with ods_database(postgres, bare) as database:
        added = await add_ods_instance(rows, "Bare", connection_string(postgres.port, database))
        await read()
    assert await organizations(rows, added) == [(1, "One", None, "edfi.EducationOrganization", None)]


async def test_sample_has_a_state_districts_and_schools_when_the_stack_has_made_it(
    read: Read, postgres: EmbeddedPostgres, rows: asyncpg.Connection
) -> None:
    async with ods_database(postgres, template=SAMPLE_TEMPLATE) as database:
        added = await add_ods_instance(rows, "Sample", connection_string(postgres.port, database))
        await read()
    found = await organizations(rows, added)
    assert len(found) == 14
    assert found[0] == (31, "Sample State Department of Education", "SSDE", "edfi.StateEducationAgency", None)
    assert (found[-1][0], found[-1][4]) == (310_301_003, 310_301)


async def test_rows_stay_the_same_when_nothing_has_changed(
    read: Read, postgres: EmbeddedPostgres, rows: asyncpg.Connection, north: str
) -> None:
    added = await add_ods_instance(rows, "North", connection_string(postgres.port, north))
    await read()
    query = "SELECT id, lastrefreshed FROM adminapi.educationorganizations ORDER BY id"
    before = {row["id"]: row["lastrefreshed"] for row in await rows.fetch(query)}
    await read()
    after = {row["id"]: row["lastrefreshed"] for row in await rows.fetch(query)}
    assert after.keys() == before.keys()
    assert all(after[row] > before[row] for row in before)
    assert await organizations(rows, added) == ROWS


async def test_rows_are_what_the_database_holds_when_that_and_the_name_have_changed(
    read: Read, postgres: EmbeddedPostgres, rows: asyncpg.Connection
) -> None:
    async with ods_database(postgres) as database:
        added = await add_ods_instance(rows, "North", connection_string(postgres.port, database))
        await read()
        async with session(service_dsn(postgres, database)) as ods:
            await ods.execute(
                "UPDATE edfi.educationorganization SET shortnameofinstitution = 'S'"
                " WHERE educationorganizationid = 111;"
                "DELETE FROM edfi.educationorganization WHERE educationorganizationid = 11;"
                "INSERT INTO edfi.educationorganization VALUES (2, 'Another state', NULL, NULL)"
            )
        await rows.execute("UPDATE dbo.odsinstances SET name = 'South'")
        await read()
    assert await organizations(rows, added) == [
        ROWS[0],
        (2, "Another state", None, "edfi.EducationOrganization", None),
        (111, "A school", "S", "edfi.School", 11),
    ]
    (name,) = await rows.fetch("SELECT DISTINCT instancename FROM adminapi.educationorganizations")
    assert name["instancename"] == "South"


async def test_rows_become_one_each_when_an_admin_api_had_doubled_them(
    read: Read, postgres: EmbeddedPostgres, rows: asyncpg.Connection, north: str
) -> None:
    added = await add_ods_instance(rows, "North", connection_string(postgres.port, north))
    for _ in range(2):
        await rows.execute(
            "INSERT INTO adminapi.educationorganizations (instanceid, instancename, educationorganizationid,"
            " nameofinstitution, shortnameofinstitution, discriminator, odsdatabasename)"
            " VALUES ($1, 'North', 1, 'A state', 'AS', 'edfi.StateEducationAgency', $2)",
            added,
            north,
        )
    await read()
    assert await organizations(rows, added) == ROWS


@pytest.mark.parametrize(
    "servers",
    [
        *("host=127.0.0.1:{port}", "host=127.0.0.1:{port},127.0.0.1:{port}"),
        *("host=::9;server=127.0.0.1:{port}", "host=[::ffff:7f00:1];Server= 127.0.0.1:+{port} "),
    ],
)
async def test_database_is_read_when_its_server_is_written_as_npgsql_understands_it(
    read: Read, postgres: EmbeddedPostgres, rows: asyncpg.Connection, north: str, servers: str
) -> None:
    where = servers.format(port=postgres.port)
    login = f"uid=unknown;username=ods_service;password=wrong;pwd={SERVICE_PASSWORD}"
    added = await add_ods_instance(rows, "North", f"{where};port=1;database=gone;db={north};{login}")
    page = await read()
    assert page.faults == []
    assert await organizations(rows, added) == ROWS


async def test_each_fault_is_told_and_the_others_are_read_when_databases_are_unreadable(
    read: Read, postgres: EmbeddedPostgres, rows: asyncpg.Connection, admin: asyncpg.Connection, north: str
) -> None:
    port = postgres.port
    async with (
        ods_database(postgres, "CREATE TABLE public.school ()") as foreign,
        ods_database(postgres) as forbidden,
        ods_database(postgres) as locked,
        session(service_dsn(postgres, locked)) as holder,
    ):
        await admin.execute("DROP ROLE IF EXISTS stranger")
        await admin.execute(f"CREATE ROLE stranger LOGIN PASSWORD '{SERVICE_PASSWORD}'")
        await holder.execute("BEGIN; LOCK TABLE edfi.educationorganization")
        unreadable = {
            "away": (connection_string(free_port(), north), NOT_ALLOWED),
            "unknown": (f"host=nowhere.invalid;database={north};username=a", NOT_ALLOWED),
            "locked": (connection_string(port, locked), "the database did not answer in time"),
            "foreign": (
                connection_string(port, foreign),
                "it has no table edfi.educationorganization",
            ),
            "forbidden": (
                connection_string(port, forbidden, "stranger"),
                "its role may not read the education organizations",
            ),
            "stranger": (connection_string(port, north, "unknown"), "the server refused the login"),
            "gone": (connection_string(port, "gone"), "the database does not exist"),
            "untrusted": (
                connection_string(port, north, more=";SSL Mode=Verify-Full"),
                "the server cannot be reached",
            ),
            "nonsense": ("nonsense", "its connection string cannot be read"),
            "port": (f"host=a;port=ninety;database={north}", "its connection string cannot be read"),
            "host": (f"host=;database={north};username=a", "its connection string cannot be read"),
            "user": (f"host=a;database={north}", "its connection string cannot be read"),
            "none": (None, "its connection string cannot be read"),
        }
        ids = {name: await add_ods_instance(rows, name, text) for name, (text, _) in unreadable.items()}
        altered = await rows.fetchval(
            "INSERT INTO dbo.odsinstances (name, connectionstring) VALUES ('altered', 'iv|text|hmac')"
            " RETURNING odsinstanceid"
        )
        ids["altered"], unreadable["altered"] = altered, ("", "its connection string cannot be read")
        good = await add_ods_instance(rows, "North", connection_string(port, north))
        page = await read()
        await holder.execute("ROLLBACK")
    await admin.execute("DROP OWNED BY stranger; DROP ROLE stranger")

    assert (page.read, page.unreadable) == (1, len(unreadable))
    assert page.faults == [f"'{name}' (id {ids[name]}): {reason}" for name, (_, reason) in unreadable.items()]
    assert await organizations(rows, good) == ROWS
    for secret in (SERVICE_PASSWORD, "127.0.0.1", "nowhere.invalid", str(port)):
        assert secret not in str(page)


_NO_NUMBER = "an id of an education organization is not a whole number of 64 bits"
_SPOILED = {
    "broken view": (
        "1 / (n - 3000), 'x' FROM generate_series(1, 5000) AS n",
        "the server answered SQLSTATE 22012",
    ),
    "text": ("'one', 'x'", _NO_NUMBER),
    "huge": ("1e30, 'x'", _NO_NUMBER),
    "no id": ("NULL::int, 'x'", "an education organization has no id"),
    "endless": (
        "generate_series(1, 1000000000000), 'x'",
        "it has more than 50000 education organizations",
    ),
    "large": (
        "n, repeat('é', 90) FROM generate_series(1, 49000) AS n",
        "its education organizations take more than 8 MB",
    ),
    "slow": ("1, pg_sleep(60)::text", "the database did not answer in time"),
    "kinds": (
        "1, 'x'; CREATE TABLE edfi.school (schoolid uuid, localeducationagencyid int)",
        "the server answered SQLSTATE 42883",
    ),
}
"""What a view of education organizations selects, and why it cannot be read."""


async def test_others_are_read_when_a_database_of_the_page_is_spoiled(
    read: Read,
    postgres: EmbeddedPostgres,
    rows: asyncpg.Connection,
    north: str,
) -> None:
    async with AsyncExitStack() as stack:
        expected = []
        for name, (selected, reason) in _SPOILED.items():
            view = "CREATE VIEW edfi.educationorganization (educationorganizationid, nameofinstitution)"
            script = f"CREATE SCHEMA edfi; {view} AS SELECT {selected}"
            database = await stack.enter_async_context(ods_database(postgres, script))
            added = await add_ods_instance(rows, name, connection_string(postgres.port, database))
            expected.append(f"'{name}' (id {added}): {reason}")
        good = await add_ods_instance(rows, "North", connection_string(postgres.port, north))
        page = await read()
    assert page.faults == expected
    assert (page.read, page.unreadable) == (1, len(_SPOILED))
    assert await organizations(rows, good) == ROWS


async def test_only_one_is_skipped_when_the_registry_cannot_hold_what_is_there(
    read: Read, postgres: EmbeddedPostgres, rows: asyncpg.Connection, north: str
) -> None:
    table = "ALTER TABLE adminapi.educationorganizations"
    other = SCHEMA.replace("A district", "Another district")
    refuse = f"{table} ADD CONSTRAINT refuse CHECK (nameofinstitution <> 'A district')"
    async with (
        ods_database(postgres, other) as database,
        with_statements(rows, refuse, f"{table} DROP CONSTRAINT refuse"),
    ):
        refused = await add_ods_instance(rows, "North", connection_string(postgres.port, north))
        await add_ods_instance(rows, "South", connection_string(postgres.port, database))
        page = await read()
    reason = "the registry cannot hold what is there (SQLSTATE 23514)"
    assert page.faults == [f"'North' (id {refused}): {reason}"]
    assert page.read == 1


async def test_only_one_is_skipped_when_another_session_has_locked_its_row(
    read: Read, postgres: EmbeddedPostgres, rows: asyncpg.Connection, registry_dsn: str, north: str
) -> None:
    locked = await add_ods_instance(rows, "North", connection_string(postgres.port, north))
    await add_ods_instance(rows, "South", connection_string(postgres.port, north))
    async with session(registry_dsn) as forgotten, forgotten.transaction():
        its = "SELECT FROM dbo.odsinstances WHERE odsinstanceid = $1 FOR UPDATE"
        await forgotten.execute(its, locked)
        page = await read()
    reason = "another session has locked its row in the registry"
    assert (page.faults, page.read) == ([f"'North' (id {locked}): {reason}"], 1)


async def test_only_one_is_skipped_when_something_unforeseen_happens(
    read: Read,
    postgres: EmbeddedPostgres,
    rows: asyncpg.Connection,
    north: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replace = EducationOrganizations.replace

    async def fail(store: EducationOrganizations, source: OdsDatabase, *arguments: Any) -> None:
        if source.name == "North":
            raise RecursionError
        await replace(store, source, *arguments)

    monkeypatch.setattr(EducationOrganizations, "replace", fail)
    text = connection_string(postgres.port, north)
    failed = await add_ods_instance(rows, "North", text)
    good = await add_ods_instance(rows, "South", text)
    page = await read()
    assert page.faults == [f"'North' (id {failed}): what is there was not understood"]
    assert await organizations(rows, good) == ROWS


async def test_page_fails_and_is_tried_again_when_the_registry_is_away(
    read: Read,
    postgres: EmbeddedPostgres,
    rows: asyncpg.Connection,
    north: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fail(*_: object) -> None:
        raise ConnectionRefusedError

    await add_ods_instance(rows, "North", connection_string(postgres.port, north))
    monkeypatch.setattr(EducationOrganizations, "replace", fail)
    with pytest.raises(ExceptionGroup) as caught:
        await read()
    assert caught.group_contains(ConnectionRefusedError)


async def test_database_is_unreadable_when_it_has_too_many_organizations(
    postgres: EmbeddedPostgres, north: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    login = (seeding.SERVICE_ROLE, SERVICE_PASSWORD)
    address = Address([("127.0.0.1", postgres.port)], north, *login, ssl_mode=None)
    monkeypatch.setattr("ods.databases.education_organizations.reading._MAX_ORGANIZATIONS", len(ROWS))
    async with reading(address) as opened:
        assert len(await education_organizations(opened)) == len(ROWS)
    monkeypatch.setattr("ods.databases.education_organizations.reading._MAX_ORGANIZATIONS", len(ROWS) - 1)
    async with reading(address) as opened:
        with pytest.raises(UnreadableError, match="it has more than 2 education organizations"):
            await education_organizations(opened)


async def test_earlier_rows_stay_when_the_database_cannot_be_read_any_more(
    read: Read, postgres: EmbeddedPostgres, rows: asyncpg.Connection
) -> None:
    async with ods_database(postgres) as database:
        added = await add_ods_instance(rows, "North", connection_string(postgres.port, database))
        await read()
    assert (await read()).unreadable == 1
    assert await organizations(rows, added) == ROWS


async def test_databases_are_read_page_by_page_when_there_are_many(
    read: Read, postgres: EmbeddedPostgres, rows: asyncpg.Connection, north: str
) -> None:
    text = connection_string(postgres.port, north)
    ids = [await add_ods_instance(rows, f"North {number}", text) for number in range(5)]
    assert await read(size=3) == PageRead(3, 0, [], ids[2])
    assert await read(after=ids[2], size=3) == PageRead(2, 0, [], ids[4])
    assert await read(after=ids[4], size=3) == PageRead(0, 0, [], None)
    assert await read(only=ids[3]) == PageRead(1, 0, [], ids[3])
    assert await read(only=ids[3], after=ids[3]) == PageRead(0, 0, [], None)


class _Reading:
    """A reading that ends when the test says so."""

    def __init__(self, name: str) -> None:
        self.began, self.may_end = asyncio.Event(), asyncio.Event()
        self._found = [Organization(1, name, None, "edfi.School", None)]

    async def __call__(self) -> Sequence[Organization]:
        self.began.set()
        await self.may_end.wait()
        return self._found


@pytest.fixture
def store(tenant: Tenant) -> EducationOrganizations:
    return EducationOrganizations(tenant.engine, tenant.connection_strings)


async def _source(store: EducationOrganizations) -> OdsDatabase:
    (source,) = await store.databases(0, 10)
    return source


async def test_last_to_read_is_last_to_write_when_two_read_at_once(
    store: EducationOrganizations, rows: asyncpg.Connection
) -> None:
    added = await add_ods_instance(rows, "North", "host=a")
    source, early, late = await _source(store), _Reading("early"), _Reading("late")
    first = asyncio.create_task(store.replace(source, "ods", early))
    await early.began.wait()
    second = asyncio.create_task(store.replace(source, "ods", late))
    late.may_end.set()
    await _waiting_for_a_lock(rows)
    assert not late.began.is_set()
    early.may_end.set()
    await asyncio.gather(first, second)
    assert await organizations(rows, added) == [(1, "late", None, "edfi.School", None)]


async def _waiting_for_a_lock(rows: asyncpg.Connection) -> None:
    async with asyncio.timeout(5):
        while not await rows.fetch("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "change",
    ["DELETE FROM dbo.odsinstances", "UPDATE dbo.odsinstances SET connectionstring = 'iv|text|hmac'"],
)
async def test_nothing_is_written_when_the_ods_instance_was_deleted_or_moved_meanwhile(
    store: EducationOrganizations, rows: asyncpg.Connection, change: str
) -> None:
    added = await add_ods_instance(rows, "North", "host=a")
    reading = _Reading("North")
    replacing = asyncio.create_task(store.replace(await _source(store), "ods", reading))
    await reading.began.wait()
    await rows.execute(change)  # which does not have to wait for the reading
    reading.may_end.set()
    await replacing
    assert await organizations(rows, added) == []


async def test_rows_are_written_when_the_connection_string_was_only_re_encrypted_meanwhile(
    store: EducationOrganizations, rows: asyncpg.Connection
) -> None:
    added = await add_ods_instance(rows, "North", "host=a")
    reading = _Reading("North")
    replacing = asyncio.create_task(store.replace(await _source(store), "ods", reading))
    await reading.began.wait()
    again = encrypt("host=a", base64.b64decode(ENCRYPTION_KEY))
    assert await rows.execute("UPDATE dbo.odsinstances SET connectionstring = $1", again) == "UPDATE 1"
    reading.may_end.set()
    await replacing
    assert await organizations(rows, added) == [(1, "North", None, "edfi.School", None)]


async def test_rows_go_with_their_ods_instance_when_the_instance_is_deleted(
    store: EducationOrganizations, instances: InstanceStore, job_store: JobStore, rows: asyncpg.Connection
) -> None:
    job = await bring_to(instances, job_store, "Completed", "Leaving")
    reading = _Reading("Leaving")
    reading.may_end.set()
    await store.replace(await _source(store), "ods", reading)
    assert await organizations(rows, job.ods_instance_id) != []
    await job_store.begin((await instances.request_delete(job.instance_id)).job)
    assert await organizations(rows, job.ods_instance_id) == []


async def test_rows_are_forgotten_after_the_last_page_when_their_ods_instance_was_deleted_by_others(
    store: EducationOrganizations, read: Read, rows: asyncpg.Connection
) -> None:
    reading = _Reading("North")
    reading.may_end.set()
    kept = await add_ods_instance(rows, "North", "host=a")
    await store.replace(await _source(store), "ods", reading)
    await rows.execute(
        "INSERT INTO adminapi.educationorganizations"
        " (instanceid, instancename, educationorganizationid, nameofinstitution, discriminator)"
        " VALUES (987654, 'Gone', 1, 'Gone', 'edfi.School')"
    )
    await read(only=kept, after=kept)
    assert await organizations(rows, 987_654) != []
    await read(after=kept)
    assert await organizations(rows, 987_654) == []
    assert len(await organizations(rows, kept)) == 1
