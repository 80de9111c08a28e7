"""Clone, publish, verify: as the service role, on a real server, with everything that can be in the way."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from ods.databases import provisioning
from ods.databases.dropping import drop
from ods.databases.errors import DatabaseFaultError, DisagreementError, NotOursError
from ods.databases.ownership import Owner
from ods.databases.provisioning import CloneRequest, TemplateSizes, provision, verify
from ods.databases.server import Server
from ods.databases.statements import execute
from ods.embedded.ports import free_port
from ods.embedded.postgres import EmbeddedPostgres
from ods.settings.settings import CloneStrategy
from tests.postgres.postgres_inspection import exists, fingerprint, make_foreign, row_of, still_due, until
from tests.servers import (
    MINIMAL_TEMPLATE,
    SAMPLE_TEMPLATE,
    SERVICE_PASSWORD,
    in_use,
    right_missing,
    service_dsn,
    session,
    since_postgres,
    without_statistics,
)


async def provisioned(server: Server, wanted: CloneRequest) -> int:
    async with server.fenced(wanted.owner) as fenced:
        return (await provision(fenced, wanted, TemplateSizes())).size_bytes


async def fault_of(server: Server, wanted: CloneRequest) -> DatabaseFaultError:
    with pytest.raises(DatabaseFaultError) as caught:
        await provisioned(server, wanted)
    return caught.value


async def content(dsn: str) -> dict[str, str]:
    """A checksum of each table's rows."""
    async with session(dsn) as connection:
        tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'edfi'")
        query = "SELECT coalesce(md5(string_agg(t::text, '|' ORDER BY t::text)), '') FROM edfi.{} AS t"
        return {name: await connection.fetchval(query.format(name)) for (name,) in tables}


@pytest.fixture
async def odd_template(admin: asyncpg.Connection, database: str) -> AsyncIterator[str]:
    """A superuser's template that is not the service's."""
    name = f"{database} of another"
    await admin.execute(f'CREATE DATABASE "{name}" IS_TEMPLATE true')
    yield name
    await admin.execute(f'ALTER DATABASE "{name}" IS_TEMPLATE false')
    await admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


# What is made


async def test_database_is_the_template_marked_and_open_when_it_is_provisioned(
    server: Server, wanted: CloneRequest, admin: asyncpg.Connection, postgres: EmbeddedPostgres
) -> None:
    size = await provisioned(server, replace(wanted, template=SAMPLE_TEMPLATE))
    assert size == await admin.fetchval("SELECT pg_database_size($1)", wanted.database) > 0
    await verify(server, wanted.database)
    row = await row_of(admin, wanted.database)
    assert row is not None
    assert (row["owner"], row["datallowconn"], row["datistemplate"], row["datconnlimit"]) == (
        "ods_service",
        True,
        False,
        -1,
    )
    assert wanted.owner.owns(row["comment"])
    assert Owner.read(row["comment"]) == Owner.read(wanted.owner.comment)
    assert not await exists(admin, wanted.owner.staging_name)
    await admin.execute(f'CREATE DATABASE "{wanted.owner.staging_name}" TEMPLATE "{SAMPLE_TEMPLATE}"')
    made = await content(service_dsn(postgres, wanted.database))
    assert len(made) > 20
    assert made == await content(postgres.dsn(wanted.owner.staging_name))


@pytest.mark.parametrize(
    ("strategy", "threshold", "through_the_wal"),
    [
        (CloneStrategy.WAL_LOG, 0, True),
        (CloneStrategy.FILE_COPY, None, False),
        (CloneStrategy.AUTO, None, True),
        (CloneStrategy.AUTO, 0, False),
    ],
)
async def test_template_is_copied_as_setting_or_size_demands_when_it_is_cloned(
    server: Server,
    wanted: CloneRequest,
    admin: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    strategy: CloneStrategy,
    threshold: int | None,
    *,
    through_the_wal: bool,
) -> None:
    if threshold is not None:
        monkeypatch.setattr(provisioning, "FILE_COPY_FROM_BYTES", threshold)
    before = await admin.fetchval("SELECT pg_current_wal_insert_lsn()")
    size = await provisioned(server, replace(wanted, strategy=strategy))
    written = await admin.fetchval("SELECT pg_current_wal_insert_lsn() - $1::pg_lsn", before)
    assert (written > size / 2) is through_the_wal
    await verify(server, wanted.database)


@since_postgres(18, "file_copy_method")
async def test_files_are_copied_as_the_server_says_when_they_are_copied(
    server: Server, wanted: CloneRequest
) -> None:
    async with server.fenced(wanted.owner) as fenced:
        await fenced.execute("SET file_copy_method = clone")  # as its administrator would
        await provision(fenced, replace(wanted, strategy=CloneStrategy.FILE_COPY), TemplateSizes())
        assert await fenced.fetchval("SHOW file_copy_method") == "clone"
    await verify(server, wanted.database)


