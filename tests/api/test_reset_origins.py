"""What instances are reset to, as requests say it; what is refused, and what a dry run tells of that."""

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import httpx
import pytest

from ods.model.arguments import origin_in
from ods.model.operations import Operation
from ods.model.origins import CopyMode, CopyOrigin
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.jobs import InstanceJob
from ods.registry.instances.queries import InstanceQueries
from ods.registry.instances.store import InstanceStore
from tests.postgres.instance_states import bring_to
from tests.servers import session

INSTANCES = "/v2/dbInstances"
DRY = {"dryRun": "true"}
BACKUP = "3b1f3c9e-7a7e-4f6e-9d43-0c6a3c1e7b11"
_BACKUP_ROW = """
INSERT INTO adminapi.backups (id, instanceid, odsinstanceid, mark, installation, name, kind, jobid, template,
    createdat, details, storedid, encrypted, databasesizebytes)
VALUES ($1, 7, 7, gen_random_uuid(), gen_random_uuid(), 'Gone', 'requested', 'BackupInstanceJob-7-2', $2,
    now(), '{}', $3, $4, 1234567)
"""


@pytest.fixture
async def rows(registry_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    async with session(registry_dsn) as connection:
        yield connection
        await connection.execute("DELETE FROM adminapi.backups")


@pytest.fixture
async def target(instances: InstanceStore, job_store: JobStore) -> InstanceJob:
    """The instance that is reset."""
    return await bring_to(instances, job_store, "Completed", "Target")


@pytest.fixture
async def source(instances: InstanceStore, job_store: JobStore) -> InstanceJob:
    """An instance that can be copied."""
    return await bring_to(instances, job_store, "Completed", "Source")


async def backed_up(
    rows: asyncpg.Connection, template: str = "Sample", *, stored: bool = True, encrypted: bool = False
) -> str:
    """A backup of an instance that is gone."""
    await rows.execute(_BACKUP_ROW, BACKUP, template, BACKUP if stored else None, encrypted)
    return BACKUP


async def everything(rows: asyncpg.Connection) -> list[Any]:
    """Instances, jobs and the audit trail."""
    tables = ("managed_instances", "jobstatuses", "audit")
    return [await rows.fetch(f"SELECT * FROM adminapi.{table}") for table in tables]  # noqa: S608 - constants


def path_of(target: InstanceJob) -> str:
    return f"{INSTANCES}/{target.instance_id}/reset"


SELF = "{self}"
NULL = "must not be null: name an origin, or leave it out."
REFUSED: dict[str, tuple[dict[str, object], dict[str, list[str]]]] = {
    "unknown template": (
        {"databaseTemplate": "Large"},
        {"DatabaseTemplate": ["'Database Template' must be 'Minimal' or 'Sample'."]},
    ),
    "two origins": (
        {"copyOf": 1, "backupId": BACKUP},
        {"BackupId": ["'Copy Of' and 'Backup Id' exclude each other: an instance has one origin."]},
    ),
    "template and copy": (
        {"databaseTemplate": "Minimal", "copyOf": 1},
        {"CopyOf": ["'Database Template' and 'Copy Of' exclude each other: an instance has one origin."]},
    ),
    "mode alone": (
        {"mode": "online"},
        {"Mode": ["'Mode' says how an instance is copied: it needs 'Copy Of'."]},
    ),
    "no instance": ({"copyOf": 999_999}, {"CopyOf": ["There is no instance 999999."]}),
    "no number": ({"copyOf": "Source"}, {"CopyOf": ["'Copy Of' must be the id of an instance, a number."]}),
    "itself": ({"copyOf": SELF}, {"CopyOf": ["An instance cannot be reset to a copy of itself."]}),
    "unknown mode": (
        {"copyOf": SELF, "mode": "fast"},
        {"Mode": ["'Mode' must be 'online' or 'closed'."]},
    ),
    "no backup": ({"backupId": BACKUP}, {"BackupId": [f"There is no backup {BACKUP}."]}),
    "null": ({"backupId": None}, {"BackupId": [f"'Backup Id' {NULL}"]}),
    "null and a mode": ({"copyOf": None, "mode": "online"}, {"CopyOf": [f"'Copy Of' {NULL}"]}),
    "nulls": (
        {"databaseTemplate": None, "copyOf": None, "mode": None},
        {"DatabaseTemplate": [f"'Database Template' {NULL}"], "CopyOf": [f"'Copy Of' {NULL}"]},
    ),
    "no id": ({"backupId": 7}, {"BackupId": ["There is no backup 7."]}),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_request_is_refused_in_plain_words_and_the_plan_says_the_same_when_the_body_is_wrong(
    api: httpx.AsyncClient, target: InstanceJob, rows: asyncpg.Connection, case: str
) -> None:
    body, errors = REFUSED[case]
    body = {key: target.instance_id if value == SELF else value for key, value in body.items()}
    before = await rows.fetch("SELECT * FROM adminapi.managed_instances")
    answer = await api.post(path_of(target), json=body)
    assert (answer.status_code, answer.json()["errors"]) == (400, errors)
    plan = await api.post(path_of(target), json=body, params=DRY)
    assert (plan.status_code, plan.json()["status"], plan.json()["errors"]) == (200, 400, errors)
    assert await rows.fetch("SELECT * FROM adminapi.managed_instances") == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"stored": False}, "is not stored"),
        ({"encrypted": True}, "is encrypted"),
        ({"template": "Large"}, "do not name the template 'Large'"),
    ],
)
async def test_request_is_refused_when_the_backup_cannot_be_restored(
    api: httpx.AsyncClient, target: InstanceJob, rows: asyncpg.Connection, options: dict[str, Any], words: str
) -> None:
    body = {"backupId": await backed_up(rows, **options)}
    for query in ({}, DRY):
        answer = await api.post(path_of(target), json=body, params=query)
        (reason,) = answer.json()["errors"]["BackupId"]
        assert words in reason


