"""Purges that make a backup first, requested through the API, carried out by workers, on real servers."""

import asyncio
import json
import shutil
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import asyncpg
import httpx
import pyrage
import pytest
from pyrage import x25519
from temporalio.client import Client
from temporalio.testing import ActivityEnvironment

from activities import backup_requests, backup_verification
from activities import backups as final_backup_steps
from activities.statuses import StatusActivities
from ods.backups import figures, readiness, restoring
from ods.backups.backing_up import back_up
from ods.backups.client_programs import ClientProgram
from ods.backups.errors import BackupFaultError, StoreRefusedError
from ods.backups.manifest import Manifest
from ods.backups.snapshots import Database
from ods.backups.storage import BackupStore
from ods.databases import retiring
from ods.databases.errors import DatabaseFaultError
from ods.databases.retiring import TrashJob
from ods.embedded.postgres import EmbeddedPostgres
from ods.model.arguments import Way
from ods.model.operations import InstanceStatus, JobStatus, Operation
from ods.model.origins import BackupOrigin
from ods.recovery.compare.detector import DriftDetector
from ods.recovery.compare.findings import DriftKind
from ods.registry.backups.stores import BackupStores
from ods.registry.instances.deletes import Delete
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.jobs import InstanceJob
from ods.settings.settings import Settings
from ods.tenants.backup_store import open_store
from ods.tenants.job_owners import owner_of
from ods.tenants.known_store import accept_store, known_store
from ods.tenants.tenant import Tenant
from tests.client_programs import has_ended, suspended
from tests.end_to_end.conftest import Operator, cleaned
from tests.end_to_end.steps import NO_RIGHT, created, names, reconcile
from tests.mount_points import mount, unmount
from tests.put_back_rows import put_rows_back, remember_rows
from tests.servers import make_settings, service_dsn, session
from workflows.job_workflow import JobWorkflow

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("workers")]

FINAL = Delete(Way.DROP, final_backup=True)
TREASURE = "CREATE TABLE treasure AS SELECT 42 AS answer"
AWKWARD = """
CREATE STATISTICS ratio ON (1 / (answer - 42)), answer FROM treasure;
CREATE PROCEDURE sync(since int) LANGUAGE sql AS 'SELECT 1';
CREATE PROCEDURE sync(OUT done int) LANGUAGE sql AS 'SELECT 1';
REVOKE ALL ON PROCEDURE sync(IN int) FROM PUBLIC;
CREATE TYPE term AS ENUM ('fall', 'winter', 'spring', 'summer');
CREATE TABLE enrolled (term term) PARTITION BY HASH (term);
CREATE TABLE enrolled0 PARTITION OF enrolled FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE enrolled1 PARTITION OF enrolled FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO enrolled SELECT unnest(enum_range(NULL::term))
"""
"""What is a fault of no backup: statistics that fail, names with several meanings, rows that move."""
LOST, NEW = x25519.Identity.generate(), x25519.Identity.generate()
OPEN = 'ALTER DATABASE "{}" ALLOW_CONNECTIONS {}'


@pytest.fixture
def changes() -> dict[str, Any]:
    """What is else than usual in the settings."""
    return {}


@pytest.fixture
def settings(postgres: EmbeddedPostgres, registry_dsn: str, store: Path, changes: dict[str, Any]) -> Settings:
    return make_settings(
        postgres, registry_dsn, **{"backup_url": store.as_uri(), "backup_verify": "never"} | changes
    )


always = pytest.mark.parametrize("changes", [{"final_backup": True}], ids=["always"])
at_once = pytest.mark.parametrize("changes", [{"final_backup": True, "trash_days": 0}], ids=["at_once"])


@pytest.fixture
async def job(operator: Operator, postgres: EmbeddedPostgres, name: str) -> InstanceJob:
    """An instance with a table of its own."""
    created = await operator.create(name)
    assert await operator.ended(created) is JobStatus.COMPLETED
    async with session(service_dsn(postgres, created.database)) as inside:
        await inside.execute(TREASURE)
    return created


@pytest.fixture
async def trashed(operator: Operator, job: InstanceJob) -> InstanceJob:
    """Its delete, which has moved it to the trash."""
    deletion = (await operator.instances.request_delete(job.instance_id, Delete(Way.TRASH))).job
    await operator.starter.start(deletion)
    assert await operator.ended(deletion) is JobStatus.COMPLETED
    return deletion


async def ended(api: httpx.AsyncClient, job_id: str) -> dict[str, Any]:
    """The job once it has ended; it may not be requested yet."""
    async with asyncio.timeout(60):
        while True:
            answer = await api.get(f"/v2/jobs/{job_id}")
            if answer.status_code == 200 and answer.json()["status"] in {"Completed", "Error"}:
                found: dict[str, Any] = answer.json()
                return found
            await asyncio.sleep(0.05)


async def purged(api: httpx.AsyncClient, path: str) -> dict[str, Any]:
    """The answer to a request for a purge whose job has ended well."""
    answer = await api.delete(path)
    assert answer.status_code == 202, answer.text
    accepted: dict[str, Any] = answer.json()
    for one in filter(None, [accepted["jobId"], accepted.get("purgeJobId")]):
        end = await ended(api, one)
        assert end["status"] == "Completed", end
    return accepted


async def final_backups(api: httpx.AsyncClient) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await api.get("/v2/backups", params={"kind": "final"})).json()
    return found


async def restored(operator: Operator, postgres: EmbeddedPostgres, backup: dict[str, Any]) -> int:
    """What is in the table of an instance that is restored from the backup."""
    origin = BackupOrigin(backup["id"])
    back = (await operator.instances.reserve(f"{backup['name']} back", "Minimal", origin=origin)).job
    await operator.starter.start(back)
    assert await operator.ended(back) is JobStatus.COMPLETED
    async with session(service_dsn(postgres, back.database)) as inside:
        answer: int = await inside.fetchval("SELECT sum(answer) FROM treasure")
        return answer


def manifests(store: Path) -> list[str]:
    """What the manifests of the stored backups say."""
    return [path.read_text() for path in store.rglob("manifest.json")]


def put_aside(store: Path) -> Path:
    """Let there be no store."""
    return store.rename(store.with_name("aside"))


async def write(postgres: EmbeddedPostgres, database: str) -> None:
    async with session(postgres.dsn(database)) as inside:
        await inside.execute("INSERT INTO treasure VALUES (1)")


