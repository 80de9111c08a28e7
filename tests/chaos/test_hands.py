"""The hands of a campaign do what they say, and each of them gets its turn."""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator

import asyncpg
import pytest

from ods.databases.errors import LOST
from ods.embedded.postgres import EmbeddedPostgres
from tests.chaos import obstacles
from tests.chaos.conftest import DROPS, Garden
from tests.chaos.evidence import History, Target, read_rows
from tests.chaos.faults import ALONE, Blow, Fault, Victim, plan, seeded
from tests.chaos.restore import Snapshot
from tests.servers import NUMBERS, service_dsn, session

_ROUND = 21
_NEXT_ID = "SELECT nextval(pg_get_serial_sequence('dbo.odsinstances', 'odsinstanceid'))"
_HELD = """
SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = objid
WHERE classid = 'pg_database'::regclass AND datname = $1
"""
_INVALID = "SELECT datconnlimit = -2 FROM pg_database WHERE datname = $1"


@pytest.fixture
async def database(admin: asyncpg.Connection) -> AsyncIterator[str]:
    """A database that a test may do with what it likes."""
    name = f"hands_{next(NUMBERS)}"
    await admin.execute(f"CREATE DATABASE {name}")
    yield name
    await admin.execute("UPDATE pg_database SET datconnlimit = -1 WHERE datname = $1", name)
    await admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


async def test_registry_is_as_it_was_when_a_snapshot_is_put_back(garden: Garden, target: Target) -> None:
    await garden.plant_completed()
    history = History()
    snapshot = await Snapshot.take(target.admin_dsn)
    before, next_id = await read_rows(garden.registry), await garden.registry.fetchval(_NEXT_ID) - 1
    await garden.plant_completed(garden.number + 500)
    await garden.registry.execute(
        "UPDATE adminapi.dbinstances SET status = 'Deleted', operation = 'Delete', arguments = $1", DROPS
    )
    await garden.registry.execute(
        "UPDATE adminapi.jobstatuses SET status = 'Error' WHERE dbinstanceid = $1", garden.number
    )
    lost = await read_rows(garden.registry)

    await snapshot.put_back(target.admin_dsn, history)

    assert await read_rows(garden.registry) == before
    assert await garden.registry.fetchval("SELECT count(*) FROM dbo.odsinstances") == 1
    assert await garden.registry.fetchval(_NEXT_ID) - 1 == next_id
    marks = {row.mark for row in lost.instances}
    assert (history.changed, history.deleted, history.restores) == (marks, marks, 1)
    assert history.rewound == {f"CreateInstanceJob-{garden.number}-1"}
    assert history.has_undone(f"CreateInstanceJob-{garden.number}-1")
    other = garden.number + 500
    assert history.removed == {(other, f"Garden {other}")}
    assert history.forgotten == {(f"CreateInstanceJob-{other}-1", f"Garden {other}")}


async def test_drop_leaves_an_invalid_database_when_it_is_interrupted(
    postgres: EmbeddedPostgres, database: str, admin: asyncpg.Connection
) -> None:
    async with session(service_dsn(postgres, "postgres")) as service:
        await admin.execute(f"ALTER DATABASE {database} OWNER TO ods_service")
        drops = []

        async def request() -> None:
            drops.append(asyncio.ensure_future(service.execute(f'DROP DATABASE "{database}"')))

        assert await obstacles.interrupt_drop(postgres.dsn(), "ods_service", request)
        with pytest.raises(asyncpg.PostgresError, match="administrator command"):
            await drops[0]
    assert await admin.fetchval(_INVALID, database)


async def test_database_cannot_be_renamed_when_another_session_holds_its_locks(
    postgres: EmbeddedPostgres, database: str, admin: asyncpg.Connection
) -> None:
    await admin.execute("SET lock_timeout = '200ms'")
    rename = f"ALTER DATABASE {database} RENAME TO {database}_renamed"
    async with obstacles.locks(postgres.dsn(), [database]):
        with pytest.raises(asyncpg.LockNotAvailableError):
            await admin.execute(rename)
    async with asyncio.timeout(10):
        while await admin.fetchval(_HELD, database):
            await asyncio.sleep(0.01)
    await admin.execute(rename)
    await admin.execute(f"ALTER DATABASE {database}_renamed RENAME TO {database}")


async def test_service_is_refused_when_a_database_is_closed(
    postgres: EmbeddedPostgres, database: str, admin: asyncpg.Connection
) -> None:
    async with (
        session(service_dsn(postgres, database)) as before,
        obstacles.closed(postgres.dsn(), database, "ods_service"),
    ):
        with pytest.raises((asyncpg.PostgresError, *LOST)):
            await before.execute("SELECT 1")
        with pytest.raises(asyncpg.TooManyConnectionsError):
            await asyncpg.connect(service_dsn(postgres, database))
    async with session(service_dsn(postgres, database)) as after:
        assert await after.fetchval("SELECT 1") == 1


def _first(count: int, seed: int) -> list[Fault]:
    return list(itertools.islice(plan(seeded(seed), 5, ALONE, 90), count))


def test_every_fault_comes_when_the_plan_goes_once_round() -> None:
    blows = Counter(fault.blow for fault in _first(_ROUND, 1))
    assert (blows[Blow.RESTORE], blows[Blow.LOCK], blows[Blow.INTERRUPT], blows[Blow.LEAVE]) == (2, 1, 1, 1)
    assert blows[Blow.OUTAGE] + blows[Blow.FREEZE] == 1
    assert {(it.victim, it.pause) for it in _first(6 * _ROUND, 1) if it.blow is Blow.OUTAGE} == {
        (victim, 90) for victim in (Victim.POSTGRES, Victim.TEMPORAL, Victim.REGISTRY, Victim.SERVER)
    }


def test_plan_of_all_hands_repeats_when_the_seed_does() -> None:
    assert _first(60, 1) == _first(60, 1)
    assert _first(60, 1) != _first(60, 2)