@pytest.mark.parametrize("body", [{}, {"databaseTemplate": "Sample"}, {"copyOf": 999_999}])
@pytest.mark.parametrize("query", [{}, DRY])
async def test_nothing_is_found_when_there_is_no_such_instance(
    api: httpx.AsyncClient, body: dict[str, object], query: dict[str, str]
) -> None:
    assert (await api.post(f"{INSTANCES}/999999/reset", json=body, params=query)).status_code == 404


async def test_every_refusal_is_told_when_the_instance_cannot_be_reset(
    api: httpx.AsyncClient, target: InstanceJob, rows: asyncpg.Connection
) -> None:
    await rows.execute(
        "UPDATE adminapi.managed_instances"
        " SET isprotected = true, state = 'InProgress', operation = 'Rename', arguments = '{}'"
    )
    plan = (await api.post(path_of(target), json={}, params=DRY)).json()
    assert (plan["status"], len(plan["errors"]["Id"])) == (409, 2)
    answer = await api.post(path_of(target), json={})
    assert answer.status_code == 409
    assert answer.json()["detail"] in plan["errors"]["Id"][0]


async def test_request_is_refused_when_the_source_cannot_be_copied(
    api: httpx.AsyncClient, instances: InstanceStore, target: InstanceJob, source: InstanceJob
) -> None:
    await instances.request_rename(source.instance_id, "Another")
    words = f"The instance {source.instance_id}, 'Source', cannot be copied in state Pending."
    answer = await api.post(path_of(target), json={"copyOf": source.instance_id})
    assert (answer.status_code, answer.json()["detail"]) == (409, words)
    plan = (await api.post(path_of(target), json={"copyOf": source.instance_id}, params=DRY)).json()
    assert (plan["status"], plan["errors"]) == (409, {"Id": [f"{words} Copy it when it is Completed."]})


@pytest.mark.parametrize(("mode", "words"), [("online", "can be used meanwhile"), ("closed", "are ended")])
async def test_client_is_told_what_becomes_of_the_source_when_a_copy_is_accepted(
    api: httpx.AsyncClient,
    queries: InstanceQueries,
    target: InstanceJob,
    source: InstanceJob,
    mode: str,
    words: str,
) -> None:
    body = {"copyOf": source.instance_id, "mode": mode}
    answer = await api.post(path_of(target), json=body)
    assert answer.status_code == 202
    assert words in answer.json()["notice"]
    assert answer.json()["jobId"] == f"ResetInstanceJob-{target.ods_instance_id}-2"
    row = await queries.instance(target.instance_id)
    wanted = CopyOrigin(source.instance_id, CopyMode(mode), source.mark)
    assert (row.operation, origin_in(row.arguments)) == (Operation.RESET, wanted)
    shown = (await api.get(f"{INSTANCES}/{target.instance_id}")).json()
    assert (shown["operation"], shown["copyOf"]) == ("Reset", None)  # it is not one yet
    held = await api.delete(f"{INSTANCES}/{source.instance_id}")
    assert (held.status_code, f"the instance {target.instance_id}, 'Target'" in held.text) == (409, True)


