"""Lists of many rows are read from indexes, whichever filter or order is chosen."""

import re
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from sqlalchemy import Select
from sqlalchemy.dialects import postgresql

from ods.embedded.postgres import EmbeddedPostgres
from ods.model.operations import InstanceStatus
from ods.registry.instances.instance_list import InstanceFilter, page_of_instances
from ods.registry.instances.job_list import JobFilter, page_of_jobs
from ods.registry.storage.listing import Page
from tests import registries
from tests.servers import session

pytestmark = pytest.mark.long

_ROWS = """
INSERT INTO adminapi.jobstatuses (jobid, status, createdat, operation, dbinstanceid)
    SELECT 'job-' || n, CASE WHEN n % 2000 = 0 THEN 'Error' ELSE 'Completed' END,
        timestamp '2026-01-01' + n * interval '1 minute',
        CASE WHEN n % 5000 = 0 THEN 'Rename' WHEN n % 2 = 0 THEN 'Create' ELSE 'Delete' END, n / 2
    FROM generate_series(1, 100000) n;
INSERT INTO adminapi.dbinstances (name, odsinstanceid, status, databasetemplate, databasename, operation)
    SELECT 'Instance ' || md5(n::text), n, CASE WHEN n % 2000 = 0 THEN 'Error' ELSE 'Completed' END,
        'Minimal', 'EdFi_Ods_' || n, 'Create'
    FROM generate_series(1, 20000) n;
UPDATE adminapi.dbinstances SET labels = jsonb_build_object('district', (id % 1000)::text, 'all', 'yes');
ANALYZE adminapi.jobstatuses, adminapi.dbinstances
"""
MOST_ROWS = 3000
"""Rows that a query may look at: far fewer than there are."""


@pytest.fixture(scope="module")
async def rows(prepared_postgres: EmbeddedPostgres) -> AsyncIterator[asyncpg.Connection]:
    registry = await registries.clone(prepared_postgres, "EdFi_Admin_long_lists")
    async with session(registry) as connection:
        await connection.execute(_ROWS)
        yield connection


async def rows_looked_at(rows: asyncpg.Connection, query: str) -> int:
    """Rows that PostgreSQL has read for a query, also those that it then left out."""
    plan = "\n".join(row[0] for row in await rows.fetch(f"EXPLAIN (ANALYZE, TIMING OFF) {query}"))
    print(plan)  # noqa: T201 - shown if the test fails
    scans = re.findall(
        r"(?:Seq Scan|Index Scan|Index Only Scan|Bitmap).*actual rows=([\d.]+) loops=(\d+)", plan
    )
    removed = re.findall(r"Rows Removed by [\w ]+: (\d+)", plan)
    return int(sum(float(count) * int(loops) for count, loops in scans)) + sum(map(int, removed))


def written(query: Select[Any]) -> str:
    """The query with its values in it."""
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call] # SQLAlchemy's
    return str(query.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))


@pytest.mark.parametrize(
    "chosen",
    [
        JobFilter(),
        JobFilter(statuses=["Error"]),
        JobFilter(statuses=["Pending", "InProgress"]),
        JobFilter(statuses=["Error", "Completed"]),
        JobFilter(operations=["Create"]),
        JobFilter(operations=["Rename"]),
        JobFilter(operations=["Refresh"]),
        JobFilter(instance_id=7),
        JobFilter(statuses=["Completed"], operations=["Delete"]),
    ],
)
async def test_few_jobs_are_looked_at_when_there_are_a_hundred_thousand(
    rows: asyncpg.Connection, chosen: JobFilter
) -> None:
    assert await rows_looked_at(rows, written(page_of_jobs(chosen, offset=0, limit=25))) < MOST_ROWS


async def test_few_jobs_are_looked_at_when_they_are_chosen_by_time(rows: asyncpg.Connection) -> None:
    first, last = [
        (await rows.fetchval("SELECT createdat FROM adminapi.jobstatuses WHERE jobid = $1", f"job-{number}"))
        for number in (20_000, 20_100)
    ]
    chosen = JobFilter(created_from=first, created_to=last)
    assert await rows_looked_at(rows, written(page_of_jobs(chosen, offset=0, limit=25))) < MOST_ROWS


@pytest.mark.parametrize(
    ("chosen", "order"),
    [
        (InstanceFilter(), "Id"),
        (InstanceFilter(), "Name"),
        (InstanceFilter(search="1234567"), "Id"),
        (InstanceFilter(search="1234567"), "Name"),
        (InstanceFilter(search="NOTHING LIKE IT"), "LastModifiedDate"),
        (InstanceFilter(search="ab"), "Id"),
        (InstanceFilter(template="Minimal", statuses=[InstanceStatus.COMPLETED]), "Id"),
        (InstanceFilter(name="Instance 1"), "Name"),
        (InstanceFilter(labels=[("district", "7")]), "Id"),
        (InstanceFilter(labels=[("all", "yes"), ("district", "7")]), "Name"),
        (InstanceFilter(labels=[("district", "none")]), "LastModifiedDate"),
        (InstanceFilter(labels=[("all", "yes")]), "Id"),
    ],
)
async def test_few_instances_are_looked_at_when_there_are_twenty_thousand(
    rows: asyncpg.Connection, chosen: InstanceFilter, order: str
) -> None:
    assert await rows_looked_at(rows, written(page_of_instances(chosen, Page(order)))) < MOST_ROWS
