"""The registry's transactions on PostgreSQL: requests, job steps, and who may take them."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from ods.model.arguments import Way
from ods.model.operations import InstanceStatus, Template
from ods.registry.instances.deletes import Delete
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.jobs import ExecutionPolicy, InstanceJob
from ods.registry.instances.queries import InstanceQueries
from ods.registry.instances.store import InstanceStore, Requested
from ods.registry.storage.errors import InstanceNotFoundError, NameTakenError, RefusedError
from ods.settings.settings import Settings
from ods.tenants.tenant import Tenant
from tests.job_kinds import JOB_KINDS, of_kind
from tests.postgres.instance_states import CONNECTION_STRING, STATES, bring_to, status_in, stores

RELATIONS = {
    "Applications": (
        "INSERT INTO dbo.apiclientodsinstances (apiclient_apiclientid, odsinstance_odsinstanceid)"
        " VALUES (1, $1)"
    ),
    "OdsInstanceContexts": (
        "INSERT INTO dbo.odsinstancecontexts (odsinstance_odsinstanceid, contextkey, contextvalue)"
        " VALUES ($1, 'schoolYear', '2026')"
    ),
    "OdsInstanceDerivatives": (
        "INSERT INTO dbo.odsinstancederivatives (odsinstance_odsinstanceid, derivativetype)"
        " VALUES ($1, 'ReadReplica')"
    ),
}

Step = Callable[[JobStore, InstanceJob], Awaitable[Any]]
STEPS: dict[str, Step] = {
    "begin": lambda job_store, job: job_store.begin(job),
    "finish_create": lambda job_store, job: job_store.finish_create(job, CONNECTION_STRING),
    "finish_delete": lambda job_store, job: job_store.finish_delete(job),
    "finish_rename": lambda job_store, job: job_store.finish_rename(job, CONNECTION_STRING),
    "fail": lambda job_store, job: job_store.fail(job, "late words"),
    "release": lambda job_store, job: job_store.release(job),
}


def was_taken(answer: object) -> bool:
    """Whether a step, by its answer, was taken, be it earlier."""
    return bool(getattr(answer, "held", answer))


async def everything(rows: asyncpg.Connection) -> list[Sequence[asyncpg.Record]]:
    """All rows of all tables."""
    tables = await rows.fetch(
        "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables"
        " WHERE schemaname IN ('adminapi', 'dbo') ORDER BY 1"
    )
    return [await rows.fetch(f"SELECT * FROM {name} ORDER BY 1") for (name,) in tables]  # noqa: S608 - the catalog's names


async def status_of(queries: InstanceQueries, job: InstanceJob) -> str:
    (instance,) = await queries.instances(offset=0, limit=1, instance_id=job.instance_id)
    return instance.status


async def job_status(queries: InstanceQueries, job: InstanceJob) -> str:
    row = await queries.job(job.job_id)
    assert row is not None
    return row.status


async def was_granted(request: Awaitable[Any]) -> bool:
    try:
        await request
    except NameTakenError:
        return False
    return True


# Requests


async def test_instance_and_job_wait_under_the_next_number_when_one_is_reserved(
    instances: InstanceStore, queries: InstanceQueries, rows: asyncpg.Connection, name: str
) -> None:
    first = await instances.reserve(f"{name} a", Template.MINIMAL)
    second = await instances.reserve(f"{name} b", Template.SAMPLE)
    number = second.job.ods_instance_id
    assert number == first.job.ods_instance_id + 1
    assert await rows.fetchval("SELECT nextval('dbo.odsinstances_odsinstanceid_seq')") == number + 1
    instance = await queries.instance(second.instance.id)
    assert (instance.status, instance.operation) == ("Pending", "Create")
    assert (instance.name, instance.database_template) == (f"{name} b", "Sample")
    assert instance.database_name == second.job.database == f"EdFi_Ods_{name} b_Sample".replace(" ", "_")
    assert instance.ods_instance_id == second.job.ods_instance_id
    assert (second.job.number, second.job.attempt, second.job.published) == (1, 1, False)
    job = await queries.job(f"CreateInstanceJob-{number}-1")
    assert job is not None
    assert (job.status, job.instance_id, job.finished_at) == ("Pending", instance.id, None)
    assert await rows.fetchval("SELECT count(*) FROM dbo.odsinstances") == 0


@pytest.mark.parametrize("state", [it for it in STATES if it not in {"Deleted", "Completed_Rename"}])
async def test_name_is_refused_when_a_live_instance_has_it(
    instances: InstanceStore, job_store: JobStore, name: str, state: str
) -> None:
    await bring_to(instances, job_store, state, name)
    with pytest.raises(NameTakenError, match=f"named '{name}' already exists"):
        await instances.reserve(name, Template.SAMPLE)


async def test_name_is_free_when_the_instance_that_had_it_is_deleted(
    instances: InstanceStore, job_store: JobStore, name: str
) -> None:
    first = await bring_to(instances, job_store, "Deleted", name)
    second = await instances.reserve(name, Template.MINIMAL)
    assert second.job.database == first.database
    assert second.job.ods_instance_id > first.ods_instance_id
    assert second.job.mark != first.mark


async def test_name_is_refused_when_its_database_name_is_taken(instances: InstanceStore, name: str) -> None:
    await instances.reserve(f"{name} a b", Template.MINIMAL)
    with pytest.raises(NameTakenError, match=r"database is named 'EdFi_Ods_.*_a_b_Minimal' already exists"):
        await instances.reserve(f"{name} a_b", Template.MINIMAL)
    other = await instances.reserve(f"{name} a_b", Template.SAMPLE)
    assert other.job.database.endswith("_a_b_Sample")


async def test_name_is_refused_when_an_ods_instance_has_it(
    instances: InstanceStore, queries: InstanceQueries, rows: asyncpg.Connection, name: str
) -> None:
    await rows.execute("INSERT INTO dbo.odsinstances (name) VALUES ($1)", name)
    with pytest.raises(NameTakenError, match="already exists"):
        await instances.reserve(name, Template.MINIMAL)
    assert await queries.instances(offset=0, limit=9) == []


async def test_another_id_is_reserved_when_an_ods_instance_has_the_next_one(
    instances: InstanceStore, rows: asyncpg.Connection, name: str
) -> None:
    following = 1 + await rows.fetchval("SELECT nextval('dbo.odsinstances_odsinstanceid_seq')")
    for number in (following, following + 1):
        await rows.execute(
            "INSERT INTO dbo.odsinstances (odsinstanceid, name) VALUES ($1, $2)", number, f"by hand {number}"
        )
    assert (await instances.reserve(name, Template.MINIMAL)).job.ods_instance_id == following + 2


@pytest.mark.parametrize(("first", "second"), [("a b", "a b"), ("a b", "a_b")])
async def test_one_reservation_wins_when_two_are_made_at_once(
    instances: InstanceStore, queries: InstanceQueries, name: str, first: str, second: str
) -> None:
    for number in range(20):
        granted = await asyncio.gather(
            was_granted(instances.reserve(f"{name} {number} {first}", Template.MINIMAL)),
            was_granted(instances.reserve(f"{name} {number} {second}", Template.MINIMAL)),
        )
        assert sorted(granted) == [False, True]
    assert len(await queries.instances(offset=0, limit=99)) == 20


async def test_one_job_is_made_when_deletion_is_requested_many_times_at_once(
    instances: InstanceStore, job_store: JobStore, rows: asyncpg.Connection, name: str
) -> None:
    job = await bring_to(instances, job_store, "Completed", name)
    answers = await asyncio.gather(
        *(instances.request_delete(job.instance_id) for _ in range(8)), return_exceptions=True
    )
    assert sum(isinstance(answer, Requested) for answer in answers) == 1
    assert sum(isinstance(answer, RefusedError) for answer in answers) == 7
    assert await rows.fetchval("SELECT count(*) FROM adminapi.jobstatuses WHERE operation = 'Delete'") == 1


@pytest.mark.parametrize("state", ["Completed", "Error", "Delete_Failed", "Completed_Rename", "Error_Rename"])
async def test_deletion_waits_as_a_new_job_when_the_state_allows_it(
    instances: InstanceStore, job_store: JobStore, queries: InstanceQueries, name: str, state: str
) -> None:
    earlier = await bring_to(instances, job_store, state, name)
    requested = await instances.request_delete(earlier.instance_id)
    job = requested.job
    assert requested.instance.status == "Pending_Delete"
    # Also if there is nothing to keep by the registry, which may have been restored to an earlier state.
    assert (job.rules.name, job.number, job.attempt) == ("Trash", earlier.number + 1, 1)
    assert job.published is (state != "Error")
    renamed = state == "Completed_Rename"
    # The database may have the name that a failed rename has given it.
    left = (earlier.new_name, earlier.new_database) if state == "Error_Rename" else (None, None)
    assert (job.mark, job.new_name, job.new_database) == (earlier.mark, *left)
    assert job.database == (earlier.final_database if renamed else earlier.database)
    assert await status_of(queries, job) == "Pending_Delete"
    assert await job_status(queries, job) == "Pending"


@pytest.mark.parametrize(
    ("state", "status", "next_step"),
    [
        ("Pending", "Pending", "wait until it is Completed or Error"),
        ("InProgress", "InProgress", "ask again when it has ended"),
        ("Pending_Delete", "Pending_Delete", "wait until it is Deleted"),
        ("InProgress_Delete", "InProgress", "ask again when it has ended"),
        ("Pending_Rename", "Pending", "wait until it is Completed or Error"),
        ("InProgress_Rename", "InProgress", "ask again when it has ended"),
    ],
)
async def test_deletion_is_refused_with_a_next_step_when_a_job_is_under_way(
    instances: InstanceStore,
    job_store: JobStore,
    rows: asyncpg.Connection,
    name: str,
    state: str,
    status: str,
    next_step: str,
) -> None:
    job = await bring_to(instances, job_store, state, name)
    before = await everything(rows)
    with pytest.raises(RefusedError) as refused:
        await instances.request_delete(job.instance_id)
    assert refused.value.status == status
    assert refused.value.reason == f"An instance in state {status} cannot be deleted."
    assert next_step in refused.value.next_step
    assert await everything(rows) == before


@pytest.mark.parametrize("kinds", [[kind] for kind in RELATIONS] + [list(RELATIONS)])
async def test_deletion_is_refused_when_rows_refer_to_the_ods_instance(
    instances: InstanceStore, job_store: JobStore, rows: asyncpg.Connection, name: str, kinds: list[str]
) -> None:
    job = await bring_to(instances, job_store, "Completed", name)
    for kind in kinds:
        await rows.execute(RELATIONS[kind], job.ods_instance_id)
    before = await everything(rows)
    with pytest.raises(RefusedError) as refused:
        await instances.request_delete(job.instance_id, Delete(Way.DROP))
    assert refused.value.status == "Completed"
    assert refused.value.reason == f"The ODS instance is in use by {', '.join(kinds)}."
    assert all(kind in refused.value.next_step for kind in kinds)
    assert await everything(rows) == before


@pytest.mark.parametrize(
    ("state", "status"),
    [("Error", "Pending"), ("Delete_Failed", "Pending_Delete"), ("Error_Rename", "Pending")],
)
async def test_same_job_waits_for_its_next_attempt_when_a_retry_is_requested(
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    name: str,
    state: str,
    status: str,
) -> None:
    failed = await bring_to(instances, job_store, state, name)
    requested = await instances.request_retry(failed.instance_id)
    assert requested.job == replace(failed, attempt=failed.attempt + 1)
    assert requested.instance.status == status
    assert await status_of(queries, failed) == status
    row = await queries.job(failed.job_id)
    assert row is not None
    assert (row.status, row.finished_at, row.error_message) == ("Pending", None, None)


@pytest.mark.parametrize(
    "state", [s for s in STATES if status_in(s) not in {"Error", "Delete_Failed", "Deleted"}]
)
async def test_retry_is_refused_with_a_next_step_when_the_last_job_has_not_failed(
    instances: InstanceStore, job_store: JobStore, rows: asyncpg.Connection, name: str, state: str
) -> None:
    job = await bring_to(instances, job_store, state, name)
    before = await everything(rows)
    with pytest.raises(RefusedError) as refused:
        await instances.request_retry(job.instance_id)
    assert refused.value.status == status_in(state)
    assert refused.value.reason.endswith("cannot be retried.")
    assert refused.value.next_step
    assert await everything(rows) == before


async def test_nothing_is_found_when_the_instance_is_unknown_or_deleted(
    instances: InstanceStore, job_store: JobStore, name: str
) -> None:
    deleted = await bring_to(instances, job_store, "Deleted", name)
    for instance_id in (deleted.instance_id, deleted.instance_id + 1000):
        for request in (instances.request_delete, instances.request_retry):
            with pytest.raises(InstanceNotFoundError, match=str(instance_id)):
                await request(instance_id)
        with pytest.raises(InstanceNotFoundError, match=str(instance_id)):
            await instances.request_rename(instance_id, f"{name} new")


# Steps of jobs


async def test_status_job_and_ods_instance_tell_the_story_when_an_instance_is_created_and_deleted(
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    job = (await instances.reserve(name, Template.MINIMAL)).job
    begun = await job_store.begin(job)
    assert (begun.held, begun.refusal) == (True, None)
    assert (await status_of(queries, job), await job_status(queries, job)) == ("InProgress", "InProgress")
    assert await job_store.holds(job, InstanceStatus.IN_PROGRESS)
    assert await queries.ods_instance(job.ods_instance_id) is None
    assert await job_store.finish_create(job, CONNECTION_STRING)
    assert (await status_of(queries, job), await job_status(queries, job)) == ("Completed", "Completed")
    routed = await queries.ods_instance(job.ods_instance_id)
    assert routed is not None
    assert (routed.name, routed.instance_type) == (name, "Minimal")
    assert routed.connection_string == CONNECTION_STRING
    assert (await queries.instance(job.instance_id)).ods_instance_name == name

    job = (await instances.request_delete(job.instance_id)).job
    assert job.published
    assert (await job_store.begin(job)).held
    assert await queries.ods_instance(job.ods_instance_id) is None
    assert await job_store.finish_delete(job)
    assert (await status_of(queries, job), await job_status(queries, job)) == ("Deleted", "Completed")
    assert await rows.fetchval("SELECT bool_and(finishedat >= startedat) FROM adminapi.jobstatuses")


@pytest.mark.parametrize(
    ("state", "error_state"),
    [("InProgress", "Error"), ("InProgress_Delete", "Delete_Failed"), ("InProgress_Rename", "Error")],
)
async def test_reason_is_recorded_and_forgotten_when_a_job_fails_and_begins_again(
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    name: str,
    state: str,
    error_state: str,
) -> None:
    job = await bring_to(instances, job_store, state, name)
    assert await job_store.fail(job, "The template is missing.")
    instance, row = await queries.instance(job.instance_id), await queries.job(job.job_id)
    assert row is not None
    assert (instance.status, instance.error_message) == (error_state, "The template is missing.")
    assert (row.status, row.error_message) == ("Error", "The template is missing.")
    assert row.finished_at is not None
    assert (await job_store.begin(replace(job, attempt=2))).held  # as a signalled workflow does
    instance, row = await queries.instance(job.instance_id), await queries.job(job.job_id)
    assert row is not None
    assert (instance.status, instance.error_message, instance.attempt) == ("InProgress", None, 2)
    assert (row.status, row.error_message, row.finished_at) == ("InProgress", None, None)


@pytest.mark.parametrize(
    ("state", "step"),
    [
        ("InProgress", "begin"),
        ("Completed", "finish_create"),
        ("Error", "fail"),
        ("InProgress_Delete", "begin"),
        ("Deleted", "finish_delete"),
        ("Delete_Failed", "fail"),
        ("InProgress_Rename", "begin"),
        ("Completed_Rename", "finish_rename"),
        ("Error_Rename", "fail"),
    ],
)
async def test_nothing_changes_and_all_is_well_when_a_step_is_repeated(
    instances: InstanceStore, job_store: JobStore, rows: asyncpg.Connection, name: str, state: str, step: str
) -> None:
    job = await bring_to(instances, job_store, state, name)
    before = await everything(rows)
    answer = await STEPS[step](job_store, job)
    assert was_taken(answer)
    assert await everything(rows) == before


ALLOWED = {
    *(("Pending", "begin"), ("InProgress", "begin"), ("InProgress", "finish_create"), ("InProgress", "fail")),
    *(("Completed", "finish_create"), ("Error", "fail")),
    *(("Pending_Delete", "begin"), ("InProgress_Delete", "begin"), ("InProgress_Delete", "finish_delete")),
    *(("InProgress_Delete", "fail"), ("Deleted", "finish_delete"), ("Delete_Failed", "fail")),
    *(("InProgress", "release"), ("InProgress_Delete", "release"), ("InProgress_Rename", "release")),
    *(("Pending_Rename", "begin"), ("InProgress_Rename", "begin"), ("InProgress_Rename", "finish_rename")),
    *(("InProgress_Rename", "fail"), ("Completed_Rename", "finish_rename"), ("Error_Rename", "fail")),
}


@pytest.mark.long
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("state", STATES)
async def test_step_is_taken_or_nothing_changes_when_its_job_is_in_a_state(
    instances: InstanceStore, job_store: JobStore, rows: asyncpg.Connection, name: str, state: str, step: str
) -> None:
    job = await bring_to(instances, job_store, state, name)
    before = await everything(rows)
    answer = await STEPS[step](job_store, job)
    assert was_taken(answer) is ((state, step) in ALLOWED)
    if (state, step) not in ALLOWED:
        assert await everything(rows) == before


@pytest.mark.long
@pytest.mark.parametrize("state", STATES)
async def test_nothing_changes_when_a_step_comes_from_another_request_or_attempt(
    instances: InstanceStore, job_store: JobStore, rows: asyncpg.Connection, name: str, state: str
) -> None:
    job = await bring_to(instances, job_store, state, name)
    strangers = [
        replace(job, attempt=job.attempt - (2 if state.startswith("Pending") else 1)),
        replace(job, attempt=job.attempt + 2),
        *(of_kind(job, kind, request=str(uuid4())) for kind in JOB_KINDS),
        replace(job, instance_id=job.instance_id + 1),
    ]
    before = await everything(rows)
    for stranger in strangers:
        for step in STEPS.values():
            assert not was_taken(await step(job_store, stranger))
        for status in (InstanceStatus.IN_PROGRESS, InstanceStatus.ERROR):
            assert not await job_store.holds(stranger, status)
    assert await everything(rows) == before


@pytest.mark.parametrize("state", STATES)
async def test_job_holds_its_instance_when_it_has_begun_it(
    instances: InstanceStore, job_store: JobStore, name: str, state: str
) -> None:
    job = await bring_to(instances, job_store, state, name)
    held = {status for status in InstanceStatus if await job_store.holds(job, status)}
    assert held == (set() if state.startswith("Pending") else {status_in(state)})


@pytest.mark.parametrize("state", ["InProgress_Delete", "InProgress_Rename", "InProgress"])
async def test_cancelled_job_begins_again_by_a_request_alone(
    instances: InstanceStore, job_store: JobStore, tenant: Tenant, name: str, state: str
) -> None:
    job = await bring_to(instances, job_store, state, name)
    assert await tenant.cancellations.record(job)
    assert await job_store.fail(job, "The job was cancelled.", cancelled=True)
    signalled = replace(job, attempt=job.attempt + 1)
    assert not (await job_store.begin(signalled)).held
    requested = (await instances.request_retry(job.instance_id)).job
    assert requested == signalled
    assert (await job_store.begin(requested)).held


async def test_one_attempt_begins_and_all_hear_of_it_when_it_is_begun_many_times_at_once(
    instances: InstanceStore, job_store: JobStore, rows: asyncpg.Connection, name: str
) -> None:
    job = await bring_to(instances, job_store, "Pending", name)
    begun = await asyncio.gather(*(job_store.begin(job) for _ in range(8)))
    assert all(answer.held for answer in begun)
    assert await rows.fetchval("SELECT attempt FROM adminapi.dbinstances") == 1


async def test_create_fails_unchanged_when_an_ods_instance_took_the_name_meanwhile(
    instances: InstanceStore, job_store: JobStore, rows: asyncpg.Connection, name: str
) -> None:
    job = await bring_to(instances, job_store, "InProgress", name)
    await rows.execute("INSERT INTO dbo.odsinstances (name, instancetype) VALUES ($1, 'District')", name)
    before = await everything(rows)
    with pytest.raises(NameTakenError, match=f"named '{name}' already exists"):
        await job_store.finish_create(job, CONNECTION_STRING)
    assert await everything(rows) == before


async def test_create_fails_unchanged_when_an_ods_instance_took_the_id_meanwhile(
    instances: InstanceStore, job_store: JobStore, rows: asyncpg.Connection, name: str
) -> None:
    job = await bring_to(instances, job_store, "InProgress", name)
    await rows.execute(
        "INSERT INTO dbo.odsinstances (odsinstanceid, name) VALUES ($1, 'another')", job.ods_instance_id
    )
    before = await everything(rows)
    with pytest.raises(NameTakenError, match=f"has the id {job.ods_instance_id}"):
        await job_store.finish_create(job, CONNECTION_STRING)
    assert await everything(rows) == before


async def test_foreign_ods_instance_stays_when_an_instance_that_was_never_published_is_deleted(
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    job = await bring_to(instances, job_store, "Error", name)
    await rows.execute(
        "INSERT INTO dbo.odsinstances (odsinstanceid, name) VALUES ($1, 'another')", job.ods_instance_id
    )
    await rows.execute(RELATIONS["OdsInstanceContexts"], job.ods_instance_id)
    job = (await instances.request_delete(job.instance_id)).job
    begun = await job_store.begin(job)
    assert (begun.held, begun.refusal) == (True, None)
    assert await job_store.finish_delete(job)
    assert await queries.ods_instance(job.ods_instance_id) is not None


async def test_one_ods_instance_is_routed_when_a_create_is_finished_many_times_at_once(
    instances: InstanceStore, job_store: JobStore, rows: asyncpg.Connection, name: str
) -> None:
    job = await bring_to(instances, job_store, "InProgress", name)
    answers = await asyncio.gather(*(job_store.finish_create(job, CONNECTION_STRING) for _ in range(8)))
    assert all(answers)
    assert await rows.fetchval("SELECT count(*) FROM dbo.odsinstances") == 1


@pytest.mark.parametrize("kind", RELATIONS)
async def test_deletion_is_refused_and_routing_stays_when_a_relation_appeared_meanwhile(
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    rows: asyncpg.Connection,
    name: str,
    kind: str,
) -> None:
    created = await bring_to(instances, job_store, "Completed", name)
    job = (await instances.request_delete(created.instance_id, Delete(Way.DROP))).job
    await rows.execute(RELATIONS[kind], job.ods_instance_id)
    assert not (await job_store.begin(job)).held
    assert await queries.ods_instance(job.ods_instance_id) is not None
    assert await status_of(queries, job) == "Completed"  # it is backed up again, and can be renamed
    refused = await queries.job(job.job_id)
    assert refused is not None
    assert (refused.status, refused.error_message) == ("Error", f"The ODS instance is in use by {kind}.")


async def test_deletion_is_refused_when_rows_of_an_unknown_table_refer_to_the_ods_instance(
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    job = await bring_to(instances, job_store, "Pending_Delete", name)
    await rows.execute("CREATE TABLE dbo.extension (odsinstanceid int REFERENCES dbo.odsinstances)")
    await rows.execute("INSERT INTO dbo.extension VALUES ($1)", job.ods_instance_id)
    for _ in range(2):
        assert not (await job_store.begin(job)).held
    row = await queries.job(job.job_id)
    assert row is not None
    assert row.error_message == "The ODS instance is in use by rows of another table."
    assert await status_of(queries, job) == "Completed"
    assert await queries.ods_instance(job.ods_instance_id) is not None
    await rows.execute("DROP TABLE dbo.extension")
    again = (await instances.request_delete(job.instance_id)).job
    assert (await job_store.begin(again)).held
    assert await queries.ods_instance(job.ods_instance_id) is None


async def test_second_live_instance_is_impossible_when_a_row_is_written_past_the_registry(
    instances: InstanceStore, job_store: JobStore, rows: asyncpg.Connection, name: str
) -> None:
    await bring_to(instances, job_store, "Pending", name)
    others = {"name": "'other'", "databasename": "'other'", "odsinstanceid": "0"}
    for unique in others:
        values = ", ".join((others | {unique: unique}).values())
        with pytest.raises(asyncpg.UniqueViolationError) as violated:
            await rows.execute(
                f"INSERT INTO adminapi.dbinstances ({', '.join(others)}, status, databasetemplate, operation)"  # noqa: S608 - constants
                f" SELECT {values}, status, databasetemplate, operation FROM adminapi.dbinstances"
            )
        assert violated.value.constraint_name == f"uq_dbinstances_live_{unique}"


async def test_unknown_status_is_impossible_when_it_is_written_past_the_registry(
    instances: InstanceStore, job_store: JobStore, rows: asyncpg.Connection, name: str
) -> None:
    await bring_to(instances, job_store, "Pending", name)
    with pytest.raises(asyncpg.CheckViolationError):
        await rows.execute("UPDATE adminapi.dbinstances SET status = 'Ready'")


# What the reconcile pass asks


@pytest.mark.parametrize(
    ("state", "status"),
    [("InProgress", "Pending"), ("InProgress_Delete", "Pending_Delete"), ("InProgress_Rename", "Pending")],
)
async def test_same_job_waits_for_its_next_attempt_when_it_is_released(
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    rows: asyncpg.Connection,
    name: str,
    state: str,
    status: str,
) -> None:
    lost = await bring_to(instances, job_store, state, name)
    due = replace(lost, attempt=lost.attempt + 1)
    assert await job_store.release(lost) == due
    assert (await status_of(queries, lost), await job_status(queries, lost)) == (status, "Pending")
    before = await everything(rows)
    assert await job_store.release(lost) == due
    assert await everything(rows) == before
    assert not (await job_store.begin(lost)).held
    assert (await job_store.begin(due)).held
    assert await job_store.release(lost) is None


async def test_running_jobs_come_page_by_page_at_their_attempt_when_rows_are_in_progress(
    instances: InstanceStore, job_store: JobStore, name: str
) -> None:
    jobs = {state: await bring_to(instances, job_store, state, f"{name} {state}") for state in STATES}
    again = (await instances.request_retry(jobs["Error"].instance_id)).job
    await job_store.begin(again)
    running = [jobs["InProgress"], again, jobs["InProgress_Delete"], jobs["InProgress_Rename"]]
    assert again.attempt == 2
    assert await job_store.running_jobs(0, 100) == running
    assert await job_store.running_jobs(0, 1) == running[:1]
    assert await job_store.running_jobs(running[0].instance_id, 1) == running[1:2]
    assert await job_store.running_jobs(running[3].instance_id, 1) == []


async def test_failed_jobs_are_those_in_error_when_they_are_asked_for_by_mark(
    instances: InstanceStore, job_store: JobStore, name: str
) -> None:
    jobs = {state: await bring_to(instances, job_store, state, f"{name} {state}") for state in STATES}
    failed = await job_store.failed_jobs([job.mark for job in jobs.values()])
    assert failed == [jobs["Error"], jobs["Error_Rename"]]
    assert await job_store.failed_jobs([jobs["Pending"].mark]) == []
    assert await job_store.failed_jobs([]) == []


# The sweep's view


async def test_waiting_jobs_come_page_by_page_when_rows_wait(
    instances: InstanceStore, job_store: JobStore, name: str
) -> None:
    jobs = [await bring_to(instances, job_store, state, f"{name} {state}") for state in STATES]
    jobs += [await bring_to(instances, job_store, "Pending", f"{name} {number}") for number in range(3)]
    waiting = [jobs[0], jobs[4], jobs[8], *jobs[-3:]]
    assert await job_store.waiting_jobs(0, 100) == waiting
    assert await job_store.waiting_jobs(0, 2) == waiting[:2]
    assert await job_store.waiting_jobs(waiting[1].instance_id, 2) == waiting[2:4]
    assert await job_store.waiting_jobs(waiting[3].instance_id, 3) == waiting[4:]
    assert await job_store.waiting_jobs(waiting[5].instance_id, 2) == []


async def test_waiting_job_is_the_requested_one_when_a_retry_was_requested(
    instances: InstanceStore, job_store: JobStore, name: str
) -> None:
    for state in ("Error", "Delete_Failed"):
        failed = await bring_to(instances, job_store, state, f"{name} {state}")
        requested = await instances.request_retry(failed.instance_id)
        (waiting,) = await job_store.waiting_jobs(failed.instance_id - 1, 1)
        assert waiting == requested.job


async def test_job_is_of_the_tenant_when_its_registry_is(
    engine: AsyncEngine, settings: Settings, name: str
) -> None:
    instances, jobs = stores(engine, ExecutionPolicy.from_settings(settings), "tenant1")
    job = (await instances.reserve(name, Template.MINIMAL)).job
    assert job.workflow_id == f"tenant1:{job.ods_instance_id}"
    assert await jobs.waiting_jobs(0, 9) == [job]


async def test_failed_delete_is_unfinished_when_a_drop_of_its_own_database_was_interrupted(
    instances: InstanceStore, job_store: JobStore, name: str
) -> None:
    deletion = await bring_to(instances, job_store, "Delete_Failed", name)
    assert await job_store.unfinished_deletes({f"{deletion.database}_copy": deletion.mark}) == []
    (found,) = await job_store.unfinished_deletes({deletion.database: deletion.mark})
    assert found.job_id == deletion.job_id


async def test_failed_delete_is_unfinished_a_few_times_when_outages_have_ended_it(
    instances: InstanceStore, job_store: JobStore, name: str
) -> None:
    deletion = await bring_to(instances, job_store, "Pending_Delete", name)
    tries = 0
    while True:
        assert (await job_store.begin(deletion)).held
        assert await job_store.fail(deletion, "away", outage=True)
        if not await job_store.unfinished_deletes({}):
            break
        due = await job_store.release(deletion)
        assert due is not None
        deletion, tries = due, tries + 1
    assert tries == 5
    retry = (await instances.request_retry(deletion.instance_id)).job  # a person's retry counts anew
    assert (await job_store.begin(retry)).held
    assert await job_store.fail(retry, "away", outage=True)
    assert len(await job_store.unfinished_deletes({})) == 1
