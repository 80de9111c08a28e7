"""Resets on real servers: through the API, by workers, and by the reconcile pass."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any
from unittest.mock import AsyncMock, Mock, patch

import asyncpg
import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.databases import DatabaseActivities
from activities.job_fence import ConcurrencyLimit
from ods.databases import provisioning, replacing
from ods.databases.dropping import drop_found
from ods.databases.errors import DatabaseFaultError
from ods.embedded.postgres import EmbeddedPostgres
from ods.embedded.seeding import SERVICE_ROLE
from ods.model.arguments import Way
from ods.model.operations import InstanceStatus, JobStatus, Operation, Template
from ods.model.origins import CopyOrigin
from ods.recovery.adoption import AdoptionRefusedError, DatabaseAdoption
from ods.recovery.compare.detector import DriftDetector
from ods.recovery.compare.findings import RECOVER, Drift, DriftKind
from ods.recovery.recovery import Recovery
from ods.registry.installation import InstallationStore
from ods.registry.instances.attributes import AttributeChanges
from ods.registry.instances.deletes import Delete
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.jobs import ExecutionPolicy, InstanceJob
from ods.registry.instances.naming import TRASH_PREFIX, trash_name
from ods.registry.instances.steps import JobFactory
from ods.registry.instances.store import InstanceStore
from ods.registry.storage.errors import InstanceNotFoundError, RefusedError
from ods.settings.settings import Settings
from ods.tenants.tenant import Tenant
from tests.chaos.restore import Snapshot
from tests.end_to_end.conftest import Operator
from tests.end_to_end.steps import (
    COMMENT,
    HALF_DROP,
    comment,
    created,
    drifts_of,
    names,
    purge_cancelled_after_drop,
    read,
    reconcile,
    reset,
    undo,
    write,
)
from tests.postgres.instance_states import let_requests_pass, marked_by
from tests.put_back_rows import put_rows_back, remember_rows
from tests.servers import service_dsn, session

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("workers")]


CONTEXT = (
    "INSERT INTO dbo.odsinstancecontexts (odsinstance_odsinstanceid, contextkey, contextvalue)"
    " VALUES ($1, 'schoolYear', '2027')"
)
OTHER_MARK = "0d5e7d5e-1111-4222-8333-444444444444"


async def replaced(operator: Operator, job: InstanceJob) -> str:
    """Reset the instance; returns the name in the trash of what it had before."""
    first = await reset(operator, job)
    assert await operator.ended(first) is JobStatus.COMPLETED
    assert first.replacement is not None
    return first.trash_database


async def recovered(tenant: Tenant, *chosen: str) -> None:
    """Bring registry and server in step, as the operator does; nothing is left to be done then."""
    outcome = await Recovery(tenant).apply(chosen)
    assert (outcome.refused, outcome.plan.is_empty) == ([], True)


async def trashed_at_of(admin: asyncpg.Connection, database: str) -> str:
    """When the database came into the trash, by its comment."""
    at: str = json.loads(await admin.fetchval(COMMENT, database))["trashedAt"]
    return at


def _each_of(found: list[Drift], *words: str) -> list[Drift]:
    """The same, where several findings are of one kind."""
    return [drift for drift in found if any(word in str(drift) for word in words)]


async def test_data_are_fresh_then_back_then_fresh_again_when_a_reset_is_undone_and_that_is_undone(
    operator: Operator,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    job = await created(operator, name)
    await write(postgres, job, "old")
    before = await operator.instance(job)
    routed = await rows.fetchrow("SELECT * FROM dbo.odsinstances")

    first = await reset(operator, job)
    assert await operator.ended(first) is JobStatus.COMPLETED
    assert await read(postgres, job) == []
    await write(postgres, job, "new")
    assert first.replacement is not None
    assert await names(admin, job.mark) == [job.database, first.trash_database]
    after = await operator.instance(job)
    assert (after.status, after.replacement) == (InstanceStatus.COMPLETED, None)
    for attribute in ("id", "name", "database_name", "ods_instance_id", "mark", "database_template"):
        assert getattr(after, attribute) == getattr(before, attribute)
    assert str(after.database_id) == first.replacement.database_id
    assert await rows.fetchrow("SELECT * FROM dbo.odsinstances") == routed

    second = await undo(operator, job)
    assert await operator.ended(second) is JobStatus.COMPLETED
    assert await read(postgres, job) == ["old"]
    assert str((await operator.instance(job)).database_id) == job.database_id
    third = await undo(operator, job)
    assert await operator.ended(third) is JobStatus.COMPLETED
    assert await read(postgres, job) == ["new"]
    assert third.replacement is not None
    assert await names(admin, job.mark) == [job.database, third.trash_database]
    (version,) = await operator.queries.versions()
    its = third.trash_database, job.database_id
    assert (version.trash_name, str(version.database_id)) == its
    assert third.rules.word == "UndoReset"


async def reason(operator: Operator, job: InstanceJob) -> str:
    """Why the job has failed."""
    row = await operator.queries.job(job.job_id)
    return str(row and row.error_message)


async def wait_until_completed(operator: Operator, job: InstanceJob) -> None:
    async with asyncio.timeout(30):
        while (await operator.instance(job)).status != InstanceStatus.COMPLETED:
            await asyncio.sleep(0.03)


async def test_clients_reset_and_undo_when_they_ask_the_api(
    operator: Operator,
    api: httpx.AsyncClient,
    postgres: EmbeddedPostgres,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    job = await created(operator, name)
    await write(postgres, job, "old")
    path = f"/v2/dbInstances/{job.instance_id}"
    await rows.execute(
        "INSERT INTO dbo.odsinstancecontexts (odsinstance_odsinstanceid, contextkey, contextvalue)"
        " VALUES ($1, 'schoolYear', '2027')",
        job.ods_instance_id,
    )
    assert (await api.post(f"{path}/reset/undo")).status_code == 409
    answer = await api.post(f"{path}/reset", json={"databaseTemplate": "Sample"})
    assert answer.status_code == 202
    assert answer.json()["jobId"] == f"ResetInstanceJob-{job.ods_instance_id}-2"
    await wait_until_completed(operator, job)
    assert await read(postgres, job) == []
    shown = (await api.get(path)).json()
    assert (shown["databaseTemplate"], shown["databaseName"]) == ("Sample", job.database)
    assert shown["contexts"] == [{"contextKey": "schoolYear", "contextValue": "2027"}]
    assert (await api.get(f"/v2/jobs/{answer.json()['jobId']}")).json()["status"] == "Completed"

    (listed,) = (await api.get("/v2/trash")).json()
    assert (listed["id"], listed["isVersion"], listed["databaseTemplate"]) == (
        job.instance_id,
        True,
        "Minimal",
    )
    assert listed["sizeBytes"] > 1_000_000
    assert listed["deletedBy"]
    assert listed["purgeAfter"] > listed["deletedAt"]
    answer = await api.post(f"{path}/reset/undo")
    assert answer.status_code == 202
    await wait_until_completed(operator, job)
    assert await read(postgres, job) == ["old"]
    refreshed = "SELECT count(*) FROM adminapi.jobstatuses WHERE operation = 'Refresh' AND odsinstanceid = $1"
    async with asyncio.timeout(10):
        while not await rows.fetchval(refreshed, job.ods_instance_id):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("body", "member"),
    [
        ({"databaseTemplate": "Large"}, "DatabaseTemplate"),
        ({"databaseTemplate": 7}, "DatabaseTemplate"),
        ({"backupId": "0c6b1f6e"}, "BackupId"),
        ({"copyOf": 12}, "CopyOf"),
    ],
)
async def test_request_is_refused_when_an_instance_cannot_be_reset_to_that(
    operator: Operator, api: httpx.AsyncClient, name: str, body: dict[str, object], member: str
) -> None:
    job = await created(operator, name)
    answer = await api.post(f"/v2/dbInstances/{job.instance_id}/reset", json=body)
    assert answer.status_code == 400
    assert list(answer.json()["errors"]) == [member]
    assert (await operator.instance(job)).operation == Operation.CREATE
    assert (await api.post("/v2/dbInstances/999999/reset", json=body)).status_code == 404


async def test_first_database_comes_back_when_an_instance_was_reset_twice(
    operator: Operator,
    api: httpx.AsyncClient,
    tenant: Tenant,
    postgres: EmbeddedPostgres,
    name: str,
) -> None:
    """As by a double click; the refusal of an undelete tells the way, which is granted."""
    job = await created(operator, name)
    await write(postgres, job, "a year")
    first = await reset(operator, job)
    assert await operator.ended(first) is JobStatus.COMPLETED
    assert await operator.ended(await reset(operator, job)) is JobStatus.COMPLETED
    assert await operator.ended(await undo(operator, job)) is JobStatus.COMPLETED
    assert await read(postgres, job) == []  # what the first reset has made
    assert first.replacement is not None
    kept = first.trash_database

    with pytest.raises(AdoptionRefusedError):
        await DatabaseAdoption(tenant).adopt(job.instance_id, kept)
    path = f"/v2/dbInstances/{job.instance_id}"
    undelete = await api.post(f"{path}/undelete")
    assert undelete.status_code == 409
    assert f"undo-reset {job.instance_id} --database" in undelete.json()["nextStep"]
    assert kept in {one["databaseName"] for one in (await api.get("/v2/trash")).json()}

    request = partial(api.post, f"{path}/reset/undo", headers={"Idempotency-Key": kept})
    answer = await request(json={"database": kept})
    assert answer.status_code == 202, answer.text
    await wait_until_completed(operator, job)
    assert await read(postgres, job) == ["a year"]
    assert (await request(json={"database": kept})).json() == answer.json()
    assert (await request()).status_code == 422
    assert (await request(json={"database": "another"})).status_code == 422
    assert await read(postgres, job) == ["a year"]
    again = await api.post(f"{path}/reset/undo", json={"database": kept})
    assert again.status_code == 400
    assert list(again.json()["errors"]) == ["Database"]


@pytest.mark.parametrize(
    "database", [None, 7, ["ods_trash_1"], "", "ods_trash_1", "a\0b", "\ud800", "ö" * 99]
)
async def test_undo_is_refused_when_its_body_names_no_database_of_the_instance(
    operator: Operator, api: httpx.AsyncClient, name: str, database: object
) -> None:
    job = await created(operator, name)
    assert await operator.ended(await reset(operator, job)) is JobStatus.COMPLETED
    content, headers = json.dumps({"database": database}), {"Content-Type": "application/json"}
    request = partial(api.post, content=content, headers=headers)
    answer = await request(f"/v2/dbInstances/{job.instance_id}/reset/undo")
    assert answer.status_code == 400
    assert list(answer.json()["errors"]) == ["Database"]
    assert (await request("/v2/dbInstances/999999/reset/undo")).status_code == 404
    empty = await api.post(f"/v2/dbInstances/{job.instance_id}/reset/undo", json={})
    assert empty.status_code == 202


async def test_another_version_comes_back_when_the_one_that_was_named_is_half_dropped_or_gone(
    operator: Operator, postgres: EmbeddedPostgres, admin: asyncpg.Connection, name: str
) -> None:
    """As after an operator's DROP, of which the registry knows nothing."""
    job = await created(operator, name)
    resets = []
    for text in ("old", "damaged", "gone"):
        await write(postgres, job, text)
        resets.append(await reset(operator, job))
        assert await operator.ended(resets[-1]) is JobStatus.COMPLETED
    await write(postgres, job, "now")
    old, damaged, gone = [str(one.replacement and one.trash_database) for one in resets]
    await admin.execute("UPDATE pg_database SET datconnlimit = -2 WHERE datname = $1", damaged)
    await admin.execute(f'DROP DATABASE "{gone}"')
    for database, why in ((damaged, "was interrupted"), (gone, "There is no database"), (None, gone)):
        refused = await undo(operator, job, database)
        assert await operator.ended(refused) is JobStatus.ERROR
        assert why in await reason(operator, refused)
        async with asyncio.timeout(20):
            while (await operator.instance(job)).replacement is not None:
                await asyncio.sleep(0.01)
        assert await read(postgres, job) == ["now"]
    assert await operator.ended(await undo(operator, job, old)) is JobStatus.COMPLETED
    assert await read(postgres, job) == ["old"]