async def test_live_instance_is_backed_up_verified_and_dropped_when_that_is_requested(
    operator: Operator,
    api: httpx.AsyncClient,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    rows: asyncpg.Connection,
    job: InstanceJob,
) -> None:
    accepted = await purged(api, f"/v2/dbInstances/{job.instance_id}?purge=true&finalBackup=true")
    assert accepted["jobId"] == f"DeleteInstanceJob-{job.ods_instance_id}-2"
    assert accepted["purgeJobId"] == f"PurgeInstanceJob-{job.ods_instance_id}-3"
    assert (accepted["purgeAfter"], accepted["backupId"]) == (None, None)
    assert await names(admin, job.mark) == []
    row = await operator.instance(job)
    assert (row.status, row.is_in_trash, row.backup_first) == (InstanceStatus.DELETED, False, True)
    (backup,) = await final_backups(api)
    assert (backup["status"], backup["verification"], backup["expiresAt"]) == ("Completed", "Completed", None)
    assert backup["verifiedAt"] is not None
    assert backup["name"] == job.name
    assert await restored(operator, postgres, backup) == 42
    title = await rows.fetchval("SELECT title FROM adminapi.audit WHERE method = 'PURGE'")
    assert title.endswith(f"after the backup {backup['id']}")


async def test_own_contexts_are_in_the_backup_when_they_go_with_a_live_instance(
    api: httpx.AsyncClient, store: Path, admin: asyncpg.Connection, rows: asyncpg.Connection, job: InstanceJob
) -> None:
    own = {"contexts": [{"contextKey": "schoolYear", "contextValue": "2027"}]}
    path = f"/v2/dbInstances/{job.instance_id}"
    assert (await api.patch(path, json=own)).status_code == 200
    await purged(api, f"{path}?purge=true&finalBackup=true")
    assert await names(admin, job.mark) == []
    assert await rows.fetchval("SELECT count(*) FROM dbo.odsinstancecontexts") == 0
    (manifest,) = manifests(store)
    assert '"contextValue": "2027"' in manifest


async def test_instance_in_the_trash_is_backed_up_with_its_contexts_when_that_is_requested(
    operator: Operator,
    api: httpx.AsyncClient,
    store: Path,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    rows: asyncpg.Connection,
    job: InstanceJob,
) -> None:
    await rows.execute(
        "INSERT INTO dbo.odsinstancecontexts (odsinstance_odsinstanceid, contextkey, contextvalue)"
        " VALUES ($1, 'schoolYear', '2027')",
        job.ods_instance_id,
    )
    deletion = await operator.delete(job)
    assert await operator.ended(deletion) is JobStatus.COMPLETED
    accepted = await purged(api, f"/v2/trash/{job.instance_id}?finalBackup=true")
    (backup,) = await final_backups(api)
    assert (accepted["backupId"], accepted["jobId"]) == (backup["id"], backup["jobId"])
    assert await names(admin, job.mark) == []
    assert await restored(operator, postgres, backup) == 42
    (manifest,) = manifests(store)
    assert '"contextValue": "2027"' in manifest


async def test_same_backup_is_answered_when_the_request_is_repeated_under_its_key(
    api: httpx.AsyncClient, trashed: InstanceJob
) -> None:
    path, key = f"/v2/trash/{trashed.instance_id}", {"Idempotency-Key": "final"}
    first = await api.delete(f"{path}?finalBackup=true", headers=key)
    assert first.status_code == 202
    again = await api.delete(f"{path}?finalBackup=true", headers=key)
    assert (again.status_code, again.json()) == (202, first.json())
    assert (await api.delete(path, headers=key)).status_code == 422
    assert (await ended(api, first.json()["jobId"]))["status"] == "Completed"
    assert len(await final_backups(api)) == 1


@always
async def test_backup_is_made_without_a_request_when_the_setting_says_so(
    operator: Operator,
    api: httpx.AsyncClient,
    temporal: Client,
    settings: Settings,
    admin: asyncpg.Connection,
    rows: asyncpg.Connection,
    job: InstanceJob,
    name: str,
) -> None:
    due, asked = [await operator.create(f"{name} {word}") for word in ("due", "asked")]
    for one in (due, asked):
        assert await operator.ended(one) is JobStatus.COMPLETED
        assert await operator.ended(await operator.delete(one)) is JobStatus.COMPLETED
    await rows.execute(
        "UPDATE adminapi.databases SET purgeafter = now() - interval '1 day' WHERE instanceid = $1",
        due.instance_id,
    )
    assert "1 purges" in await reconcile(temporal, settings)
    assert (await ended(api, f"PurgeInstanceJob-{due.ods_instance_id}-3"))["status"] == "Completed"
    await purged(api, f"/v2/trash/{asked.instance_id}")
    await purged(api, f"/v2/dbInstances/{job.instance_id}?purge=true")
    assert [await names(admin, one.mark) for one in (due, asked, job)] == [[], [], []]
    backups = await final_backups(api)
    assert {one["name"] for one in backups if one["verifiedAt"]} == {due.name, asked.name, job.name}


@at_once
@pytest.mark.parametrize("surface", ["dbInstances", "odsInstances/manage", "odsInstances", "bulk"])
async def test_backup_is_made_on_each_surface_when_a_delete_drops_at_once(
    api: httpx.AsyncClient, admin: asyncpg.Connection, job: InstanceJob, surface: str
) -> None:
    listed = (await api.get(f"/v2/dbInstances/{job.instance_id}")).json()
    assert listed["deleteDropsDatabase"] is True
    if surface == "bulk":
        answer = await api.post("/v2/dbInstances/bulk/delete", json={"ids": [job.instance_id]})
    else:
        answer = await api.delete(f"/v2/{surface}/{job.instance_id}")
    assert answer.is_success, answer.text
    assert (await ended(api, f"PurgeInstanceJob-{job.ods_instance_id}-3"))["status"] == "Completed"
    assert await names(admin, job.mark) == []
    (backup,) = await final_backups(api)
    assert backup["verifiedAt"] is not None


