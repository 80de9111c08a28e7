"""The checker finds what is wrong with snapshots, and nothing where all is well."""

import json
import uuid
from collections.abc import Awaitable, Callable

import pytest

from tests.chaos.checker import check, judge
from tests.chaos.conftest import Garden
from tests.chaos.evidence import Contents, History, Target, foreign_databases
from tests.chaos.violations import Kind, Storm

Plant = Callable[[Garden], Awaitable[object]]

_TIMEOUT = 0.2
_STRANGER = "00000000-0000-0000-0000-000000000001"


@pytest.fixture
async def storm(target: Target) -> Storm:
    return Storm(foreign=await foreign_databases(target))


def _name(garden: Garden) -> str:
    return f"{garden.database}_Snapshot_20261126T074500"


@pytest.fixture
async def mark(garden: Garden, storm: Storm) -> str:
    """The mark of an instance with a snapshot in perfect order, which has the row 1."""
    await garden.plant_completed()
    name, own = _name(garden), str(uuid.uuid4())
    instance: str = await garden.registry.fetchval("SELECT mark::text FROM adminapi.dbinstances")
    await garden.plant_database(name)
    comment = json.dumps({"kind": "snapshot", "instance": instance, "snapshot": own})
    await garden.server.execute(f"COMMENT ON DATABASE \"{name}\" IS '{comment}'")
    await garden.plant_rows(1, mark=instance, database=name)
    await garden.registry.execute(
        "INSERT INTO adminapi.snapshots"
        " (instanceid, jobnumber, databasename, databaseid, mark, status, createdat)"
        " SELECT $1, 2, $2, databaseid, $3, 'Completed', now() FROM adminapi.dbinstances WHERE id = $1",
        *(garden.number, name, own),
    )
    await _lead_readers(garden, name)
    storm.history.snapshots[name] = Contents(frozenset({1}), frozenset({instance}))
    return instance


async def _lead_readers(garden: Garden, database: str) -> None:
    await garden.registry.execute("DELETE FROM dbo.odsinstancederivatives")
    await garden.registry.execute(
        "INSERT INTO dbo.odsinstancederivatives (odsinstance_odsinstanceid, derivativetype, connectionstring)"
        " VALUES ($1, 'Snapshot', $2)",
        *(garden.number, garden.connection_string(database)),
    )


def _ddl(statement: str) -> Plant:
    return lambda garden: garden.server.execute(statement.format(f'"{_name(garden)}"'))


def _sql(statement: str) -> Plant:
    return lambda garden: garden.registry.execute(statement)


SPOILED: dict[str, tuple[Plant, set[Kind]]] = {
    "in order": (_sql("SELECT 1"), set()),
    "not made": (_sql("UPDATE adminapi.snapshots SET status = 'Creating'"), {Kind.UNFINISHED}),
    "about to go": (_sql("UPDATE adminapi.snapshots SET status = 'Removing'"), set()),
    "dropped": (_ddl("DROP DATABASE {}"), {Kind.NO_DATABASE}),
    "closed": (_ddl("ALTER DATABASE {} ALLOW_CONNECTIONS false"), {Kind.NO_DATABASE}),
    "without a mark": (
        _ddl("COMMENT ON DATABASE {} IS NULL"),
        {Kind.NO_DATABASE, Kind.UNMARKED_DATABASE},
    ),
    "without a row": (_sql("DELETE FROM adminapi.snapshots"), {Kind.SURPLUS_DATABASE}),
    "with readers led elsewhere": (
        lambda garden: _lead_readers(garden, garden.database),
        {Kind.WRONG_CONNECTION_STRING},
    ),
    "with readers led nowhere": (
        _sql("DELETE FROM dbo.odsinstancederivatives"),
        {Kind.WRONG_CONNECTION_STRING},
    ),
    "with rows of another instance": (
        lambda garden: garden.plant_rows(2, mark=_STRANGER, database=_name(garden)),
        {Kind.CROSSED},
    ),
}


@pytest.mark.parametrize("case", SPOILED)
@pytest.mark.usefixtures("mark")
async def test_snapshot_is_judged_when_something_is_wrong_with_it(
    garden: Garden, target: Target, storm: Storm, case: str
) -> None:
    plant, kinds = SPOILED[case]
    await plant(garden)
    assert {violation.kind for violation in await check(target, storm, _TIMEOUT)} == kinds


async def test_rows_are_lost_when_a_snapshot_has_not_those_that_were_there_before(
    garden: Garden, target: Target, storm: Storm, mark: str
) -> None:
    storm.history.snapshots[_name(garden)] = Contents(frozenset({1, 2}), frozenset({mark}))
    (found,) = await check(target, storm, _TIMEOUT)
    assert found.kind is Kind.LOST_ROWS


async def test_snapshot_is_left_over_when_a_restore_has_forgotten_it(
    garden: Garden, target: Target, storm: Storm, mark: str
) -> None:
    await garden.registry.execute("DELETE FROM adminapi.snapshots")
    restored = Storm(foreign=storm.foreign, history=History(changed={mark}))
    verdict = await judge(target, restored, _TIMEOUT)
    assert verdict.violations == []
    assert [leftover.kind for leftover in verdict.leftovers] == [Kind.SURPLUS_DATABASE]
    assert _name(garden) in verdict.touched