async def test_applications_find_one_of_the_databases_when_they_keep_working_during_resets(
    operator: Operator, postgres: EmbeddedPostgres, admin: asyncpg.Connection, name: str
) -> None:
    """Sessions are ended; a client that connects again is served, but for the moment of an exchange."""
    job = await created(operator, name)
    await write(postgres, job, "old")
    served = 0
    stop = asyncio.Event()

    async def work() -> None:
        nonlocal served
        while not stop.is_set():
            try:
                async with session(service_dsn(postgres, job.database)) as client:
                    for _ in range(20):
                        await client.fetchval("SELECT count(*) FROM pg_class")
                        served += 1
            except (asyncpg.PostgresError, OSError, asyncpg.InterfaceError, asyncpg.InternalClientError):
                pass  # its session was ended: it connects again

    working = [asyncio.create_task(work()) for _ in range(8)]
    try:
        for number in range(6):
            requested = await (undo(operator, job) if number % 2 else reset(operator, job))
            assert await operator.ended(requested) is JobStatus.COMPLETED
    finally:
        stop.set()
        await asyncio.gather(*working)
    assert served > 100
    await undo(operator, job)
    assert len(await names(admin, job.mark)) >= 2


async def test_instance_serves_its_old_data_when_the_reset_has_failed(
    operator: Operator,
    temporal: Client,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    name: str,
) -> None:
    job = await created(operator, name)
    await write(postgres, job, "old")
    async with session(postgres.dsn(job.database)) as superuser:  # the service may not end its session
        requested = await reset(operator, job)
        assert await operator.ended(requested) is JobStatus.ERROR
        assert await superuser.fetchval("SELECT words FROM treasure") == "old"
    async with asyncio.timeout(20):
        while (row := await operator.instance(job)).replacement is not None:
            await asyncio.sleep(0.03)
    assert row.status == InstanceStatus.COMPLETED
    assert "sessions of superusers" in await reason(operator, requested)
    assert await names(admin, job.mark) == [job.database]
    assert await read(postgres, job) == ["old"]

    await temporal.get_workflow_handle(requested.workflow_id).signal("retry")
    async with asyncio.timeout(30):
        while str((await operator.instance(job)).database_id) == job.database_id:
            await asyncio.sleep(0.03)
    assert await read(postgres, job) == []
    assert await operator.ended(await undo(operator, job)) is JobStatus.COMPLETED
    assert await read(postgres, job) == ["old"]


@pytest.mark.parametrize("step", ["provision", "verify"])
async def test_nothing_is_left_when_the_fresh_database_cannot_be_made(
    operator: Operator, postgres: EmbeddedPostgres, admin: asyncpg.Connection, name: str, step: str
) -> None:
    job = await created(operator, name)
    await write(postgres, job, "old")
    fault = AsyncMock(side_effect=DatabaseFaultError("It does not answer."))
    with patch.object(provisioning, step, fault):
        requested = await reset(operator, job)
        assert await operator.ended(requested) is JobStatus.ERROR
    async with asyncio.timeout(20):
        while (row := await operator.instance(job)).replacement is not None:
            await asyncio.sleep(0.03)
    assert row.status == InstanceStatus.COMPLETED
    assert await reason(operator, requested) == "It does not answer."
    assert await names(admin, job.mark) == [job.database]
    assert await read(postgres, job) == ["old"]


async def test_reset_is_recorded_in_the_end_when_the_registry_was_away_after_the_exchange(
    operator: Operator, postgres: EmbeddedPostgres, admin: asyncpg.Connection, name: str
) -> None:
    job = await created(operator, name)
    await write(postgres, job, "old")
    finish, faults = JobStore.finish_replacement, [OSError("registry away")] * 3

    async def finish_later(store: JobStore, done: InstanceJob) -> bool:
        if faults:
            raise faults.pop()
        return await finish(store, done)

    with patch.object(JobStore, "finish_replacement", finish_later):
        requested = await reset(operator, job)
        assert await operator.ended(requested) is JobStatus.COMPLETED
    assert faults == []
    assert await read(postgres, job) == []
    assert requested.replacement is not None
    assert await names(admin, job.mark) == [job.database, requested.trash_database]


async def test_pass_goes_on_when_the_databases_were_exchanged_and_the_reset_was_cancelled(
    operator: Operator,
    temporal: Client,
    settings: Settings,
    tenant: Tenant,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    name: str,
) -> None:
    """What a worker leaves that dies between the exchange on the server and its record in the registry."""
    job = await created(operator, name)
    await write(postgres, job, "old")
    lost = (await operator.instances.request_reset(job.instance_id)).job
    assert (await operator.jobs.begin(lost)).held
    await exchanged(tenant, lost)
    assert await read(postgres, job) == []
    await write(postgres, job, "new")
    assert await tenant.cancellations.cancel_lost(lost)
    told = [drift for drift in await DriftDetector(tenant).detect() if name in drift.subject]
    assert [drift.kind for drift in told] == [DriftKind.RESET_NOT_ENDED]
    assert lost.replacement is not None
    assert f"is in the trash: {lost.trash_database}." in told[0].explanation

    assert "1 leftovers removed" in await reconcile(temporal, settings)
    after = await operator.instance(job)
    assert (str(after.database_id), after.replacement) == (lost.replacement.database_id, None)
    assert await read(postgres, job) == ["new"]
    assert await names(admin, job.mark) == [job.database, lost.trash_database]
    assert not [drift for drift in await DriftDetector(tenant).detect() if name in drift.subject]
    assert await operator.ended(await undo(operator, job)) is JobStatus.COMPLETED
    assert await read(postgres, job) == ["old"]


async def exchanged(tenant: Tenant, job: InstanceJob) -> None:
    """What the reset does on the server, without its record in the registry."""
    activities = DatabaseActivities(tenant, ConcurrencyLimit(1))
    with patch.object(tenant.jobs, "finish_replacement", AsyncMock(return_value=False)):
        assert not (await ActivityEnvironment().run(activities.reset, job)).is_recorded


@pytest.mark.parametrize("is_renamed", [False, True])
@pytest.mark.parametrize("is_kept", [True, False])
async def test_both_databases_stay_when_a_delete_overtakes_a_reset_that_has_exchanged_them(
    operator: Operator,
    temporal: Client,
    settings: Settings,
    tenant: Tenant,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    rows: asyncpg.Connection,
    name: str,
    is_kept: bool,  # noqa: FBT001 - a parameter of the test
    is_renamed: bool,  # noqa: FBT001
) -> None:
    """As an Admin API writes one: what is in the trash by the reset is not taken for the instance's."""
    job = await created(operator, name)
    await write(postgres, job, "old")
    reset = (await operator.instances.request_reset(job.instance_id)).job
    assert (await operator.jobs.begin(reset)).held
    await exchanged(tenant, reset)
    await write(postgres, job, "new")
    before = await names(admin, job.mark)
    own = job.database
    if is_renamed:  # by hand
        own = f"{job.database}_moved"
        await admin.execute(f'ALTER DATABASE "{job.database}" RENAME TO "{own}"')
    wanted = {"keep": is_kept, "backup_first": False}
    await rows.execute(
        "UPDATE adminapi.dbinstances SET status = 'Pending_Delete' WHERE id = $1", job.instance_id
    )
    await operator.jobs.follow_admin_api()
    await rows.execute(
        "UPDATE adminapi.managed_instances SET arguments = $2 WHERE id = $1",
        *(job.instance_id, json.dumps(wanted)),
    )
    deletion = await operator.queries.any_instance(job.instance_id)
    assert deletion is not None
    due = JobFactory(operator.instances.installation, reset.policy).next_attempt(deletion)
    await operator.starter.start(due)
    assert await operator.ended(due) is JobStatus.ERROR
    assert await names(admin, job.mark) == sorted({*before} - {job.database} | {own})
    assert await read(postgres, replace(job, database=own)) == ["new"]
    assert (await operator.instance(job)).status == InstanceStatus.DELETE_FAILED
    if is_renamed:
        await admin.execute(f'ALTER DATABASE "{own}" RENAME TO "{job.database}"')
    await reconcile(temporal, settings)
    row = await operator.instance(job)
    assert reset.replacement is not None
    assert (str(row.database_id), row.replacement) == (reset.replacement.database_id, None)
    assert await names(admin, job.mark) == before