@at_once
async def test_backup_is_made_when_an_admin_api_has_written_a_delete(
    api: httpx.AsyncClient,
    operator: Operator,
    tenant: Tenant,
    admin: asyncpg.Connection,
    rows: asyncpg.Connection,
    job: InstanceJob,
) -> None:
    await rows.execute(
        "UPDATE adminapi.dbinstances SET status = 'Pending_Delete' WHERE id = $1", job.instance_id
    )
    assert await tenant.jobs.waiting_jobs(0, 10) == []
    await tenant.jobs.follow_admin_api()
    (deletion,) = await tenant.jobs.waiting_jobs(0, 10)
    assert (deletion.rules.name, deletion.backup_first) == ("Trash", True)
    await operator.starter.start(deletion)
    assert (await ended(api, f"PurgeInstanceJob-{job.ods_instance_id}-3"))["status"] == "Completed"
    assert await names(admin, job.mark) == []
    assert len(await final_backups(api)) == 1


@at_once
async def test_contexts_are_not_forgotten_when_a_delete_drops_at_once(
    api: httpx.AsyncClient, rows: asyncpg.Connection, job: InstanceJob
) -> None:
    await rows.execute(
        "INSERT INTO dbo.odsinstancecontexts (odsinstance_odsinstanceid, contextkey, contextvalue)"
        " VALUES ($1, 'schoolYear', '2027')",
        job.ods_instance_id,
    )
    refused = await api.delete(f"/v2/dbInstances/{job.instance_id}")
    assert (refused.status_code, "OdsInstanceContexts" in refused.text) == (409, True)
    assert (await api.delete(f"/v2/odsInstances/{job.ods_instance_id}")).status_code == 400


@pytest.mark.parametrize("changes", [{"backup_url": None}], ids=["no_store"])
async def test_purge_is_refused_when_there_is_no_store(
    operator: Operator, api: httpx.AsyncClient, job: InstanceJob
) -> None:
    path = f"/v2/dbInstances/{job.instance_id}"
    refused = await api.delete(f"{path}?purge=true&finalBackup=true")
    assert (refused.status_code, "Set ODS_BACKUP_URL" in refused.json()["detail"]) == (409, True)
    plan = (await api.delete(f"{path}?purge=true&finalBackup=true&dryRun=true")).json()
    assert (plan["status"], "Set ODS_BACKUP_URL" in plan["errors"]["Id"][0]) == (409, True), plan
    assert plan["instances"][0]["finalBackup"]["location"] is None
    assert await operator.ended(await operator.delete(job)) is JobStatus.COMPLETED
    refused = await api.delete(f"/v2/trash/{job.instance_id}?finalBackup=true")
    assert refused.status_code == 409
    assert (await operator.instance(job)).is_in_trash
    assert (await api.delete("/v2/trash/987654?finalBackup=true")).status_code == 404


@at_once
async def test_delete_is_refused_in_each_form_when_the_client_programs_are_older_than_the_server(
    operator: Operator, api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, job: InstanceJob
) -> None:
    async def older(program: str, _: int) -> ClientProgram:
        return ClientProgram(program, "15.1")

    monkeypatch.setattr(readiness, "find_program", older)
    number, body = job.instance_id, {"ids": [job.instance_id]}
    refusals = [
        (409, await api.delete(f"/v2/dbInstances/{number}")),
        (400, await api.delete(f"/v2/odsInstances/manage/{number}")),
        (400, await api.delete(f"/v2/odsInstances/{number}")),
        (409, await api.post("/v2/dbInstances/bulk/delete", json=body)),
    ]
    for status, refused in refusals:
        assert refused.status_code == status, refused.text
        assert "pg_dump is of PostgreSQL 15.1, older than the server" in refused.text
    planned = await api.post("/v2/dbInstances/bulk/delete?dryRun=true", json=body)
    assert planned.json()["status"] == 409
    assert (await operator.instance(job)).operation == Operation.CREATE


async def test_final_backup_is_refused_when_nothing_is_purged(
    api: httpx.AsyncClient, job: InstanceJob
) -> None:
    for query in ("finalBackup=true", "finalBackup=true&detach=true"):
        refused = await api.delete(f"/v2/dbInstances/{job.instance_id}?{query}")
        assert (refused.status_code, list(refused.json()["errors"])) == (400, ["FinalBackup"])


async def test_purge_is_refused_when_the_instance_is_protected(
    api: httpx.AsyncClient, job: InstanceJob
) -> None:
    await api.patch(f"/v2/dbInstances/{job.instance_id}", json={"protected": True})
    refused = await api.delete(f"/v2/dbInstances/{job.instance_id}?purge=true&finalBackup=true")
    assert (refused.status_code, "protected" in refused.json()["detail"]) == (409, True)


async def test_dry_run_tells_where_the_backup_would_be_and_what_it_needs(
    api: httpx.AsyncClient, store: Path, job: InstanceJob
) -> None:
    path = f"/v2/dbInstances/{job.instance_id}"
    plan = (await api.delete(f"{path}?purge=true&finalBackup=true&dryRun=true")).json()
    (planned,) = plan["instances"]
    assert (plan["status"], planned["operation"]) == (202, "Delete")
    assert planned["finalBackup"] == {
        "location": f"{store.as_uri()}/default/{job.ods_instance_id}",
        "encrypted": False,
        "neededBytes": planned["sizeBytes"],
    }
    plan = (await api.delete(f"{path}?purge=true&dryRun=true")).json()
    assert plan["instances"][0]["finalBackup"] is None


async def test_nothing_is_dropped_when_the_backup_is_not_what_the_database_holds(
    operator: Operator,
    api: httpx.AsyncClient,
    postgres: EmbeddedPostgres,
    temporal: Client,
    settings: Settings,
    admin: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    store: Path,
    trashed: InstanceJob,
) -> None:
    async def find_difference(*_: object) -> list[str]:
        return ["The table dbo.treasure is missing."]

    with monkeypatch.context() as patched:
        patched.setattr(backup_verification, "verify", find_difference)
        answer = await api.delete(f"/v2/trash/{trashed.instance_id}?finalBackup=true")
        failed = await ended(api, answer.json()["jobId"])
    assert "The table dbo.treasure is missing. Nothing was dropped." in failed["errorMessage"]
    row = await operator.instance(trashed)
    assert (row.status, row.is_in_trash) == (InstanceStatus.DELETE_FAILED, True)
    assert await names(admin, trashed.mark) == [trashed.trash_database]
    (damaged,) = await final_backups(api)
    assert (damaged["verification"], damaged["verifiedAt"]) == ("Error", None)

    assert (await api.post(f"/v2/dbInstances/{trashed.instance_id}/retry")).status_code == 202
    assert (await ended(api, answer.json()["jobId"]))["status"] == "Completed"
    (backup,) = await final_backups(api)
    assert (backup["id"], backup["verification"]) == (damaged["id"], "Completed")
    assert backup["location"] != damaged["location"]
    assert await names(admin, trashed.mark) == []
    assert "1 lost backups recorded" in await reconcile(temporal, settings)  # that of the first try
    assert len(manifests(store)) == 2
    assert await restored(operator, postgres, backup) == 42


