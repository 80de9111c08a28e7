"""Requests for several instances at once, and dry runs."""

import asyncio
from collections.abc import AsyncIterator
from contextvars import copy_context
from functools import partial
from typing import Any

import asyncpg
import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy.exc import DBAPIError
from temporalio.client import Client

from ods.embedded.polling import wait_until
from ods.registry.instances.reservations import _NAMES
from ods.registry.instances.store import _TOGETHER
from tests import registries
from tests.api.service import faults_of, is_started
from tests.postgres.instance_states import add_version
from tests.servers import session

INSTANCES = "/v2/dbInstances"
BULK = f"{INSTANCES}/bulk"
DELETE = f"{BULK}/delete"
DRY = {"dryRun": "true"}


@pytest.fixture
async def rows(registry_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    async with session(registry_dsn) as connection:
        yield connection


def entry(name: object = "A name", **more: object) -> dict[str, object]:
    return {"name": name, "databaseTemplate": "Minimal", **more}


def of(*entries: object) -> dict[str, object]:
    return {"instances": list(entries)}


def context(value: str) -> dict[str, object]:
    return {"contexts": [{"contextKey": "year", "contextValue": value}]}


async def _made(rows: asyncpg.Connection) -> tuple[int, int]:
    """How many instances and jobs there are."""
    instances = await rows.fetchval("SELECT count(*) FROM adminapi.managed_instances")
    return instances, await rows.fetchval("SELECT count(*) FROM adminapi.jobstatuses")


async def _waiting(rows: asyncpg.Connection, count: int) -> None:
    """Return when so many sessions wait for the lock of another one."""

    async def are_waiting() -> bool:
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        return bool(await rows.fetchval(waiting) == count)

    await wait_until(are_waiting, 10)


async def _everything(rows: asyncpg.Connection) -> list[Any]:
    """What a request may change in the registry."""
    return [
        await rows.fetch(f"SELECT * FROM {table} ORDER BY 1")  # noqa: S608 - constants
        for table in (
            *("adminapi.managed_instances", "adminapi.jobstatuses", "adminapi.audit"),
            *("adminapi.idempotencykeys", "dbo.odsinstances", "dbo.odsinstances_odsinstanceid_seq"),
        )
    ]


async def _completed(api: httpx.AsyncClient, rows: asyncpg.Connection, *names: str) -> list[int]:
    """The ids of instances that can be deleted."""
    made = (await api.post(BULK, json=of(*map(entry, names)))).json()["instances"]
    await rows.execute(registries.COMPLETE_ALL)
    return [one["id"] for one in made]


async def test_all_are_requested_when_nothing_is_wrong(
    api_with_temporal: httpx.AsyncClient, temporal: Client, rows: asyncpg.Connection
) -> None:
    names = [f"Instance {number}" for number in range(20)]
    answer = await api_with_temporal.post(
        BULK, json=of(*(entry(name, **context(name), labels={"a": "b"}) for name in names))
    )

    assert answer.status_code == 202
    made = answer.json()["instances"]
    assert [one["name"] for one in made] == names
    assert [one["jobId"] for one in made] == [f"CreateInstanceJob-{one['id']}-1" for one in made]
    assert await _made(rows) == (20, 20)
    for one in made:
        workflow = temporal.get_workflow_handle(str(one["id"]))
        await wait_until(partial(is_started, workflow), 10)
        assert (await workflow.describe()).workflow_type == "CreateInstance"
    shown = (await api_with_temporal.get(f"{INSTANCES}/{made[7]['id']}")).json()
    assert (shown["labels"], shown["contexts"][0]["contextValue"]) == ({"a": "b"}, "Instance 7")


async def test_every_fault_of_every_entry_is_told_and_nothing_made_when_some_are_wrong(
    api: httpx.AsyncClient, rows: asyncpg.Connection
) -> None:
    await api.post(INSTANCES, json=entry("Taken", **context("2026")))
    answer = await api.post(
        BULK,
        json=of(
            entry("Fine"),
            entry("", description=7),
            {"name": "No template"},
            entry("Taken", **context("2026")),
            "text",
            entry("Fine"),
            entry("a b", **context("2027")),
            entry("a_b", **context("2027")),
            entry("Fine too"),
        ),
    )

    errors = faults_of(answer)
    assert list(errors) == [
        *("instances[1].Name", "instances[1].Description", "instances[2].DatabaseTemplate"),
        *("instances[3].Name", "instances[3].Contexts", "instances[4]", "instances[5].Name"),
        *("instances[7].Name", "instances[7].Contexts"),
    ]
    assert errors["instances[3].Name"] == ["An instance named 'Taken' already exists. Choose another name."]
    assert errors["instances[5].Name"][0] == "The name 'Fine' is that of instances[0] as well."
    assert errors["instances[7].Name"] == [
        "The name of the database, 'EdFi_Ods_a_b_Minimal', is that of instances[6] as well."
    ]
    assert errors["instances[7].Contexts"] == [
        "The set of contexts 'year' = '2027' is that of instances[6] as well."
    ]
    assert await _made(rows) == (1, 1)


@pytest.mark.parametrize(
    "body", [{}, of(), of(*[entry()] * 21), {"instances": {}}, {"instances": None}], ids=range(5)
)
async def test_request_is_refused_when_it_has_no_list_of_1_to_20(
    api: httpx.AsyncClient, body: dict[str, object]
) -> None:
    assert faults_of(await api.post(BULK, json=body)) == {
        "Instances": ["'Instances' must be a list of 1 to 20 objects."]
    }


async def test_one_of_two_wins_when_both_want_the_same_names_in_another_order(
    api: httpx.AsyncClient, rows: asyncpg.Connection
) -> None:
    names = [f"Instance {number}" for number in range(20)]
    there, back = of(*map(entry, names)), of(*map(entry, reversed(names)))
    answers = await asyncio.gather(*(api.post(BULK, json=body) for body in [there, back] * 4))

    assert sorted(answer.status_code for answer in answers) == [202, *[400] * 7]
    assert await _made(rows) == (20, 20)


async def test_answer_is_the_same_when_the_request_is_repeated(
    api: httpx.AsyncClient, rows: asyncpg.Connection
) -> None:
    headers = {"Idempotency-Key": "a key"}
    first = await api.post(BULK, json=of(entry("a"), entry("b")), headers=headers)
    second = await api.post(BULK, json=of(entry("a"), entry("b")), headers=headers)

    assert (second.status_code, second.content) == (202, first.content)
    assert await _made(rows) == (2, 2)


async def test_nothing_is_made_when_an_entry_of_a_request_with_a_key_is_wrong(
    api: httpx.AsyncClient, rows: asyncpg.Connection
) -> None:
    headers = {"Idempotency-Key": "a key"}
    await api.post(INSTANCES, json=entry("Taken"))
    faults_of(await api.post(BULK, json=of(entry("a"), entry("Taken")), headers=headers))

    assert await _made(rows) == (1, 1)


async def test_trail_names_every_instance_when_several_are_requested(
    api: httpx.AsyncClient, rows: asyncpg.Connection
) -> None:
    made = (await api.post(BULK, json=of(entry("a"), entry("b")))).json()["instances"]
    faults_of(await api.post(BULK, json=of(entry("c"), entry("b"))))

    entries = await rows.fetch("SELECT status, instanceid, jobid FROM adminapi.audit ORDER BY id")
    assert [tuple(row) for row in entries] == [
        *((202, one["id"], one["jobId"]) for one in made),
        (400, None, None),
    ]


async def test_all_are_deleted_when_nothing_is_wrong(
    api: httpx.AsyncClient, rows: asyncpg.Connection
) -> None:
    first, second = await _completed(api, rows, "a", "b")
    answer = await api.post(DELETE, json={"ids": [second, str(first)]})

    assert answer.status_code == 202
    assert answer.json() == {
        "instances": [
            {"id": second, "name": "b", "jobId": f"DeleteInstanceJob-{second}-2"},
            {"id": first, "name": "a", "jobId": f"DeleteInstanceJob-{first}-2"},
        ]
    }
    left = await rows.fetch(
        "SELECT DISTINCT state, trashedby FROM adminapi.managed_instances"
        " JOIN adminapi.databases USING (databaseid)"
    )
    assert [tuple(row) for row in left] == [("Pending_Delete", "a-client")]


async def test_every_reason_is_told_and_nothing_deleted_when_some_cannot_be(
    api: httpx.AsyncClient, rows: asyncpg.Connection
) -> None:
    fine, busy = await _completed(api, rows, "a", "b")
    await rows.execute(
        "UPDATE adminapi.managed_instances SET state = 'InProgress', isprotected = true WHERE id = $1", busy
    )
    answer = await api.post(DELETE, json={"ids": [fine, busy, 999999, fine, "x"]})

    errors = faults_of(answer)
    assert list(errors) == ["ids[1]", "ids[2]", "ids[3]", "ids[4]"]
    assert [reason.partition(".")[0] for reason in errors["ids[1]"]] == [
        "An instance in state InProgress cannot be deleted",
        "The instance is protected: its data can be neither deleted nor replaced",
    ]
    assert errors["ids[2]"] == ["Not found: dbInstance with ID 999999. It may have been recently deleted."]
    assert errors["ids[3]"] == ["It is the same as ids[0]."]
    assert (
        await rows.fetchval("SELECT state FROM adminapi.managed_instances WHERE id = $1", fine) == "Completed"
    )


async def test_plan_tells_what_would_be_made_and_nothing_is_written(
    api: httpx.AsyncClient, rows: asyncpg.Connection
) -> None:
    before = await _everything(rows)
    answer = await api.post(BULK, json=of(entry("a b"), entry("c")), params=DRY)

    assert answer.status_code == 200
    plan = answer.json()
    assert (plan["status"], plan["errors"]) == (202, {})
    first = plan["instances"][0]
    assert first["operation"] == "Create"
    assert (first["id"], first["name"], first["databaseName"]) == (None, "a b", "EdFi_Ods_a_b_Minimal")
    assert first["databaseTemplate"] == "Minimal"
    assert await _everything(rows) == before


async def test_plan_tells_every_refusal_when_entries_are_wrong(
    api: httpx.AsyncClient, rows: asyncpg.Connection
) -> None:
    await api.post(INSTANCES, json=entry("Taken", **context("2026")))
    before = await _everything(rows)
    plan = (await api.post(BULK, json=of(entry(""), entry("Taken", **context("2026"))), params=DRY)).json()

    assert plan["status"] == 400
    assert list(plan["errors"]) == ["instances[0].Name", "instances[1].Name", "instances[1].Contexts"]
    assert [one["name"] for one in plan["instances"]] == ["Taken"]
    assert await _everything(rows) == before


@pytest.mark.parametrize("modes", [("closed", "closed"), ("online", "closed"), ("closed", "online")])
async def test_plan_and_request_are_refused_when_two_copies_exclude_each_other(
    api: httpx.AsyncClient, rows: asyncpg.Connection, modes: tuple[str, str]
) -> None:
    (source,) = await _completed(api, rows, "a")
    before = await _everything(rows)
    copies = [{"name": f"copy {mode} {it}", "copyOf": source, "mode": mode} for it, mode in enumerate(modes)]
    plan = (await api.post(BULK, json=of(*copies), params=DRY)).json()
    assert list(plan["errors"]) == ["instances[1].CopyOf"]
    assert await _everything(rows) == before
    assert faults_of(await api.post(BULK, json=of(*copies))) == plan["errors"]
    online = [copy | {"mode": "online"} for copy in copies]
    assert (await api.post(BULK, json=of(*online), params=DRY)).json()["errors"] == {}
    assert (await api.post(BULK, json=of(*online))).status_code == 202


async def test_plan_of_one_tells_sizes_and_times_when_they_are_known(
    api: httpx.AsyncClient, rows: asyncpg.Connection
) -> None:
    await rows.execute(
        "INSERT INTO adminapi.jobstatuses"
        " (jobid, status, createdat, startedat, finishedat, operation, databasetemplate)"
        " VALUES ('a', 'Completed', now(), now(), now() + interval '3 seconds', 'Create', 'Minimal')"
    )
    plan = (await api.post(INSTANCES, json=entry(), params=DRY)).json()

    (one,) = plan["instances"]
    assert one["estimatedSeconds"] == 3
    assert one["sizeBytes"] > 1_000_000
    assert plan["sizeBytes"] == one["sizeBytes"]


@pytest.mark.parametrize(
    ("body", "faults"), [(entry(""), ["Name"]), (entry("Taken", **context("1")), ["Name", "Contexts"])]
)
async def test_plan_of_one_tells_why_it_would_be_refused(
    api: httpx.AsyncClient, body: dict[str, object], faults: list[str]
) -> None:
    await api.post(INSTANCES, json=entry("Taken", **context("1")))
    answer = await api.post(INSTANCES, json=body, params=DRY)

    assert (answer.status_code, answer.json()["status"]) == (200, 400)
    assert list(answer.json()["errors"]) == faults


@pytest.mark.parametrize(
    ("query", "operation"), [({}, "Trash"), ({"purge": "true"}, "Delete"), ({"detach": "true"}, "Detach")]
)
async def test_plan_of_a_delete_tells_what_becomes_of_the_database(
    api: httpx.AsyncClient, rows: asyncpg.Connection, query: dict[str, str], operation: str
) -> None:
    (made,) = await _completed(api, rows, "a")
    before = await _everything(rows)
    answer = await api.delete(f"{INSTANCES}/{made}", params=query | DRY)

    assert answer.status_code == 200
    plan = answer.json()
    assert (plan["status"], plan["errors"]) == (202, {})
    (one,) = plan["instances"]
    assert (one["operation"], one["id"], one["databaseName"]) == (operation, made, "EdFi_Ods_a_Minimal")
    assert one["dropsDatabase"] is (operation == "Delete")
    assert await _everything(rows) == before


@pytest.mark.parametrize(
    ("query", "goes"),
    [({}, []), ({"purge": "true"}, ["later", "before"]), ({"detach": "true"}, ["later", "before"])],
)
async def test_plan_of_a_delete_names_the_databases_before_resets_that_go_with_it(
    api: httpx.AsyncClient, rows: asyncpg.Connection, query: dict[str, str], goes: list[str]
) -> None:
    made, other = await _completed(api, rows, "a", "b")
    names = {
        "before": await add_version(rows, made),
        "later": await add_version(rows, made),
    }
    being_dropped = await add_version(rows, made)
    await rows.execute(
        "UPDATE adminapi.databases SET purgingsince = now()"
        " WHERE id = (SELECT max(id) FROM adminapi.databases)"
    )
    await add_version(rows, other)
    plan = (await api.delete(f"{INSTANCES}/{made}", params=query | DRY)).json()
    assert [one["dropsVersions"] for one in plan["instances"]] == [[names[one] for one in goes]]
    assert being_dropped not in plan["instances"][0]["dropsVersions"]


async def test_plan_of_a_delete_tells_every_refusal(api: httpx.AsyncClient, rows: asyncpg.Connection) -> None:
    (made,) = await _completed(api, rows, "a")
    await rows.execute("UPDATE adminapi.managed_instances SET isprotected = true, state = 'InProgress'")
    plan = (await api.delete(f"{INSTANCES}/{made}", params=DRY)).json()

    assert plan["status"] == 409
    assert len(plan["errors"]["Id"]) == 2
    assert (await api.delete(f"{INSTANCES}/999999", params=DRY)).status_code == 404


async def test_plan_of_deletes_tells_every_refusal(api: httpx.AsyncClient, rows: asyncpg.Connection) -> None:
    (made,) = await _completed(api, rows, "a")
    before = await _everything(rows)
    plan = (await api.post(DELETE, json={"ids": [made, 999999]}, params=DRY)).json()

    assert (plan["status"], list(plan["errors"])) == (400, ["ids[1]"])
    assert [one["operation"] for one in plan["instances"]] == ["Trash"]
    assert await _everything(rows) == before


async def test_dry_run_tells_the_answer_when_its_key_was_used(
    api: httpx.AsyncClient, rows: asyncpg.Connection
) -> None:
    headers = {"Idempotency-Key": "a key"}
    plan = await api.post(INSTANCES, json=entry(), headers=headers, params=DRY)
    made = await api.post(INSTANCES, json=entry(), headers=headers)
    told = await api.post(INSTANCES, json=entry(), headers=headers, params=DRY)

    assert (plan.status_code, made.status_code) == (200, 202)
    assert (told.status_code, told.content) == (202, made.content)
    assert (await api.post(INSTANCES, json=entry("b"), headers=headers, params=DRY)).status_code == 422
    assert await _made(rows) == (1, 1)


async def test_request_is_refused_when_it_is_a_dry_run_and_is_none(
    api: httpx.AsyncClient, rows: asyncpg.Connection
) -> None:
    answer = await api.post(f"{INSTANCES}?dryRun=true&DRYRUN=false", json=entry())

    assert faults_of(answer) == {"DryRun": ["'Dry Run' must be given once."]}
    assert await _made(rows) == (0, 0)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "/v2/odsInstances/manage/{}?dryRun=true"),
        ("DELETE", "/v2/odsInstances/{}?DRYRUN=1"),
        ("PUT", f"{INSTANCES}/{{}}?dryrun=false"),
        ("POST", f"{INSTANCES}/{{}}/undelete?dry%52un=true"),
    ],
)
async def test_request_is_refused_when_it_has_no_dry_run(
    api: httpx.AsyncClient, rows: asyncpg.Connection, method: str, path: str
) -> None:
    (made,) = await _completed(api, rows, "a")
    answer = await api.request(method, path.format(made), json={"name": "b"})

    assert faults_of(answer) == {"DryRun": ["There is no dry run of this request."]}
    assert await rows.fetchval("SELECT state FROM adminapi.managed_instances") == "Completed"


