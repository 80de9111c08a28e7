"""Backups of instances, requested through the API, made by workers, on real servers."""

import asyncio
import hashlib
import json
import os
import shutil
import signal
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import ANY

import asyncpg
import httpx
import pyrage
import pytest
from pyrage import x25519
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities import backup_cleaning, backup_requests, backup_verification
from activities import backups as backup_activities
from activities.backup_requests import backup_request
from activities.backup_verification import Verification, VerificationActivities
from activities.errors import OUTAGE
from ods.backups import readiness, restoring
from ods.backups.backing_up import back_up
from ods.backups.client_programs import ClientProgram, find_program
from ods.backups.errors import StoreRefusedError
from ods.backups.figures import count_rows
from ods.backups.manifest import BackupKey, BackupRequest, Manifest
from ods.backups.snapshots import Snapshot, Table
from ods.backups.storage import BackupStore
from ods.backups.stored_backups import list_backups
from ods.databases.errors import DatabaseFaultError
from ods.databases.rights.inner import Rights, read_rights
from ods.embedded.polling import wait_until
from ods.embedded.postgres import EmbeddedPostgres
from ods.model.arguments import Way
from ods.model.operations import InstanceStatus, JobStatus, Operation
from ods.model.origins import BackupOrigin, CopyMode, CopyOrigin
from ods.observability.metrics.catalog import BACKUPS_UNVERIFIED
from ods.recovery.adoption import DatabaseAdoption
from ods.recovery.compare.detector import DriftDetector
from ods.registry.backups.stores import BackupStores
from ods.registry.figures import RegistryFigures
from ods.registry.instances.deletes import Delete
from ods.registry.instances.jobs import ExecutionPolicy, InstanceJob
from ods.registry.instances.store import Requested
from ods.registry.storage.errors import InvalidError
from ods.registry.storage.models import Backup, DbInstance
from ods.settings.settings import Settings
from ods.tenants.known_store import accept_store
from ods.tenants.tenant import Tenant, open_tenants
from tests.api.service import bearer, client_of, running
from tests.client_programs import at_work
from tests.dumps import filling
from tests.end_to_end.conftest import Operator, cleaned
from tests.end_to_end.steps import NO_RIGHT, created, reconcile, rewrite_manifest
from tests.mount_points import mount, unmount
from tests.postgres.postgres_inspection import exchanging_by_hand, privileges_on
from tests.quotas import largest_file
from tests.servers import make_settings, service_dsn, session
from workflows.job_workflow import JobWorkflow

ADDED_RIGHT = {**NO_RIGHT, "schema": "kept", "role": "pg_monitor", "privileges": ["CREATE"]}

_OTHER_DATABASES = "SELECT array_agg(datname::text) FROM pg_database WHERE datname <> ALL ($1::text[])"

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("workers")]


@pytest.fixture
def verify() -> str:
    """Which backups are verified without a request."""
    return "never"


@pytest.fixture
def recipients() -> str | None:
    """To whom backups are encrypted."""
    return None


@pytest.fixture
def settings(
    postgres: EmbeddedPostgres, registry_dsn: str, store: Path, verify: str, recipients: str | None
) -> Settings:
    return make_settings(
        postgres,
        registry_dsn,
        backup_url=store.as_uri(),
        backup_verify=verify,
        backup_recipients=recipients,
    )


async def ended(api: httpx.AsyncClient, job_id: str) -> dict[str, Any]:
    async with asyncio.timeout(60):
        while True:
            job: dict[str, Any] = (await api.get(f"/v2/jobs/{job_id}")).json()
            if job["status"] in {"Completed", "Error"}:
                return job
            await asyncio.sleep(0.05)


async def requested(api: httpx.AsyncClient, job: InstanceJob) -> dict[str, Any]:
    answer = await api.post(f"/v2/dbInstances/{job.instance_id}/backups")
    assert answer.status_code == 202, answer.text
    accepted: dict[str, Any] = answer.json()
    return accepted


async def backup_of(api: httpx.AsyncClient, accepted: dict[str, Any]) -> dict[str, Any]:
    backup: dict[str, Any] = (await api.get(f"/v2/backups/{accepted['backupId']}")).json()
    return backup


async def backed_up(api: httpx.AsyncClient, job: InstanceJob) -> dict[str, Any]:
    accepted = await requested(api, job)
    assert (await ended(api, accepted["jobId"]))["status"] == "Completed"
    return await backup_of(api, accepted)


async def verified(api: httpx.AsyncClient, backup: dict[str, Any]) -> dict[str, Any]:
    answer = await api.post(f"/v2/backups/{backup['id']}/verify")
    assert answer.status_code == 202, answer.text
    return await passed(api, backup)


async def passed(api: httpx.AsyncClient, backup: dict[str, Any]) -> dict[str, Any]:
    """The backup once its verification has ended."""
    async with asyncio.timeout(60):
        while True:
            found: dict[str, Any] = (await api.get(f"/v2/backups/{backup['id']}")).json()
            if found["verification"] in {"Completed", "Error"}:
                return found
            await asyncio.sleep(0.05)


def folder_of(backup: dict[str, Any]) -> Path:
    return Path(backup["location"].removeprefix("file://"))


def stored(backup: dict[str, Any]) -> dict[str, int]:
    """The files of a backup, with their sizes."""
    folder = folder_of(backup)
    return {path.name: path.stat().st_size for path in folder.iterdir()} if folder.exists() else {}


def files_in(store: Path) -> list[str]:
    """The files of backups; by others, the store is known."""
    found = [path for path in store.rglob("*") if path.is_file()]
    return sorted(path.name for path in found if not path.is_relative_to(store / "_store"))


async def scratches(admin: asyncpg.Connection) -> int:
    count: int = await admin.fetchval(
        "SELECT count(*) FROM pg_database WHERE starts_with(datname, 'ods_scratch_')"
    )
    return count


async def test_backup_is_stored_and_listed_when_one_was_requested(
    operator: Operator, api: httpx.AsyncClient, name: str
) -> None:
    job = await created(operator, name)
    backup = await backed_up(api, job)
    assert backup["status"] == "Completed"
    assert (backup["instanceId"], backup["name"], backup["kind"]) == (job.instance_id, name, "requested")
    assert stored(backup) == {"database.dump": backup["sizeBytes"], "manifest.json": ANY}
    assert (backup["encrypted"], backup["template"], backup["verifiedAt"]) == (False, "Minimal", None)
    assert backup["takenAt"] <= backup["finishedAt"]
    listed = (await api.get("/v2/backups", params={"kind": "requested"})).json()
    assert listed == [backup]
    assert (await api.get(f"/v2/dbInstances/{job.instance_id}/backups")).json() == [backup]
    assert (await api.get("/v2/backups", params={"kind": "final"})).json() == []
    assert (await api.get("/v2/backups", params={"instanceId": job.instance_id + 1})).json() == []
    row = await operator.instance(job)
    assert (row.status, row.error_message) == (InstanceStatus.COMPLETED, None)
    dump = await api.get(f"/v2/backups/{backup['id']}/dump")
    assert hashlib.sha256(dump.content).hexdigest() == backup["sha256"]


async def test_backup_and_online_copy_are_made_when_the_operator_has_made_the_database_read_only(
    operator: Operator, api: httpx.AsyncClient, admin: asyncpg.Connection, name: str
) -> None:
    """They do not wait for a server that takes writes, and backups of a schedule behind them."""
    job = await created(operator, name)
    await admin.execute(f'ALTER DATABASE "{job.database}" SET default_transaction_read_only = on')
    backup = await backed_up(api, job)
    assert (await verified(api, backup))["verification"] == "Completed"
    origin = CopyOrigin(job.instance_id, CopyMode.ONLINE)
    copy = (await operator.instances.reserve(f"{name} copy", "Minimal", origin=origin)).job
    await operator.starter.start(copy)
    assert await operator.ended(copy) is JobStatus.COMPLETED


async def test_applications_are_not_disturbed_when_a_backup_of_their_instance_is_made(
    operator: Operator, api: httpx.AsyncClient, postgres: EmbeddedPostgres, name: str
) -> None:
    job = await created(operator, name)
    async with session(service_dsn(postgres, job.database)) as application:
        await application.execute("CREATE TABLE treasure (answer int); INSERT INTO treasure VALUES (42)")
        async with application.transaction():
            await application.execute("INSERT INTO treasure VALUES (43)")
            backup = await backed_up(api, job)
            await application.execute("INSERT INTO treasure VALUES (44)")
        assert await application.fetchval("SELECT count(*) FROM treasure") == 3
    managed = (await api.get(f"/v2/odsInstances/manage/{job.instance_id}")).json()
    assert managed["status"] == "Created"
    assert (await verified(api, backup))["verification"] == "Completed"