async def test_nothing_is_dropped_until_a_restore_could_give_the_rights_within_the_database(
    operator: Operator,
    api: httpx.AsyncClient,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    trashed: InstanceJob,
) -> None:
    async def read_rights(*_: object) -> list[dict[str, Any]]:
        return [NO_RIGHT]

    with monkeypatch.context() as patched:
        patched.setattr(backup_requests, "read_rights", read_rights)
        answer = await api.delete(f"/v2/trash/{trashed.instance_id}?finalBackup=true")
        failed = await ended(api, answer.json()["jobId"])
    assert "The rights of roles in it cannot be given. PostgreSQL refused" in failed["errorMessage"]
    assert await names(admin, trashed.mark) == [trashed.trash_database]

    assert (await api.post(f"/v2/dbInstances/{trashed.instance_id}/retry")).status_code == 202
    assert (await ended(api, answer.json()["jobId"]))["status"] == "Completed"
    assert await names(admin, trashed.mark) == []
    (backup,) = await final_backups(api)
    assert await restored(operator, postgres, backup) == 42


async def test_what_a_purge_has_backed_up_comes_back_whatever_is_in_the_database(
    operator: Operator, api: httpx.AsyncClient, postgres: EmbeddedPostgres, job: InstanceJob
) -> None:
    async with session(service_dsn(postgres, job.database)) as inside:
        await inside.execute(AWKWARD)
    await purged(api, f"/v2/dbInstances/{job.instance_id}?purge=true&finalBackup=true")
    (backup,) = await final_backups(api)
    assert await restored(operator, postgres, backup) == 42


@pytest.mark.parametrize(
    ("recipients", "told"),
    [
        ((), "The table public.treasure is missing. Nothing was dropped."),
        ((str(NEW.to_public()),), "The table public.treasure belongs to an extension"),
    ],
    ids=["verified", "encrypted, so that it cannot be"],
)
async def test_nothing_is_dropped_when_a_table_of_an_extension_has_rows_that_no_dump_has(
    operator: Operator,
    api: httpx.AsyncClient,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    job: InstanceJob,
    recipients: tuple[str, ...],
    told: str,
) -> None:
    monkeypatch.setattr(Settings, "recipients", recipients)
    async with session(postgres.dsn(job.database)) as superuser:
        await superuser.execute("ALTER EXTENSION plpgsql ADD TABLE treasure")
    deletion = (await operator.instances.request_delete(job.instance_id, Delete(Way.TRASH))).job
    await operator.starter.start(deletion)
    assert await operator.ended(deletion) is JobStatus.COMPLETED
    answer = await api.delete(f"/v2/trash/{job.instance_id}?finalBackup=true")
    failed = await ended(api, answer.json()["jobId"])
    assert told in failed["errorMessage"]
    assert await names(admin, job.mark) == [deletion.trash_database]


async def test_backup_is_recorded_when_the_database_is_gone_before_that_could_be_done(
    operator: Operator,
    api: httpx.AsyncClient,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    temporal: Client,
    settings: Settings,
    trashed: InstanceJob,
) -> None:
    record = JobStore.record_final_backup

    async def lose(*_: object) -> bool:
        await admin.execute(f'DROP DATABASE "{trashed.trash_database}"')
        monkeypatch.setattr(JobStore, "record_final_backup", record)
        raise DatabaseFaultError("The registry is away.", outage=True)

    monkeypatch.setattr(JobStore, "record_final_backup", lose)
    await purged(api, f"/v2/trash/{trashed.instance_id}?finalBackup=true")
    (backup,) = await final_backups(api)
    assert (backup["status"], backup["verification"]) == ("Completed", "Pending")
    await reconcile(temporal, settings)
    async with asyncio.timeout(20):
        while (await final_backups(api))[0]["verification"] != "Completed":
            await asyncio.sleep(0.05)
    assert await restored(operator, postgres, backup) == 42


async def test_purge_with_a_backup_fails_when_only_what_was_before_a_reset_is_left(
    operator: Operator,
    api: httpx.AsyncClient,
    admin: asyncpg.Connection,
    temporal: Client,
    settings: Settings,
    name: str,
) -> None:
    job = await created(operator, name)
    reset = (await operator.instances.request_reset(job.instance_id)).job
    await operator.starter.start(reset)
    assert await operator.ended(reset) is JobStatus.COMPLETED
    assert reset.replacement is not None
    delete = await operator.delete(job)
    assert await operator.ended(delete) is JobStatus.COMPLETED
    await admin.execute(f'DROP DATABASE "{delete.trash_database}"')
    accepted = (await api.delete(f"/v2/trash/{job.instance_id}?finalBackup=true")).json()
    end = await ended(api, accepted["jobId"])
    assert end["status"] == "Error"
    assert f"is there, as '{reset.trash_database}'" in end["errorMessage"]
    await reconcile(temporal, settings)
    assert await names(admin, job.mark) == [reset.trash_database]
    await purged(api, f"/v2/trash/{job.instance_id}")  # as the reason says
    await reconcile(temporal, settings)
    assert await names(admin, job.mark) == []


@pytest.fixture
async def failed(
    api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, trashed: InstanceJob
) -> dict[str, Any]:
    """A purge that has failed after it had stored a whole backup."""

    async def store_and_fail(*arguments: Any) -> Manifest:
        await back_up(*arguments)
        raise DatabaseFaultError("The worker was cut off.", retryable=False)

    with monkeypatch.context() as patched:
        patched.setattr(final_backup_steps, "back_up", store_and_fail)
        requested = await api.delete(f"/v2/trash/{trashed.instance_id}?finalBackup=true")
        accepted: dict[str, Any] = requested.json()
        assert (await ended(api, accepted["jobId"]))["status"] == "Error"
    return accepted