@pytest.mark.parametrize("body", [b"", b"{}", b"null", b'{"mode": null}'])
async def test_client_is_told_of_no_source_when_there_is_none(
    api: httpx.AsyncClient, queries: InstanceQueries, target: InstanceJob, body: bytes
) -> None:
    answer = await api.post(path_of(target), content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["notice"]) == (202, None)
    assert (await queries.instance(target.instance_id)).operation == Operation.RESET


async def test_phase_tells_of_no_usual_time_when_the_job_of_such_a_reset_runs(
    api: httpx.AsyncClient, job_store: JobStore, target: InstanceJob, source: InstanceJob
) -> None:
    await api.post(path_of(target), json={"copyOf": source.instance_id})
    (job,) = [one for one in await job_store.waiting_jobs(0, 10) if one.instance_id == target.instance_id]
    assert (await job_store.begin(job)).held
    progress = (await api.get(f"{INSTANCES}/{target.instance_id}")).json()["progress"]
    assert progress["phase"] == "copying an instance or restoring a backup"
    assert progress["estimatedSeconds"] is None


async def test_plan_tells_what_the_database_would_be_made_of_and_changes_nothing(
    api: httpx.AsyncClient, target: InstanceJob, source: InstanceJob, rows: asyncpg.Connection
) -> None:
    backup = await backed_up(rows)
    await rows.execute(
        "UPDATE adminapi.managed_instances SET databasetemplate = 'Sample' WHERE id = $1", source.instance_id
    )
    before = await everything(rows)
    expected: list[tuple[dict[str, object], dict[str, object]]] = [
        ({}, {"databaseTemplate": "Minimal", "copyOf": None, "backupId": None}),
        ({"databaseTemplate": "Sample"}, {"databaseTemplate": "Sample", "copyOf": None, "backupId": None}),
        (
            {"copyOf": source.instance_id, "backupId": None},
            {"databaseTemplate": "Sample", "copyOf": source.instance_id, "backupId": None},
        ),
        (
            {"backupId": backup},
            {"databaseTemplate": "Sample", "copyOf": None, "backupId": backup, "sizeBytes": 1234567},
        ),
    ]
    for body, members in expected:
        answer = await api.post(path_of(target), json=body, params=DRY)
        assert answer.status_code == 200
        plan = answer.json()
        assert (plan["status"], plan["errors"]) == (202, {})
        (planned,) = plan["instances"]
        assert {key: planned[key] for key in members} == members
        assert (planned["operation"], planned["id"], planned["name"]) == (
            "Reset",
            target.instance_id,
            "Target",
        )
        assert (planned["databaseName"], planned["dropsDatabase"]) == (target.database, False)
        assert plan["sizeBytes"] == planned["sizeBytes"]
    assert await everything(rows) == before


async def test_time_is_told_only_of_clones_when_resets_were_done(
    api: httpx.AsyncClient, target: InstanceJob, source: InstanceJob, rows: asyncpg.Connection
) -> None:
    await rows.execute(
        "INSERT INTO adminapi.jobstatuses (jobid, status, operation, databasetemplate, createdat, startedat,"
        " finishedat) VALUES ('ResetInstanceJob-9-2', 'Completed', 'Reset', 'Minimal', now(), now(),"
        " now() + interval '2 seconds')"
    )
    clone = (await api.post(path_of(target), json={}, params=DRY)).json()["instances"]
    copy = (await api.post(path_of(target), json={"copyOf": source.instance_id}, params=DRY)).json()[
        "instances"
    ]
    assert [one["estimatedSeconds"] for one in (*clone, *copy)] == [2.0, None]


async def test_answer_is_repeated_and_nothing_done_twice_when_a_reset_has_a_key(
    api: httpx.AsyncClient, target: InstanceJob, source: InstanceJob, rows: asyncpg.Connection
) -> None:
    headers, body = {"Idempotency-Key": "a key"}, {"copyOf": source.instance_id}
    plan = await api.post(path_of(target), json=body, params=DRY, headers=headers)
    first, second = [await api.post(path_of(target), json=body, headers=headers) for _ in range(2)]
    assert (plan.status_code, first.status_code) == (200, 202)
    assert (second.status_code, second.content) == (202, first.content)
    told = await api.post(path_of(target), json=body, params=DRY, headers=headers)
    assert told.content == first.content
    assert (await api.post(path_of(target), json={}, headers=headers)).status_code == 422