async def test_no_other_database_is_backed_up_when_it_gets_the_name_by_hand_meanwhile(
    operator: Operator,
    api: httpx.AsyncClient,
    admin: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    """It would pass for a backup of the instance, for which earlier ones go."""
    job = await created(operator, name)

    async def exchange_first(tenant: Tenant, backup: Backup, database: str) -> BackupRequest:
        async with exchanging_by_hand(admin, job.database):
            monkeypatch.undo()
        return await backup_request(tenant, backup, database)

    monkeypatch.setattr(backup_activities, "backup_request", exchange_first)
    accepted = await requested(api, job)
    try:
        assert (await ended(api, accepted["jobId"]))["status"] == "Error"
        assert (await backup_of(api, accepted))["status"] == "Error"
    finally:
        await admin.execute(f'DROP DATABASE "{job.database}_aside" WITH (FORCE)')


async def test_instance_is_called_created_when_a_backup_of_it_is_made(
    operator: Operator,
    api: httpx.AsyncClient,
    postgres: EmbeddedPostgres,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    job = await created(operator, name)
    async with session(service_dsn(postgres, job.database)) as other:
        await other.execute("CREATE TABLE held (answer int)")
        async with other.transaction():
            await other.execute("LOCK TABLE held IN ACCESS EXCLUSIVE MODE")
            accepted = await requested(api, job)
            path = f"/v2/dbInstances/{job.instance_id}"
            async with asyncio.timeout(20):
                while (await api.get(path)).json()["status"] != "InProgress":
                    await asyncio.sleep(0.02)
            managed = (await api.get(f"/v2/odsInstances/manage/{job.instance_id}")).json()
            assert managed["status"] == "Created"
            assert await rows.fetchval("SELECT adminapi.managed_status('InProgress', 'Backup')") == "Created"
            for request in (api.delete(path), api.post(f"{path}/backups"), api.put(path, json={"name": "x"})):
                refused = await request
                assert refused.status_code == 409, refused.text
                assert refused.json()["state"] == "InProgress"
            refused = await api.delete(f"/v2/backups/{accepted['backupId']}")
            assert refused.status_code == 409
            assert "Cancel its job first" in refused.json()["nextStep"]
            refused = await api.post(f"/v2/backups/{accepted['backupId']}/verify")
            assert (refused.status_code, refused.json()["state"]) == (409, "InProgress")
    assert (await ended(api, accepted["jobId"]))["status"] == "Completed"


async def test_backup_is_refused_when_there_is_no_store(
    operator: Operator,
    postgres: EmbeddedPostgres,
    registry_dsn: str,
    settings: Settings,
    temporal: Client,
    name: str,
) -> None:
    job = await created(operator, name)
    without = make_settings(postgres, registry_dsn, task_queue=settings.task_queue)
    async with (
        running(without, temporal.service_client.config.target_host) as app,
        client_of(app, headers=bearer(without)) as client,
    ):
        refused = await client.post(f"/v2/dbInstances/{job.instance_id}/backups")
    assert refused.status_code == 409
    assert "Set ODS_BACKUP_URL" in refused.json()["detail"]
    assert (await operator.instance(job)).operation == Operation.CREATE


async def test_backup_is_refused_when_the_client_programs_are_older_than_the_server(
    operator: Operator, api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    async def older(program: str, _: int) -> ClientProgram:
        return ClientProgram(program, "15.1")

    job = await created(operator, name)
    monkeypatch.setattr(readiness, "find_program", older)
    refused = await api.post(f"/v2/dbInstances/{job.instance_id}/backups")
    assert refused.status_code == 409
    assert "pg_dump is of PostgreSQL 15.1, older than the server" in refused.json()["detail"]
    assert (await operator.instance(job)).operation == Operation.CREATE


async def test_nothing_is_found_when_there_is_no_such_instance_or_backup(api: httpx.AsyncClient) -> None:
    assert (await api.post("/v2/dbInstances/4711/backups")).status_code == 404
    for path in (f"/v2/backups/{uuid.uuid4()}", "/v2/backups/none"):
        for request in (api.get(path), api.delete(path), api.post(f"{path}/verify"), api.get(f"{path}/dump")):
            assert (await request).status_code == 404


async def requested_verification(
    tenant: Tenant, backup: dict[str, Any]
) -> Callable[[], Awaitable[str | None]]:
    """What a worker does about a verification that is requested, as often as it is called."""
    await tenant.backups.request_verification(uuid.UUID(backup["id"]))
    waiting = Verification(tenant.name, backup["id"], ExecutionPolicy.from_settings(tenant.settings))
    verify = VerificationActivities(tenant).verify_backup
    return lambda: ActivityEnvironment().run(verify, waiting)


async def test_backup_is_whole_when_it_is_verified_and_damaged_when_its_bytes_have_changed(
    operator: Operator, api: httpx.AsyncClient, admin: asyncpg.Connection, name: str
) -> None:
    backup = await backed_up(api, await created(operator, name))
    intact = await verified(api, backup)
    assert (intact["verification"], intact["verificationError"]) == ("Completed", None)
    assert intact["verifiedAt"] is not None
    damage(folder_of(backup) / "database.dump")
    failed = await verified(api, backup)
    assert failed["verification"] == "Error"
    assert failed["verificationError"]
    assert failed["verifiedAt"] == intact["verifiedAt"]
    assert await scratches(admin) == 0


async def test_verification_waits_for_the_disk_of_the_store_when_it_is_not_mounted(
    operator: Operator, api: httpx.AsyncClient, tenant: Tenant, store: Path, name: str
) -> None:
    backup = await backed_up(api, await created(operator, name))
    disk = unmount(store)
    verify = await requested_verification(tenant, backup)
    with pytest.raises(ApplicationError, match="mount its disk") as refused:
        await verify()
    assert refused.value.type == OUTAGE
    mount(disk, store)
    assert await verify() is None


@pytest.mark.parametrize("program", ["known_store", "restore"])
async def test_verification_waits_for_the_credentials_when_the_store_refuses_them(
    operator: Operator,
    api: httpx.AsyncClient,
    tenant: Tenant,
    monkeypatch: pytest.MonkeyPatch,
    admin: asyncpg.Connection,
    name: str,
    program: str,
) -> None:
    """Those of a cloud end after some hours: what is stored is as whole as before."""

    async def refuse(*_: object) -> NoReturn:
        raise StoreRefusedError("The store refused access.")

    backup = await backed_up(api, await created(operator, name))
    verify = await requested_verification(tenant, backup)
    with monkeypatch.context() as patched:
        patched.setattr(backup_verification, program, refuse)
        with pytest.raises(ApplicationError, match="refused access") as refused:
            await verify()
    assert refused.value.type == OUTAGE
    assert await verify() is None
    assert await scratches(admin) == 0


async def test_verification_waits_for_the_login_that_restores_when_it_was_changed(
    operator: Operator, api: httpx.AsyncClient, tenant: Tenant, admin: asyncpg.Connection, name: str
) -> None:
    backup = await backed_up(api, await created(operator, name))
    verify = await requested_verification(tenant, backup)
    await admin.execute("ALTER ROLE ods_restore SET array_nulls = off")
    try:
        with pytest.raises(ApplicationError, match="ALTER ROLE ods_restore RESET ALL") as refused:
            await verify()
    finally:
        await admin.execute("ALTER ROLE ods_restore RESET ALL")
    assert refused.value.type == OUTAGE
    assert await verify() is None
    assert await scratches(admin) == 0


async def test_verification_waits_for_the_client_programs_when_they_do_not_suit_the_backup(
    operator: Operator,
    api: httpx.AsyncClient,
    tenant: Tenant,
    monkeypatch: pytest.MonkeyPatch,
    admin: asyncpg.Connection,
    name: str,
) -> None:
    async def older(program: str, _: int) -> ClientProgram:
        return ClientProgram(program, "9.6.24")

    backup = await backed_up(api, await created(operator, name))
    verify = await requested_verification(tenant, backup)
    with monkeypatch.context() as patched:
        patched.setattr(restoring, "find_program", older)
        with pytest.raises(ApplicationError, match="Install the client programs") as refused:
            await verify()
    assert refused.value.type == OUTAGE
    assert await verify() is None
    assert await scratches(admin) == 0


@pytest.mark.parametrize("sqlstate", ["53100", "53300", "28000"])
async def test_verification_waits_for_the_server_when_that_takes_no_writes(
    operator: Operator,
    api: httpx.AsyncClient,
    tenant: Tenant,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    sqlstate: str,
) -> None:
    backup = await backed_up(api, await created(operator, name))
    verify = await requested_verification(tenant, backup)
    with monkeypatch.context() as patched:
        patched.setattr(restoring, "OPTIONS", (*restoring.OPTIONS, "--no-such-option"))
        patched.setattr(restoring, "_WRITE", f"DO $$ BEGIN RAISE SQLSTATE '{sqlstate}'; END $$")
        with pytest.raises(ApplicationError) as refused:
            await verify()
    assert refused.value.type == OUTAGE
    assert await verify() is None


async def test_backup_is_not_whole_when_rows_are_missing_in_it(
    operator: Operator,
    api: httpx.AsyncClient,
    admin: asyncpg.Connection,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    backup = await backed_up(api, await created(operator, name))
    manifest = folder_of(backup) / "manifest.json"
    text = manifest.read_text()
    assert '"dbo.nothing"' not in text
    await rewrite_manifest(rows, manifest, text.replace('"tables": {', '"tables": {"dbo.nothing": 3,', 1))
    failed = await verified(api, backup)
    assert failed["verificationError"] == "The table dbo.nothing is missing."
    assert await scratches(admin) == 0


async def test_backup_is_not_whole_when_a_restore_could_not_give_the_rights_that_it_has(
    operator: Operator,
    api: httpx.AsyncClient,
    admin: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    async def read(inside: asyncpg.Connection, owner: str | None) -> Rights:
        return [NO_RIGHT, *await read_rights(inside, owner)]

    with monkeypatch.context() as patched:
        patched.setattr(backup_requests, "read_rights", read)
        backup = await backed_up(api, await created(operator, name))
    reason = "PostgreSQL refused the step with SQLSTATE 0LP01. Its log tells more."
    failed = await verified(api, backup)
    assert failed["verificationError"] == f"The rights of roles in it cannot be given. {reason}"
    assert await scratches(admin) == 0
    restored = await restored_as(api, f"{name} back", backup)
    assert (restored["status"], restored["errorMessage"]) == ("Error", reason)


async def restored_as(api: httpx.AsyncClient, name: str, backup: dict[str, Any]) -> dict[str, Any]:
    """The job that restores a backup as an instance of this name, once it has ended."""
    answer = await api.post("/v2/dbInstances", json={"name": name, "backupId": backup["id"]})
    return await ended(api, answer.json()["jobId"])


def with_right(text: str) -> str:
    """A manifest with one right more, as a writer to the store would add it."""
    content = json.loads(text)
    content["details"]["rights"].append(ADDED_RIGHT)
    return json.dumps(content)


async def test_backup_is_refused_when_its_manifest_was_changed_in_the_store(
    operator: Operator, api: httpx.AsyncClient, name: str
) -> None:
    backup = await backed_up(api, await created(operator, name))
    manifest = folder_of(backup) / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(with_right(text))
    reason = (
        f"The manifest of the backup {backup['id']} in {backup['location']} is not the one that was recorded"
    )
    download = await api.get(f"/v2/backups/{backup['id']}/dump")
    assert download.status_code == 409
    assert reason in download.text
    failed = await verified(api, backup)
    assert failed["verificationError"].startswith(reason)
    restored = await restored_as(api, f"{name} back", backup)
    assert restored["status"] == "Error"
    assert restored["errorMessage"].startswith(reason)
    manifest.write_text(text)
    assert (await verified(api, backup))["verification"] == "Completed"


async def test_right_is_not_given_when_it_was_added_to_a_backup_that_the_registry_has_lost(
    operator: Operator,
    api: httpx.AsyncClient,
    postgres: EmbeddedPostgres,
    tenant: Tenant,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    async def has_rights(of: str) -> tuple[bool, bool]:
        """Whether a role may read what was granted to it, and write, of which only the manifest says so."""
        job = await restored_as(api, of, backup)
        assert job["status"] == "Completed", job["errorMessage"]
        database = await rows.fetchval("SELECT databasename FROM adminapi.dbinstances WHERE name = $1", of)
        async with session(service_dsn(postgres, database)) as inside:
            query = "SELECT has_schema_privilege('pg_monitor', 'kept', $1)"
            return await inside.fetchval(query, "USAGE"), await inside.fetchval(query, "CREATE")

    job = await created(operator, name)
    async with session(service_dsn(postgres, job.database)) as inside:
        await inside.execute("CREATE SCHEMA kept; GRANT USAGE ON SCHEMA kept TO pg_monitor")
    backup = await backed_up(api, job)
    await rows.execute("DELETE FROM adminapi.backups")  # as in a registry that was put back
    assert (await cleaned(tenant)).recorded == 1
    assert (await verified(api, backup))["verification"] == "Completed"
    assert await has_rights(f"{name} back") == (True, False)

    manifest = folder_of(backup) / "manifest.json"
    manifest.write_text(with_right(manifest.read_text()))
    await rows.execute("DELETE FROM adminapi.backups")
    assert (await cleaned(tenant)).recorded == 1
    assert "has not written the rights" in (await verified(api, backup))["verificationError"]
    assert await has_rights(f"{name} once more") == (False, False)


@pytest.mark.parametrize("verify", ["always", "weekly"])
async def test_backup_is_verified_without_a_request_when_the_settings_say_so(
    operator: Operator, api: httpx.AsyncClient, rows: asyncpg.Connection, verify: str, name: str
) -> None:
    job = await created(operator, name)
    first, second = await passed(api, await backed_up(api, job)), await backed_up(api, job)
    assert first["verifiedAt"] is not None
    assert (second["verification"] is None) == (verify == "weekly")
    await rows.execute("UPDATE adminapi.backups SET verifiedat = verifiedat - interval '8 days'")
    assert (await passed(api, await backed_up(api, job)))["verification"] == "Completed"


async def test_nothing_is_left_when_a_backup_is_deleted(
    operator: Operator, api: httpx.AsyncClient, store: Path, rows: asyncpg.Connection, name: str
) -> None:
    backup = await backed_up(api, await created(operator, name))
    path = f"/v2/backups/{backup['id']}"
    assert (await api.delete(path)).status_code == 204
    assert files_in(store) == []
    assert (await api.get(path)).status_code == 404
    assert (await api.delete(path)).status_code == 404
    assert await rows.fetchval("SELECT count(*) FROM adminapi.backups") == 0


_EXPIRED = """
UPDATE adminapi.backups SET deletedat = NULL, kind = 'scheduled', createdat = '2020-01-01';
-- Of an instance that has long been gone, none must stay.
UPDATE adminapi.dbinstances SET state = 'Deleted', lastmodifieddate = '2020-01-01'
"""


async def test_backup_in_an_earlier_store_is_deleted_only_there_or_if_its_copy_is_here(
    operator: Operator,
    api: httpx.AsyncClient,
    store: Path,
    temporal: Client,
    settings: Settings,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    job = await created(operator, name)
    first, second, third = [await backed_up(api, job) for _ in range(3)]
    later = shutil.copytree(store / "_store", store.with_name("later") / "_store").parent
    changed = settings.model_copy(update={"backup_url": later.as_uri()})
    address = temporal.service_client.config.target_host
    async with running(changed, address) as app, client_of(app, headers=bearer(settings)) as elsewhere:
        refused = await elsewhere.delete(f"/v2/backups/{first['id']}")
        assert (refused.status_code, first["location"] in refused.json()["detail"]) == (409, True)
        refused = await elsewhere.post(f"/v2/backups/{first['id']}/verify")
        assert (refused.status_code, first["location"] in refused.json()["detail"]) == (409, True)
        assert (await api.get(f"/v2/backups/{first['id']}")).json()["verification"] is None

        folder = folder_of(first).relative_to(store)
        shutil.copytree(store / folder, later / folder)
        assert (await elsewhere.delete(f"/v2/backups/{first['id']}")).status_code == 204
        assert not (later / folder).exists()

        disk = later.rename(store.with_name("disk"))
        later.mkdir()  # the disk is not mounted for a moment
        assert (await elsewhere.delete(f"/v2/backups/{second['id']}?forget=true")).status_code == 204
        later.rmdir()
        disk.rename(later)
    async with open_tenants(changed) as (tenant,):
        await rows.execute("UPDATE adminapi.backups SET deletedat = now()")
        assert (await cleaned(tenant)).removed == 0
        await rows.execute(_EXPIRED)
        assert (await cleaned(tenant)).expired == 0
    assert stored(third)
    assert [one["id"] for one in (await api.get("/v2/backups")).json()] == [third["id"]]
    async with open_tenants(settings) as (tenant,):
        report = await cleaned(tenant)
    assert (report.expired, report.removed, report.recorded) == (1, 1, 2)
    assert not stored(third)
    # What was not removed where it was is known again, where that store is used.
    assert stored(first)
    assert stored(second)
    listed = {one["id"] for one in (await api.get("/v2/backups")).json()}
    assert listed == {first["id"], second["id"]}


async def test_pass_removes_what_is_stored_when_the_store_was_away_at_the_delete(
    operator: Operator,
    api: httpx.AsyncClient,
    store: Path,
    temporal: Client,
    settings: Settings,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    backup = await backed_up(api, await created(operator, name))
    kept = folder_of(backup)
    kept.chmod(0o500)
    aside = store.with_name("aside")
    # The manifest cannot be removed where its folder is a file's.
    shutil.move(kept, aside)
    kept.write_text("in the way")
    assert (await api.delete(f"/v2/backups/{backup['id']}")).status_code == 204
    assert (await api.get("/v2/backups")).json() == []
    assert await rows.fetchval("SELECT count(*) FROM adminapi.backups") == 1
    kept.unlink()
    shutil.move(aside, kept)
    kept.chmod(0o700)
    assert "1 backups removed" in await reconcile(temporal, settings)
    assert files_in(store) == []
    assert await rows.fetchval("SELECT count(*) FROM adminapi.backups") == 0


async def test_pass_goes_on_when_the_store_does_not_let_one_backup_go(
    operator: Operator,
    api: httpx.AsyncClient,
    store: Path,
    temporal: Client,
    settings: Settings,
    rows: asyncpg.Connection,
    name: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    job = await created(operator, name)
    stuck, deleted, lost = [await backed_up(api, job) for _ in range(3)]
    # A file is in the place of its folder.
    folder_of(stuck).rename(store.with_name("aside"))
    folder_of(stuck).write_text("in the way")
    their = [uuid.UUID(stuck["id"]), uuid.UUID(deleted["id"])]
    await rows.execute("UPDATE adminapi.backups SET deletedat = now() WHERE id = ANY($1)", their)
    await rows.execute("DELETE FROM adminapi.backups WHERE id = $1", uuid.UUID(lost["id"]))
    done = await reconcile(temporal, settings)
    assert "1 backups removed, 1 lost backups recorded, not all of backups cleaned: file://" in done
    assert "a file is in the place of a folder" in done
    assert f"The deleted backup {stuck['id']} is left to the next pass: file://" in caplog.text
    assert stored(deleted) == {}
    assert [backup["id"] for backup in (await api.get("/v2/backups")).json()] == [lost["id"]]
    folder_of(stuck).unlink()
    assert "1 backups removed." in await reconcile(temporal, settings)


async def test_deleted_backups_are_removed_when_the_store_is_full_and_has_an_unfinished_one(
    operator: Operator, api: httpx.AsyncClient, tenant: Tenant, rows: asyncpg.Connection, name: str
) -> None:
    job = await created(operator, name)
    kept, deleted = [await backed_up(api, job) for _ in range(2)]
    unfinished = folder_of(kept).with_name(str(uuid.uuid4()))
    unfinished.mkdir()
    for file in (unfinished / "being-written", unfinished / "database.dump"):
        file.write_text("of a worker that was killed")
        os.utime(file, (0, 0))
    await rows.execute("UPDATE adminapi.backups SET deletedat = now() WHERE id::text = $1", deleted["id"])
    with largest_file(0):
        done = await cleaned(tenant)
    assert (done.removed, done.obstacle) == (1, None)
    assert done.left is not None
    assert "is full" in done.left
    assert stored(deleted) == {}
    assert unfinished.exists()
    assert (await cleaned(tenant)).removed == 1
    assert not unfinished.exists()
    assert stored(kept) != {}


async def test_pass_goes_on_when_a_superuser_uses_what_a_verification_has_left(
    operator: Operator,
    api: httpx.AsyncClient,
    tenant: Tenant,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    temporal: Client,
    settings: Settings,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    backup = await backed_up(api, await created(operator, name))
    await rows.execute("UPDATE adminapi.backups SET verification = 'Pending'")
    installation = (await tenant.jobs.installation.require_confirmed()).id
    used, free = [f"ods_scratch_{uuid.UUID(installation).hex[:16]}_{digit * 16}" for digit in "01"]
    async with session(service_dsn(postgres, "postgres")) as maintenance:
        for scratch in (used, free):
            await maintenance.execute(f'CREATE DATABASE "{scratch}"')
    async with session(postgres.dsn(used)):
        done = await reconcile(temporal, settings)
        assert "not all of backups cleaned: The role of ODS_MASTER_DSN may not end the sessions" in done
        assert (await passed(api, backup))["verification"] == "Completed"
        left = "SELECT datname FROM pg_database WHERE datname = ANY($1)"
        assert [row["datname"] for row in await admin.fetch(left, [used, free])] == [used]
    assert "not all" not in await reconcile(temporal, settings)
    assert await scratches(admin) == 0


@pytest.mark.parametrize("part", ["", "database.dump"], ids=["all of it", "the dump"])
async def test_backup_is_told_not_to_be_whole_when_it_is_gone_from_the_store(
    operator: Operator,
    api: httpx.AsyncClient,
    store: Path,
    tenant: Tenant,
    temporal: Client,
    settings: Settings,
    rows: asyncpg.Connection,
    name: str,
    caplog: pytest.LogCaptureFixture,
    part: str,
) -> None:
    job = await created(operator, name)
    gone, earlier, there = [await backed_up(api, job) for _ in range(3)]
    await verified(api, gone)
    for backup in (gone, earlier):
        (folder_of(backup) / part).rename(store.with_name(backup["id"]))
    await rows.execute(
        "UPDATE adminapi.backups SET location = 's3://earlier/' || id WHERE id = $1", uuid.UUID(earlier["id"])
    )
    for _ in range(2):
        assert "0 purges, 1 recorded backups gone, 1 not in this store." in await reconcile(
            temporal, settings
        )
    assert "1 backups that the registry has are gone from the store" in caplog.text
    found = (await api.get(f"/v2/backups/{gone['id']}")).json()
    assert (found["status"], found["verification"]) == ("Completed", "Error")
    assert found["verificationError"] == f"It is gone from {gone['location']}."
    for backup in (earlier, there):
        assert (await api.get(f"/v2/backups/{backup['id']}")).json()["verification"] is None
    figures = await RegistryFigures(tenant.engine, tenant.name, settings).read()
    assert [it.value for it in figures if it.figure is BACKUPS_UNVERIFIED] == [1]
    store.with_name(gone["id"]).rename(folder_of(gone) / part)
    assert "0 purges, 1 not in this store." in await reconcile(temporal, settings)
    # The pass has it verified anew.
    assert (await passed(api, gone))["verification"] == "Completed"


def dumps_in(store: Path) -> list[Path]:
    return list(store.rglob("database.dump"))


def set_back(folder: Path, by: timedelta) -> None:
    """Make the files of a folder older, as if the clock had been set ahead."""
    for path in folder.iterdir():
        earlier = path.stat().st_mtime - by.total_seconds()
        os.utime(path, (earlier, earlier))


async def test_another_backup_is_made_when_the_clock_of_the_store_is_set_ahead_while_rows_are_counted(
    operator: Operator,
    api: httpx.AsyncClient,
    store: Path,
    tenant: Tenant,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By that clock, nothing that is stored of the backup is young: a pass removes the dump."""
    job = await created(operator, name)
    removed = asyncio.Event()

    async def count_late(snapshot: Snapshot, tables: Iterable[Table]) -> Mapping[str, int]:
        await removed.wait()
        return await count_rows(snapshot, tables)

    monkeypatch.setattr("ods.backups.backing_up.count_rows", count_late)
    accepted = await requested(api, job)
    async with asyncio.timeout(30):
        while not dumps_in(store):
            await asyncio.sleep(0.05)
    set_back(dumps_in(store)[0].parent, timedelta(days=2))
    await cleaned(tenant)
    assert not dumps_in(store)
    removed.set()
    assert (await ended(api, accepted["jobId"]))["status"] == "Completed"
    backup = await backup_of(api, accepted)
    assert len((await api.get(f"/v2/backups/{backup['id']}/dump")).content) == backup["sizeBytes"]


async def test_backup_is_told_to_be_missing_or_gone_after_the_store_was_moved(
    operator: Operator,
    api: httpx.AsyncClient,
    store: Path,
    settings: Settings,
    name: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    job = await created(operator, name)
    lost, copied, cut, left = [await backed_up(api, job) for _ in range(4)]
    shutil.rmtree(folder_of(lost))
    later = store.with_name("later")
    shutil.copytree(store, later, ignore=shutil.ignore_patterns(folder_of(left).name))

    def here(backup: dict[str, Any]) -> Path:
        return later / folder_of(backup).relative_to(store)

    (here(cut) / "database.dump").unlink()
    changed = settings.model_copy(update={"backup_url": later.as_uri()})

    async def locations() -> list[str]:
        found = [await backup_of(api, {"backupId": one["id"]}) for one in (lost, copied, cut, left)]
        return [one["location"] for one in found]

    async with open_tenants(settings) as (tenant,):
        assert (await cleaned(tenant)).missing == 1
    async with open_tenants(changed) as (tenant,):
        for _ in range(2):
            report = await cleaned(tenant)
            assert (report.missing, report.elsewhere, report.obstacle) == (0, 3, None)
        told = "3 backups are recorded, but are not in the store of ODS_BACKUP_URL"
        assert told in caplog.text
        moved = here(copied).as_uri()
        assert await locations() == [lost["location"], moved, cut["location"], left["location"]]

        shutil.copytree(folder_of(left), here(left))
        shutil.copytree(folder_of(cut), here(cut), dirs_exist_ok=True)
        shutil.copytree(folder_of(left), here(lost))  # another backup's
        assert (await cleaned(tenant)).elsewhere == 1
        shutil.rmtree(here(copied))
        report = await cleaned(tenant)
        assert (report.missing, report.elsewhere) == (1, 1)
        gone = await backup_of(api, {"backupId": copied["id"]})
        assert (gone["verification"], gone["verificationError"]) == ("Error", f"It is gone from {moved}.")
    # The earlier store is used again, and has all but the first.
    async with open_tenants(settings) as (tenant,):
        report = await cleaned(tenant)
        assert (report.missing, report.elsewhere) == (1, 0)
    assert await locations() == [one["location"] for one in (lost, copied, cut, left)]
    assert (await backup_of(api, {"backupId": copied["id"]}))["verification"] == "Pending"


async def test_backup_is_not_told_to_be_in_another_store_when_the_disk_is_unmounted_in_the_middle(
    operator: Operator,
    api: httpx.AsyncClient,
    store: Path,
    tenant: Tenant,
    rows: asyncpg.Connection,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    backup = await backed_up(api, await created(operator, name))
    earlier = await rows.fetchval("UPDATE adminapi.backups SET location = 's3://a/' || id RETURNING location")

    async def list_unmounted(store_of_pass: BackupStore) -> dict[BackupKey, int]:
        unmount(store)
        return await list_backups(store_of_pass)

    monkeypatch.setattr(backup_cleaning, "list_backups", list_unmounted)
    report = await cleaned(tenant)
    assert (report.elsewhere, report.obstacle is None) == (0, False)
    assert "are not in the store" not in caplog.text
    assert (await backup_of(api, {"backupId": backup["id"]}))["location"] == earlier


async def test_no_backup_is_called_gone_when_the_disk_of_the_store_is_unmounted_in_the_middle(
    operator: Operator,
    api: httpx.AsyncClient,
    store: Path,
    tenant: Tenant,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backup = await backed_up(api, await created(operator, name))

    async def list_unmounted(store_of_pass: BackupStore) -> dict[BackupKey, int]:
        unmount(store)
        return await list_backups(store_of_pass)

    monkeypatch.setattr(backup_cleaning, "list_backups", list_unmounted)
    report = await cleaned(tenant)
    assert (report.missing, report.obstacle is None) == (0, False)
    assert await backup_of(api, {"backupId": backup["id"]}) == backup


async def test_deleted_backup_stays_stored_while_a_copy_of_the_registry_uses_the_store(
    operator: Operator,
    api: httpx.AsyncClient,
    store: Path,
    tenant: Tenant,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    backup = await backed_up(api, await created(operator, name))
    assert (await cleaned(tenant)).left is None
    await rows.execute("UPDATE adminapi.installation SET storeclaimid = gen_random_uuid()")  # a copy's
    assert (await api.delete(f"/v2/backups/{backup['id']}")).status_code == 204
    assert "accept-store" in str((await cleaned(tenant)).left)
    assert (folder_of(backup) / "manifest.json").exists()
    await accept_store(BackupStore(store.as_uri()), BackupStores(tenant.engine), tenant.name)
    assert (await cleaned(tenant)).removed == 1
    assert not folder_of(backup).exists()


def store_again(store: Path) -> None:
    """Let another try at the one backup have stored the same."""
    (manifest,) = store.rglob("manifest.json")
    folder = manifest.parent
    other = folder.with_name(str(uuid.uuid4()))
    shutil.copytree(folder, other)
    manifest = other / manifest.name
    manifest.write_text(manifest.read_text().replace(folder.name, other.name, 1))


async def test_what_another_try_has_stored_is_a_backup_of_its_own(
    operator: Operator, api: httpx.AsyncClient, store: Path, tenant: Tenant, name: str
) -> None:
    """As when it could not be read when the job was tried again; it may have the data of a better moment."""
    backup = await backed_up(api, await created(operator, name))
    store_again(store)
    damaged = folder_of(backup).with_name(str(uuid.UUID(int=0)))  # the first that is read
    damaged.mkdir()
    (damaged / "manifest.json").write_text("{}")
    done = await cleaned(tenant)
    assert (done.removed, done.recorded) == (0, 1)
    assert damaged.exists()
    listed = (await api.get("/v2/backups", params={"instanceId": backup["instanceId"]})).json()
    assert [one["status"] for one in listed] == ["Completed", "Completed"]
    (other,) = [one for one in listed if one["id"] != backup["id"]]
    assert (await verified(api, other))["verification"] == "Completed"

    assert (await api.delete(f"/v2/backups/{backup['id']}")).status_code == 204
    assert stored(other)["database.dump"] == other["sizeBytes"]
    done = await cleaned(tenant)
    assert (done.removed, done.recorded) == (0, 0)


async def test_backup_of_an_instance_that_the_registry_has_lost_is_told_and_restored_by_hand(
    operator: Operator,
    store: Path,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    api: httpx.AsyncClient,
    temporal: Client,
    settings: Settings,
    rows: asyncpg.Connection,
    name: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    job = await created(operator, name)
    async with session(service_dsn(postgres, job.database)) as inside:
        await inside.execute("CREATE TABLE public.kept AS SELECT 1 AS value")
    backup = await backed_up(api, job)
    await admin.execute(f'DROP DATABASE "{job.database}" WITH (FORCE)')
    await rows.execute("DELETE FROM adminapi.backups")
    await rows.execute("DELETE FROM adminapi.dbinstances WHERE id = $1", job.instance_id)
    await rows.execute("DELETE FROM dbo.odsinstances WHERE odsinstanceid = $1", job.ods_instance_id)
    for _ in range(2):
        assert "0 purges, 1 backups of unknown instances." in await reconcile(temporal, settings)
    told = "1 whole backups in the store are of no instance that the registry knows, such as "
    assert told + backup["location"] in caplog.text
    assert files_in(store) == ["database.dump", "manifest.json"]

    # As the page on restoring the registry says.
    again = await created(operator, name)
    await admin.execute(f'ALTER DATABASE "{again.database}" RENAME TO "{name} empty"')
    await admin.execute(f'COMMENT ON DATABASE "{name} empty" IS NULL')
    await admin.execute(f'CREATE DATABASE "{again.database}" OWNER ods_service')
    dump = folder_of(backup) / "database.dump"
    options = ("--no-owner", "--no-privileges", "--exit-on-error")
    pg_restore = (await find_program("pg_restore", 0)).path
    address = f"--dbname={service_dsn(postgres, again.database)}"
    assert await (await asyncio.create_subprocess_exec(pg_restore, *options, address, dump)).wait() == 0
    answer = await api.post(f"/v2/dbInstances/{again.instance_id}/adopt")
    assert answer.status_code == 200, answer.text
    async with session(service_dsn(postgres, again.database)) as inside:
        assert await inside.fetchval("SELECT value FROM public.kept") == 1
    await backed_up(api, again)
    assert "0 purges, 1 backups of unknown instances." in await reconcile(temporal, settings)
    await admin.execute(f'DROP DATABASE "{name} empty"')


async def test_other_backups_are_removed_and_recorded_when_another_session_has_locked_one(
    operator: Operator,
    api: httpx.AsyncClient,
    store: Path,
    tenant: Tenant,
    rows: asyncpg.Connection,
    registry_dsn: str,
    name: str,
) -> None:
    kept = await backed_up(api, await created(operator, name))
    store_again(store)  # to be recorded, for which the row of the first is looked at
    deleted = [await backed_up(api, await created(operator, f"{name} {it}")) for it in "AB"]
    ids = [one["id"] for one in deleted]
    await rows.execute("UPDATE adminapi.backups SET deletedat = now() WHERE id = ANY($1)", ids)
    async with session(registry_dsn) as forgotten, forgotten.transaction(), asyncio.timeout(8):
        its = "SELECT FROM adminapi.backups WHERE id = ANY($1) FOR UPDATE"
        await forgotten.execute(its, [kept["id"], deleted[0]["id"]])
        done = await cleaned(tenant)
    assert (done.recorded, done.left) == (0, "Another session has locked its row in the registry.")
    of_deleted = "SELECT array_agg(id::text) FROM adminapi.backups WHERE deletedat IS NOT NULL"
    assert await rows.fetchval(of_deleted) == ids[:1]
    done = await cleaned(tenant)
    assert (done.recorded, done.left) == (1, None)
    assert await rows.fetchval(of_deleted) is None


async def test_dump_stays_when_its_manifest_is_lost(
    operator: Operator, api: httpx.AsyncClient, temporal: Client, settings: Settings, name: str
) -> None:
    """Whether this registry knows the backup, or only that of another installation on the same store."""
    backup = await backed_up(api, await created(operator, name))
    folder = folder_of(backup)
    unfinished, unknown = [folder.with_name(str(uuid.uuid4())) for _ in range(2)]
    for path in (unfinished, unknown):
        shutil.copytree(folder, path)
    (unfinished / "being-written").touch()
    for path in (folder, unfinished, unknown):
        (path / "manifest.json").unlink()
        for file in path.iterdir():
            os.utime(file, (0, 0))
    assert "1 backups removed" in await reconcile(temporal, settings)
    assert not unfinished.exists()
    assert [file.name for file in unknown.iterdir()] == ["database.dump"]
    assert list(stored(backup)) == ["database.dump"]
    assert (await verified(api, backup))["verification"] == "Error"
    assert (await api.delete(f"/v2/backups/{backup['id']}")).status_code == 204
    assert not folder.exists()


_UNRECORDED = """
UPDATE adminapi.backups SET storedid = NULL WHERE id = $1::uuid
"""


async def test_whole_backup_stays_and_is_recorded_when_the_registry_is_put_back_to_before_its_end(
    operator: Operator,
    api: httpx.AsyncClient,
    store: Path,
    postgres: EmbeddedPostgres,
    temporal: Client,
    settings: Settings,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    job = await created(operator, name)
    made = (await operator.instances.request_backup(job.instance_id, "requested")).job
    await operator.starter.start(made)
    assert await operator.ended(made) is JobStatus.COMPLETED
    (backup,) = (await api.get("/v2/backups", params={"instanceId": job.instance_id})).json()
    async with session(service_dsn(postgres, job.database)) as inside:
        await inside.execute("CREATE TABLE later ()")
    await rows.execute(_UNRECORDED, backup["id"])
    await rows.execute("UPDATE adminapi.jobstatuses SET status = 'Pending' WHERE jobid = $1", made.job_id)
    await rows.execute(
        "UPDATE adminapi.managed_instances SET state = 'Pending', attempt = 0 WHERE id = $1", job.instance_id
    )
    await operator.starter.start(made)
    assert await operator.ended(made) is JobStatus.COMPLETED
    again = (await api.get(f"/v2/backups/{backup['id']}")).json()
    assert again["takenAt"] > backup["takenAt"]
    assert "1 lost backups recorded" in await reconcile(temporal, settings)
    (first,) = [one for one in (await api.get("/v2/backups")).json() if one["id"] != backup["id"]]
    same = ("location", "sha256", "takenAt")
    assert {key: first[key] for key in same} == {key: backup[key] for key in same}
    assert stored(first)["database.dump"] == first["sizeBytes"]


async def test_stored_backup_is_the_job_s_when_its_database_and_the_record_of_it_are_gone(
    operator: Operator,
    api: httpx.AsyncClient,
    store: Path,
    admin: asyncpg.Connection,
    tenant: Tenant,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    """As when the registry is put back to before the end of the job, which the pass starts again."""
    job = await created(operator, name)
    made = (await operator.instances.request_backup(job.instance_id, "requested")).job
    await operator.starter.start(made)
    assert await operator.ended(made) is JobStatus.COMPLETED
    (backup,) = (await api.get("/v2/backups", params={"instanceId": job.instance_id})).json()
    await admin.execute(f'DROP DATABASE "{job.database}" WITH (FORCE)')
    await rows.execute(_UNRECORDED, backup["id"])
    await rows.execute("UPDATE adminapi.jobstatuses SET status = 'Pending' WHERE jobid = $1", made.job_id)
    await rows.execute(
        "UPDATE adminapi.managed_instances SET state = 'Pending', attempt = 0 WHERE id = $1", job.instance_id
    )
    await operator.starter.start(made)
    assert await operator.ended(made) is JobStatus.COMPLETED
    again = (await api.get(f"/v2/backups/{backup['id']}")).json()
    assert (again["status"], again["location"]) == ("Completed", backup["location"])
    assert (await cleaned(tenant)).removed == 0
    assert files_in(store) == ["database.dump", "manifest.json"]


@pytest.mark.parametrize("kept", [0, -1], ids=["none", "a_part"])
async def test_another_backup_is_made_when_the_dump_of_an_earlier_try_is_not_whole(
    operator: Operator,
    api: httpx.AsyncClient,
    rows: asyncpg.Connection,
    name: str,
    kept: int,
) -> None:
    """As when the store has written the manifest of that try after its dump was deleted."""
    job = await created(operator, name)
    made = (await operator.instances.request_backup(job.instance_id, "requested")).job
    await operator.starter.start(made)
    assert await operator.ended(made) is JobStatus.COMPLETED
    (first,) = (await api.get("/v2/backups", params={"instanceId": job.instance_id})).json()
    lose_dump(first, kept)
    await rows.execute(_UNRECORDED, first["id"])
    await rows.execute("UPDATE adminapi.jobstatuses SET status = 'Pending' WHERE jobid = $1", made.job_id)
    await rows.execute(
        "UPDATE adminapi.managed_instances SET state = 'Pending', attempt = 0 WHERE id = $1", job.instance_id
    )
    await operator.starter.start(made)
    assert await operator.ended(made) is JobStatus.COMPLETED
    second = (await api.get(f"/v2/backups/{first['id']}")).json()
    assert second["location"] != first["location"]
    assert stored(second)["database.dump"] == second["sizeBytes"]


def lose_dump(backup: dict[str, Any], kept: int) -> None:
    """Leave a part of the dump, or none of it."""
    dump = folder_of(backup) / "database.dump"
    content = dump.read_bytes()[:kept]
    dump.unlink()
    if content:
        dump.write_bytes(content)


@pytest.mark.parametrize("kept", [0, -1], ids=["none", "a_part"])
async def test_lost_backup_is_not_recorded_when_its_dump_is_not_whole(
    operator: Operator,
    api: httpx.AsyncClient,
    temporal: Client,
    settings: Settings,
    rows: asyncpg.Connection,
    name: str,
    kept: int,
) -> None:
    backup = await backed_up(api, await created(operator, name))
    lose_dump(backup, kept)
    await rows.execute("DELETE FROM adminapi.backups")
    assert "lost backups recorded" not in await reconcile(temporal, settings)
    assert (await api.get(f"/v2/backups/{backup['id']}")).status_code == 404
    assert "manifest.json" in stored(backup)


async def test_whole_backup_stays_when_the_registry_is_put_back_to_before_the_retry_that_made_it(
    operator: Operator,
    api: httpx.AsyncClient,
    store: Path,
    temporal: Client,
    settings: Settings,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    backup = await backed_up(api, await created(operator, name))
    await rows.execute(_UNRECORDED, backup["id"])
    failed = "UPDATE adminapi.jobstatuses SET status = 'Error', finishedat = finishedat - interval '1 hour'"
    await rows.execute(f"{failed} WHERE jobid = $1", backup["jobId"])
    assert "backups removed" not in await reconcile(temporal, settings)
    assert files_in(store) == ["database.dump", "manifest.json"]


@pytest.fixture
async def failed(operator: Operator, monkeypatch: pytest.MonkeyPatch, name: str) -> InstanceJob:
    """A backup whose job has failed after it had stored a whole one."""

    async def store_and_fail(*arguments: Any) -> Manifest:
        await back_up(*arguments)
        raise DatabaseFaultError("The worker was cut off.", retryable=False)

    job = await created(operator, name)
    with monkeypatch.context() as patched:
        patched.setattr(backup_activities, "back_up", store_and_fail)
        made = (await operator.instances.request_backup(job.instance_id, "requested")).job
        await operator.starter.start(made)
        assert await operator.ended(made) is JobStatus.ERROR
    return made


@pytest.mark.parametrize("is_there", [True, False], ids=["there", "gone"])
async def test_whole_backup_of_a_failed_job_is_recorded(
    operator: Operator,
    api: httpx.AsyncClient,
    store: Path,
    tenant: Tenant,
    admin: asyncpg.Connection,
    temporal: Client,
    failed: InstanceJob,
    *,
    is_there: bool,
) -> None:
    """Whether its database is there: that may be another one by now, or as it was earlier."""
    if not is_there:
        await admin.execute(f'DROP DATABASE "{failed.database}" WITH (FORCE)')
    done = await cleaned(tenant)
    assert (done.removed, done.recorded) == (0, 1)
    assert files_in(store) == ["database.dump", "manifest.json"]
    backup = (await api.get(f"/v2/backups/{failed.makes_backup}")).json()
    assert (await verified(api, backup))["verification"] == "Completed"
    await temporal.get_workflow_handle(failed.workflow_id).signal(JobWorkflow.retry)
    await operator.reached(failed, {JobStatus.COMPLETED})
    retried = (await api.get(f"/v2/backups/{failed.makes_backup}")).json()
    # Of the data of now, if there are some; then the earlier one is a backup of its own.
    assert (retried["takenAt"] > backup["takenAt"]) is is_there
    done = await cleaned(tenant)
    assert (done.removed, done.recorded) == (0, int(is_there))
    assert files_in(store) == sorted(["database.dump", "manifest.json"] * (1 + is_there))


async def test_backup_stays_whole_when_its_deletion_cannot_be_committed(
    operator: Operator, api: httpx.AsyncClient, rows: asyncpg.Connection, name: str
) -> None:
    backup = await backed_up(api, await created(operator, name))
    path, key = f"/v2/backups/{backup['id']}", {"Idempotency-Key": "a key"}
    await rows.execute("ALTER TABLE adminapi.idempotencykeys ADD CONSTRAINT none CHECK (false)")
    try:
        assert (await api.delete(path, headers=key)).status_code == 500
    finally:
        await rows.execute("ALTER TABLE adminapi.idempotencykeys DROP CONSTRAINT none")
    assert (await api.get(path)).json() == backup
    assert stored(backup)["database.dump"] == backup["sizeBytes"]
    assert (await api.delete(path, headers=key)).status_code == 204
    assert stored(backup) == {}
    assert (await api.delete(path, headers=key)).status_code == 204


async def test_backup_stays_when_its_instance_is_gone(
    operator: Operator, api: httpx.AsyncClient, name: str
) -> None:
    job = await created(operator, name)
    backup = await backed_up(api, job)
    purge = await operator.instances.request_delete(job.instance_id, Delete(Way.DROP))
    await operator.starter.start(purge.job)
    assert await operator.ended(purge.job) is JobStatus.COMPLETED
    assert (await api.get("/v2/backups", params={"instanceId": job.instance_id})).json() == [backup]
    assert (await verified(api, backup))["verification"] == "Completed"


async def test_nothing_is_left_and_the_instance_works_when_a_backup_is_cancelled(
    operator: Operator, api: httpx.AsyncClient, postgres: EmbeddedPostgres, store: Path, name: str
) -> None:
    job = await created(operator, name)
    async with session(service_dsn(postgres, job.database)) as inside:
        await inside.execute(filling())
    accepted = await requested(api, job)
    await wait_until(_has_dump, 30)
    (dump,) = at_work("pg_dump")
    dump.send_signal(signal.SIGSTOP)  # it would be done too soon
    assert (await api.post(f"/v2/jobs/{accepted['jobId']}/cancel")).status_code == 202
    state = await ended(api, accepted["jobId"])
    assert (state["status"], state["errorMessage"]) == ("Error", "The job was cancelled.")
    assert at_work("pg_dump") == []
    row = await operator.instance(job)
    assert row.status == InstanceStatus.COMPLETED
    assert files_in(store) == []
    failed = await backup_of(api, accepted)
    assert (failed["status"], failed["errorMessage"]) == ("Error", "The job was cancelled.")
    assert (await backed_up(api, job))["status"] == "Completed"
    assert (await api.delete(f"/v2/backups/{accepted['backupId']}")).status_code == 204


async def _has_dump() -> bool:
    return bool(at_work("pg_dump"))


async def test_backup_is_made_when_its_session_was_ended_in_the_middle(
    operator: Operator,
    api: httpx.AsyncClient,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    store: Path,
    name: str,
) -> None:
    job = await created(operator, name)
    async with session(service_dsn(postgres, job.database)) as inside:
        await inside.execute(filling())
    accepted = await requested(api, job)
    await wait_until(_has_dump, 30)
    (dump,) = at_work("pg_dump")
    dump.send_signal(signal.SIGSTOP)
    ended_sessions = await admin.fetch(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = $1", job.database
    )
    assert ended_sessions
    dump.send_signal(signal.SIGCONT)
    assert (await ended(api, accepted["jobId"]))["status"] == "Completed"
    assert files_in(store) == ["database.dump", "manifest.json"]


async def test_instance_works_and_the_job_can_be_retried_when_a_backup_has_failed(
    operator: Operator, api: httpx.AsyncClient, store: Path, temporal: Client, name: str
) -> None:
    job, aside = await created(operator, name), store.with_name("aside")
    shutil.move(store, aside)
    refused = await api.post(f"/v2/dbInstances/{job.instance_id}/backups")
    assert (refused.status_code, "does not exist" in refused.json()["detail"]) == (409, True)
    made = (await operator.instances.request_backup(job.instance_id, "requested")).job
    await operator.starter.start(made)
    state = await ended(api, made.job_id)
    assert (state["status"], "does not exist" in state["errorMessage"]) == ("Error", True)
    row = await operator.instance(job)
    assert row.status == InstanceStatus.COMPLETED
    assert await operator.queries.ods_instance(job.ods_instance_id) is not None
    shutil.move(aside, store)
    await temporal.get_workflow_handle(made.workflow_id).signal(JobWorkflow.retry)
    async with asyncio.timeout(30):
        while (await api.get(f"/v2/jobs/{made.job_id}")).json()["status"] != "Completed":
            await asyncio.sleep(0.05)
    assert (await api.get(f"/v2/backups/{made.makes_backup}")).json()["status"] == "Completed"


async def test_backup_does_not_begin_when_it_was_cancelled_while_it_waited(
    operator: Operator, api: httpx.AsyncClient, store: Path, name: str
) -> None:
    job = await created(operator, name)
    made = (await operator.instances.request_backup(job.instance_id, "requested")).job
    assert (await api.post(f"/v2/jobs/{made.job_id}/cancel")).status_code == 202
    assert (await operator.instance(job)).status == InstanceStatus.COMPLETED
    assert not (await operator.jobs.begin(made)).held
    await operator.starter.start(made)
    assert (await ended(api, made.job_id))["status"] == "Error"
    assert files_in(store) == []
    rename = await operator.rename(job, f"{name} renamed")
    assert await operator.ended(rename) is JobStatus.COMPLETED
    deletion = await operator.delete(job)
    assert await operator.ended(deletion) is JobStatus.COMPLETED


async def test_instance_comes_back_from_its_backup_when_it_is_gone(
    operator: Operator,
    api: httpx.AsyncClient,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    name: str,
) -> None:
    job = await created(operator, name)
    async with session(service_dsn(postgres, job.database)) as inside:
        await inside.execute(
            'CREATE TABLE treasure AS SELECT 42 AS answer; CREATE SEQUENCE "Numbers of";'
            "GRANT SELECT, INSERT ON treasure TO pg_monitor; GRANT UPDATE ON treasure TO PUBLIC;"
            'GRANT USAGE ON SEQUENCE "Numbers of" TO pg_monitor;'
            "CREATE SCHEMA inner_part; GRANT USAGE ON SCHEMA inner_part TO pg_monitor"
        )
    backup = await backed_up(api, job)
    purge = await operator.instances.request_delete(job.instance_id, Delete(Way.DROP))
    await operator.starter.start(purge.job)
    assert await operator.ended(purge.job) is JobStatus.COMPLETED

    answer = await api.post("/v2/dbInstances", json={"name": name, "backupId": backup["id"]})
    assert answer.status_code == 202, answer.text
    assert (await ended(api, answer.json()["jobId"]))["status"] == "Completed"
    back = (await api.get(f"/v2/dbInstances/{answer.json()['id']}")).json()
    assert (back["backupId"], back["databaseTemplate"]) == (backup["id"], "Minimal")
    async with session(service_dsn(postgres, back["databaseName"])) as inside:
        assert await inside.fetchval("SELECT answer FROM treasure") == 42
        has = (
            "table_privilege('pg_monitor', 'treasure', 'INSERT')",
            "table_privilege('pg_read_all_stats', 'treasure', 'UPDATE')",
            "sequence_privilege('pg_monitor', '\"Numbers of\"', 'USAGE')",
            "schema_privilege('pg_monitor', 'inner_part', 'USAGE')",
        )
        for right in has:
            assert await inside.fetchval(f"SELECT has_{right}"), right
        assert not await inside.fetchval("SELECT has_table_privilege('pg_monitor', 'treasure', 'DELETE')")
    expected = await privileges_on(admin, "EdFi_Ods_Minimal_Template")
    assert await privileges_on(admin, back["databaseName"]) == expected
    (row,) = await operator.queries.instances(offset=0, limit=1, instance_id=back["id"])
    assert (row.operation, answer.json()["jobId"].partition("-")[0]) == (
        Operation.CREATE,
        "CreateInstanceJob",
    )
    assert await operator.queries.ods_instance(row.ods_instance_id) is not None
    second = await backed_up(api, operator_job(row, job))
    assert (await verified(api, second))["verification"] == "Completed"


def operator_job(row: DbInstance, job: InstanceJob) -> InstanceJob:
    return replace(job, instance_id=row.id)


async def test_instance_gets_what_its_backup_holds_as_the_reason_says_when_its_database_was_lost(
    operator: Operator,
    tenant: Tenant,
    api: httpx.AsyncClient,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    job = await created(operator, name)
    async with session(service_dsn(postgres, job.database)) as inside:
        await inside.execute("CREATE TABLE treasure AS SELECT 42 AS answer")
    backup = await backed_up(api, job)
    context = {"odsInstanceId": job.ods_instance_id, "contextKey": "districtId", "contextValue": name}
    assert (await api.post("/v2/odsInstanceContexts", json=context)).status_code == 201
    await admin.execute(f'DROP DATABASE "{job.database}"')
    body = {"backupId": backup["id"]}
    refused = await api.post(f"/v2/dbInstances/{job.instance_id}/reset", json=body)
    reason = (await ended(api, refused.json()["jobId"]))["errorMessage"]
    assert "`ods backup restore`" in reason
    assert "delete" not in reason

    restored = (await api.post("/v2/dbInstances", json={"name": f"{name} restored", **body})).json()
    assert (await ended(api, restored["jobId"]))["status"] == "Completed"
    database = (await api.get(f"/v2/dbInstances/{restored['id']}")).json()["databaseName"]
    detached = await api.delete(f"/v2/dbInstances/{restored['id']}?detach=true")
    assert (await ended(api, detached.json()["jobId"]))["status"] == "Completed"
    assert (await DatabaseAdoption(tenant).adopt(job.instance_id, database)).adopted
    instance = (await api.get(f"/v2/dbInstances/{job.instance_id}")).json()
    assert (instance["databaseName"], instance["odsInstanceId"]) == (database, job.ods_instance_id)
    (routed,) = await rows.fetch(
        "SELECT connectionstring FROM dbo.odsinstances WHERE odsinstanceid = $1", job.ods_instance_id
    )
    assert tenant.connection_strings.decrypted(routed["connectionstring"]).database == database
    async with session(service_dsn(postgres, database)) as inside:
        assert await inside.fetchval("SELECT answer FROM treasure") == 42
    assert not [found for found in await DriftDetector(tenant).detect() if name in found.subject]
    contexts = "SELECT count(*) FROM dbo.odsinstancecontexts WHERE odsinstance_odsinstanceid = $1"
    assert await rows.fetchval(contexts, job.ods_instance_id) == 1
    again = await api.post(f"/v2/dbInstances/{job.instance_id}/reset", json=body)
    assert (await ended(api, again.json()["jobId"]))["status"] == "Completed"


async def test_nothing_is_published_when_the_backup_that_is_restored_is_damaged(
    operator: Operator, api: httpx.AsyncClient, admin: asyncpg.Connection, name: str
) -> None:
    backup = await backed_up(api, await created(operator, name))
    damage(folder_of(backup) / "database.dump")
    before = await admin.fetchval(_OTHER_DATABASES, [])
    answer = await api.post("/v2/dbInstances", json={"name": f"{name} back", "backupId": backup["id"]})
    assert answer.status_code == 202
    state = await ended(api, answer.json()["jobId"])
    assert state["status"] == "Error"
    async with asyncio.timeout(20):
        while await admin.fetchval(_OTHER_DATABASES, before):
            await asyncio.sleep(0.05)
    row = (await api.get(f"/v2/dbInstances/{answer.json()['id']}")).json()
    assert row["status"] == "Error"


async def test_nothing_is_restored_when_what_is_stored_is_another_backup(
    operator: Operator, api: httpx.AsyncClient, admin: asyncpg.Connection, name: str
) -> None:
    wanted = await backed_up(api, await created(operator, name))
    other = await backed_up(api, await created(operator, f"{name} other"))
    folder = folder_of(wanted)
    shutil.copy(folder_of(other) / "database.dump", folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    foreign = json.loads((folder_of(other) / "manifest.json").read_text())
    (folder / "manifest.json").write_text(
        json.dumps(foreign | {field: manifest[field] for field in ("backupId", "odsInstanceId", "tenant")})
    )
    answer = await api.post("/v2/dbInstances", json={"name": f"{name} back", "backupId": wanted["id"]})
    state = await ended(api, answer.json()["jobId"])
    assert (state["status"], state["errorMessage"]) == (
        "Error",
        "What is stored is not what was recorded when the backup was made.",
    )
    assert (await api.get(f"/v2/backups/{wanted['id']}/dump")).status_code == 409


async def test_restore_fails_when_the_manifest_does_not_say_the_locale(
    operator: Operator, api: httpx.AsyncClient, rows: asyncpg.Connection, name: str
) -> None:
    backup = await backed_up(api, await created(operator, name))
    manifest = folder_of(backup) / "manifest.json"
    fields = json.loads(manifest.read_text())
    fields["details"]["locale"]["collate"] = None
    await rewrite_manifest(rows, manifest, json.dumps(fields))
    answer = await api.post("/v2/dbInstances", json={"name": f"{name} back", "backupId": backup["id"]})
    state = await ended(api, answer.json()["jobId"])
    assert state["status"] == "Error"
    assert "does not say in which encoding and locale" in state["errorMessage"]


async def test_backup_cannot_be_deleted_while_an_instance_is_restored_from_it(
    operator: Operator, api: httpx.AsyncClient, name: str
) -> None:
    backup = await backed_up(api, await created(operator, name))
    path, origin = f"/v2/backups/{backup['id']}", BackupOrigin(backup["id"])
    waiting = (await operator.instances.reserve(f"{name} back", "Minimal", origin=origin)).job
    refused = await api.delete(path)
    assert (refused.status_code, f"'{name} back'" in refused.json()["detail"]) == (409, True)
    await operator.starter.start(waiting)
    assert await operator.ended(waiting) is JobStatus.COMPLETED
    assert (await api.delete(path)).status_code == 204
    with pytest.raises(InvalidError):
        await operator.instances.reserve(f"{name} late", "Minimal", origin=origin)


async def test_either_the_restore_or_the_delete_of_a_backup_is_refused_when_both_are_requested_at_once(
    operator: Operator, api: httpx.AsyncClient, name: str
) -> None:
    backup = await backed_up(api, await created(operator, name))
    origin = BackupOrigin(backup["id"])
    for number in range(5):
        restore = operator.instances.reserve(f"{name} {number}", "Minimal", origin=origin)
        deletion, restored = await asyncio.gather(
            api.delete(f"/v2/backups/{backup['id']}"), restore, return_exceptions=True
        )
        assert isinstance(deletion, httpx.Response)
        assert (deletion.status_code == 409) == isinstance(restored, Requested)


def damage(dump: Path) -> None:
    content = bytearray(dump.read_bytes())
    content[len(content) // 2] ^= 1
    dump.write_bytes(content)


async def test_backup_is_not_restored_when_it_is_none_or_encrypted(
    operator: Operator, api: httpx.AsyncClient, rows: asyncpg.Connection, name: str
) -> None:
    backup = await backed_up(api, await created(operator, name))
    await rows.execute("UPDATE adminapi.backups SET encrypted = true")
    unknown = str(uuid.uuid4())
    for backup_id, reason in ((backup["id"], "is encrypted"), (unknown, f"There is no backup {unknown}.")):
        refused = await api.post("/v2/dbInstances", json={"name": f"{name} x", "backupId": backup_id})
        assert refused.status_code == 400
        assert reason in refused.json()["errors"]["BackupId"][0]


IDENTITY = x25519.Identity.generate()


@pytest.mark.parametrize("recipients", [str(IDENTITY.to_public())], ids=["one"])
async def test_dump_is_readable_with_the_key_alone_when_backups_are_encrypted(
    operator: Operator, api: httpx.AsyncClient, recipients: str, name: str
) -> None:
    backup = await backed_up(api, await created(operator, name))
    assert backup["encrypted"]
    stored_bytes = (await api.get(f"/v2/backups/{backup['id']}/dump")).content
    assert recipients not in backup["location"]
    assert hashlib.sha256(stored_bytes).hexdigest() == backup["sha256"]
    assert pyrage.decrypt(stored_bytes, [IDENTITY]).startswith(b"PGDMP")
    assert (await verified(api, backup))["verification"] == "Completed"
    damage(folder_of(backup) / "database.dump.age")
    assert "is damaged" in (await verified(api, backup))["verificationError"]


async def test_one_backup_is_made_when_the_request_is_repeated_under_its_key(
    operator: Operator, api: httpx.AsyncClient, name: str
) -> None:
    job = await created(operator, name)
    key = {"Idempotency-Key": str(uuid.uuid4())}
    path = f"/v2/dbInstances/{job.instance_id}/backups"
    first, second = [await api.post(path, headers=key) for _ in range(2)]
    assert (first.status_code, first.json()) == (second.status_code, second.json())
    assert (await ended(api, first.json()["jobId"]))["status"] == "Completed"
    assert len((await api.get("/v2/backups")).json()) == 1