@pytest.mark.parametrize("state", ["there", "gone", "half dropped"])
async def test_whole_backup_of_a_failed_purge_is_recorded(
    operator: Operator,
    api: httpx.AsyncClient,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    tenant: Tenant,
    trashed: InstanceJob,
    failed: dict[str, Any],
    state: str,
) -> None:
    if state == "half dropped":
        half_dropped = "UPDATE pg_database SET datconnlimit = -2 WHERE datname = $1"
        await admin.execute(half_dropped, trashed.trash_database)
    elif state == "gone":
        await admin.execute(f'DROP DATABASE "{trashed.trash_database}"')
    done = await cleaned(tenant)
    assert (done.removed, done.recorded) == (0, 1)
    (backup,) = await final_backups(api)
    found = (backup["id"], backup["status"], backup["verification"])
    assert found == (failed["backupId"], "Completed", "Pending")
    assert await restored(operator, postgres, backup) == 42


async def test_backup_does_not_come_back_when_it_is_deleted_and_several_tries_have_stored_one(
    api: httpx.AsyncClient, store: Path, tenant: Tenant, trashed: InstanceJob, failed: dict[str, Any]
) -> None:
    """A purge that is tried again backs the database up again: it may have changed."""
    assert (await api.post(f"/v2/dbInstances/{trashed.instance_id}/retry")).status_code == 202
    assert (await ended(api, failed["jobId"]))["status"] == "Completed"
    assert len(manifests(store)) == 2
    assert (await api.delete(f"/v2/backups/{failed['backupId']}")).status_code == 204
    assert manifests(store) == []
    done = await cleaned(tenant)
    assert (done.removed, done.recorded) == (0, 0)
    assert await final_backups(api) == []


@pytest.mark.parametrize("is_shared", [False, True])
async def test_backup_is_recorded_when_the_registry_is_put_back_to_before_the_purge_that_has_made_it(
    operator: Operator,
    api: httpx.AsyncClient,
    tenant: Tenant,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    rows: asyncpg.Connection,
    trashed: InstanceJob,
    *,
    is_shared: bool,
) -> None:
    path = f"/v2/trash/{trashed.instance_id}?finalBackup=true"
    await remember_rows(rows)
    await purged(api, path)
    (made,) = await final_backups(api)
    await rows.execute(
        "DELETE FROM adminapi.backups; DELETE FROM adminapi.jobstatuses WHERE operation = 'Purge'"
    )
    await put_rows_back(rows)
    assert await final_backups(api) == []
    assert (await operator.instance(trashed)).is_in_trash
    if is_shared:  # also with a copy of the registry, which may have made it
        await cleaned(tenant)
        await rows.execute("DELETE FROM adminapi.backups")
        await rows.execute("UPDATE adminapi.installation SET storeclaimid = gen_random_uuid()")
        refused = await ended(api, (await api.delete(path)).json()["jobId"])
        assert (refused["status"], "accept-store" in refused["errorMessage"]) == ("Error", True)
        assert [it["location"] for it in await final_backups(api)] == [None]
        await accept_store(await open_store(tenant.settings), BackupStores(tenant.engine), tenant.name)
        assert (await api.post(f"/v2/dbInstances/{trashed.instance_id}/retry")).status_code == 202
        assert (await ended(api, refused["jobId"]))["status"] == "Completed"
    else:
        await purged(api, path)
    (backup,) = await final_backups(api)
    assert (backup["status"], backup["location"]) == ("Completed", made["location"])
    assert await names(admin, trashed.mark) == []
    assert await restored(operator, postgres, backup) == 42


async def test_nothing_is_backed_up_or_dropped_when_the_disk_of_the_store_is_not_mounted(
    operator: Operator,
    api: httpx.AsyncClient,
    postgres: EmbeddedPostgres,
    tenant: Tenant,
    admin: asyncpg.Connection,
    store: Path,
    trashed: InstanceJob,
) -> None:
    path = f"/v2/trash/{trashed.instance_id}?finalBackup=true"
    await known_store(tenant)
    disk = unmount(store)
    refused = await api.delete(path)
    assert (refused.status_code, "mount its disk" in refused.json()["detail"]) == (409, True)
    requested = (await operator.instances.request_purge(trashed.instance_id, final_backup=True)).job
    await operator.starter.start(requested)
    assert "mount its disk" in (await ended(api, requested.job_id))["errorMessage"]
    assert await names(admin, trashed.mark) == [trashed.trash_database]
    assert manifests(store) == []
    mount(disk, store)
    assert (await api.post(f"/v2/dbInstances/{trashed.instance_id}/retry")).status_code == 202
    assert (await ended(api, requested.job_id))["status"] == "Completed"
    (backup,) = await final_backups(api)
    assert await restored(operator, postgres, backup) == 42


def lose_dump(store: Path) -> None:
    (dump,) = store.rglob("database.dump")
    dump.unlink()


def damage_dump(store: Path) -> None:
    """Leave the dump its size alone."""
    (dump,) = store.rglob("database.dump")
    dump.write_bytes(bytes(dump.stat().st_size))


@pytest.mark.parametrize(
    ("lose", "words"), [(unmount, "mount its disk"), (lose_dump, "Nothing was dropped. Retry")]
)
async def test_nothing_is_dropped_when_the_backup_is_gone_after_its_verification(
    operator: Operator,
    api: httpx.AsyncClient,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    store: Path,
    trashed: InstanceJob,
    lose: Callable[[Path], object],
    words: str,
) -> None:
    async def pass_and_lose(*_: object) -> list[str]:
        lose(store)
        return []

    with monkeypatch.context() as patched:
        patched.setattr(backup_verification, "verify", pass_and_lose)
        answer = await api.delete(f"/v2/trash/{trashed.instance_id}?finalBackup=true")
        failed = await ended(api, answer.json()["jobId"])
    assert words in failed["errorMessage"]
    assert await names(admin, trashed.mark) == [trashed.trash_database]
    if lose is unmount:
        mount(store.with_name("disk"), store)
    assert (await api.post(f"/v2/dbInstances/{trashed.instance_id}/retry")).status_code == 202
    assert (await ended(api, answer.json()["jobId"]))["status"] == "Completed"
    assert await names(admin, trashed.mark) == []
    (backup,) = await final_backups(api)
    assert await restored(operator, postgres, backup) == 42


