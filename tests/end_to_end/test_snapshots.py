"""Snapshots for readers, on real servers: through the API, by workers, and by the reconcile pass."""

import asyncio
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client

from ods.databases import copying, snapshots
from ods.embedded import seeding
from ods.embedded.postgres import SUPERUSER, EmbeddedPostgres
from ods.embedded.postgres_binaries import binaries_of, installed
from ods.model.arguments import Way
from ods.model.operations import InstanceStatus, JobStatus, Operation
from ods.recovery.adoption import DatabaseAdoption
from ods.recovery.compare.detector import DriftDetector
from ods.recovery.compare.findings import DriftKind
from ods.registry.connection_strings.encryption import Keyring
from ods.registry.connection_strings.key_rotation import rotate
from ods.registry.instances.deletes import Delete
from ods.registry.instances.jobs import InstanceJob
from ods.settings.settings import Settings
from ods.tenants.tenant import Tenant
from ods.tenants.usage import DatabaseNotFoundError
from tests.end_to_end.conftest import Operator
from tests.end_to_end.steps import reconcile
from tests.postgres.postgres_inspection import exchanging_by_hand
from tests.servers import (
    INSTANCE_PASSWORD,
    POSTGRES_VERSION,
    SERVICE_PASSWORD,
    SUPERUSER_PASSWORD,
    server_folder,
    service_dsn,
    session,
    unsafe_postgres,
)

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("workers", "ods_api")]


async def created(operator: Operator, name: str, postgres: EmbeddedPostgres) -> InstanceJob:
    """An instance with a table of its own."""
    job = await operator.create(name)
    assert await operator.ended(job) is JobStatus.COMPLETED
    async with session(service_dsn(postgres, job.database)) as inside:
        await inside.execute("CREATE TABLE treasure AS SELECT n FROM generate_series(1, 42) AS n")
    return job


async def snapshotted(operator: Operator, job: InstanceJob) -> InstanceJob:
    requested = await operator.instances.request_snapshot(job.instance_id, "a client")
    await operator.starter.start(requested.job)
    assert await operator.ended(requested.job) is JobStatus.COMPLETED
    return requested.job


async def derivative(operator: Operator, tenant: Tenant, job: InstanceJob) -> str | None:
    """The database that the ODS/API would read as the snapshot of the instance."""
    for row in await operator.queries.derivatives_of(job.ods_instance_id):
        if row.derivative_type == "Snapshot":
            return tenant.connection_strings.decrypted(row.connection_string).database
    return None


def address(postgres: EmbeddedPostgres, database: str) -> str:
    """The address by which the ODS/API connects to a snapshot."""
    return f"postgresql://ods_api:{INSTANCE_PASSWORD}@127.0.0.1:{postgres.port}/{database}"


async def until_equal(admin: asyncpg.Connection, job: InstanceJob, expected: set[str]) -> None:
    """Wait until the instance has these databases: what a failed job has left is removed after its end."""
    async with asyncio.timeout(20):
        while await databases(admin, job) != expected:
            await asyncio.sleep(0.02)