async def test_delete_is_refused_when_the_server_was_put_back_to_before_an_undo(
    operator: Operator, postgres: EmbeddedPostgres, admin: asyncpg.Connection, name: str
) -> None:
    """What the instance has by the registry is in the trash there, and another one is in use."""
    job = await created(operator, name)
    kept = await replaced(operator, job)
    await write(postgres, job, "new")
    then = {one: await admin.fetchval(COMMENT, one) for one in (job.database, kept)}
    assert await operator.ended(await undo(operator, job)) is JobStatus.COMPLETED
    (other,) = set(await names(admin, job.mark)) - {job.database}
    await admin.execute(f'ALTER DATABASE "{job.database}" RENAME TO "{kept}"')
    await admin.execute(f'ALTER DATABASE "{kept}" ALLOW_CONNECTIONS false')
    await admin.execute(f'ALTER DATABASE "{other}" RENAME TO "{job.database}"')
    await admin.execute(f'ALTER DATABASE "{job.database}" ALLOW_CONNECTIONS true')
    for one, text in then.items():
        await admin.execute(f"COMMENT ON DATABASE \"{one}\" IS '{text}'")
    assert await operator.ended(await operator.delete(job)) is JobStatus.ERROR
    assert await names(admin, job.mark) == sorted(then)
    assert {one: await admin.fetchval(COMMENT, one) for one in then} == then
    assert await read(postgres, job) == ["new"]


async def test_pass_drops_only_what_was_made_when_the_reset_was_cancelled_before_the_exchange(
    operator: Operator,
    temporal: Client,
    settings: Settings,
    tenant: Tenant,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    name: str,
) -> None:
    job = await created(operator, name)
    await write(postgres, job, "old")
    lost = (await operator.instances.request_reset(job.instance_id)).job
    assert (await operator.jobs.begin(lost)).held
    activities = DatabaseActivities(tenant, ConcurrencyLimit(1))
    killed = patch.object(replacing, "take_place", AsyncMock(side_effect=OSError("killed")))
    with killed, pytest.raises(ApplicationError):
        await ActivityEnvironment().run(activities.reset, lost)
    assert lost.replacement is not None
    assert await names(admin, job.mark) == [job.database, lost.replacement.database]
    assert await tenant.cancellations.cancel_lost(lost)
    assert "1 leftovers removed" in await reconcile(temporal, settings)
    assert await names(admin, job.mark) == [job.database]
    assert await read(postgres, job) == ["old"]
    assert await operator.ended(await reset(operator, job)) is JobStatus.COMPLETED