async def test_nothing_is_dropped_when_the_backup_was_damaged_since_its_verification(
    operator: Operator,
    api: httpx.AsyncClient,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    store: Path,
    trashed: InstanceJob,
    rows: asyncpg.Connection,
) -> None:
    """As by a store that went away, and was put back with files that have their size alone."""

    async def pass_and_unmount(*_: object) -> list[str]:
        unmount(store)
        return []

    async def retried() -> dict[str, Any]:
        assert (await api.post(f"/v2/dbInstances/{trashed.instance_id}/retry")).status_code == 202
        return await ended(api, answer.json()["jobId"])

    with monkeypatch.context() as patched:
        patched.setattr(backup_verification, "verify", pass_and_unmount)
        answer = await api.delete(f"/v2/trash/{trashed.instance_id}?finalBackup=true")
        assert (await ended(api, answer.json()["jobId"]))["status"] == "Error"
    mount(store.with_name("disk"), store)
    damage_dump(store)
    await rows.execute("UPDATE adminapi.backups SET verifiedat = verifiedat - interval '1 minute'")
    failed = await retried()
    assert failed["errorMessage"].endswith("manifest says. Nothing was dropped. Retry: another one is made.")
    assert await names(admin, trashed.mark) == [trashed.trash_database]
    assert (await retried())["status"] == "Completed"
    assert await names(admin, trashed.mark) == []
    (backup,) = await final_backups(api)
    assert await restored(operator, postgres, backup) == 42


@pytest.mark.parametrize("reading", ["backup_verification.restore", "backups.read_dump"])
async def test_backup_is_not_called_damaged_when_the_store_refuses_the_credentials(
    api: httpx.AsyncClient,
    admin: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    trashed: InstanceJob,
    reading: str,
) -> None:
    """The purge fails, and its retry drops the database with the backup that was made before."""

    def refuse(*_: object) -> NoReturn:
        raise StoreRefusedError("The store refused access.")

    with monkeypatch.context() as patched:
        patched.setattr(final_backup_steps, "_JUST_NOW", timedelta(0))
        patched.setattr(f"activities.{reading}", refuse)
        answer = await api.delete(f"/v2/trash/{trashed.instance_id}?finalBackup=true")
        failed = await ended(api, answer.json()["jobId"])
    assert failed["errorMessage"].startswith("The store refused access.")
    assert await names(admin, trashed.mark) == [trashed.trash_database]
    (before,) = await final_backups(api)
    assert before["verification"] != "Error"
    assert (await api.post(f"/v2/dbInstances/{trashed.instance_id}/retry")).status_code == 202
    assert (await ended(api, answer.json()["jobId"]))["status"] == "Completed"
    assert await names(admin, trashed.mark) == []
    (after,) = await final_backups(api)
    assert (after["verification"], after["sha256"]) == ("Completed", before["sha256"])


async def test_database_is_dropped_when_the_backup_is_undamaged_long_after_its_verification(
    api: httpx.AsyncClient,
    admin: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    trashed: InstanceJob,
) -> None:
    read: list[Manifest] = []

    async def reading(store: BackupStore, manifest: Manifest) -> AsyncIterator[bytes]:
        read.append(manifest)
        async for chunk in restoring.read_dump(store, manifest):
            yield chunk

    monkeypatch.setattr(final_backup_steps, "read_dump", reading)
    monkeypatch.setattr(final_backup_steps, "_JUST_NOW", timedelta(0))
    answer = await api.delete(f"/v2/trash/{trashed.instance_id}?finalBackup=true")
    assert (await ended(api, answer.json()["jobId"]))["status"] == "Completed"
    assert await names(admin, trashed.mark) == []
    assert len(read) == 1


@pytest.mark.parametrize("changes", [{"backup_recipients": str(LOST.to_public())}], ids=["encrypted"])
async def test_nothing_is_dropped_without_a_backup_to_the_new_key_when_the_key_was_changed(
    api: httpx.AsyncClient,
    admin: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    trashed: InstanceJob,
) -> None:
    """As by an operator who finds that the private key is lost, and restarts the workers with another one."""
    read = restoring.read_dump

    async def read_and_change_the_key(store: BackupStore, manifest: Manifest) -> AsyncIterator[bytes]:
        async for chunk in read(store, manifest):
            yield chunk
        monkeypatch.setattr(Settings, "recipients", (str(NEW.to_public()),))

    monkeypatch.setattr(backup_verification, "read_dump", read_and_change_the_key)
    answer = await api.delete(f"/v2/trash/{trashed.instance_id}?finalBackup=true")
    failed = await ended(api, answer.json()["jobId"])
    assert "is not encrypted to just the keys that ODS_BACKUP_RECIPIENTS names" in failed["errorMessage"]
    assert await names(admin, trashed.mark) == [trashed.trash_database]
    assert (await api.post(f"/v2/dbInstances/{trashed.instance_id}/retry")).status_code == 202
    assert (await ended(api, answer.json()["jobId"]))["status"] == "Completed"
    assert await names(admin, trashed.mark) == []
    (backup,) = await final_backups(api)
    assert (backup["encrypted"], backup["verification"]) == (True, "Completed")
    dump = Path(backup["location"].removeprefix("file://")) / "database.dump.age"
    assert pyrage.decrypt(dump.read_bytes(), [NEW]).startswith(b"PGDMP")


async def test_final_backup_is_recorded_by_the_pass_when_the_registry_is_put_back_to_before_the_delete(
    operator: Operator,
    api: httpx.AsyncClient,
    postgres: EmbeddedPostgres,
    rows: asyncpg.Connection,
    temporal: Client,
    settings: Settings,
    store: Path,
    job: InstanceJob,
) -> None:
    await remember_rows(rows)
    await purged(api, f"/v2/dbInstances/{job.instance_id}?purge=true&finalBackup=true")
    (made,) = await final_backups(api)
    foreign = shutil.copytree(Path(made["location"].removeprefix("file://")), store / "foreign")
    await rows.execute(
        "DELETE FROM adminapi.backups; DELETE FROM adminapi.jobstatuses WHERE operation <> 'Create'"
    )
    await put_rows_back(rows)
    assert (await operator.instance(job)).status == InstanceStatus.COMPLETED
    assert await final_backups(api) == []
    another = put_foreign(foreign, store, job.ods_instance_id)
    assert "1 lost backups recorded" in await reconcile(temporal, settings)
    (backup,) = await final_backups(api)
    assert another.exists()
    same = ("id", "location", "sha256", "takenAt", "finishedAt", "name", "template", "instanceId")
    assert [backup[field] for field in same] == [made[field] for field in same]
    assert (backup["status"], backup["jobId"]) == ("Completed", "")
    assert "lost backups" not in await reconcile(temporal, settings)
    async with asyncio.timeout(20):
        while (await final_backups(api))[0]["verification"] != "Completed":
            await asyncio.sleep(0.02)
    assert await restored(operator, postgres, backup) == 42
    assert (await api.delete(f"/v2/backups/{backup['id']}")).status_code == 204
    assert len(manifests(store)) == 1