async def test_readers_get_a_copy_that_cannot_be_written_when_a_snapshot_is_requested(
    operator: Operator,
    tenant: Tenant,
    api: httpx.AsyncClient,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    name: str,
) -> None:
    job = await created(operator, name, postgres)
    path = f"/v2/odsInstances/{job.ods_instance_id}/snapshots"
    answer = await api.post(path)
    assert answer.status_code == 202
    accepted = answer.json()
    assert accepted["jobId"] == f"SnapshotInstanceJob-{job.ods_instance_id}-2"
    assert re.fullmatch(rf"{job.database}_Snapshot_\d{{8}}T\d{{6}}", accepted["databaseName"])
    async with asyncio.timeout(30):
        while (await api.get(f"/v2/jobs/{accepted['jobId']}")).json()["status"] != "Completed":
            await asyncio.sleep(0.05)

    (listed,) = (await api.get(path)).json()
    assert (listed["id"], listed["status"], listed["current"]) == (accepted["snapshotId"], "Completed", True)
    database = await derivative(operator, tenant, job)
    assert database == listed["databaseName"] == accepted["databaseName"]
    reader = address(postgres, str(database))
    async with session(reader) as reading:
        assert await reading.fetchval("SELECT count(*) FROM treasure") == 42
        for write in ("DELETE FROM treasure", "CREATE TABLE other ()", "CREATE TEMPORARY TABLE other ()"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await reading.execute(write)
    async with session(service_dsn(postgres, job.database)) as inside:
        await inside.execute("DELETE FROM treasure")
    async with session(reader) as reading:
        assert await reading.fetchval("SELECT count(*) FROM treasure") == 42
    instance = await operator.instance(job)
    assert (instance.status, instance.operation) == (InstanceStatus.COMPLETED, Operation.SNAPSHOT)
    assert not [found for found in await DriftDetector(tenant).detect() if name in found.subject]


@pytest.mark.parametrize(
    ("role", "group"),
    [
        (seeding.SERVICE_ROLE, None),
        (SUPERUSER, None),
        ("a_member", seeding.SERVICE_ROLE),
        ("a_member", seeding.RESTORED_OWNER),
        ("a_member", "pg_write_all_data"),
    ],
)
async def test_reader_begins_read_only_when_its_rights_would_let_it_write(
    operator: Operator,
    tenant: Tenant,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    role: str,
    group: str | None,
) -> None:
    monkeypatch.setattr(type(tenant.connection_strings), "role", role)
    if group is not None:
        await admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{SERVICE_PASSWORD}' IN ROLE {group}")
    job = await created(operator, name, postgres)
    await snapshotted(operator, job)
    snapshot = str(await derivative(operator, tenant, job))
    dsn = postgres.dsn(snapshot) if role == SUPERUSER else service_dsn(postgres, snapshot)
    async with session(dsn.replace(seeding.SERVICE_ROLE, role)) as reading:
        assert await reading.fetchval("SELECT current_user") == role
        assert await reading.fetchval("SELECT count(*) FROM treasure") == 42
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await reading.execute("DELETE FROM treasure")
    if group is not None:
        await admin.execute(f'DROP DATABASE "{snapshot}"')
        await admin.execute(f"DROP ROLE {role}")


PAGES = {"moving-a-server.md": ("OLD_SERVER", "ODS_SERVER"), "staging-copy.md": ("SERVER", "STAGING")}
PLAIN = 'pg_dumpall --dbname "$FROM/postgres" --file all.sql && psql --dbname "$TO/postgres" --file all.sql'


def documented(page: str) -> str:
    """The commands by which the page copies all databases to another server."""
    text = (Path(__file__).parents[2] / "docs" / "operations" / page).read_text()
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    return next(str(block) for block in blocks if "pg_dumpall" in block)


async def copied(
    commands: str, addresses: dict[str, EmbeddedPostgres], folder: Path
) -> subprocess.CompletedProcess[str]:
    """How these commands end, as an operator runs them with the addresses of the two servers."""
    programs = installed(POSTGRES_VERSION) / binaries_of(POSTGRES_VERSION).programs
    variables = {name: server.dsn().removesuffix("/postgres") for name, server in addresses.items()}
    return await asyncio.to_thread(
        subprocess.run,
        ["/bin/bash", "-c", commands],
        cwd=folder,
        env={"PATH": f"{programs}:{os.defpath}", "PGPASSWORD": SUPERUSER_PASSWORD, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


async def counted(server: EmbeddedPostgres, database: str) -> int:
    async with session(server.dsn(database)) as inside:
        count: int = await inside.fetchval("SELECT count(*) FROM treasure")
    return count


async def let_others_be_written(admin: asyncpg.Connection, ours: list[str]) -> None:
    """Undo what other tests have left of databases on the server that are read-only for all."""
    others = await admin.fetch(
        "SELECT datname FROM pg_db_role_setting JOIN pg_database ON oid = setdatabase"
        " WHERE setrole = 0 AND 'default_transaction_read_only=on' = ANY (setconfig) AND datname <> ALL ($1)",
        ours,
    )
    for row in others:
        await admin.execute(f'ALTER DATABASE "{row["datname"]}" RESET default_transaction_read_only')


@pytest.mark.parametrize("page", ["", *PAGES])
async def test_all_databases_are_on_another_server_when_they_are_copied_by_dumps_with_snapshots(
    operator: Operator,
    tenant: Tenant,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str,
    page: str,
) -> None:
    """By any dump; by the commands of the pages, also databases that a setting makes read-only."""
    first = await created(operator, name, postgres)
    await snapshotted(operator, first)
    second = await created(operator, f"{name} B", postgres)
    monkeypatch.setattr(type(tenant.connection_strings), "role", seeding.SERVICE_ROLE)
    await snapshotted(operator, second)
    last = await created(operator, f"{name} C", postgres)
    copies = [str(await derivative(operator, tenant, job)) for job in (first, second)]
    await let_others_be_written(admin, copies)
    commands = documented(page) if page else PLAIN
    if page:
        for copy in copies:
            await admin.execute(f'ALTER DATABASE "{copy}" SET default_transaction_read_only = on')
    with server_folder() as folder:
        async with unsafe_postgres(folder / "data", SUPERUSER_PASSWORD) as other:
            names = PAGES.get(page, ("FROM", "TO"))
            done = await copied(commands, dict(zip(names, (postgres, other), strict=True)), tmp_path)
            assert done.returncode == 0, done.stderr[-2000:]
            for database in (*copies, *(job.database for job in (first, second, last))):
                assert await counted(other, database) == 42
            async with session(service_dsn(other, copies[1])) as reading:
                assert await reading.fetchval("SHOW default_transaction_read_only") == "on"


async def test_list_tells_that_readers_see_the_data_of_before_a_reset_until_that_is_undone(
    operator: Operator, api: httpx.AsyncClient, postgres: EmbeddedPostgres, name: str
) -> None:
    job = await created(operator, name, postgres)
    path = f"/v2/odsInstances/{job.ods_instance_id}/snapshots"

    async def told() -> list[tuple[bool, bool]]:
        return [(one["current"], one["beforeReset"]) for one in (await api.get(path)).json()]

    await snapshotted(operator, job)
    assert await told() == [(True, False)]
    reset = (await operator.instances.request_reset(job.instance_id)).job
    await operator.starter.start(reset)
    assert await operator.ended(reset) is JobStatus.COMPLETED
    assert await told() == [(True, True)]
    await snapshotted(operator, job)
    assert await told() == [(True, False), (False, True)]
    back = (await operator.instances.request_undo_reset(job.instance_id)).job
    await operator.starter.start(back)
    assert await operator.ended(back) is JobStatus.COMPLETED
    assert await told() == [(True, True), (False, False)]


async def test_role_reads_every_table_when_its_name_and_theirs_need_quotes(
    operator: Operator,
    tenant: Tenant,
    admin: asyncpg.Connection,
    postgres: EmbeddedPostgres,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    role, table = 'A "role" o\'$$ %I', '"a %s $$ schema"."a ""table"" %I"'
    quoted = await admin.fetchval("SELECT quote_ident($1)", role)
    await admin.execute(f"CREATE ROLE {quoted}")
    monkeypatch.setattr(type(tenant.connection_strings), "role", role)
    job = await created(operator, name, postgres)
    async with session(service_dsn(postgres, job.database)) as inside:
        await inside.execute(f'CREATE SCHEMA "a %s $$ schema"; CREATE TABLE {table} AS SELECT 42 AS answer')
    await snapshotted(operator, job)
    snapshot = str(await derivative(operator, tenant, job))
    async with session(service_dsn(postgres, snapshot)) as inside:
        assert await inside.fetchval("SELECT has_table_privilege($1, $2, 'SELECT')", role, table)
    await admin.execute(f'DROP DATABASE "{snapshot}"')
    await admin.execute(f"DROP ROLE {quoted}")


async def test_snapshot_is_made_when_the_statistics_of_a_table_cannot_be_collected(
    operator: Operator, tenant: Tenant, postgres: EmbeddedPostgres, name: str
) -> None:
    job = await created(operator, name, postgres)
    async with session(service_dsn(postgres, job.database)) as inside:
        await inside.execute("CREATE STATISTICS ratio ON (1 / (n - 1)), n FROM treasure")
    await snapshotted(operator, job)
    async with session(address(postgres, str(await derivative(operator, tenant, job)))) as reading:
        assert await reading.fetchval("SELECT count(*) FROM treasure") == 42


async def request_snapshot(operator: Operator, job: InstanceJob) -> InstanceJob:
    requested = await operator.instances.request_snapshot(job.instance_id)
    await operator.starter.start(requested.job)
    return requested.job


async def databases(admin: asyncpg.Connection, job: InstanceJob) -> set[str]:
    """All databases that have to do with the instance."""
    hexadecimal = job.mark.replace("-", "")
    found = await admin.fetch(
        "SELECT datname FROM pg_database WHERE shobj_description(oid, 'pg_database') LIKE $1"
        " OR datname LIKE $2",
        f"%{job.mark}%",
        f"%{hexadecimal}%",
    )
    return {row["datname"] for row in found}


async def statuses(tenant: Tenant, job: InstanceJob) -> list[str]:
    """Statuses of the snapshots of the instance, the newest first; the current one has a star."""
    listed = await tenant.snapshots.store.snapshots_of(job.instance_id)
    return [f"{row.snapshot.status}{'*' if row.current else ''}" for row in listed]


async def until_statuses(tenant: Tenant, job: InstanceJob, expected: list[str]) -> None:
    """Wait for these statuses: what a failed job has left is removed after its end."""
    async with asyncio.timeout(20):
        while await statuses(tenant, job) != expected:
            await asyncio.sleep(0.02)


async def test_older_copies_go_when_no_session_uses_them_any_more(
    operator: Operator,
    tenant: Tenant,
    settings: Settings,
    temporal: Client,
    rows: asyncpg.Connection,
    admin: asyncpg.Connection,
    postgres: EmbeddedPostgres,
    name: str,
) -> None:
    job = await created(operator, name, postgres)
    for _ in range(3):
        await snapshotted(operator, job)
    assert await statuses(tenant, job) == ["Completed*", "Completed", "Removing"]
    kept = await databases(admin, job)
    assert len(kept) == 4

    await reconcile(temporal, settings)  # the ODS/API may go on using what it has cached
    assert await databases(admin, job) == kept
    oldest = await rows.fetchval(
        "UPDATE adminapi.snapshots SET removeafter = now() AT TIME ZONE 'UTC' WHERE status = 'Removing'"
        " RETURNING databasename"
    )
    async with session(address(postgres, oldest)) as reader:
        await reconcile(temporal, settings)
        assert await databases(admin, job) == kept
        assert await reader.fetchval("SELECT count(*) FROM treasure") == 42
    assert "1 leftovers removed" in await reconcile(temporal, settings)
    assert await databases(admin, job) == kept - {oldest}
    assert await statuses(tenant, job) == ["Completed*", "Completed"]


async def test_others_are_dropped_when_one_may_not_be(
    operator: Operator,
    tenant: Tenant,
    rows: asyncpg.Connection,
    admin: asyncpg.Connection,
    postgres: EmbeddedPostgres,
    name: str,
) -> None:
    job = await created(operator, name, postgres)
    for _ in range(3):
        await snapshotted(operator, job)
    theirs = await derivative(operator, tenant, job)
    await admin.execute(f'ALTER DATABASE "{theirs}" OWNER TO CURRENT_USER')
    for listed in await tenant.snapshots.store.snapshots_of(job.instance_id):
        await tenant.snapshots.store.request_removal(job.instance_id, listed.snapshot.id)
    await rows.execute("UPDATE adminapi.snapshots SET removeafter = removeafter - interval '10 minutes'")
    assert await tenant.snapshots.remove_due() == 2
    assert await databases(admin, job) == {job.database, theirs}
    assert await statuses(tenant, job) == ["Removing"]
    await admin.execute(f'DROP DATABASE "{theirs}"')


async def test_others_are_dropped_and_forgotten_when_another_session_has_locked_the_row_of_one(
    operator: Operator,
    tenant: Tenant,
    rows: asyncpg.Connection,
    postgres: EmbeddedPostgres,
    registry_dsn: str,
    name: str,
) -> None:
    locked, other = [await created(operator, f"{name} {it}", postgres) for it in "AB"]
    for job in (locked, other):
        await snapshotted(operator, job)
        for listed in await tenant.snapshots.store.snapshots_of(job.instance_id):
            await tenant.snapshots.store.request_removal(job.instance_id, listed.snapshot.id)
    await rows.execute("UPDATE adminapi.snapshots SET removeafter = removeafter - interval '10 minutes'")
    async with session(registry_dsn) as forgotten, forgotten.transaction(), asyncio.timeout(8):
        its = "SELECT FROM adminapi.dbinstances WHERE id = $1 FOR UPDATE"
        await forgotten.execute(its, locked.instance_id)
        assert await tenant.snapshots.remove_due() == 2
    assert [await statuses(tenant, job) for job in (locked, other)] == [["Removing"], []]
    assert await tenant.snapshots.remove_due() == 1
    assert await statuses(tenant, locked) == []


async def test_deleted_copy_stays_as_long_as_the_ods_api_may_have_it_in_its_cache(
    operator: Operator,
    tenant: Tenant,
    rows: asyncpg.Connection,
    admin: asyncpg.Connection,
    postgres: EmbeddedPostgres,
    name: str,
) -> None:
    job = await created(operator, name, postgres)
    await snapshotted(operator, job)
    (listed,) = await tenant.snapshots.store.snapshots_of(job.instance_id)
    await tenant.snapshots.store.request_removal(job.instance_id, listed.snapshot.id)
    assert await derivative(operator, tenant, job) is None
    assert await tenant.snapshots.remove_due() == 0
    async with session(address(postgres, listed.snapshot.database_name)) as reader:
        assert await reader.fetchval("SELECT count(*) FROM treasure") == 42
    await rows.execute("UPDATE adminapi.snapshots SET removeafter = removeafter - interval '10 minutes'")
    at = await rows.fetchval("SELECT removeafter FROM adminapi.snapshots")
    await tenant.snapshots.store.request_removal(job.instance_id, listed.snapshot.id)
    assert await rows.fetchval("SELECT removeafter FROM adminapi.snapshots") == at
    assert await tenant.snapshots.remove_due() == 1
    assert await databases(admin, job) == {job.database}


async def test_sessions_are_ended_when_a_copy_was_to_go_an_hour_ago(
    operator: Operator,
    tenant: Tenant,
    rows: asyncpg.Connection,
    admin: asyncpg.Connection,
    postgres: EmbeddedPostgres,
    name: str,
) -> None:
    job = await created(operator, name, postgres)
    await snapshotted(operator, job)
    (listed,) = await tenant.snapshots.store.snapshots_of(job.instance_id)
    await tenant.snapshots.store.request_removal(job.instance_id, listed.snapshot.id)
    assert await derivative(operator, tenant, job) is None
    await rows.execute("UPDATE adminapi.snapshots SET removeafter = removeafter - interval '71 minutes'")
    reader = await asyncpg.connect(address(postgres, listed.snapshot.database_name))
    assert await tenant.snapshots.remove_due() == 1
    assert await databases(admin, job) == {job.database}
    reader.terminate()


async def test_snapshots_go_with_the_instance_and_a_new_one_is_made_when_it_comes_back(
    operator: Operator,
    tenant: Tenant,
    admin: asyncpg.Connection,
    postgres: EmbeddedPostgres,
    name: str,
) -> None:
    job = await created(operator, name, postgres)
    for _ in range(2):
        await snapshotted(operator, job)
    deletion = await operator.delete(job)
    assert await operator.ended(deletion) is JobStatus.COMPLETED
    assert (await operator.instance(job)).set_aside == {
        "instanceType": "Minimal",
        "contexts": [],
        "derivatives": [],
    }
    assert await tenant.snapshots.remove_due() == 2
    assert await databases(admin, job) == {deletion.trash_database}
    requested = await operator.instances.request_undelete(job.instance_id)
    await operator.starter.start(requested.job)
    assert await operator.ended(requested.job) is JobStatus.COMPLETED
    assert await derivative(operator, tenant, job) is None
    await snapshotted(operator, job)
    assert await derivative(operator, tenant, job) is not None

    # A snapshot keeps no instance from being dropped at once.
    purge = await operator.instances.request_delete(job.instance_id, Delete(Way.DROP))
    await operator.starter.start(purge.job)
    assert await operator.ended(purge.job) is JobStatus.COMPLETED
    assert await tenant.snapshots.remove_due() == 1
    assert await databases(admin, job) == set()


async def test_derivative_of_the_operator_is_left_when_a_snapshot_is_requested(
    operator: Operator,
    tenant: Tenant,
    api: httpx.AsyncClient,
    rows: asyncpg.Connection,
    admin: asyncpg.Connection,
    postgres: EmbeddedPostgres,
    name: str,
) -> None:
    job = await created(operator, name, postgres)
    await snapshotted(operator, job)
    before = await databases(admin, job)
    theirs = tenant.connection_strings.encrypted("somewhere_else")
    # Another product writes it while the copy is made.
    async with session(service_dsn(postgres, job.database)) as other, other.transaction():
        await other.execute("LOCK TABLE treasure")
        late = await request_snapshot(operator, job)
        assert await operator.reached(late, {JobStatus.IN_PROGRESS}) is JobStatus.IN_PROGRESS
        await rows.execute("UPDATE dbo.odsinstancederivatives SET connectionstring = $1", theirs)
    assert await operator.ended(late) is JobStatus.ERROR
    found = await operator.queries.job(late.job_id)
    assert found is not None
    assert "is not overwritten" in str(found.error_message)
    assert (await operator.instance(job)).status == InstanceStatus.COMPLETED
    await until_equal(admin, job, before)
    assert await derivative(operator, tenant, job) == "somewhere_else"

    refused = await api.post(f"/v2/odsInstances/{job.ods_instance_id}/snapshots")
    assert refused.status_code == 409
    number = await rows.fetchval("SELECT odsinstancederivativeid FROM dbo.odsinstancederivatives")
    assert f"DELETE /v2/odsInstanceDerivatives/{number}" in refused.json()["nextStep"]
    await api.delete(f"/v2/odsInstanceDerivatives/{number}")
    await snapshotted(operator, job)


async def test_database_of_the_operator_is_left_when_it_has_the_name_of_a_snapshot(
    operator: Operator, tenant: Tenant, admin: asyncpg.Connection, postgres: EmbeddedPostgres, name: str
) -> None:
    job = await created(operator, name, postgres)
    requested = await operator.instances.request_snapshot(job.instance_id)
    theirs = requested.snapshot.database_name
    await admin.execute(f'CREATE DATABASE "{theirs}"')
    oid = await admin.fetchval("SELECT oid FROM pg_database WHERE datname = $1", theirs)
    await operator.starter.start(requested.job)
    try:
        assert await operator.ended(requested.job) is JobStatus.ERROR
        await until_statuses(tenant, job, [])
        assert await databases(admin, job) == {job.database}
        assert await admin.fetchval("SELECT oid FROM pg_database WHERE datname = $1", theirs) == oid
    finally:
        await admin.execute(f'DROP DATABASE "{theirs}"')


async def test_no_other_database_is_copied_when_it_gets_the_name_by_hand_meanwhile(
    operator: Operator,
    tenant: Tenant,
    admin: asyncpg.Connection,
    postgres: EmbeddedPostgres,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    """Readers of the instance would see the data of another one."""
    job = await created(operator, name, postgres)

    async def exchange_first(*arguments: Any) -> None:
        async with exchanging_by_hand(admin, job.database):
            monkeypatch.undo()
        await copying.create_like(*arguments)

    monkeypatch.setattr(snapshots, "create_like", exchange_first)
    late = await request_snapshot(operator, job)
    try:
        assert await operator.ended(late) is JobStatus.ERROR
        await until_statuses(tenant, job, [])
        assert await derivative(operator, tenant, job) is None
    finally:
        await admin.execute(f'DROP DATABASE "{job.database}_aside" WITH (FORCE)')


async def test_earlier_snapshot_stays_and_nothing_else_when_the_copy_cannot_be_made(
    operator: Operator, tenant: Tenant, admin: asyncpg.Connection, postgres: EmbeddedPostgres, name: str
) -> None:
    job = await created(operator, name, postgres)
    await snapshotted(operator, job)
    before, read = await databases(admin, job), await derivative(operator, tenant, job)
    await admin.execute("ALTER ROLE ods_api RENAME TO ods_api_away")
    late = await request_snapshot(operator, job)
    try:
        assert await operator.ended(late) is JobStatus.ERROR
    finally:
        await admin.execute("ALTER ROLE ods_api_away RENAME TO ods_api")
    await until_statuses(tenant, job, ["Completed*"])
    assert await databases(admin, job) == before
    assert await derivative(operator, tenant, job) == read
    instance = await operator.instance(job)
    assert (instance.status, instance.error_message) == (InstanceStatus.COMPLETED, None)
    await snapshotted(operator, job)


async def test_snapshot_is_removed_when_its_job_is_cancelled(
    operator: Operator,
    tenant: Tenant,
    api: httpx.AsyncClient,
    admin: asyncpg.Connection,
    postgres: EmbeddedPostgres,
    name: str,
) -> None:
    job = await created(operator, name, postgres)
    async with session(service_dsn(postgres, job.database)) as other, other.transaction():
        await other.execute("LOCK TABLE treasure")
        late = await request_snapshot(operator, job)
        assert await operator.reached(late, {JobStatus.IN_PROGRESS}) is JobStatus.IN_PROGRESS
        path = f"/v2/odsInstances/{job.ods_instance_id}/snapshots"
        (making,) = (await api.get(path)).json()
        assert (await api.delete(f"{path}/{making['id']}")).status_code == 409
        assert (await api.post(f"/v2/jobs/{late.job_id}/cancel")).status_code == 202
        assert await operator.ended(late) is JobStatus.ERROR
        await until_equal(admin, job, {job.database})
        await until_statuses(tenant, job, [])
    assert (await operator.instance(job)).status == InstanceStatus.COMPLETED


async def _drifts_of(tenant: Tenant, database: str | None) -> list[DriftKind]:
    """What is found about one database; other tests leave theirs on the server."""
    return [drift.kind for drift in await DriftDetector(tenant).detect() if str(database) in drift.subject]


async def test_registry_and_server_are_compared_when_a_snapshot_is_lost_on_one_side(
    operator: Operator,
    tenant: Tenant,
    rows: asyncpg.Connection,
    admin: asyncpg.Connection,
    postgres: EmbeddedPostgres,
    name: str,
) -> None:
    job = await created(operator, name, postgres)
    await snapshotted(operator, job)
    database = await derivative(operator, tenant, job)
    with pytest.raises(DatabaseNotFoundError):
        await DatabaseAdoption(tenant).inspect(job.instance_id, database)
    assert not [found for found in await DriftDetector(tenant).detect() if name in found.subject]
    await rows.execute("DELETE FROM adminapi.snapshots")
    assert await _drifts_of(tenant, database) == [DriftKind.DATABASE_WITHOUT_INSTANCE]
    await admin.execute(f'DROP DATABASE "{database}"')
    await rows.execute("DELETE FROM dbo.odsinstancederivatives")
    await snapshotted(operator, job)
    database = await derivative(operator, tenant, job)
    await admin.execute(f'DROP DATABASE "{database}"')
    assert await _drifts_of(tenant, database) == [DriftKind.DATABASE_MISSING]


async def test_derivative_is_still_ours_when_keys_were_rotated(
    operator: Operator,
    tenant: Tenant,
    engine: AsyncEngine,
    admin: asyncpg.Connection,
    postgres: EmbeddedPostgres,
    name: str,
) -> None:
    job = await created(operator, name, postgres)
    await snapshotted(operator, job)
    new = b"another key, also of 32 bytes..."
    assert (await rotate(engine, Keyring((new, *tenant.settings.encryption_keys)))).renewed >= 2
    assert await statuses(tenant, job) == ["Completed*"]
    await snapshotted(operator, job)
    assert await statuses(tenant, job) == ["Completed*", "Completed"]
    assert len(await databases(admin, job)) == 3