async def test_versions_are_purged_when_their_time_is_over_and_registry_and_server_agree(
    operator: Operator,
    temporal: Client,
    settings: Settings,
    tenant: Tenant,
    admin: asyncpg.Connection,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    job = await created(operator, name)
    kept = await replaced(operator, job)
    assert "0 purges" in await reconcile(temporal, settings)
    await rows.execute(
        "UPDATE adminapi.databases SET purgeafter = now() - interval '1 day' WHERE reason = 'replaced'"
    )
    mark = await admin.fetchval(COMMENT, kept)
    await comment(admin, kept, "mine")
    told = [drift for drift in await DriftDetector(tenant).detect() if name in drift.subject]
    assert [drift.kind for drift in told] == [DriftKind.CHANGED_BY_HAND]
    assert "0 purges" in await reconcile(temporal, settings)
    assert await admin.fetchval("SELECT count(*) FROM pg_database WHERE datname = $1", kept) == 1
    await comment(admin, kept, mark)
    assert "1 purges" in await reconcile(temporal, settings)
    assert await names(admin, job.mark) == [job.database]
    assert await rows.fetchval("SELECT count(*) FROM adminapi.databases WHERE reason = 'replaced'") == 0
    entry = await rows.fetchrow("SELECT * FROM adminapi.audit WHERE method = 'PURGE'")
    assert entry is not None
    assert kept in entry["title"]


async def test_version_stays_and_comes_back_when_the_instance_s_own_database_is_gone(
    operator: Operator,
    temporal: Client,
    settings: Settings,
    tenant: Tenant,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    """It is all that is left of the instance then, and nothing can be exchanged with it."""
    job = await created(operator, name)
    await write(postgres, job, "old")
    kept = await replaced(operator, job)
    await admin.execute(f'DROP DATABASE "{job.database}"')
    back = await undo(operator, job)
    assert await operator.ended(back) is JobStatus.ERROR
    await rows.execute(
        "UPDATE adminapi.databases SET purgeafter = now() - interval '1 day' WHERE reason = 'replaced'"
    )
    assert "0 purges" in await reconcile(temporal, settings)
    assert await names(admin, job.mark) == [kept]

    drift = (await drifts_of(tenant, name))[DriftKind.DATABASE_MISSING]
    assert f"`ods recover --apply --choose {kept}` makes that the instance's" in drift.explanation
    asked = await Recovery(tenant).apply()
    assert (asked.done, len(asked.plan.questions), await names(admin, job.mark)) == ([], 1, [kept])
    await recovered(tenant, kept)
    assert await names(admin, job.mark) == [job.database]
    assert await read(postgres, job) == ["old"]
    assert await operator.queries.versions() == []
    assert [drift for drift in await DriftDetector(tenant).detect() if name in drift.subject] == []
    assert "0 purges" in await reconcile(temporal, settings)
    again = await reset(operator, job)
    assert await operator.ended(again) is JobStatus.COMPLETED
    assert await operator.ended(await undo(operator, job)) is JobStatus.COMPLETED
    assert await read(postgres, job) == ["old"]


async def test_database_of_before_a_reset_is_not_taken_when_the_own_one_was_renamed_by_hand(
    operator: Operator, tenant: Tenant, postgres: EmbeddedPostgres, admin: asyncpg.Connection, name: str
) -> None:
    """What was before a reset would be the end of all rows since."""
    job = await created(operator, name)
    await write(postgres, job, "old")
    kept = await replaced(operator, job)
    await write(postgres, job, "own")
    moved = f"{job.database}_moved"
    await admin.execute(f'ALTER DATABASE "{job.database}" RENAME TO "{moved}"')
    drift = (await drifts_of(tenant, name))[DriftKind.CHANGED_BY_HAND]
    assert (drift.remedy, moved in drift.explanation) == (RECOVER, True)
    assert kept not in drift.explanation
    with pytest.raises(AdoptionRefusedError, match="`ods recover`"):
        await DatabaseAdoption(tenant).adopt(job.instance_id, kept)
    refused = await undo(operator, job)
    assert await operator.ended(refused) is JobStatus.ERROR
    assert f"'{moved}' carries its mark" in await reason(operator, refused)
    assert "`ods recover`" in await reason(operator, refused)

    await recovered(tenant)
    job = replace(job, database=moved)
    assert await read(postgres, job) == ["own"]
    assert await drifts_of(tenant, name) == {}
    assert await operator.ended(await undo(operator, job, kept)) is JobStatus.COMPLETED
    assert await read(postgres, job) == ["old"]


async def test_version_comes_back_as_the_reason_of_a_rename_says_when_the_own_database_is_lost(
    operator: Operator, tenant: Tenant, postgres: EmbeddedPostgres, admin: asyncpg.Connection, name: str
) -> None:
    job = await created(operator, name)
    await write(postgres, job, "old")
    await replaced(operator, job)
    await write(postgres, job, "new")
    kept = await replaced(operator, job)
    await admin.execute(f'DROP DATABASE "{job.database}"')
    rename = await operator.rename(job, f"{name} new")
    assert await operator.ended(rename) is JobStatus.ERROR
    told = await reason(operator, rename)
    assert "delete" not in told
    assert f"`ods recover --apply --choose {kept}` brings that back." in told
    await recovered(tenant, kept)
    assert await operator.ended(await operator.rename(job, f"{name} new")) is JobStatus.COMPLETED
    renamed = replace(job, database=(await operator.instance(job)).database_name)
    assert renamed.database != job.database
    assert await read(postgres, renamed) == ["new"]


async def test_reason_of_a_rename_names_the_last_version_when_a_registry_has_given_a_number_again(
    operator: Operator, admin: asyncpg.Connection, name: str
) -> None:
    job = await created(operator, name)
    first = await replaced(operator, job)
    last = await replaced(operator, job)
    said = json.loads(await admin.fetchval(COMMENT, first))
    await comment(admin, first, json.dumps(said | {"number": 9, "trashedAt": "2026-08-01T12:00:00+00:00"}))
    await admin.execute(f'DROP DATABASE "{job.database}"')
    rename = await operator.rename(job, f"{name} new")
    assert await operator.ended(rename) is JobStatus.ERROR
    assert f"`ods recover --apply --choose {last}`" in await reason(operator, rename)


async def test_time_in_the_trash_is_that_of_the_server_when_the_clock_of_a_worker_is_wrong(
    operator: Operator, admin: asyncpg.Connection, name: str
) -> None:
    job = await created(operator, name)
    with patch("ods.databases.ownership.datetime", wraps=datetime) as clock:
        clock.now.return_value = datetime(2099, 1, 1, tzinfo=UTC)
        kept = await replaced(operator, job)
    assert await trashed_at_of(admin, kept) < "2099"


async def test_version_stays_when_its_instance_is_in_the_trash_without_a_database(
    operator: Operator,
    temporal: Client,
    settings: Settings,
    admin: asyncpg.Connection,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    job = await created(operator, name)
    first = await reset(operator, job)
    assert await operator.ended(first) is JobStatus.COMPLETED
    assert first.replacement is not None
    deletion = await operator.delete(job)
    assert await operator.ended(deletion) is JobStatus.COMPLETED
    await admin.execute(f'DROP DATABASE "{deletion.trash_database}"')
    await rows.execute(
        "UPDATE adminapi.databases SET purgeafter = now() - interval '1 day' WHERE reason = 'replaced'"
    )
    await reconcile(temporal, settings)
    assert await names(admin, job.mark) == [first.trash_database]
    purge = (await operator.instances.request_purge(job.instance_id)).job
    await operator.starter.start(purge)
    assert await operator.ended(purge) is JobStatus.COMPLETED
    assert "1 purges" in await reconcile(temporal, settings)
    assert await names(admin, job.mark) == []


@pytest.mark.parametrize("own", ["lost", "half dropped"])
async def test_version_stays_and_comes_back_as_told_when_the_time_of_its_instance_without_a_database_is_over(
    operator: Operator,
    temporal: Client,
    settings: Settings,
    tenant: Tenant,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    rows: asyncpg.Connection,
    name: str,
    own: str,
) -> None:
    job = await created(operator, name)
    await write(postgres, job, "old")
    first = await reset(operator, job)
    assert await operator.ended(first) is JobStatus.COMPLETED
    assert first.replacement is not None
    deletion = await operator.delete(job)
    assert await operator.ended(deletion) is JobStatus.COMPLETED
    if own == "half dropped":
        half_dropped = "UPDATE pg_database SET datconnlimit = -2 WHERE datname = $1"
        await admin.execute(half_dropped, deletion.trash_database)
    else:
        await admin.execute(f'DROP DATABASE "{deletion.trash_database}"')
    await rows.execute(
        "UPDATE adminapi.databases SET purgeafter = now() - interval '1 day' WHERE reason = 'deleted'"
    )
    await rows.execute(
        "UPDATE adminapi.databases SET purgeafter = now() - interval '1 day' WHERE reason = 'replaced'"
    )
    assert "0 purges" in await reconcile(temporal, settings)
    assert first.trash_database in await names(admin, job.mark)
    kind = DriftKind.INTERRUPTED_DROP if own == "half dropped" else DriftKind.DATABASE_MISSING
    told = (await drifts_of(tenant, name))[kind]
    assert told.remedy in {None, RECOVER}, "a purge would drop the version, too"
    for statement in re.findall(r'DROP DATABASE "\w+"', told.explanation):
        await admin.execute(statement)
    assert f"`ods recover --apply --choose {first.trash_database}`" in told.explanation
    await recovered(tenant, first.trash_database)
    assert await read(postgres, job) == ["old"]


@pytest.mark.parametrize("interrupted", [False, True])
async def test_version_stays_when_the_purge_of_its_instance_is_cancelled_after_its_drop(
    operator: Operator,
    temporal: Client,
    settings: Settings,
    api: httpx.AsyncClient,
    admin: asyncpg.Connection,
    rows: asyncpg.Connection,
    name: str,
    *,
    interrupted: bool,
) -> None:
    """The client may have cancelled it for just that."""
    job = await created(operator, name)
    kept = await replaced(operator, job)
    assert await operator.ended(await operator.delete(job)) is JobStatus.COMPLETED
    own = str((await operator.instance(job)).database.trash_name)
    purge = await purge_cancelled_after_drop(api, job, interrupting=admin if interrupted else None)
    async with asyncio.timeout(30):
        while "is kept" not in str((await operator.instance(job)).error_message):
            await asyncio.sleep(0.03)
    row = await operator.instance(job)
    assert (row.status, row.is_in_trash) == (InstanceStatus.DELETED, True)
    assert f"is kept: {kept}." in str(row.error_message)
    assert (await api.get(f"/v2/jobs/{purge}")).json()["errorMessage"] == row.error_message
    await rows.execute(
        "UPDATE adminapi.databases SET purgeafter = now() - interval '1 day' WHERE reason = 'replaced'"
    )
    await reconcile(temporal, settings)
    assert await names(admin, job.mark) == sorted([kept, *([own] if interrupted else [])])
    again = (await operator.instances.request_purge(job.instance_id)).job
    await operator.starter.start(again)
    assert await operator.ended(again) is JobStatus.COMPLETED
    assert "1 purges" in await reconcile(temporal, settings)
    assert await names(admin, job.mark) == []


@pytest.mark.parametrize("interrupted", [False, True])
@pytest.mark.parametrize("by_api", [True, False])
async def test_version_stays_when_the_purge_of_its_live_instance_is_cancelled_after_its_drop(
    operator: Operator,
    temporal: Client,
    settings: Settings,
    tenant: Tenant,
    postgres: EmbeddedPostgres,
    api: httpx.AsyncClient,
    admin: asyncpg.Connection,
    rows: asyncpg.Connection,
    name: str,
    *,
    by_api: bool,
    interrupted: bool,
) -> None:
    job = await created(operator, name)
    await write(postgres, job, "old")
    kept = await replaced(operator, job)
    interrupting, asked = admin if interrupted else None, None if by_api else temporal
    purge = await purge_cancelled_after_drop(api, job, interrupting, live=True, temporal=asked)
    row = await operator.instance(job)
    assert f"is kept: {kept}." in str(row.error_message), "as soon as the job is told as cancelled"
    assert row.status == InstanceStatus.DELETE_FAILED
    assert (await api.get(f"/v2/jobs/{purge}")).json()["errorMessage"] == row.error_message
    assert "`ods recover --apply --choose NAME`" in str(row.error_message)
    await rows.execute(
        "UPDATE adminapi.databases SET purgeafter = now() - interval '1 day' WHERE reason = 'replaced'"
    )
    await reconcile(temporal, settings)
    assert await names(admin, job.mark) == sorted([kept, *([job.database] if interrupted else [])])
    assert (await operator.instance(job)).status == InstanceStatus.DELETE_FAILED
    kind = DriftKind.INTERRUPTED_DROP if interrupted else DriftKind.DATABASE_MISSING
    told = (await drifts_of(tenant, name))[kind].explanation
    assert f"`ods recover --apply --choose {kept}`" in told
    if interrupted:
        (drop,) = re.findall(r'DROP DATABASE "[^"]+"', str(row.error_message))
        await admin.execute(drop)
    await recovered(tenant, kept)
    await reconcile(temporal, settings)
    assert await read(postgres, job) == ["old"]
    await undeleted(operator, job)
    assert await read(postgres, job) == ["old"]


async def test_version_comes_back_as_told_when_a_delete_to_the_trash_finds_the_own_database_half_dropped(
    operator: Operator,
    temporal: Client,
    settings: Settings,
    tenant: Tenant,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    name: str,
) -> None:
    job = await created(operator, name)
    await write(postgres, job, "old")
    kept = await replaced(operator, job)
    await admin.execute(HALF_DROP, job.database)
    delete = await operator.delete(job)
    assert await operator.ended(delete) is JobStatus.ERROR
    error = await reason(operator, delete)
    assert f"The instance's database '{job.database}' is half dropped" in error
    for _ in range(2):
        assert "0 jobs restarted" in await reconcile(temporal, settings)
    told = (await drifts_of(tenant, name))[DriftKind.INTERRUPTED_DROP].explanation
    for words in (error, told):
        assert f'DROP DATABASE "{job.database}"' in words
        assert f"`ods recover --apply --choose {kept}`" in words
    assert "A retry drops it" not in told
    await admin.execute(f'DROP DATABASE "{job.database}"')
    await recovered(tenant, kept)
    await undeleted(operator, job)
    assert await read(postgres, job) == ["old"]


async def test_recovered_database_is_not_dropped_when_an_outage_had_ended_a_purge_of_the_instance(
    operator: Operator,
    temporal: Client,
    settings: Settings,
    tenant: Tenant,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    name: str,
) -> None:
    """The pass would try it again: it would drop what was handed over meanwhile."""
    job = await created(operator, name)
    await write(postgres, job, "old")
    kept = await replaced(operator, job)
    purge = (await operator.instances.request_delete(job.instance_id, Delete(Way.DROP))).job
    assert (await tenant.jobs.begin(purge)).held
    await admin.execute(f'DROP DATABASE "{job.database}"')
    assert await tenant.jobs.fail(purge, "The registry was away.", outage=True)
    await recovered(tenant, kept)
    assert "0 jobs restarted" in await reconcile(temporal, settings)
    assert await read(postgres, job) == ["old"]


async def test_adopted_database_is_not_dropped_when_a_drop_of_another_one_had_been_interrupted(
    operator: Operator,
    temporal: Client,
    settings: Settings,
    tenant: Tenant,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    """The operator has restored it from a dump; what was dropped lay in the trash."""
    job = await created(operator, name)
    await write(postgres, job, "old")
    purge = (await operator.instances.request_delete(job.instance_id, Delete(Way.DROP))).job
    assert (await tenant.jobs.begin(purge)).held
    assert await tenant.jobs.fail(purge, "The server was restarted.")
    half_dropped = job.trash_database
    await admin.execute(f'CREATE DATABASE "{half_dropped}"')
    await comment(admin, half_dropped, await admin.fetchval(COMMENT, job.database))
    await admin.execute("UPDATE pg_database SET datconnlimit = -2 WHERE datname = $1", half_dropped)
    try:
        assert (await DatabaseAdoption(tenant).adopt(job.instance_id, job.database)).adopted
        assert "0 jobs restarted" in await reconcile(temporal, settings)
        by_a_suspended_worker = await tenant.jobs.release(purge, {job.database: job.mark})
        assert by_a_suspended_worker is None
        assert await read(postgres, job) == ["old"]
    finally:
        await admin.execute(f'DROP DATABASE "{half_dropped}"')


async def test_instance_counts_as_published_when_it_is_adopted_with_what_another_product_has_made(
    operator: Operator, tenant: Tenant, rows: asyncpg.Connection, name: str
) -> None:
    """So its delete asks for its applications, and ends the routing."""
    job = await created(operator, name)
    unpublished = "UPDATE adminapi.databases SET publishedat = NULL WHERE instanceid = $1"
    await rows.execute(unpublished, job.instance_id)
    await DatabaseAdoption(tenant).adopt(job.instance_id)
    assert (await operator.instance(job)).database.published_at is not None


async def test_version_stays_when_a_drop_of_the_instance_s_own_database_was_interrupted(
    operator: Operator,
    temporal: Client,
    settings: Settings,
    tenant: Tenant,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    job = await created(operator, name)
    await write(postgres, job, "old")
    kept = await replaced(operator, job)
    await admin.execute("UPDATE pg_database SET datconnlimit = -2 WHERE datname = $1", job.database)
    await rows.execute(
        "UPDATE adminapi.databases SET purgeafter = now() - interval '1 day' WHERE reason = 'replaced'"
    )
    assert "0 purges" in await reconcile(temporal, settings)
    (refused,) = (await Recovery(tenant).apply([kept])).refused
    assert "was interrupted" in refused.reason
    assert await names(admin, job.mark) == [job.database, kept]
    await admin.execute(f'DROP DATABASE "{job.database}"')
    await recovered(tenant, kept)
    assert await read(postgres, job) == ["old"]


async def test_nothing_is_made_and_the_instance_can_be_deleted_when_a_reset_finds_no_database(
    operator: Operator, temporal: Client, settings: Settings, admin: asyncpg.Connection, name: str
) -> None:
    job = await created(operator, name)
    await admin.execute(f'DROP DATABASE "{job.database}"')
    lost = await reset(operator, job)
    assert await operator.ended(lost) is JobStatus.ERROR
    error = await reason(operator, lost)
    assert "does not exist, so nothing can be put in its place" in error
    await reconcile(temporal, settings)
    assert (await operator.instance(job)).replacement is None
    assert await names(admin, job.mark) == []
    assert await operator.ended(await operator.delete(job)) is JobStatus.COMPLETED


@pytest.mark.parametrize("keeps", [True, False])
async def test_delete_leaves_what_was_before_a_reset_when_the_own_database_is_lost(
    operator: Operator,
    tenant: Tenant,
    temporal: Client,
    settings: Settings,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    name: str,
    *,
    keeps: bool,
) -> None:
    job = await created(operator, name)
    await write(postgres, job, "old")
    kept = await replaced(operator, job)
    await admin.execute(f'DROP DATABASE "{job.database}"')
    delete = await operator.delete(job)
    assert await operator.ended(delete) is JobStatus.ERROR
    assert f"`ods recover --apply --choose {kept}`" in await reason(operator, delete)
    await reconcile(temporal, settings)
    assert await names(admin, job.mark) == [kept]
    if keeps:
        await recovered(tenant, kept)
        await undeleted(operator, job)
        assert await read(postgres, job) == ["old"]
    else:
        purge = (await operator.instances.request_delete(job.instance_id, Delete(Way.DROP))).job
        await operator.starter.start(purge)
        assert await operator.ended(purge) is JobStatus.COMPLETED
        await reconcile(temporal, settings)
        assert await names(admin, job.mark) == []


async def test_version_stays_and_comes_back_when_its_instance_is_protected_right_before_the_drop(
    operator: Operator,
    temporal: Client,
    settings: Settings,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    rows: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    job = await created(operator, name)
    await write(postgres, job, "old")
    kept = await replaced(operator, job)
    await rows.execute(
        "UPDATE adminapi.databases SET purgeafter = now() - interval '1 day' WHERE reason = 'replaced'"
    )

    async def drop_later(session: asyncpg.Connection, *which: Any) -> None:
        await operator.instances.change_attributes(job.instance_id, AttributeChanges(protected=True))
        await drop_found(session, *which)

    monkeypatch.setattr("ods.databases.dropping.drop_found", drop_later)
    await reconcile(temporal, settings)
    assert kept in await names(admin, job.mark)
    monkeypatch.undo()
    await operator.instances.change_attributes(job.instance_id, AttributeChanges(protected=False))
    await reconcile(temporal, settings)
    assert await operator.ended(await undo(operator, job)) is JobStatus.COMPLETED
    assert await read(postgres, job) == ["old"]


async def test_version_goes_when_a_drop_has_half_removed_it_before_its_instance_was_protected(
    operator: Operator,
    temporal: Client,
    settings: Settings,
    tenant: Tenant,
    admin: asyncpg.Connection,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    """It cannot come back, and goes when its time is over, as the others do."""
    job = await created(operator, name)
    kept = await replaced(operator, job)
    over = "UPDATE adminapi.databases SET purgeafter = now() - interval '1 day' WHERE reason = 'replaced'"
    await rows.execute(over)
    assert await tenant.versions.claim_due(20)
    await admin.execute("UPDATE pg_database SET datconnlimit = -2 WHERE datname = $1", kept)
    for protected in (True, False):
        await operator.instances.change_attributes(job.instance_id, AttributeChanges(protected=protected))
    failed = await undo(operator, job)
    assert await operator.ended(failed) is JobStatus.ERROR
    assert f"A DROP of the database '{kept}' was interrupted" in await reason(operator, failed)
    await reconcile(temporal, settings)
    await rows.execute(over)
    await reconcile(temporal, settings)
    assert await names(admin, job.mark) == [job.database]


async def test_version_stays_when_it_is_not_claimed_to_be_dropped(
    operator: Operator, tenant: Tenant, admin: asyncpg.Connection, rows: asyncpg.Connection, name: str
) -> None:
    """As for a pass that comes too late, after the registry was put back."""
    job = await created(operator, name)
    first = await reset(operator, job)
    assert await operator.ended(first) is JobStatus.COMPLETED
    await rows.execute(
        "UPDATE adminapi.databases SET purgeafter = now() - interval '1 day' WHERE reason = 'replaced'"
    )
    (purge,) = await tenant.versions.claim_due(20)
    await rows.execute("UPDATE adminapi.databases SET purgingsince = NULL WHERE reason = 'replaced'")
    before = await names(admin, job.mark)
    activities = DatabaseActivities(tenant, ConcurrencyLimit(1))
    await ActivityEnvironment().run(activities.purge_version, purge)
    assert await names(admin, job.mark) == before
    assert len(await operator.queries.versions()) == 1
    assert await operator.ended(await undo(operator, job)) is JobStatus.COMPLETED


async def test_instance_takes_jobs_when_it_was_reset_many_times(
    operator: Operator, admin: asyncpg.Connection, rows: asyncpg.Connection, name: str
) -> None:
    """As by each run of a test suite, for years."""
    job = await created(operator, name)
    await let_requests_pass(rows, job.instance_id, 60_000)
    await replaced(operator, job)
    assert await operator.ended(await undo(operator, job)) is JobStatus.COMPLETED
    requested = await operator.instances.request_delete(job.instance_id, Delete(Way.DROP))
    await operator.starter.start(requested.job)
    assert await operator.ended(requested.job) is JobStatus.COMPLETED
    assert job.database not in await names(admin, job.mark)


async def test_nothing_is_lost_when_the_registry_is_put_back_to_before_a_reset(
    operator: Operator,
    temporal: Client,
    settings: Settings,
    tenant: Tenant,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    job = await created(operator, name)
    await write(postgres, job, "old")
    await remember_rows(rows)
    first = await reset(operator, job)
    assert await operator.ended(first) is JobStatus.COMPLETED
    assert first.replacement is not None
    await write(postgres, job, "new")
    await put_rows_back(rows)
    await rows.execute(
        "DELETE FROM adminapi.databases WHERE reason = 'replaced';"
        " DELETE FROM adminapi.jobstatuses WHERE operation = 'Reset'"
    )
    found = await drifts_of(tenant, job.database, first.trash_database)
    assert found[DriftKind.REGISTRY_PUT_BACK].remedy == RECOVER
    for request in (operator.delete, partial(reset, operator)):
        assert await operator.ended(await request(job)) is JobStatus.ERROR
        async with asyncio.timeout(20):
            while await names(admin, job.mark) != [job.database, first.trash_database]:
                await asyncio.sleep(0.01)
        await rows.execute(
            "UPDATE adminapi.dbinstances SET state = 'Completed', operation = 'Create', jobnumber = 1,"
            " arguments = '{\"origin\": {}}', attempt = 1, replacement = NULL;"
            " DELETE FROM adminapi.jobstatuses"
        )
    await reconcile(temporal, settings)
    assert await names(admin, job.mark) == [job.database, first.trash_database]

    await recovered(tenant)
    assert str((await operator.instance(job)).database_id) == first.replacement.database_id
    assert await read(postgres, job) == ["new"]
    assert await drifts_of(tenant, name, job.database, first.trash_database) == {}
    assert await operator.ended(await undo(operator, job)) is JobStatus.COMPLETED
    assert await read(postgres, job) == ["old"]


async def test_last_database_comes_back_when_the_registry_is_put_back_to_before_the_create(
    operator: Operator,
    tenant: Tenant,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    superuser: str,
    name: str,
) -> None:
    """Also if an operator has given what was before the reset the name of the instance's database."""
    earlier = await Snapshot.take(superuser)
    job = await created(operator, name)
    await write(postgres, job, "old")
    before = await replaced(operator, job)
    await write(postgres, job, "new")
    assert await operator.ended(await operator.delete(job)) is JobStatus.COMPLETED
    last = str((await operator.instance(job)).database.trash_name)
    await earlier.put_back(superuser, Mock())
    for database in (before, last):
        found = await drifts_of(tenant, database)
        assert {drift.remedy for drift in found.values()} == {RECOVER}
        assert not [drift for drift in found.values() if "drop it" in drift.explanation]

    await admin.execute(f'ALTER DATABASE "{before}" RENAME TO "{job.database}"')
    await admin.execute(f'ALTER DATABASE "{job.database}" ALLOW_CONNECTIONS true')
    assert [step.database for step in (await Recovery(tenant).plan()).steps] == [last]
    await admin.execute(f'ALTER DATABASE "{job.database}" ALLOW_CONNECTIONS false')
    await admin.execute(f'ALTER DATABASE "{job.database}" RENAME TO "{before}"')
    await recovered(tenant)
    assert await undelete(operator, job) is JobStatus.COMPLETED
    assert await read(postgres, job) == ["new"]
    assert await operator.ended(await undo(operator, job, before)) is JobStatus.COMPLETED
    assert await read(postgres, job) == ["old"]


async def test_both_come_back_when_the_registry_is_put_back_to_before_another_instance_got_the_name(
    operator: Operator,
    tenant: Tenant,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    superuser: str,
    name: str,
) -> None:
    first = await created(operator, name)
    await write(postgres, first, "first")
    earlier = await Snapshot.take(superuser)
    assert await operator.ended(await operator.delete(first)) is JobStatus.COMPLETED
    second = await created(operator, name)
    await write(postgres, second, "second")
    await earlier.put_back(superuser, Mock())
    await recovered(tenant)
    assert await drifts_of(tenant, name, second.database) == {}
    assert await read(postgres, second) == ["second"]
    assert await operator.ended(await operator.delete(second)) is JobStatus.COMPLETED
    assert await undelete(operator, first) is JobStatus.COMPLETED
    assert await read(postgres, first) == ["first"]


@dataclass(frozen=True)
class _PutBack:
    """An instance that was reset since the registry was saved, which is put back now.

    Attributes:
        job: its creation.
        last: the database that it had last, with "new" data.
        before: the one that it had before the reset, in the trash, with "old" data.
    """

    job: InstanceJob
    last: str
    before: str


@pytest.fixture
def superuser(postgres: EmbeddedPostgres, registry_dsn: str) -> str:
    """The address of the registry for the one who restores it."""
    return postgres.dsn(registry_dsn.rpartition("/")[2])


@pytest.fixture
async def put_back(
    operator: Operator, postgres: EmbeddedPostgres, superuser: str, name: str, since: str
) -> _PutBack:
    """What was done `since` the reset, the registry has forgotten as well."""
    job = await created(operator, name)
    await write(postgres, job, "old")
    earlier = await Snapshot.take(superuser)
    before = await replaced(operator, job)
    await write(postgres, job, "new")
    follows = await (operator.delete(job) if since == "deleted" else operator.rename(job, f"{name} more"))
    assert await operator.ended(follows) is JobStatus.COMPLETED
    row = await operator.instance(job)
    await earlier.put_back(superuser, Mock())
    return _PutBack(job, row.database.trash_name if row.is_in_trash else row.database_name, before)


@pytest.mark.parametrize("since", ["deleted", "renamed"])
async def test_last_database_comes_back_when_the_registry_is_put_back_to_before_a_reset(
    operator: Operator, tenant: Tenant, postgres: EmbeddedPostgres, put_back: _PutBack
) -> None:
    """As the registry was put back to before the reset: by its words, either may be the instance's."""
    job, last, before = put_back.job, put_back.last, put_back.before
    found = _each_of(await DriftDetector(tenant).detect(), last, before)
    assert {drift.remedy for drift in found} == {RECOVER}
    assert {DriftKind.REGISTRY_PUT_BACK, DriftKind.TWO_DATABASES} <= {drift.kind for drift in found}
    for drift in found:
        assert "drop it" not in drift.explanation
    with pytest.raises(AdoptionRefusedError):
        await DatabaseAdoption(tenant).adopt(job.instance_id, before)

    await recovered(tenant)
    row = await operator.instance(job)
    if row.is_in_trash:
        assert row.database.trash_name == last
        assert await undelete(operator, job) is JobStatus.COMPLETED
    else:
        assert row.database_name == last
    assert await read(postgres, replace(job, database=row.database_name)) == ["new"]
    assert _each_of(await DriftDetector(tenant).detect(), last, before, job.name) == []
    assert await operator.ended(await undo(operator, job, before)) is JobStatus.COMPLETED
    assert await read(postgres, replace(job, database=row.database_name)) == ["old"]


@pytest.mark.parametrize("since", ["deleted"])
async def test_what_a_reset_has_replaced_comes_back_when_the_client_chooses_it(
    operator: Operator, api: httpx.AsyncClient, postgres: EmbeddedPostgres, put_back: _PutBack
) -> None:
    job = put_back.job
    answer = await api.post("/v2/recovery", json={"choose": [put_back.before]})
    assert [step["database"] for step in answer.json()["done"]] == [put_back.before]
    assert await read(postgres, job) == ["old"]
    assert await operator.ended(await undo(operator, job, put_back.last)) is JobStatus.COMPLETED
    assert await read(postgres, job) == ["new"]


async def undelete(operator: Operator, job: InstanceJob, name: str | None = None) -> JobStatus:
    requested = await operator.instances.request_undelete(job.instance_id, name)
    await operator.starter.start(requested.job)
    return await operator.ended(requested.job)


async def undeleted(operator: Operator, job: InstanceJob) -> None:
    """Move the instance to the trash, and take it out."""
    assert await operator.ended(await operator.delete(job)) is JobStatus.COMPLETED
    assert await undelete(operator, job) is JobStatus.COMPLETED


async def undone(operator: Operator, job: InstanceJob) -> None:
    """Wait until nothing is to be undone, as when a failed undelete has taken nothing out."""
    async with asyncio.timeout(20):
        while (await operator.instance(job)).undo_due:
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("before", ["nothing", "undelete", "undelete under another name", "twice"])
async def test_instance_comes_back_as_told_when_it_was_undeleted_and_reset_since(
    operator: Operator,
    tenant: Tenant,
    postgres: EmbeddedPostgres,
    rows: asyncpg.Connection,
    superuser: str,
    name: str,
    before: str,
) -> None:
    """By the registry, which is put back, it is in the trash, and what the reset has replaced is its own."""
    job = await created(operator, name)
    await write(postgres, job, "old")
    await rows.execute(CONTEXT, job.ods_instance_id)
    assert await operator.ended(await operator.delete(job)) is JobStatus.COMPLETED
    earlier = await Snapshot.take(superuser)
    assert await undelete(operator, job) is JobStatus.COMPLETED
    kept = await replaced(operator, job)
    await write(postgres, job, "new")
    await earlier.put_back(superuser, Mock())
    if before == "twice":
        await recovered(tenant)
        await earlier.put_back(superuser, Mock())
    elif before != "nothing":
        other = f"{name} back" if before == "undelete under another name" else None
        assert await undelete(operator, job, other) is JobStatus.ERROR
        message = (await operator.instance(job)).error_message
        assert "`ods recover`" in str(message)
        await undone(operator, job)
    found = _each_of(await DriftDetector(tenant).detect(), job.database, kept, name)
    assert {drift.remedy for drift in found} == {RECOVER}
    for drift in found:
        assert "ods instance undelete" not in drift.explanation
        assert "drop it" not in drift.explanation

    await recovered(tenant)
    row = await operator.instance(job)
    assert (row.status, row.is_in_trash, row.undo_due, row.set_aside) == ("Completed", False, False, None)
    assert await read(postgres, job) == ["new"]
    routed = await operator.queries.ods_instance(job.ods_instance_id)
    assert routed is not None
    assert tenant.connection_strings.local_database(routed.connection_string) == job.database
    (context,) = await operator.queries.contexts_of(job.ods_instance_id)
    assert context.value == "2027"
    assert _each_of(await DriftDetector(tenant).detect(), job.database, kept, name) == []
    assert await operator.ended(await undo(operator, job, kept)) is JobStatus.COMPLETED
    assert await read(postgres, job) == ["old"]
    await undeleted(operator, job)
    assert await read(postgres, job) == ["old"]


async def test_version_comes_back_as_told_when_it_was_renamed_by_hand(
    operator: Operator, tenant: Tenant, postgres: EmbeddedPostgres, admin: asyncpg.Connection, name: str
) -> None:
    job = await created(operator, name)
    await write(postgres, job, "old")
    kept = await replaced(operator, job)
    renamed = f"{job.database}_rescue"
    await admin.execute(f'ALTER DATABASE "{kept}" RENAME TO "{renamed}"')
    found = await drifts_of(tenant, job.database, renamed)
    assert f"its mark is on '{renamed}'" in found[DriftKind.CHANGED_BY_HAND].explanation
    told = found[DriftKind.TWO_DATABASES].explanation
    assert "Keep all until their data tell" in told
    assert "drop" not in told.lower()
    await admin.execute(f'ALTER DATABASE "{renamed}" RENAME TO "{kept}"')
    assert await drifts_of(tenant, job.database, renamed) == {}
    assert await operator.ended(await undo(operator, job, kept)) is JobStatus.COMPLETED
    assert await read(postgres, job) == ["old"]


async def test_version_comes_back_as_told_when_it_has_lost_its_comment(
    operator: Operator,
    tenant: Tenant,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    """As after a dump of the database was restored."""
    job = await created(operator, name)
    await write(postgres, job, "old")
    kept = await replaced(operator, job)
    await write(postgres, job, "new")
    earlier = await replaced(operator, job)
    await admin.execute(f'COMMENT ON DATABASE "{earlier}" IS NULL')
    await rows.execute(
        "UPDATE adminapi.databases SET trashedat = '2026-11-02 12:00:00.25'"
        " WHERE reason = 'replaced' AND replace(databaseid::text, '-', '') = $1",
        earlier.removeprefix(TRASH_PREFIX),
    )
    told = (await drifts_of(tenant, job.database))[DriftKind.CHANGED_BY_HAND].explanation
    (statement,) = re.findall(r"COMMENT ON DATABASE .*\}'", told)
    await admin.execute(statement)
    assert await trashed_at_of(admin, earlier) == "2026-11-02T12:00:00+00:00"
    assert await drifts_of(tenant, job.database, kept, earlier) == {}
    assert await operator.ended(await undo(operator, job, earlier)) is JobStatus.COMPLETED
    assert await read(postgres, job) == ["new"]
    assert await operator.ended(await undo(operator, job, kept)) is JobStatus.COMPLETED
    assert await read(postgres, job) == ["old"]


async def test_version_comes_back_as_told_when_the_registry_is_put_back_to_before_it_was_live_again(
    operator: Operator,
    tenant: Tenant,
    postgres: EmbeddedPostgres,
    superuser: str,
    name: str,
) -> None:
    job = await created(operator, name)
    kept = await replaced(operator, job)
    await write(postgres, job, "second")
    earlier = await Snapshot.take(superuser)
    assert await operator.ended(await undo(operator, job)) is JobStatus.COMPLETED
    await write(postgres, job, "after the undo")
    assert await operator.ended(await undo(operator, job)) is JobStatus.COMPLETED
    await earlier.put_back(superuser, Mock())

    assert (await drifts_of(tenant, job.database))[DriftKind.REGISTRY_PUT_BACK].remedy == RECOVER
    await recovered(tenant)
    assert await read(postgres, job) == ["second"]
    assert await drifts_of(tenant, kept) == {}
    (held,) = await operator.queries.versions()
    assert held.purge_after is None, "only a client has it dropped"
    assert await operator.ended(await undo(operator, job, kept)) is JobStatus.COMPLETED
    assert await read(postgres, job) == ["after the undo"]


async def test_own_database_is_found_when_the_registry_is_put_back_twice_to_before_the_resets(
    operator: Operator, tenant: Tenant, postgres: EmbeddedPostgres, superuser: str, name: str
) -> None:
    job = await created(operator, name)
    await write(postgres, job, "first")
    before = await Snapshot.take(superuser)
    await replaced(operator, job)
    await write(postgres, job, "second")
    await replaced(operator, job)
    await write(postgres, job, "third")
    await before.put_back(superuser, Mock())
    await recovered(tenant)
    await replaced(operator, job)
    await write(postgres, job, "fourth")
    await before.put_back(superuser, Mock())

    await recovered(tenant)
    assert await read(postgres, job) == ["fourth"]
    assert await operator.ended(await undo(operator, job)) is JobStatus.COMPLETED
    assert await read(postgres, job) == ["third"]


async def test_own_database_comes_back_from_the_trash_when_a_version_was_open_as_the_registry_was_put_back(
    operator: Operator,
    tenant: Tenant,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    superuser: str,
    name: str,
) -> None:
    """Which was opened to look at its data, so that the recovery has not recorded it."""
    job = await created(operator, name)
    before = await Snapshot.take(superuser)
    await replaced(operator, job)
    last = await replaced(operator, job)
    await write(postgres, job, "own")
    await before.put_back(superuser, Mock())
    await admin.execute(f'ALTER DATABASE "{last}" ALLOW_CONNECTIONS true')
    await recovered(tenant)
    await admin.execute(f'ALTER DATABASE "{last}" ALLOW_CONNECTIONS false')
    await undeleted(operator, job)
    assert await read(postgres, job) == ["own"]


async def test_live_database_stays_where_it_is_when_the_registry_is_put_back_to_before_an_undo(
    operator: Operator, tenant: Tenant, postgres: EmbeddedPostgres, superuser: str, name: str
) -> None:
    job = await created(operator, name)
    kept = await replaced(operator, job)
    await write(postgres, job, "second")
    earlier = await Snapshot.take(superuser)
    back = await undo(operator, job)
    assert await operator.ended(back) is JobStatus.COMPLETED
    assert back.replacement is not None
    await write(postgres, job, "after the undo")
    await earlier.put_back(superuser, Mock())

    found = await drifts_of(tenant, kept, job.database)
    assert {drift.remedy for drift in found.values()} == {RECOVER}
    await recovered(tenant)
    assert await read(postgres, job) == ["after the undo"]
    assert await operator.ended(await undo(operator, job, back.trash_database)) is JobStatus.COMPLETED
    assert await read(postgres, job) == ["second"]


async def test_instance_comes_back_with_its_last_database_when_it_was_undeleted_reset_and_deleted_since(
    operator: Operator, tenant: Tenant, postgres: EmbeddedPostgres, superuser: str, name: str
) -> None:
    job = await created(operator, name)
    await write(postgres, job, "old")
    assert await operator.ended(await operator.delete(job)) is JobStatus.COMPLETED
    earlier = await Snapshot.take(superuser)
    assert await undelete(operator, job) is JobStatus.COMPLETED
    kept = await replaced(operator, job)
    await write(postgres, job, "new")
    assert await operator.ended(await operator.delete(job)) is JobStatus.COMPLETED
    last = (await operator.instance(job)).database.trash_name
    await earlier.put_back(superuser, Mock())
    assert (await drifts_of(tenant, job.mark, kept))[DriftKind.REGISTRY_PUT_BACK].remedy == RECOVER
    with pytest.raises(InstanceNotFoundError):
        await DatabaseAdoption(tenant).adopt(job.instance_id, kept)
    assert await undelete(operator, job) is JobStatus.ERROR
    assert "`ods recover`" in str((await operator.instance(job)).error_message)
    await undone(operator, job)
    await recovered(tenant)
    assert (await operator.instance(job)).database.trash_name == last
    assert await undelete(operator, job) is JobStatus.COMPLETED
    assert await read(postgres, job) == ["new"]
    assert await operator.ended(await undo(operator, job, kept)) is JobStatus.COMPLETED
    assert await read(postgres, job) == ["old"]


async def test_undelete_is_granted_when_a_restored_registry_was_given_the_later_of_two_databases(
    operator: Operator, tenant: Tenant, postgres: EmbeddedPostgres, superuser: str, name: str
) -> None:
    job = await created(operator, name)
    earlier = await Snapshot.take(superuser)
    for number in range(2):  # so that what is replaced has a later number than the registry knows then
        assert await operator.ended(await operator.rename(job, f"{name} {number}")) is JobStatus.COMPLETED
    await write(postgres, replace(job, database=(await operator.instance(job)).database_name), "old")
    kept = await replaced(operator, job)
    job = replace(job, database=(await operator.instance(job)).database_name)
    await write(postgres, job, "new")
    await earlier.put_back(superuser, Mock())
    await recovered(tenant)
    assert _each_of(await DriftDetector(tenant).detect(), name, job.database, kept) == []
    await undeleted(operator, job)
    assert await read(postgres, job) == ["new"]
    assert await operator.ended(await undo(operator, job, kept)) is JobStatus.COMPLETED
    assert await read(postgres, job) == ["old"]


@pytest.mark.parametrize("change", [{}, {"database_id": OTHER_MARK, "number": 1}])
async def test_copy_does_not_bring_an_instance_back_when_that_is_in_the_trash(
    operator: Operator,
    tenant: Tenant,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    name: str,
    change: dict[str, object],
) -> None:
    job = await created(operator, name)
    await write(postgres, job, "own")
    assert await operator.ended(await operator.delete(job)) is JobStatus.COMPLETED
    copy, marked = f"{job.database}_aside", replace(marked_by(job), **change)  # type: ignore[arg-type]
    await admin.execute(f'CREATE DATABASE "{copy}" OWNER {SERVICE_ROLE}')
    try:
        written = marked.comment_at(datetime(2026, 1, 2, tzinfo=UTC))  # not a second after the delete
        await admin.execute(f"COMMENT ON DATABASE \"{copy}\" IS '{written}'")
        outcome = await Recovery(tenant).apply()
        assert (outcome.done, outcome.refused) == ([], [])
        assert (await operator.instance(job)).is_in_trash
        assert await undelete(operator, job) is JobStatus.COMPLETED
        assert await read(postgres, job) == ["own"]
    finally:
        await admin.execute(f'DROP DATABASE "{copy}"')


async def test_replaced_database_can_come_back_when_the_registry_had_lost_the_instance(
    operator: Operator,
    tenant: Tenant,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    job = await created(operator, name)
    await write(postgres, job, "old")
    kept = await replaced(operator, job)
    comment = await admin.fetchval(COMMENT, kept)
    then = re.sub(r'("trashedAt": ")[^"]+', r"\g<1>2026-01-02T03:04:05+00:00", comment)
    await admin.execute(f"COMMENT ON DATABASE \"{kept}\" IS '{then}'")
    await rows.execute(
        "DELETE FROM adminapi.databases WHERE reason = 'replaced'; DELETE FROM adminapi.dbinstances"
    )
    await rows.execute("DELETE FROM dbo.odsinstances WHERE odsinstanceid = $1", job.ods_instance_id)

    await recovered(tenant)
    (version,) = await rows.fetch(
        "SELECT trashedat, purgeafter FROM adminapi.databases WHERE reason = 'replaced'"
    )
    assert tuple(version) == (datetime.fromisoformat("2026-01-02T03:04:05"), None)
    assert await operator.ended(await undo(operator, job)) is JobStatus.COMPLETED
    assert await read(postgres, job) == ["old"]


async def test_adoption_and_drift_leave_a_version_alone(
    operator: Operator, tenant: Tenant, admin: asyncpg.Connection, rows: asyncpg.Connection, name: str
) -> None:
    job = await created(operator, name)
    first = await reset(operator, job)
    assert await operator.ended(first) is JobStatus.COMPLETED
    assert first.replacement is not None
    assert not [drift for drift in await DriftDetector(tenant).detect() if name in drift.subject]
    assert not [
        drift for drift in await DriftDetector(tenant).detect() if first.trash_database in drift.subject
    ]
    adoption = DatabaseAdoption(tenant)
    found = await adoption.inspect(job.instance_id, first.trash_database)
    command = f"`ods instance undo-reset {job.instance_id} --database {first.trash_database}`"
    assert command in str(found.obstacle)
    before = await names(admin, job.mark)
    with pytest.raises(AdoptionRefusedError):
        await adoption.adopt(job.instance_id, first.trash_database)
    assert await names(admin, job.mark) == before
    await rows.execute("UPDATE adminapi.databases SET purgingsince = now() WHERE reason = 'replaced'")
    with pytest.raises(AdoptionRefusedError):
        await adoption.adopt(job.instance_id, first.trash_database)


async def test_versions_stay_and_come_back_when_the_instance_was_deleted_and_undeleted(
    operator: Operator, postgres: EmbeddedPostgres, admin: asyncpg.Connection, name: str
) -> None:
    job = await created(operator, name)
    await write(postgres, job, "old")
    first = await reset(operator, job)
    assert await operator.ended(first) is JobStatus.COMPLETED
    deletion = await operator.delete(job)
    assert await operator.ended(deletion) is JobStatus.COMPLETED
    assert first.replacement is not None
    kept = {first.trash_database, deletion.trash_database}
    assert set(await names(admin, job.mark)) == kept
    back = (await operator.instances.request_undelete(job.instance_id)).job
    await operator.starter.start(back)
    assert await operator.ended(back) is JobStatus.COMPLETED
    renamed = await operator.rename(job, f"{name} b")
    assert await operator.ended(renamed) is JobStatus.COMPLETED
    undone = await undo(operator, job)
    assert await operator.ended(undone) is JobStatus.COMPLETED
    row = await operator.instance(job)
    assert await read(postgres, replace(job, database=row.database_name)) == ["old"]


async def test_replaced_database_is_dropped_when_there_is_no_trash(
    engine: AsyncEngine,
    temporal: Client,
    settings: Settings,
    operator: Operator,
    admin: asyncpg.Connection,
    name: str,
) -> None:
    job = await created(operator, name)
    without = InstanceStore(
        engine, JobFactory(InstallationStore(engine), ExecutionPolicy.from_settings(settings))
    )
    requested = (await without.request_reset(job.instance_id)).job
    await operator.starter.start(requested)
    assert await operator.ended(requested) is JobStatus.COMPLETED
    async with asyncio.timeout(20):
        while await operator.queries.versions():
            await asyncio.sleep(0.01)
    assert await names(admin, job.mark) == [job.database]


@pytest.mark.parametrize("mode", ["online", "closed"])
async def test_copy_has_the_data_of_now_when_its_source_was_reset(
    operator: Operator, api: httpx.AsyncClient, postgres: EmbeddedPostgres, name: str, mode: str
) -> None:
    job = await created(operator, name)
    await write(postgres, job, "old")
    assert await operator.ended(await reset(operator, job)) is JobStatus.COMPLETED
    await write(postgres, job, "new")
    body = {"name": f"{name} copy", "copyOf": job.instance_id, "mode": mode}
    answer = await api.post("/v2/dbInstances", json=body)
    assert answer.status_code == 202, answer.text
    path = f"/v2/dbInstances/{answer.json()['id']}"
    async with asyncio.timeout(30):
        while (shown := (await api.get(path)).json())["status"] != "Completed":
            assert shown["status"] != "Error", shown["errorMessage"]
            await asyncio.sleep(0.05)
    assert await read(postgres, replace(job, database=shown["databaseName"])) == ["new"]


async def test_reset_is_refused_when_the_instance_is_being_copied(
    operator: Operator, instances: InstanceStore, name: str
) -> None:
    job = await created(operator, name)
    assert await operator.ended(await reset(operator, job)) is JobStatus.COMPLETED
    await instances.reserve(f"{name} copy", Template.MINIMAL, origin=CopyOrigin(job.instance_id))
    for request in (instances.request_reset, instances.request_undo_reset):
        with pytest.raises(RefusedError):
            await request(job.instance_id)


async def test_jobs_go_on_when_the_comment_of_the_database_named_another_before_a_recovery(
    operator: Operator,
    tenant: Tenant,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    name: str,
) -> None:
    """As when the comment of the replaced database was copied by hand."""
    job = await created(operator, name)
    await write(postgres, job, "old")
    first = await reset(operator, job)
    assert await operator.ended(first) is JobStatus.COMPLETED
    await write(postgres, job, "new")
    its = await admin.fetchval(
        "SELECT shobj_description(oid, 'pg_database')::jsonb || jsonb_build_object('database', $2::text)"
        " FROM pg_database WHERE datname = $1",
        *(job.database, job.database_id),
    )
    await comment(admin, job.database, its)
    refused = await undo(operator, job)
    assert await operator.ended(refused) is JobStatus.ERROR
    assert "`ods recover`" in await reason(operator, refused)
    async with asyncio.timeout(20):
        while (await operator.instance(job)).replacement is not None:
            await asyncio.sleep(0.01)
    assert await read(postgres, job) == ["new"]

    await recovered(tenant)
    assert first.replacement is not None
    assert str((await operator.instance(job)).database_id) == first.replacement.database_id
    assert await operator.ended(await undo(operator, job)) is JobStatus.COMPLETED
    assert await read(postgres, job) == ["old"]
    (version,) = await operator.queries.versions()
    assert str(version.database_id) == first.replacement.database_id
    assert not [drift for drift in await DriftDetector(tenant).detect() if name in drift.subject]


async def test_drift_tells_of_a_version_that_no_pass_drops_when_it_was_opened(
    operator: Operator,
    temporal: Client,
    settings: Settings,
    tenant: Tenant,
    admin: asyncpg.Connection,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    job = await created(operator, name)
    kept = await replaced(operator, job)
    await admin.execute(f'ALTER DATABASE "{kept}" ALLOW_CONNECTIONS true')
    await rows.execute(
        "UPDATE adminapi.databases SET purgeafter = now() - interval '1 day' WHERE reason = 'replaced'"
    )
    assert "0 purges" in await reconcile(temporal, settings)
    (told,) = [drift for drift in await DriftDetector(tenant).detect() if name in drift.subject]
    assert (told.kind, kept in told.explanation) == (DriftKind.CHANGED_BY_HAND, True)
    assert "ALLOW_CONNECTIONS false" in told.explanation
    await admin.execute(f'ALTER DATABASE "{kept}" ALLOW_CONNECTIONS false')
    assert "1 purges" in await reconcile(temporal, settings)
    assert not [drift for drift in await DriftDetector(tenant).detect() if name in drift.subject]


_TABLES = ("databases", "dbinstances", "databaserevisions", "jobstatuses")


@asynccontextmanager
async def restored(rows: asyncpg.Connection) -> AsyncIterator[None]:
    """The registry is put back afterwards to what it is now."""
    for table in _TABLES:
        await rows.execute(f"CREATE TABLE earlier_{table} AS TABLE adminapi.{table}")
    yield
    for table in reversed(_TABLES):
        await rows.execute(f"DELETE FROM adminapi.{table}")  # noqa: S608 - a constant
    for table in _TABLES:
        await rows.execute(f"INSERT INTO adminapi.{table} TABLE earlier_{table}")
        await rows.execute(f"DROP TABLE earlier_{table}")


@pytest.mark.parametrize("since", ["undone", "reset again", "deleted"])
async def test_both_databases_stay_when_the_registry_is_put_back_to_the_middle_of_a_reset(
    operator: Operator,
    temporal: Client,
    settings: Settings,
    tenant: Tenant,
    admin: asyncpg.Connection,
    rows: asyncpg.Connection,
    name: str,
    since: str,
) -> None:
    job = await created(operator, name)
    begun = (await operator.instances.request_reset(job.instance_id)).job
    assert (await operator.jobs.begin(begun)).held
    async with restored(rows):
        await exchanged(tenant, begun)
        assert await operator.jobs.finish_replacement(begun)
        requests: dict[str, Callable[[InstanceJob], Awaitable[InstanceJob]]] = {
            "undone": partial(undo, operator),
            "reset again": partial(reset, operator),
            "deleted": operator.delete,
        }
        later = await requests[since](job)
        assert await operator.ended(later) is JobStatus.COMPLETED
        # While it is open, the pass starts none for the job that is under way again.
        await temporal.get_workflow_handle(later.workflow_id).result()
        before = await names(admin, job.mark)
    await rows.execute(
        "UPDATE adminapi.databases SET purgeafter = now() - interval '1 day' WHERE reason = 'replaced'"
    )
    for _ in range(2):
        assert "0 purges" in await reconcile(temporal, settings)
        assert await operator.ended(begun) is JobStatus.ERROR
    assert "`ods recover`" in await reason(operator, begun)
    assert begun.replacement is not None
    there = job.database if since != "deleted" else trash_name(begun.replacement.database_id)
    found = await drifts_of(tenant, name, there)
    assert {DriftKind.REGISTRY_PUT_BACK, DriftKind.RESET_NOT_ENDED} <= found.keys()
    assert await names(admin, job.mark) == before

    await recovered(tenant)
    assert await names(admin, job.mark) == before
    assert (await operator.instance(job)).replacement is None
    if since == "deleted":
        assert (await operator.instance(job)).database.trash_name == there
        assert await undelete(operator, job) is JobStatus.COMPLETED
    assert await drifts_of(tenant, name, job.database, job.mark.replace("-", "")) == {}
    recorded = {version.trash_name for version in await operator.queries.versions()}
    assert set(await names(admin, job.mark)) == {job.database, *recorded}
    assert await operator.ended(await reset(operator, job)) is JobStatus.COMPLETED
    kept = {*before, job.database} - {there}
    assert kept < set(await names(admin, job.mark))


async def test_pass_drops_what_was_made_when_another_product_has_deleted_the_instance_meanwhile(
    operator: Operator,
    temporal: Client,
    settings: Settings,
    tenant: Tenant,
    admin: asyncpg.Connection,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    job = await created(operator, name)
    lost = (await operator.instances.request_reset(job.instance_id)).job
    assert (await operator.jobs.begin(lost)).held
    activities = DatabaseActivities(tenant, ConcurrencyLimit(1))
    killed = patch.object(replacing, "take_place", AsyncMock(side_effect=OSError("killed")))
    with killed, pytest.raises(ApplicationError):
        await ActivityEnvironment().run(activities.reset, lost)
    assert lost.replacement is not None
    assert await tenant.cancellations.cancel_lost(lost)
    await admin.execute(f'DROP DATABASE "{job.database}" WITH (FORCE)')
    await rows.execute("DELETE FROM dbo.odsinstances")
    await rows.execute("UPDATE adminapi.dbinstances SET status = 'Deleted'")
    assert await names(admin, job.mark) == [lost.replacement.database]
    await reconcile(temporal, settings)
    assert await names(admin, job.mark) == []
    assert (await operator.instance(job)).replacement is None
    assert await drifts_of(tenant, name, lost.replacement.database) == {}


async def test_drift_tells_of_a_version_when_its_instance_was_detached(
    operator: Operator, tenant: Tenant, admin: asyncpg.Connection, name: str
) -> None:
    job = await created(operator, name)
    first = await reset(operator, job)
    assert await operator.ended(first) is JobStatus.COMPLETED
    assert first.replacement is not None
    detached = (await operator.instances.request_delete(job.instance_id, Delete(Way.LEAVE))).job
    await operator.starter.start(detached)
    assert await operator.ended(detached) is JobStatus.COMPLETED
    kept = first.trash_database
    assert await drifts_of(tenant, kept) == {}
    await admin.execute(f'ALTER DATABASE "{kept}" ALLOW_CONNECTIONS true')
    assert DriftKind.CHANGED_BY_HAND in await drifts_of(tenant, kept)
    await admin.execute(f'DROP DATABASE "{kept}"')
    assert DriftKind.DATABASE_MISSING in await drifts_of(tenant, kept)
    await admin.execute(f'DROP DATABASE "{job.database}"')


async def test_undelete_tells_what_to_do_when_a_worker_of_an_earlier_release_has_written_the_comment(
    operator: Operator,
    tenant: Tenant,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    job = await created(operator, name)
    assert await operator.ended(await reset(operator, job)) is JobStatus.COMPLETED
    await write(postgres, job, "new")
    deleted = await operator.delete(job)
    assert await operator.ended(deleted) is JobStatus.COMPLETED
    kept = str(deleted.trash_database)
    its = await admin.fetchval(
        "SELECT shobj_description(oid, 'pg_database')::jsonb - 'database' FROM pg_database"
        " WHERE datname = $1",
        kept,
    )
    await comment(admin, kept, its)
    refused = (await operator.instances.request_undelete(job.instance_id)).job
    await operator.starter.start(refused)
    assert await operator.ended(refused) is JobStatus.ERROR
    assert "There is no database" not in await reason(operator, refused)
    assert "ods drift" in await reason(operator, refused)
    await rows.execute(
        "UPDATE adminapi.databases SET trashedat = '2026-11-02 12:00:00.25' WHERE instanceid = $1",
        job.instance_id,
    )
    told = (await drifts_of(tenant, kept))[DriftKind.CHANGED_BY_HAND].explanation
    advice = re.search(r"COMMENT ON DATABASE .*\}'", told)
    assert advice is not None
    await admin.execute(advice[0])
    assert await trashed_at_of(admin, kept) == "2026-11-02T12:00:00+00:00"
    back = (await operator.instances.request_undelete(job.instance_id)).job
    await operator.starter.start(back)
    assert await operator.ended(back) is JobStatus.COMPLETED
    assert await read(postgres, job) == ["new"]
