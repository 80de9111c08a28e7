"""The order of lists on a real server, against the order in which .NET and JavaScript sort text."""

import asyncpg
import hypothesis
from hypothesis import HealthCheck, example, given
from hypothesis import strategies as st
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from ods.registry.instances.queries import ODS_INSTANCES, InstanceQueries
from ods.registry.storage.listing import Page, by_utf16
from ods.registry.storage.models import OdsInstance
from tests.servers import session

BOUNDED = hypothesis.settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
# Around every border of the order, and the characters that are put before others.
BORDERS = "\x01 aAé\ud7ff\ue000\ue001\ue002\uf8ff\ufffd\uffff\U00010000\U0001f986\U000f0000\U0010ffff"
letters = st.sampled_from(BORDERS) | st.characters(exclude_characters="\0", exclude_categories=["Cs"])
names = st.lists(st.text(letters, max_size=6), unique=True, max_size=30)
NAMES = [
    "10",
    "9",
    "B",
    "Z 1",
    "_",
    "a",
    "a b",
    "b",
    "é",
    "\U0001f986",
    "\ue000",
    "\ue000\U00010000",
    "\uffff",
]


def by_code_unit(text: str) -> list[int]:
    units = text.encode("utf-16-be")
    return [int.from_bytes(units[start : start + 2]) for start in range(0, len(units), 2)]


async def fill_table(dsn: str, rows: list[tuple[str, str | None]]) -> None:
    async with session(dsn) as connection:
        await connection.execute("DELETE FROM dbo.odsinstances")
        await connection.executemany(
            "INSERT INTO dbo.odsinstances (name, instancetype) VALUES ($1, $2)", rows
        )


@BOUNDED
@given(names=names)
@example(names=NAMES)
@example(names=list(BORDERS))
@example(names=[first + second for first in BORDERS for second in BORDERS])
async def test_list_is_sorted_by_utf16_code_unit_when_names_are_any_text(
    queries: InstanceQueries, registry_dsn: str, names: list[str]
) -> None:
    await fill_table(registry_dsn, [(name, None) for name in names])
    expected = sorted(names, key=by_code_unit)

    ascending = await queries.ods_instances(Page("Name", limit=1000))
    descending = await queries.ods_instances(Page("Name", descending=True, limit=1000))
    part = await queries.ods_instances(Page("Name", offset=2, limit=3))

    assert [row.name for row in ascending] == expected
    assert [row.name for row in descending] == expected[::-1]
    assert [row.name for row in part] == expected[2:5]


def test_code_units_are_ordered_otherwise_than_code_points_when_characters_are_beyond_the_others() -> None:
    assert sorted(["\uffff", "\U00010000"], key=by_code_unit) == ["\U00010000", "\uffff"]


async def test_order_is_the_same_everywhere_when_a_database_sorts_in_the_way_of_some_country(
    engine: AsyncEngine, rows: asyncpg.Connection
) -> None:
    await rows.execute("INSERT INTO dbo.odsinstances (name) VALUES ('a name')")
    async with engine.connect() as connection:
        collation = await connection.scalar(select(func.pg_collation_for(by_utf16(OdsInstance.name))))

    assert collation == '"C"'


async def test_long_list_begins_at_once_when_its_names_are_sorted(
    engine: AsyncEngine, rows: asyncpg.Connection
) -> None:
    await rows.execute("INSERT INTO dbo.odsinstances (name) SELECT 'n' || n FROM generate_series(1, 5000) n")
    await rows.execute("ANALYZE dbo.odsinstances")
    query = ODS_INSTANCES.page_of(select(OdsInstance.ods_instance_id), Page("Name"))
    statement = query.compile(engine, compile_kwargs={"literal_binds": True})
    async with engine.connect() as connection:
        plan = (await connection.scalars(text(f"EXPLAIN {statement}"))).all()

    assert "ix_odsinstances_order" in "".join(plan)


async def test_nulls_come_last_when_ascending_and_first_when_descending(
    queries: InstanceQueries, registry_dsn: str
) -> None:
    await fill_table(registry_dsn, [("1", None), ("2", "b"), ("3", None), ("4", "\U0001f986"), ("5", "a")])
    ascending = await queries.ods_instances(Page("InstanceType"))
    descending = await queries.ods_instances(Page("InstanceType", descending=True))

    assert [row.name for row in ascending] == ["5", "2", "4", "1", "3"]
    assert [row.name for row in descending] == ["1", "3", "4", "2", "5"]


async def test_ids_are_sorted_as_numbers_when_they_are_the_order(
    queries: InstanceQueries, registry_dsn: str
) -> None:
    async with session(registry_dsn) as connection:
        await connection.execute("INSERT INTO dbo.odsinstances VALUES (10, 'a'), (9, 'b'), (100, 'c')")

    assert [row.ods_instance_id for row in await queries.ods_instances(Page("Id"))] == [9, 10, 100]


def test_first_word_is_the_usual_order_when_a_list_is_described() -> None:
    assert ODS_INSTANCES.words == ["Name", "InstanceType", "Id"]