async def test_own_database_is_found_when_it_was_provisioned_before(
    server: Server, wanted: CloneRequest, admin: asyncpg.Connection, postgres: EmbeddedPostgres
) -> None:
    size = await provisioned(server, wanted)
    before = await row_of(admin, wanted.database)
    async with session(postgres.dsn(wanted.database)):  # in use already, as an ODS/API may have it
        later = replace(wanted, owner=replace(wanted.owner, job_id="another job of the instance"))
        assert await provisioned(server, later) == pytest.approx(size, rel=0.1)
    assert await row_of(admin, wanted.database) == before


@pytest.mark.parametrize(
    "owner_of_names", ['a "quoted" name', "100 %I %L %s %%", "back\\slash", "it's; --", "äöü ✓"]
)
async def test_names_are_taken_literally_when_they_hold_special_characters(
    server: Server, wanted: CloneRequest, admin: asyncpg.Connection, owner_of_names: str
) -> None:
    template, database = f"{wanted.database} t {owner_of_names}", f"{wanted.database} {owner_of_names}"
    quote = "SELECT format($1, VARIADIC $2::text[])"

    async def run(statement: str, *names: str) -> None:
        await admin.execute(await admin.fetchval(quote, statement, names))

    await run("CREATE DATABASE %I TEMPLATE %I OWNER ods_service", template, MINIMAL_TEMPLATE)
    try:
        await provisioned(server, replace(wanted, template=template, database=database))
        await verify(server, database)
        row = await row_of(admin, database)
        assert row is not None
        assert wanted.owner.owns(row["comment"])
        async with server.fenced(wanted.owner) as fenced:
            await drop(fenced, wanted.owner, [database], published=True, before=still_due)
        assert not await exists(admin, database)
        assert await exists(admin, template)
    finally:
        await run("DROP DATABASE IF EXISTS %I WITH (FORCE)", database)
        await run("DROP DATABASE %I", template)


async def test_nothing_is_made_when_the_name_is_longer_than_postgresql_allows(
    server: Server, wanted: CloneRequest, admin: asyncpg.Connection
) -> None:
    before = await admin.fetch("SELECT datname FROM pg_database ORDER BY 1")
    assert not (await fault_of(server, replace(wanted, database="x" * 64))).retryable
    assert await admin.fetch("SELECT datname FROM pg_database ORDER BY 1") == before


# What earlier attempts left


@pytest.mark.parametrize("interrupted", [False, True])
async def test_clone_is_made_anew_when_an_earlier_one_was_not_published(
    server: Server,
    wanted: CloneRequest,
    admin: asyncpg.Connection,
    postgres: EmbeddedPostgres,
    *,
    interrupted: bool,
) -> None:
    staging = wanted.owner.staging_name
    await make_foreign(admin, postgres.dsn(), staging)
    await admin.execute(f'ALTER DATABASE "{staging}" OWNER TO ods_service')
    if interrupted:
        await admin.execute("UPDATE pg_database SET datconnlimit = -2 WHERE datname = $1", staging)
    await provisioned(server, wanted)
    assert not await exists(admin, staging)
    async with session(postgres.dsn(wanted.database)) as connection:
        assert await connection.fetchval("SELECT to_regclass('treasure')") is None
        assert await connection.fetchval("SELECT to_regclass('edfi.school')") is not None


@pytest.mark.parametrize(
    ("left_as", "words"),
    [
        ("UPDATE pg_database SET datconnlimit = -2 WHERE datname = '{}'", "DROP .* was interrupted"),
        ('ALTER DATABASE "{}" ALLOW_CONNECTIONS false', "accepts no connections"),
    ],
)
async def test_published_database_is_left_and_the_reason_told_when_it_cannot_be_used(
    server: Server, wanted: CloneRequest, admin: asyncpg.Connection, left_as: str, words: str
) -> None:
    await provisioned(server, wanted)
    await admin.execute(left_as.format(wanted.database))
    before = await row_of(admin, wanted.database)
    with pytest.raises(DisagreementError, match=words) as refused:
        await provisioned(server, wanted)
    assert not refused.value.retryable
    assert await row_of(admin, wanted.database) == before


