"""The pair of servers that other tests fail over does what it says."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests.replication import ReplicatedPair, replicated_pair
from tests.servers import session

_READ_WRITE = "?target_session_attrs=read-write"


@pytest.fixture(scope="module")
async def pair() -> AsyncIterator[ReplicatedPair]:
    async with replicated_pair() as pair:
        async with session(pair.primary.dsn()) as primary:
            await primary.execute("CREATE TABLE kept (id int)")
        yield pair


async def _write(pair: ReplicatedPair, number: int) -> None:
    async with session(pair.dsn("postgres") + _READ_WRITE) as primary:
        await primary.execute("INSERT INTO kept VALUES ($1)", number)


async def _kept(pair: ReplicatedPair) -> list[int]:
    async with session(pair.primary.dsn()) as primary:
        return [row["id"] for row in await primary.fetch("SELECT id FROM kept ORDER BY id")]


async def test_nothing_is_lost_when_primary_and_standby_change_places_again_and_again(
    pair: ReplicatedPair,
) -> None:
    await _write(pair, 1)
    first = pair.primary
    await pair.switchover()
    await _write(pair, 2)
    assert pair.standby is first
    await pair.switchover()
    await _write(pair, 3)
    assert pair.primary is first
    await pair.crash_and_promote()
    await _write(pair, 4)
    await pair.rejoin()
    demoted = pair.primary
    async with session(demoted.dsn()) as old:
        await pair.demote_in_place()
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await old.execute("INSERT INTO kept VALUES (5)")
    await _write(pair, 6)
    await pair.rejoin()
    await _write(pair, 7)
    assert await _kept(pair) == [1, 2, 3, 4, 6, 7]


async def test_standby_follows_again_when_its_primary_has_written_much_while_it_was_away(
    pair: ReplicatedPair,
) -> None:
    assert pair.standby is not None
    await pair.standby.stop()
    await pair.primary.confirm_with_standby(wanted=False)
    async with session(pair.primary.dsn()) as primary:
        await primary.execute(
            "CREATE TABLE much AS SELECT repeat(md5(i::text), 20) FROM generate_series(1, 100000) AS i"
        )
        for _ in range(2):  # the second one removes what the first has made needless
            await primary.execute("CHECKPOINT")
    await pair.standby.start()
    await pair.primary.followed()
    await pair.primary.confirm_with_standby(wanted=True)
