"""The list of jobs, and the orders and filters of that of instances."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from ods.embedded.postgres import EmbeddedPostgres
from tests import registries
from tests.api.service import NOBODY, bearer, client_of, faults_of, running
from tests.servers import make_settings, session

JOBS = "/v2/jobs"
INSTANCES = "/v2/dbInstances"
_ROWS = """
INSERT INTO adminapi.jobstatuses (jobid, status, createdat, operation, dbinstanceid) VALUES
    ('a', 'Completed', '2026-01-01 10:00', 'Create', 1),
    ('b', 'Error', '2026-01-02 10:00', 'Delete', 1),
    ('c', 'Pending', '2026-01-03 10:00', 'Refresh', NULL),
    ('d', 'InProgress', '2026-01-03 10:00', 'Rename', 2),
    ('e', 'Completed', '2025-12-31 10:00', NULL, NULL);
INSERT INTO adminapi.dbinstances
    (id, name, odsinstanceid, status, databasetemplate, databasename, operation, arguments, lastmodifieddate)
    VALUES
    (1, 'North 100%', 9, 'Completed', 'Minimal', 'a', 'Create', '{"origin": {}}', '2026-01-02'),
    (2, 'north_east', 8, 'Error', 'Sample', 'b', 'Rename', '{}', '2026-01-01'),
    (3, 'Grand Bend', 7, 'Deleted', 'Minimal', 'c', 'Delete', '{"keep": false, "backup_first": false}', NULL),
    (4, 'B', 6, 'Pending', 'Minimal', 'd', 'Create', '{"origin": {}}', '2026-01-03')
"""


@pytest.fixture(scope="session")
async def api(prepared_postgres: EmbeddedPostgres) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an API whose registry has some jobs and instances, for requests that only read."""
    registry = await registries.clone(prepared_postgres, "EdFi_Admin_job_list")
    async with session(registry) as connection:
        await connection.execute(_ROWS)
    settings = make_settings(prepared_postgres, registry, rate_limiting=False)
    headers = bearer(settings, lifetime=3600)
    async with running(settings, NOBODY) as app, client_of(app, headers=headers) as client:
        yield client


async def listed(api: httpx.AsyncClient, path: str, query: str) -> list[Any]:
    answer = await api.get(f"{path}?{query}")
    assert answer.status_code == 200, answer.text
    return [one["jobId" if path == JOBS else "id"] for one in answer.json()]


@pytest.mark.parametrize(
    ("query", "jobs"),
    [
        ("", "dcbae"),
        ("limit=2", "dc"),
        ("offset=1&limit=2", "cb"),
        ("LIMIT=0", ""),
        ("status=completed", "ae"),
        ("Status=Pending,InProgress", "dc"),
        ("status=Pending&status=ERROR", "cb"),
        ("status=Pending,,Pending", "c"),
        ("operation=refresh", "c"),
        ("operation=Create, delete", "ba"),
        ("INSTANCEID=1", "ba"),
        ("instanceId=3", ""),
        ("createdFrom=2026-01-02T10:00:00Z", "dcb"),
        ("createdTo=2026-01-02T10:00:00Z", "ae"),
        ("createdFrom=2026-01-02T11:00:00%2B01:00&createdTo=2026-01-03T10:00:00", "b"),
        ("createdFrom=2026-01-03", "dc"),
        ("status=Error&operation=Delete&instanceId=1&createdFrom=2026-01-01", "b"),
        ("unknown=1", "dcbae"),
    ],
)
async def test_jobs_are_chosen_and_the_newest_first_when_filters_are_given(
    api: httpx.AsyncClient, query: str, jobs: str
) -> None:
    assert await listed(api, JOBS, query) == list(jobs)