async def test_nothing_is_made_when_a_database_of_another_name_carries_the_mark(
    server: Server, wanted: CloneRequest, admin: asyncpg.Connection
) -> None:
    await provisioned(server, wanted)
    renamed = f"{wanted.database} renamed"
    await admin.execute(f'ALTER DATABASE "{wanted.database}" RENAME TO "{renamed}"')
    try:
        with pytest.raises(DisagreementError, match="ods recover"):
            await provisioned(server, wanted)
        assert not await exists(admin, wanted.database)
        assert not await exists(admin, wanted.owner.staging_name)
    finally:
        await admin.execute(f'DROP DATABASE "{renamed}"')


async def test_clone_stays_private_when_it_cannot_be_published(
    server: Server, wanted: CloneRequest, admin: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def failing(*_: object) -> None:
        raise DatabaseFaultError("as if the server stopped here", outage=True)

    with monkeypatch.context() as patch:
        patch.setattr(provisioning, "publish", failing)
        assert (await fault_of(server, wanted)).retryable
    row = await row_of(admin, wanted.owner.staging_name)
    assert row is not None
    assert (row["datallowconn"], row["comment"]) == (False, None)
    assert not await exists(admin, wanted.database)
    await provisioned(server, wanted)
    await verify(server, wanted.database)


async def test_nothing_is_left_at_work_when_the_attempt_is_cancelled(
    server: Server, wanted: CloneRequest, admin: asyncpg.Connection, postgres: EmbeddedPostgres
) -> None:
    creating = (
        "SELECT count(*) FROM pg_stat_activity WHERE query ILIKE 'CREATE DATABASE%' AND state = 'active'"
    )
    async with in_use(admin, postgres, MINIMAL_TEMPLATE):
        attempt = asyncio.create_task(provisioned(server, wanted))
        await until(lambda: admin.fetchval(creating))
        attempt.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attempt
        assert await admin.fetchval(creating) == 0
        assert await admin.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0
    assert not await exists(admin, wanted.owner.staging_name)
    await provisioned(server, wanted)


# Databases that are not ours


@pytest.mark.parametrize("comment", [None, "of another", "{", "another instance"])
async def test_foreign_database_is_untouched_when_it_has_the_name(
    server: Server,
    wanted: CloneRequest,
    admin: asyncpg.Connection,
    postgres: EmbeddedPostgres,
    comment: str | None,
) -> None:
    if comment == "another instance":
        comment = replace(wanted.owner, mark="6b1f0f6e-1111-4222-8333-444444444444").comment
    await make_foreign(admin, postgres.dsn(), wanted.database, comment)
    before = await fingerprint(admin, wanted.database)
    with pytest.raises(NotOursError, match=f"'{wanted.database}'.*untouched"):
        await provisioned(server, wanted)
    assert await fingerprint(admin, wanted.database) == before
    assert not await exists(admin, wanted.owner.staging_name)


async def test_foreign_database_is_untouched_when_it_takes_the_name_during_the_clone(
    server: Server,
    wanted: CloneRequest,
    admin: asyncpg.Connection,
    postgres: EmbeddedPostgres,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publish = provisioning.publish_made  # to come between clone and publish
    before = []

    async def overtaken(
        fenced: asyncpg.Connection, request: CloneRequest, private_name: str, generation: int | None
    ) -> None:
        assert await exists(admin, wanted.owner.staging_name)
        await make_foreign(admin, postgres.dsn(), wanted.database)
        before.append(await fingerprint(admin, wanted.database))
        await publish(fenced, request, private_name, generation)

    monkeypatch.setattr(provisioning, "publish_made", overtaken)
    with pytest.raises(NotOursError, match=f"'{wanted.database}'"):
        await provisioned(server, wanted)
    assert before == [await fingerprint(admin, wanted.database)]
    assert not await exists(admin, wanted.owner.staging_name)


# What is in the way


async def test_reason_names_the_template_when_it_does_not_exist(
    server: Server, wanted: CloneRequest, admin: asyncpg.Connection
) -> None:
    fault = await fault_of(server, replace(wanted, template="EdFi_Ods_No_Template"))
    assert not fault.retryable
    assert fault.reason == (
        "The template database 'EdFi_Ods_No_Template' does not exist. Create it, then retry."
    )
    assert not await exists(admin, wanted.owner.staging_name)


async def test_reason_names_the_right_when_the_role_may_not_create_databases(
    server: Server, wanted: CloneRequest, admin: asyncpg.Connection
) -> None:
    async with right_missing(admin):
        fault = await fault_of(server, wanted)
    assert not fault.retryable
    assert "CREATEDB" in fault.reason
    await provisioned(server, wanted)


async def test_reason_names_the_right_when_the_template_may_not_be_read(
    server: Server, wanted: CloneRequest, admin: asyncpg.Connection, odd_template: str
) -> None:
    await admin.execute(f'REVOKE CONNECT ON DATABASE "{odd_template}" FROM PUBLIC')
    async with without_statistics(admin):
        fault = await fault_of(server, replace(wanted, template=odd_template))
    assert not fault.retryable
    assert odd_template in fault.reason
    assert "CONNECT" in fault.reason
    await admin.execute(f'GRANT CONNECT ON DATABASE "{odd_template}" TO ods_service')
    await provisioned(server, replace(wanted, template=odd_template))


async def test_reason_names_the_property_when_the_template_may_not_be_cloned(
    server: Server, wanted: CloneRequest, admin: asyncpg.Connection, odd_template: str
) -> None:
    await admin.execute(f'ALTER DATABASE "{odd_template}" IS_TEMPLATE false')
    fault = await fault_of(server, replace(wanted, template=odd_template))
    assert not fault.retryable
    assert odd_template in fault.reason
    assert "IS_TEMPLATE true" in fault.reason


@since_postgres(17, "versions of the collations of the test's databases")
async def test_reason_names_the_page_when_the_system_sorts_otherwise_than_the_template(
    server: Server, wanted: CloneRequest, admin: asyncpg.Connection, odd_template: str
) -> None:
    await admin.execute("UPDATE pg_database SET datcollversion = '0' WHERE datname = $1", odd_template)
    fault = await fault_of(server, replace(wanted, template=odd_template))
    assert not fault.retryable
    assert f"indexes of '{odd_template}'" in fault.reason
    assert "docs/operations/postgresql-versions.md#after-an-update-of-the-operating-system" in fault.reason
    assert not await exists(admin, wanted.owner.staging_name)
    await admin.execute(f'ALTER DATABASE "{odd_template}" REFRESH COLLATION VERSION')
    await provisioned(server, replace(wanted, template=odd_template))


async def test_attempt_may_be_repeated_when_the_template_is_in_use(
    server: Server, wanted: CloneRequest, admin: asyncpg.Connection, postgres: EmbeddedPostgres
) -> None:
    async with in_use(admin, postgres, MINIMAL_TEMPLATE):
        fault = await fault_of(server, wanted)
        users = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND backend_type = 'client backend'"
        assert await admin.fetchval(users, MINIMAL_TEMPLATE) == 1
    assert fault.retryable
    assert f"'{MINIMAL_TEMPLATE}' is in use by other sessions" in fault.reason
    assert not await exists(admin, wanted.owner.staging_name)
    await provisioned(server, wanted)


async def test_attempt_may_be_repeated_when_the_server_cannot_be_reached(wanted: CloneRequest) -> None:
    away = Server(f"postgresql://u:{SERVICE_PASSWORD}@127.0.0.1:{free_port()}/postgres")
    fault = await fault_of(away, wanted)
    assert fault.retryable
    assert fault.reason == "The PostgreSQL server of the ODS databases cannot be reached."


async def test_reason_names_the_variable_when_the_password_is_wrong(
    wanted: CloneRequest, postgres: EmbeddedPostgres
) -> None:
    fault = await fault_of(
        Server(f"{service_dsn(postgres, 'postgres').replace(SERVICE_PASSWORD, 'wrong')}"), wanted
    )
    assert fault.outage  # the operator may be changing the password
    assert "ODS_MASTER_DSN" in fault.reason
    assert "wrong" not in fault.reason


async def test_clone_is_not_published_when_its_size_is_not_the_templates(
    server: Server, wanted: CloneRequest, admin: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def other(fenced: asyncpg.Connection, statement: str, *names: str, **options: Any) -> None:
        changed = (SAMPLE_TEMPLATE if it == MINIMAL_TEMPLATE else it for it in names)
        await execute(fenced, statement, *changed, **options)

    with monkeypatch.context() as patch:
        patch.setattr(provisioning, "execute", other)
        fault = await fault_of(server, wanted)
    assert fault.retryable
    assert MINIMAL_TEMPLATE in fault.reason
    assert "not published" in fault.reason
    assert not await exists(admin, wanted.database)
    await provisioned(server, wanted)


@pytest.mark.parametrize(
    ("change", "retryable"),
    [("CONNECTION LIMIT 0", True), ("ALLOW_CONNECTIONS false", False), ("RENAME TO {}", False)],
)
async def test_database_is_not_verified_when_it_accepts_no_connection(
    server: Server, wanted: CloneRequest, admin: asyncpg.Connection, change: str, *, retryable: bool
) -> None:
    await provisioned(server, wanted)
    await admin.execute(f'ALTER DATABASE "{wanted.database}" {change.format(wanted.owner.staging_name)}')
    with pytest.raises(DatabaseFaultError) as caught:
        await verify(server, wanted.database)
    assert caught.value.retryable is retryable
    assert caught.value.reason