async def test_bulk_requests_go_on_when_the_process_of_one_hangs(
    api: httpx.AsyncClient, app: FastAPI, rows: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Longer than a request pauses by itself on a busy machine.
    monkeypatch.setattr("ods.registry.storage.engine._LONGEST_PAUSE", "1s")
    tenant = next(iter(app.state.tenancy)).tenant
    await tenant.engine.dispose()  # what has another limit
    instances = tenant.instances
    outside = copy_context()

    async def hanging() -> None:
        async with instances.together():
            sent = api.post(BULK, json=of(entry("a")))
            assert (await asyncio.create_task(sent, context=outside)).status_code == 202

    with pytest.raises(DBAPIError):
        await hanging()
    assert await _made(rows) == (1, 1)


async def test_one_of_two_wins_when_each_wants_what_the_other_would_lock_last(
    api: httpx.AsyncClient, rows: asyncpg.Connection, registry_dsn: str
) -> None:
    """The single request has the name that the other wants last, and wants the contexts that it has."""
    many = of(entry("a", **context("2026")), entry("b"), entry("c"))
    async with session(registry_dsn) as holder, holder.transaction():
        await holder.execute("SELECT pg_advisory_xact_lock(hashtextextended('b', $1))", _NAMES)
        first = asyncio.create_task(api.post(BULK, json=many))
        await _waiting(rows, 1)
        second = asyncio.create_task(api.post(INSTANCES, json=entry("c", **context("2026"))))
        await _waiting(rows, 2)

    assert sorted([(await first).status_code, (await second).status_code]) == [202, 400]


async def test_both_are_answered_when_source_and_failed_copy_are_deleted_and_the_copy_is_retried_at_once(
    api: httpx.AsyncClient, rows: asyncpg.Connection, registry_dsn: str
) -> None:
    (source,) = await _completed(api, rows, "Source")
    copy = (await api.post(INSTANCES, json={"name": "Copy", "copyOf": source})).json()["id"]
    await rows.execute(
        "UPDATE adminapi.managed_instances SET state = 'Error', attempt = 1 WHERE id = $1", copy
    )
    async with session(registry_dsn) as other:
        holding = other.transaction()
        await holding.start()
        await other.execute("SELECT FROM adminapi.dbinstances WHERE id = $1 FOR UPDATE", copy)
        retrying = asyncio.create_task(api.post(f"{INSTANCES}/{copy}/retry"))
        await _waiting(rows, 1)
        deleting = asyncio.create_task(api.post(DELETE, json={"ids": [source, copy]}))
        await _waiting(rows, 2)
        await holding.commit()
    assert (await retrying).status_code == 202
    assert list(faults_of(await deleting)) == ["ids[0]", "ids[1]"]


async def test_single_requests_with_a_key_are_answered_when_many_requests_for_several_wait(
    api: httpx.AsyncClient, rows: asyncpg.Connection, registry_dsn: str
) -> None:
    async with session(registry_dsn) as other:
        holding = other.transaction()
        await holding.start()
        await other.execute("SELECT pg_advisory_xact_lock($1)", _TOGETHER)
        waiting = [
            asyncio.create_task(
                api.post(BULK, json=of(entry(f"Several {key}")), headers={"Idempotency-Key": f"bulk {key}"})
            )
            for key in range(10)
        ]
        await _waiting(rows, 1)
        for key in range(10):  # the others reach their places meanwhile
            async with asyncio.timeout(10):
                answer = await api.post(
                    INSTANCES, json=entry(f"One {key}"), headers={"Idempotency-Key": f"single {key}"}
                )
            assert answer.status_code == 202
        await holding.commit()
    assert {answer.status_code for answer in await asyncio.gather(*waiting)} == {202}
