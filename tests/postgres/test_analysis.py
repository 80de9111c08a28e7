"""Statistics that cannot be collected of one table are collected of all others."""

import asyncpg
import pytest

from ods.databases.errors import DatabaseFaultError
from ods.databases.statements import analyze

_TABLES = """
CREATE TABLE plain AS SELECT n FROM generate_series(1, 100) AS n;
CREATE MATERIALIZED VIEW summed AS SELECT sum(n) AS n FROM plain;
CREATE TABLE parted (n int) PARTITION BY RANGE (n);
CREATE TABLE part PARTITION OF parted FOR VALUES FROM (0) TO (200);
INSERT INTO parted SELECT n FROM plain
"""
_DIVISION = """
CREATE SCHEMA "a %s ""s"" schema";
CREATE TABLE "a %s ""s"" schema"."the %I; results" AS SELECT 7 AS points, 0 AS tries;
CREATE STATISTICS ratio ON (points / tries), tries FROM "a %s ""s"" schema"."the %I; results"
"""
_DISK_FULL = """
CREATE FUNCTION full_disk(int) RETURNS int IMMUTABLE LANGUAGE plpgsql
    AS $$BEGIN RAISE 'as if' USING ERRCODE = 'disk_full'; END$$;
CREATE TABLE larger AS SELECT 1 AS n;
CREATE STATISTICS of_larger ON (full_disk(n)), n FROM larger
"""
_WITHOUT = """
SELECT relname FROM pg_class
WHERE relkind IN ('r', 'm', 'p') AND relnamespace >= 16384 AND reltuples < 0 OR
    relname IN ('plain', 'summed', 'parted', 'part') AND (reltuples < 0 OR NOT EXISTS (
        SELECT FROM pg_stats WHERE tablename = relname AND inherited = (relkind = 'p')))
"""


async def test_all_tables_have_statistics_when_one_of_them_cannot(
    bare: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    await bare.execute(_TABLES)
    await analyze(bare)
    assert await bare.fetch(_WITHOUT) == []
    assert caplog.messages == []

    await bare.execute("DROP TABLE plain, parted CASCADE")
    await bare.execute(f"{_DIVISION}; {_TABLES}")
    await analyze(bare)
    assert [row["relname"] for row in await bare.fetch(_WITHOUT)] == ["the %I; results"]
    table = 'a %s "s" schema.the %I; results'
    assert caplog.messages == [f"Statistics of {table} are missing: ANALYZE failed (22012)."]


@pytest.mark.parametrize("before", ["", _DIVISION], ids=["at_once", "one_by_one"])
async def test_outage_is_told_when_it_ends_the_analysis(bare: asyncpg.Connection, before: str) -> None:
    await bare.execute(f"{before}; {_DISK_FULL}")
    with pytest.raises(DatabaseFaultError) as fault:
        await analyze(bare)
    assert (fault.value.outage, fault.value.sqlstate) == (True, "53100")