def put_foreign(folder: Path, store: Path, ods_instance_id: int) -> Path:
    """Make a copy of a backup one of an instance that is another installation's."""
    own = uuid.uuid4()
    moved = folder.rename(store / "default" / str(ods_instance_id) / str(own))
    manifest = moved / "manifest.json"
    content = json.loads(manifest.read_text())
    content |= {"backupId": str(own), "mark": str(uuid.uuid4())}
    content["details"]["backupId"] = str(uuid.uuid4())
    manifest.write_text(json.dumps(content))
    return moved


async def test_instance_comes_back_whole_when_its_purge_has_failed(
    operator: Operator,
    api: httpx.AsyncClient,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    store: Path,
    trashed: InstanceJob,
) -> None:
    aside = put_aside(store)
    requested = (await operator.instances.request_purge(trashed.instance_id, final_backup=True)).job
    await operator.starter.start(requested)
    assert await operator.ended(requested) is JobStatus.ERROR
    assert await names(admin, trashed.mark) == [trashed.trash_database]
    shutil.move(aside, store)
    answer = await api.post(f"/v2/dbInstances/{trashed.instance_id}/undelete")
    assert (await ended(api, answer.json()["jobId"]))["status"] == "Completed"
    assert await names(admin, trashed.mark) == [trashed.database]
    async with session(service_dsn(postgres, trashed.database)) as inside:
        assert await inside.fetchval("SELECT answer FROM treasure") == 42


async def test_nothing_is_dropped_when_the_database_was_changed_since_it_was_backed_up(
    operator: Operator,
    api: httpx.AsyncClient,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    trashed: InstanceJob,
) -> None:
    """As by an operator who opens it, writes and closes it, while the backup is verified."""
    kept, compare = str(trashed.trash_database), figures.verify

    async def write_meanwhile(*compared: Any) -> list[str]:
        await admin.execute(OPEN.format(kept, "true"))
        await write(postgres, kept)
        await admin.execute(OPEN.format(kept, "false"))
        return await compare(*compared)

    with monkeypatch.context() as patched:
        patched.setattr(backup_verification, "verify", write_meanwhile)
        answer = await api.delete(f"/v2/trash/{trashed.instance_id}?finalBackup=true")
        failed = await ended(api, answer.json()["jobId"])
    assert "was opened or changed since it was backed up" in failed["errorMessage"]
    assert await names(admin, trashed.mark) == [kept]
    assert (await api.post(f"/v2/dbInstances/{trashed.instance_id}/retry")).status_code == 202
    assert (await ended(api, answer.json()["jobId"]))["status"] == "Completed"
    assert await names(admin, trashed.mark) == []
    (backup,) = await final_backups(api)
    assert await restored(operator, postgres, backup) == 43


async def test_nothing_is_backed_up_or_dropped_when_the_database_was_opened_by_hand(
    api: httpx.AsyncClient,
    admin: asyncpg.Connection,
    store: Path,
    trashed: InstanceJob,
) -> None:
    kept = str(trashed.trash_database)
    await admin.execute(OPEN.format(kept, "true"))
    answer = await api.delete(f"/v2/trash/{trashed.instance_id}?finalBackup=true")
    failed = await ended(api, answer.json()["jobId"])
    assert "was opened, and may be in use" in failed["errorMessage"]
    assert await is_open(admin, kept)
    assert manifests(store) == []


async def is_open(admin: asyncpg.Connection, database: str) -> bool | None:
    found: bool | None = await admin.fetchval(
        "SELECT datallowconn FROM pg_database WHERE datname = $1", database
    )
    return found


async def test_database_is_in_the_trash_and_closed_when_its_purge_is_cancelled(
    operator: Operator,
    api: httpx.AsyncClient,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    job: InstanceJob,
    store: Path,
) -> None:
    async with session(service_dsn(postgres, job.database)) as inside:
        await inside.execute(
            "CREATE TABLE filling AS SELECT row, sha512(row::text::bytea) AS noise"
            " FROM generate_series(1, 200000) AS row"
        )
    deletion = await operator.delete(job)
    assert await operator.ended(deletion) is JobStatus.COMPLETED
    answer = await api.delete(f"/v2/trash/{job.instance_id}?finalBackup=true")
    dump = await suspended("pg_dump")
    kept = str(deletion.trash_database)
    assert await is_open(admin, kept)
    managed = (await api.get(f"/v2/odsInstances/manage/{job.instance_id}")).json()
    assert managed["status"] == "DeleteInProgress"
    assert (await api.post(f"/v2/jobs/{answer.json()['jobId']}/cancel")).status_code == 202
    failed = await ended(api, answer.json()["jobId"])
    assert failed["errorMessage"] == "The job was cancelled."
    assert has_ended(dump)
    async with asyncio.timeout(10):
        while await is_open(admin, kept):
            await asyncio.sleep(0.01)
    assert await names(admin, job.mark) == [kept]
    assert manifests(store) == []
    row = await operator.instance(job)
    assert (row.status, row.is_in_trash) == (InstanceStatus.DELETED, True)
    assert (await api.post(f"/v2/dbInstances/{job.instance_id}/retry")).status_code == 404
    await purged(api, f"/v2/trash/{job.instance_id}")  # without a backup, as it was asked for


async def test_backup_cannot_be_deleted_when_its_database_is_about_to_be_dropped(
    api: httpx.AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
    trashed: InstanceJob,
) -> None:
    refusals: list[httpx.Response] = []
    compare = figures.verify

    async def delete_meanwhile(*compared: Any) -> list[str]:
        (backup,) = await final_backups(api)
        refusals.append(await api.delete(f"/v2/backups/{backup['id']}"))
        return await compare(*compared)

    monkeypatch.setattr(backup_verification, "verify", delete_meanwhile)
    await purged(api, f"/v2/trash/{trashed.instance_id}?finalBackup=true")
    (refused,) = refusals
    assert (refused.status_code, "about to be dropped" in refused.json()["detail"]) == (409, True)
    (backup,) = await final_backups(api)
    assert (await api.delete(f"/v2/backups/{backup['id']}")).status_code == 204