@pytest.mark.parametrize(
    ("query", "name", "fault"),
    [
        (
            "status=Completed,Deleted",
            "Status",
            "'Status' must be one or several of Pending, InProgress, Completed, Error.",
        ),
        (
            "operation=x",
            "Operation",
            (
                "'Operation' must be one or several of Create, Delete, Rename, Undelete, Purge, Backup,"
                " Snapshot, Reset, UndoReset, Refresh."
            ),
        ),
        *(
            (query, "Status", "'Status' must be one or several of Pending, InProgress, Completed, Error.")
            for query in ("status=", "status=%20", "status=,", "status=&status=")
        ),
        ("instanceId=x", "InstanceId", "'Instance Id' must be a valid integer."),
        ("createdFrom=yesterday", "CreatedFrom", "'Created From' must be a valid datetime or date."),
        (
            "createdTo=0001-01-01T00:00:00%2B14:00",
            "CreatedTo",
            "'Created To' must be a time of the years 1 to 9999 UTC.",
        ),
        ("limit=-1", "Limit", "'Limit' must be greater than or equal to 0."),
    ],
)
async def test_jobs_are_not_listed_when_a_filter_cannot_be_understood(
    api: httpx.AsyncClient, query: str, name: str, fault: str
) -> None:
    told = faults_of(await api.get(f"{JOBS}?{query}"))[name][0]
    assert told.startswith(fault.removesuffix("."))


async def test_every_field_is_told_when_a_job_is_listed(api: httpx.AsyncClient) -> None:
    (job,) = (await api.get(f"{JOBS}?operation=Create")).json()
    assert job == {
        "jobId": "a",
        "status": "Completed",
        "operation": "Create",
        "instanceId": 1,
        "createdAt": "2026-01-01T10:00:00Z",
        "startedAt": None,
        "finishedAt": None,
        "errorMessage": None,
        "waiting": None,
        "percent": None,
        "etaSeconds": None,
    }


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("", [1, 2, 3, 4]),
        ("orderBy=id&direction=DESC", [4, 3, 2, 1]),
        ("ORDERBY=NAME", [4, 3, 1, 2]),
        ("orderBy=Name&direction=descending", [2, 1, 3, 4]),
        ("orderBy=Status", [1, 3, 2, 4]),
        ("orderBy=databaseTemplate&direction=desc", [2, 1, 3, 4]),
        ("orderBy=OdsInstanceId", [4, 3, 2, 1]),
        ("orderBy=LastModifiedDate", [2, 1, 4, 3]),
        ("orderBy=LastModifiedDate&direction=desc", [3, 4, 1, 2]),
        ("orderBy=lastRefreshed&limit=2", [1, 2]),
        ("orderBy=Name&offset=1&limit=2", [3, 1]),
        ("orderBy=Name&direction=sideways", [4, 3, 1, 2]),
        ("status=completed,error", [1, 2]),
        ("status=Deleted&STATUS=Pending", [3, 4]),
        ("databaseTemplate=Sample", [2]),
        ("databaseTemplate=sample", []),
        ("search=NORTH", [1, 2]),
        ("search=end", [3]),
        ("search=b", [3, 4]),
        ("search=%25", [1]),
        ("search=0%25", [1]),
        ("search=00%25", [1]),
        ("search=_", [2]),
        ("search=h_e", [2]),
        ("search=d+B", [3]),
        ("search=nor%25ast", []),
        ("search=%00", []),
        ("search=" + "x" * 2000, []),
        ("search=", [1, 2, 3, 4]),
        ("search=north&status=Error&orderBy=Name", [2]),
        ("id=2&search=north", [2]),
        ("name=B&search=b", [4]),
        ("name=b", []),
    ],
)
async def test_instances_are_chosen_and_ordered_when_filters_and_orders_are_given(
    api: httpx.AsyncClient, query: str, ids: list[int]
) -> None:
    assert await listed(api, INSTANCES, query) == ids


async def test_order_is_refused_under_its_name_when_instances_have_no_such_order(
    api: httpx.AsyncClient,
) -> None:
    faults = faults_of(await api.get(f"{INSTANCES}?orderBy=Owner"))
    words = "Id, Name, Status, DatabaseTemplate, OdsInstanceId, LastRefreshed, LastModifiedDate"
    assert faults == {"orderBy": [f"'Order By' must be one of {words}."]}
    assert "Status" in faults_of(await api.get(f"{INSTANCES}?status=Created"))


async def test_other_surface_keeps_to_the_contract_when_such_filters_are_given(
    api: httpx.AsyncClient,
) -> None:
    query = "orderBy=Name&direction=desc&status=Error&databaseTemplate=Sample&search=x"
    answer = await api.get(f"/v2/odsInstances/manage?{query}")
    assert [one["id"] for one in answer.json()] == [1, 2, 3, 4]
