"""Where a new instance comes from, as requests for it say, and answers tell."""

from collections.abc import AsyncIterator

import asyncpg
import httpx
import pytest

from ods.model.arguments import origin_in
from ods.model.origins import CopyMode, CopyOrigin
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.jobs import InstanceJob
from ods.registry.instances.queries import InstanceQueries
from ods.registry.instances.store import InstanceStore
from tests.postgres.instance_states import bring_to
from tests.servers import session

INSTANCES = "/v2/dbInstances"


@pytest.fixture
async def rows(registry_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    async with session(registry_dsn) as connection:
        yield connection


@pytest.fixture
async def source(instances: InstanceStore, job_store: JobStore) -> InstanceJob:
    """An instance that can be copied."""
    return await bring_to(instances, job_store, "Completed", "Source")


@pytest.mark.parametrize(
    ("origin", "errors"),
    [
        (
            {},
            {
                "DatabaseTemplate": [
                    "'Database Template' must not be empty.",
                    "'Database Template' must be 'Minimal' or 'Sample'.",
                ]
            },
        ),
        (
            {"databaseTemplate": "Minimal", "copyOf": 1},
            {"CopyOf": ["'Database Template' and 'Copy Of' exclude each other: an instance has one origin."]},
        ),
        (
            {"databaseTemplate": "Minimal", "copyOf": 1, "backupId": "a"},
            {
                "BackupId": [
                    (
                        "'Database Template' and 'Copy Of' and 'Backup Id' exclude each other: an"
                        " instance has one origin."
                    )
                ]
            },
        ),
        ({"copyOf": 999_999}, {"CopyOf": ["There is no instance 999999."]}),
        ({"copyOf": "Source"}, {"CopyOf": ["'Copy Of' must be the id of an instance, a number."]}),
        ({"copyOf": True}, {"CopyOf": ["'Copy Of' must be the id of an instance, a number."]}),
        (
            {"databaseTemplate": "Minimal", "mode": "online"},
            {"Mode": ["'Mode' says how an instance is copied: it needs 'Copy Of'."]},
        ),
        ({"backupId": "a"}, {"BackupId": ["There is no backup a."]}),
    ],
)
async def test_request_is_refused_in_plain_words_when_it_has_not_one_origin(
    api: httpx.AsyncClient, rows: asyncpg.Connection, origin: dict[str, object], errors: dict[str, list[str]]
) -> None:
    answer = await api.post(INSTANCES, json={"name": "New"} | origin)
    assert (answer.status_code, answer.json()["errors"]) == (400, errors)
    assert await rows.fetchval("SELECT count(*) FROM adminapi.dbinstances") == 0


async def test_everything_wrong_is_told_together_when_a_copy_is_requested(
    api: httpx.AsyncClient, source: InstanceJob
) -> None:
    body = {"name": "", "copyOf": source.instance_id, "mode": "fast", "labels": {"": ""}}
    answer = await api.post(INSTANCES, json=body)
    assert answer.status_code == 400
    assert answer.json()["errors"].keys() == {"Name", "Mode", "Labels"}
    assert answer.json()["errors"]["Mode"] == ["'Mode' must be 'online' or 'closed'."]


@pytest.mark.parametrize("mode", [None, "online", "closed"])
async def test_origin_is_told_when_a_copy_was_requested(
    api: httpx.AsyncClient,
    instances: InstanceStore,
    source: InstanceJob,
    rows: asyncpg.Connection,
    mode: str | None,
) -> None:
    await rows.execute("UPDATE adminapi.databases SET templategeneration = 7")
    body = {"name": "Copy", "copyOf": source.instance_id, "mode": mode, "databaseTemplate": None}
    answer = await api.post(INSTANCES, json=body)
    assert answer.status_code == 202
    shown = (await api.get(f"{INSTANCES}/{answer.json()['id']}")).json()
    assert (shown["copyOf"], shown["mode"], shown["backupId"]) == (
        source.instance_id,
        mode or "online",
        None,
    )
    assert (shown["databaseTemplate"], shown["templateGeneration"]) == ("Minimal", 7)
    assert shown["databaseName"] == "EdFi_Ods_Copy_Minimal"
    shown = (await api.get(f"{INSTANCES}/{source.instance_id}")).json()
    assert (shown["copyOf"], shown["mode"], shown["backupId"]) == (None, None, None)


async def test_job_carries_source_mode_and_mark_when_a_copy_is_requested(
    instances: InstanceStore, source: InstanceJob
) -> None:
    wanted = CopyOrigin(source.instance_id, CopyMode.CLOSED)
    job = (await instances.reserve("Copy", source.template, origin=wanted)).job
    assert (
        job.origin == origin_in(job.arguments) == CopyOrigin(source.instance_id, CopyMode.CLOSED, source.mark)
    )


@pytest.mark.parametrize("state", ["Pending", "InProgress", "Error", "Pending_Delete", "Delete_Failed"])
async def test_copy_is_refused_when_the_source_is_not_completed(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore, state: str
) -> None:
    source = await bring_to(instances, job_store, state, "Source")
    answer = await api.post(INSTANCES, json={"name": "Copy", "copyOf": source.instance_id})
    assert answer.status_code == 409
    assert answer.json()["detail"] == (
        f"The instance {source.instance_id}, 'Source', cannot be copied in state {state}."
    )
    assert answer.json()["nextStep"] == "Copy it when it is Completed."


async def test_copy_is_refused_when_the_source_is_deleted(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore
) -> None:
    source = await bring_to(instances, job_store, "Deleted", "Source")
    answer = await api.post(INSTANCES, json={"name": "Copy", "copyOf": source.instance_id})
    assert answer.json()["errors"] == {"CopyOf": [f"There is no instance {source.instance_id}."]}


@pytest.mark.parametrize(("mode", "words"), [("online", "can be used meanwhile"), ("closed", "are ended")])
async def test_client_is_told_what_becomes_of_the_source_when_a_copy_is_accepted(
    api: httpx.AsyncClient, source: InstanceJob, mode: str, words: str
) -> None:
    body = {"name": "Copy", "copyOf": source.instance_id, "mode": mode}
    answer = (await api.post(INSTANCES, json=body)).json()
    assert (answer["copyOf"], answer["mode"]) == (source.instance_id, mode)
    assert words in answer["notice"]


async def test_source_is_held_on_every_surface_when_it_is_being_copied(
    api: httpx.AsyncClient, source: InstanceJob, queries: InstanceQueries
) -> None:
    body = {"name": "Copy", "copyOf": source.instance_id, "mode": "closed"}
    copy = (await api.post(INSTANCES, json=body)).json()
    number, renamed = source.instance_id, {"name": "Another"}
    refusals = [
        await api.delete(f"{INSTANCES}/{number}"),
        await api.delete(f"{INSTANCES}/{number}?purge=true"),
        await api.put(f"{INSTANCES}/{number}", json=renamed),
        await api.post(INSTANCES, json=body | {"name": "Second"}),
    ]
    assert [answer.status_code for answer in refusals] == [409] * 4
    older = [
        await api.delete(f"/v2/odsInstances/manage/{number}"),
        await api.put(f"/v2/odsInstances/manage/{number}", json=renamed),
        await api.delete(f"/v2/odsInstances/{source.ods_instance_id}"),
        await api.put(f"/v2/odsInstances/{source.ods_instance_id}", json=renamed),
    ]
    assert [answer.status_code for answer in older] == [400] * 4
    for answer in (*refusals, *older):
        assert f"the instance {copy['id']}, 'Copy', is made of it" in answer.text
    assert (await queries.instance(number)).status == "Completed"
    assert await queries.ods_instance(source.ods_instance_id) is not None


async def test_phase_tells_of_the_copy_when_its_job_runs(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore, source: InstanceJob
) -> None:
    wanted = CopyOrigin(source.instance_id, CopyMode.ONLINE)
    job = (await instances.reserve("Copy", source.template, origin=wanted)).job
    await job_store.begin(job)
    progress = (await api.get(f"{INSTANCES}/{job.instance_id}")).json()["progress"]
    assert progress["phase"] == "copying an instance"
    assert progress["estimatedSeconds"] is None