async def test_each_verification_goes_on_when_a_client_requests_one_while_the_purge_verifies_the_backup(
    api: httpx.AsyncClient,
    admin: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    trashed: InstanceJob,
) -> None:
    compare, restored_to = figures.verify, []
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def hold_the_first(database: Database, *expected: Any) -> list[str]:
        restored_to.append(database.name)
        if len(restored_to) == 1:
            reached.set()
            await go_on.wait()
        return await compare(database, *expected)

    monkeypatch.setattr(backup_verification, "verify", hold_the_first)
    answer = (await api.delete(f"/v2/trash/{trashed.instance_id}?finalBackup=true")).json()
    await asyncio.wait_for(reached.wait(), 60)
    assert (await api.post(f"/v2/backups/{answer['backupId']}/verify")).status_code == 202
    async with asyncio.timeout(60):
        while (await final_backups(api))[0]["verification"] != "Completed":
            await asyncio.sleep(0.05)
    go_on.set()
    assert (await ended(api, answer["jobId"]))["status"] == "Completed"
    assert len(set(restored_to)) == len(restored_to) == 2, "one has ended the other"
    assert await names(admin, trashed.mark) == []


async def test_nothing_is_dropped_when_the_backup_was_deleted_before_the_retry(
    operator: Operator,
    api: httpx.AsyncClient,
    admin: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    trashed: InstanceJob,
) -> None:
    async def fail(*_: object) -> list[str]:
        raise BackupFaultError("pg_restore has failed.")

    with monkeypatch.context() as patched:
        patched.setattr(backup_verification, "verify", fail)
        answer = await api.delete(f"/v2/trash/{trashed.instance_id}?finalBackup=true")
        assert "pg_restore has failed." in (await ended(api, answer.json()["jobId"]))["errorMessage"]
    assert (await api.delete(f"/v2/backups/{answer.json()['backupId']}")).status_code == 204
    await operator.retry(trashed)
    failed = await ended(api, answer.json()["jobId"])
    assert "was deleted before the database was dropped" in failed["errorMessage"]
    assert await names(admin, trashed.mark) == [trashed.trash_database]
    await purged(api, f"/v2/trash/{trashed.instance_id}?finalBackup=true")
    assert await names(admin, trashed.mark) == []


async def test_purge_follows_at_the_next_pass_when_a_worker_has_done_the_delete_and_died(
    operator: Operator,
    api: httpx.AsyncClient,
    tenant: Tenant,
    temporal: Client,
    settings: Settings,
    admin: asyncpg.Connection,
    job: InstanceJob,
) -> None:
    requested = (await operator.instances.request_delete(job.instance_id, FINAL)).job
    assert (await tenant.jobs.begin(requested)).held
    assert await tenant.jobs.finish_delete(requested)  # and no more
    assert (await operator.instance(job)).database.purge_after is None
    await move_to_trash(tenant, requested)
    assert "1 purges" in await reconcile(temporal, settings)
    assert (await ended(api, f"PurgeInstanceJob-{job.ods_instance_id}-3"))["status"] == "Completed"
    assert await names(admin, job.mark) == []
    assert len(await final_backups(api)) == 1


async def move_to_trash(tenant: Tenant, job: InstanceJob) -> None:
    owner = owner_of(job).knowing(await tenant.jobs.known_revisions(job), job.request, job.attempt)
    into = TrashJob(owner, [job.database], str(job.trash_database))
    async with tenant.server.fenced(owner_of(job)) as fenced:
        assert await retiring.retire(tenant.server, fenced, into)


async def test_pass_closes_what_a_purge_has_left_open_when_its_job_has_ended(
    operator: Operator,
    api: httpx.AsyncClient,
    tenant: Tenant,
    temporal: Client,
    settings: Settings,
    admin: asyncpg.Connection,
    store: Path,
    trashed: InstanceJob,
) -> None:
    put_aside(store)
    answer = await api.delete(f"/v2/trash/{trashed.instance_id}?finalBackup=true")
    assert answer.status_code == 409, "there is no store"
    requested = (await operator.instances.request_purge(trashed.instance_id, final_backup=True)).job
    await operator.starter.start(requested)
    assert await operator.ended(requested) is JobStatus.ERROR
    await temporal.get_workflow_handle(requested.workflow_id).signal(JobWorkflow.abandon)
    kept = str(trashed.trash_database)
    comment = await admin.fetchval(
        "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = $1", kept
    )
    opened = comment.replace("{", f'{{"openedBy": "{requested.job_id}", ', 1)
    await admin.execute(f"COMMENT ON DATABASE \"{kept}\" IS '{opened}'")
    await admin.execute(OPEN.format(kept, "true"))
    assert not [one for one in await DriftDetector(tenant).detect() if one.kind is DriftKind.CHANGED_BY_HAND]
    await reconcile(temporal, settings)
    assert not await is_open(admin, kept)
    assert await names(admin, trashed.mark) == [kept]


@always
async def test_nothing_is_purged_when_no_backup_can_be_made(
    operator: Operator,
    temporal: Client,
    settings: Settings,
    rows: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    trashed: InstanceJob,
) -> None:
    async def older(program: str, _: int) -> ClientProgram:
        return ClientProgram(program, "15.1")

    monkeypatch.setattr(readiness, "find_program", older)
    await rows.execute(
        "UPDATE adminapi.databases SET purgeafter = now() - interval '1 day' WHERE reason = 'deleted'"
    )
    assert "no purges because of the backup before them" in await reconcile(temporal, settings)
    row = await operator.instance(trashed)
    assert (row.status, row.goes_to_trash) == (InstanceStatus.DELETED, True)


async def test_what_was_requested_before_the_setting_is_refused_when_it_would_drop_without_a_backup(
    operator: Operator,
    api: httpx.AsyncClient,
    admin: asyncpg.Connection,
    tenant: Tenant,
    trashed: InstanceJob,
) -> None:
    purge = (await operator.instances.request_purge(trashed.instance_id)).job
    statuses = StatusActivities(
        replace(tenant, settings=tenant.settings.model_copy(update={"final_backup": True}))
    )
    begun = await ActivityEnvironment().run(statuses.begin, purge)
    assert begun.held
    assert "ODS_FINAL_BACKUP" in str(begun.refusal)
    assert await tenant.jobs.fail(purge, str(begun.refusal))
    await purged(api, f"/v2/trash/{trashed.instance_id}?finalBackup=true")
    assert await names(admin, trashed.mark) == []
