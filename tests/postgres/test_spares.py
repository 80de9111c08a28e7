"""Spare databases on a real server: made, recognised, claimed once, and removed when they are of no use."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from types import ModuleType
from typing import Any
from unittest.mock import Mock

import asyncpg
import pytest

from ods.databases import provisioning
from ods.databases.errors import DatabaseFaultError, NotOursError
from ods.databases.ownership import KnownOwner, Owner
from ods.databases.provisioning import CloneRequest, ProvisionedDatabase, TemplateSizes, provision, verify
from ods.databases.server import Server
from ods.databases.templates import spare_pool, spares
from ods.databases.templates.spare_pool import Limits, SpareOrder, SparePool, TemplatePool
from ods.databases.templates.spares import Fingerprint, SpareMark
from ods.embedded import seeding
from ods.embedded.postgres import EmbeddedPostgres
from ods.settings.settings import CloneStrategy
from tests.postgres.postgres_inspection import exists, fingerprint, row_of, until
from tests.servers import MINIMAL_TEMPLATE, NUMBERS, in_use, session, without_statistics

PLENTY = Limits(of_template=2, in_all=10, size_bytes=10**12)
NONE = Limits(of_template=0, in_all=10, size_bytes=10**12)


@pytest.fixture
async def installation(admin: asyncpg.Connection) -> AsyncIterator[str]:
    """An installation of the test's own; its spares are removed in the end."""
    identity = str(uuid.uuid4())
    yield identity
    for name in await names(admin, identity):
        await admin.execute("UPDATE pg_database SET datconnlimit = -1 WHERE datname = $1", name)
        await admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
async def template(admin: asyncpg.Connection) -> AsyncIterator[str]:
    """A closed template of the test's own."""
    name = f"Spare_Template_{next(NUMBERS)}"
    await make_template(admin, name)
    yield name
    await admin.execute(f'ALTER DATABASE "{name}" IS_TEMPLATE false')
    await admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def wanted(owner: KnownOwner, database: str, template: str, installation: str) -> CloneRequest:
    """What the product is asked to make, of a spare if there is one."""
    return CloneRequest(owner, template, database, CloneStrategy.AUTO, installation)


@pytest.fixture
def other(wanted: CloneRequest, admin: asyncpg.Connection) -> CloneRequest:
    """A second instance."""
    owner = replace(wanted.owner, mark=str(uuid.uuid4()))
    return replace(wanted, owner=owner, database=f"{wanted.database}_2")


@pytest.fixture
def pool(server: Server, installation: str, template: str) -> SparePool:
    return pool_of(server, installation, template, PLENTY)


@pytest.fixture
async def spare(pool: SparePool, installation: str, template: str) -> str:
    """A ready spare."""
    order = SpareOrder(spares.new_name(installation), template)
    await pool.replenish(order)
    return order.name


def pool_of(server: Server, installation: str, template: str, limits: Limits) -> SparePool:
    async def identity() -> str:
        return installation

    return SparePool(server, identity, [template], CloneStrategy.AUTO, limits)


async def make_template(admin: asyncpg.Connection, name: str) -> None:
    await admin.execute(
        f'CREATE DATABASE "{name}" TEMPLATE "{MINIMAL_TEMPLATE}" OWNER {seeding.SERVICE_ROLE}'
        " IS_TEMPLATE true ALLOW_CONNECTIONS false"
    )


async def names(admin: asyncpg.Connection, installation: str) -> list[str]:
    prefix = f"ods_spare_{installation.replace('-', '')[:16]}_"
    rows = await admin.fetch("SELECT datname FROM pg_database WHERE starts_with(datname, $1)", prefix)
    return [row["datname"] for row in rows]


async def oid(admin: asyncpg.Connection, database: str) -> int:
    row = await row_of(admin, database)
    assert row is not None
    return int(row["oid"])


async def provisioned(server: Server, wanted: CloneRequest) -> ProvisionedDatabase:
    async with server.fenced(wanted.owner) as fenced:
        return await provision(fenced, wanted, TemplateSizes())


@asynccontextmanager
async def locked(admin: asyncpg.Connection, spare: str) -> AsyncIterator[None]:
    """Another session works on the spare."""
    await admin.execute("SELECT pg_advisory_lock(hashtextextended($1, 0))", spare)
    yield
    await admin.execute("SELECT pg_advisory_unlock(hashtextextended($1, 0))", spare)


# Making them


async def test_spare_is_a_closed_and_marked_copy_when_it_was_filled(
    spare: str, template: str, installation: str, admin: asyncpg.Connection
) -> None:
    row, original = await row_of(admin, spare), await row_of(admin, template)
    assert row is not None
    assert original is not None
    assert (row["owner"], row["datallowconn"], row["datistemplate"], row["datconnlimit"]) == (
        *("ods_service", False, False, -1),
    )
    mark = SpareMark.read(row["comment"])
    assert mark is not None
    assert (mark.installation, mark.template, mark.fingerprint.oid) == (
        installation,
        template,
        original["oid"],
    )
    assert mark.size_bytes == pytest.approx(
        await admin.fetchval("SELECT pg_database_size($1)", spare), rel=0.1
    )
    assert len(spare) == 59


async def test_spare_is_made_once_when_its_filling_is_repeated(
    pool: SparePool, spare: str, template: str, admin: asyncpg.Connection
) -> None:
    before = await row_of(admin, spare)
    await pool.replenish(SpareOrder(spare, template))
    assert await row_of(admin, spare) == before


@pytest.mark.parametrize(
    ("module", "step"), [(provisioning, "clone"), (provisioning, "verify"), (spare_pool, "execute")]
)
async def test_spare_is_unfinished_and_made_anew_when_its_filler_died(
    pool: SparePool,
    installation: str,
    template: str,
    admin: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    module: ModuleType,
    step: str,
) -> None:
    order = SpareOrder(spares.new_name(installation), template)
    work = getattr(module, step)

    async def dying(first: object, *others: str) -> object:
        if step == "clone":
            await work(first, *others)
        if step != "execute" or "COMMENT" in others[0]:
            raise DatabaseFaultError("as if the worker died here", outage=True)
        return await work(first, *others)

    with monkeypatch.context() as patch:
        patch.setattr(module, step, dying)
        with pytest.raises(DatabaseFaultError):
            await pool.replenish(order)
    left = await oid(admin, order.name)
    assert (await pool.report()).unfinished == 1
    await pool.replenish(order)
    assert await oid(admin, order.name) != left
    assert (await pool.report()).templates[0].ready == 1


async def test_ghost_is_waited_for_when_a_filler_was_killed_while_it_copied(
    pool: SparePool,
    server: Server,
    installation: str,
    template: str,
    admin: asyncpg.Connection,
    postgres: EmbeddedPostgres,
) -> None:
    order = SpareOrder(spares.new_name(installation), template)
    creating = "SELECT pid FROM pg_stat_activity WHERE query ILIKE 'CREATE DATABASE%' AND state = 'active'"
    killed = asyncio.Event()

    async def kill() -> None:
        async with server.locked(order.name) as filler:
            task = asyncio.create_task(
                provisioning.clone(
                    filler,
                    provisioning.Copy(template, order.name, CloneStrategy.AUTO),
                    provisioning.TemplateSizes(),
                )
            )
            await until(lambda: admin.fetchval(creating))
            filler.terminate()
            killed.set()
            with pytest.raises(DatabaseFaultError):
                await task

    async with in_use(admin, postgres, template):
        ghost = asyncio.create_task(kill())
        await killed.wait()
    await pool.replenish(order)
    await ghost
    assert await names(admin, installation) == [order.name]


async def test_spare_is_not_finished_when_the_template_changes_while_it_is_copied(
    pool: SparePool,
    installation: str,
    template: str,
    admin: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copy = provisioning.clone

    async def overtaken(fenced: asyncpg.Connection, wanted: provisioning.Copy, sizes: TemplateSizes) -> None:
        await copy(fenced, wanted, sizes)
        await admin.execute(f'ALTER DATABASE "{template}" ALLOW_CONNECTIONS true')
        await admin.execute(f'ALTER DATABASE "{template}" ALLOW_CONNECTIONS false')

    monkeypatch.setattr(provisioning, "clone", overtaken)
    with pytest.raises(DatabaseFaultError, match="changed meanwhile") as caught:
        await pool.replenish(SpareOrder(spares.new_name(installation), template))
    assert caught.value.retryable
    assert (await pool.report()).unfinished == 1


async def test_no_spare_is_made_when_the_template_is_open(
    pool: SparePool, installation: str, template: str, admin: asyncpg.Connection
) -> None:
    await admin.execute(f'ALTER DATABASE "{template}" ALLOW_CONNECTIONS true')
    with pytest.raises(DatabaseFaultError, match=template) as caught:
        await pool.replenish(SpareOrder(spares.new_name(installation), template))
    assert not caught.value.retryable
    assert await names(admin, installation) == []
    assert (await pool.prune()).missing == []


async def test_spare_is_not_finished_when_another_session_stays_connected_to_it(
    pool: SparePool,
    server: Server,
    installation: str,
    template: str,
    postgres: EmbeddedPostgres,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order = SpareOrder(spares.new_name(installation), template)
    strangers = []

    async def crowded(_: Server, database: str) -> None:
        strangers.append(await asyncpg.connect(postgres.dsn(database)))

    monkeypatch.setattr(provisioning, "verify", crowded)
    with pytest.raises(DatabaseFaultError, match="connected"):
        await pool.replenish(order)
    await strangers[0].close()


# Recognising a template that has changed


async def _opened_and_closed(admin: asyncpg.Connection, postgres: EmbeddedPostgres, template: str) -> None:
    await admin.execute(f'ALTER DATABASE "{template}" ALLOW_CONNECTIONS true')
    await admin.execute(f'ALTER DATABASE "{template}" ALLOW_CONNECTIONS false')


async def _altered(admin: asyncpg.Connection, postgres: EmbeddedPostgres, template: str) -> None:
    await admin.execute(f'ALTER DATABASE "{template}" ALLOW_CONNECTIONS true')
    async with session(postgres.dsn(template)) as connection:
        await connection.execute("CREATE TABLE later AS SELECT 1 AS id")
        # Closed while a session is still on it.
        await admin.execute(f'ALTER DATABASE "{template}" ALLOW_CONNECTIONS false')
        await connection.execute("INSERT INTO later VALUES (2)")


async def _replaced(admin: asyncpg.Connection, postgres: EmbeddedPostgres, template: str) -> None:
    await admin.execute(f'ALTER DATABASE "{template}" IS_TEMPLATE false')
    await admin.execute(f'DROP DATABASE "{template}"')
    await make_template(admin, template)


async def _swapped(admin: asyncpg.Connection, postgres: EmbeddedPostgres, template: str) -> None:
    await admin.execute(f'ALTER DATABASE "{template}" RENAME TO "{template}_old"')
    await make_template(admin, template)
    await admin.execute(f'ALTER DATABASE "{template}_old" IS_TEMPLATE false')
    await admin.execute(f'DROP DATABASE "{template}_old"')


async def _opened(admin: asyncpg.Connection, postgres: EmbeddedPostgres, template: str) -> None:
    await admin.execute(f'ALTER DATABASE "{template}" ALLOW_CONNECTIONS true')


Change = Callable[[asyncpg.Connection, EmbeddedPostgres, str], Awaitable[None]]
CHANGES: list[Change] = [_opened_and_closed, _altered, _replaced, _swapped, _opened]


@pytest.mark.parametrize("change", CHANGES)
async def test_stale_spare_is_not_handed_out_and_removed_when_its_template_changed(
    server: Server,
    pool: SparePool,
    spare: str,
    wanted: CloneRequest,
    installation: str,
    admin: asyncpg.Connection,
    postgres: EmbeddedPostgres,
    change: Change,
) -> None:
    await change(admin, postgres, wanted.template)
    assert not (await provisioned(server, wanted)).claimed
    await verify(server, wanted.database)
    assert await exists(admin, spare)
    (found,) = (await pool.report()).templates
    assert (found.ready, found.stale) == (0, 1)
    assert (await pool.prune()).removed == 1
    assert await names(admin, installation) == []


@pytest.mark.parametrize(
    "upkeep",
    [
        "VACUUM (FREEZE) pg_database",
        "VACUUM FULL pg_database",
    ],
)
async def test_spare_stays_ready_when_the_catalog_is_kept_up(
    server: Server, spare: str, wanted: CloneRequest, admin: asyncpg.Connection, upkeep: str
) -> None:
    await admin.execute(upkeep)
    assert (await provisioned(server, wanted)).claimed


async def test_fingerprint_stays_when_a_database_is_vacuumed_or_copied(
    server: Server, wanted: CloneRequest, admin: asyncpg.Connection, postgres: EmbeddedPostgres
) -> None:
    async def versions() -> tuple[str, str]:
        row = await admin.fetchrow(
            "SELECT xmin::text AS xmin, datfrozenxid::text AS frozen FROM pg_database WHERE datname = $1",
            wanted.template,
        )
        assert row is not None
        return row["xmin"], row["frozen"]

    await admin.execute(f'ALTER DATABASE "{wanted.template}" ALLOW_CONNECTIONS true')
    before, frozen_before = await versions()
    async with session(postgres.dsn(wanted.template)) as connection:
        await connection.execute("VACUUM (FREEZE)")
    after, frozen_after = await versions()
    # What autovacuum does to closed databases as well: it writes into the row where that is.
    assert frozen_before != frozen_after
    await provisioned(server, replace(wanted, installation=None))
    assert before == after == (await versions())[0]


# Claiming them


async def test_spare_becomes_the_instances_database_when_it_is_claimed(
    server: Server, spare: str, wanted: CloneRequest, installation: str, admin: asyncpg.Connection
) -> None:
    before = await oid(admin, spare)
    made = await provisioned(server, wanted)
    row = await row_of(admin, wanted.database)
    assert row is not None
    assert (made.claimed, row["oid"], row["datallowconn"]) == (True, before, True)
    assert made.size_bytes == pytest.approx(
        await admin.fetchval("SELECT pg_database_size($1)", wanted.database), rel=0.1
    )
    assert Owner.read(row["comment"]) == Owner.read(wanted.owner.comment)
    assert await names(admin, installation) == []
    await verify(server, wanted.database)
    assert not (await provisioned(server, wanted)).claimed  # it is there already
    assert await oid(admin, wanted.database) == before


async def test_template_is_cloned_when_there_is_no_spare_of_it(
    server: Server, wanted: CloneRequest, spare: str, admin: asyncpg.Connection
) -> None:
    made = await provisioned(server, replace(wanted, template=MINIMAL_TEMPLATE))
    assert not made.claimed
    assert await exists(admin, spare)


async def test_one_gets_the_spare_and_the_other_a_clone_when_two_claims_race(
    server: Server, wanted: CloneRequest, other: CloneRequest, spare: str, admin: asyncpg.Connection
) -> None:
    before = await oid(admin, spare)
    made = await asyncio.gather(provisioned(server, wanted), provisioned(server, other))
    assert sorted(one.claimed for one in made) == [False, True]
    oids = {one.claimed: await oid(admin, it.database) for one, it in zip(made, (wanted, other), strict=True)}
    await admin.execute(f'DROP DATABASE "{other.database}" WITH (FORCE)')
    assert oids[True] == before != oids[False]


async def test_template_is_cloned_when_another_session_works_on_the_spare(
    server: Server, wanted: CloneRequest, spare: str, admin: asyncpg.Connection
) -> None:
    async with locked(admin, spare):
        assert not (await provisioned(server, wanted)).claimed
    assert await exists(admin, spare)


_DROPPED = 'DROP DATABASE "{}"'
_GIVEN_AWAY = 'ALTER DATABASE "{}" OWNER TO postgres'


@pytest.mark.parametrize(
    ("statement", "checked"),
    [
        (_DROPPED, False),
        (_DROPPED, True),
        (_GIVEN_AWAY, True),
        ("UPDATE pg_database SET datconnlimit = -2 WHERE datname = '{}'", False),
        ("COMMENT ON DATABASE \"{}\" IS 'mine'", False),
    ],
)
async def test_template_is_cloned_when_the_spare_is_lost_during_the_claim(
    server: Server,
    wanted: CloneRequest,
    spare: str,
    admin: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    statement: str,
    *,
    checked: bool,
) -> None:
    list_spares, calls = spares.list_spares, []

    async def lost(*arguments: Any) -> spares.SpareList:
        pool = await list_spares(*arguments)
        calls.append(pool)
        if len(calls) == 1 + checked:
            await admin.execute(statement.format(spare))
        return pool

    monkeypatch.setattr(spares, "list_spares", lost)
    made = await provisioned(server, wanted)
    assert not made.claimed
    await verify(server, wanted.database)


async def test_spare_stays_when_a_claim_is_interrupted_in_its_last_step(
    server: Server,
    wanted: CloneRequest,
    spare: str,
    admin: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = await row_of(admin, spare)

    async def failing(*_: object) -> None:
        raise DatabaseFaultError("as if the server stopped here", outage=True)

    with monkeypatch.context() as patch:
        patch.setattr(provisioning, "publish", failing)
        with pytest.raises(DatabaseFaultError):
            await provisioned(server, wanted)
    assert await row_of(admin, spare) == before
    assert (await provisioned(server, wanted)).claimed


async def test_spare_stays_when_another_database_has_the_wanted_name(
    server: Server,
    wanted: CloneRequest,
    spare: str,
    admin: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publish = provisioning.publish_made  # to come between

    async def overtaken(*arguments: Any) -> None:
        await admin.execute(f'CREATE DATABASE "{wanted.database}"')
        await publish(*arguments)

    monkeypatch.setattr(provisioning, "publish_made", overtaken)
    before = await row_of(admin, spare)
    with pytest.raises(NotOursError):
        await provisioned(server, wanted)
    assert await row_of(admin, spare) == before


# Removing them


async def test_spare_is_removed_or_claimed_but_not_both_when_both_race(
    server: Server, wanted: CloneRequest, installation: str, template: str, admin: asyncpg.Connection
) -> None:
    pool = pool_of(server, installation, template, PLENTY)
    for _ in range(3):
        await pool.replenish(SpareOrder(spares.new_name(installation), template))
        pruning = pool_of(server, installation, template, NONE).prune()
        made, pruned = await asyncio.gather(provisioned(server, wanted), pruning)
        assert pruned.removed == (not made.claimed)
        await verify(server, wanted.database)
        assert await names(admin, installation) == []
        await admin.execute(f'DROP DATABASE "{wanted.database}" WITH (FORCE)')


async def test_what_is_unfinished_or_invalid_is_removed_unless_another_session_works_on_it(
    pool: SparePool, spare: str, installation: str, admin: asyncpg.Connection
) -> None:
    unfinished = spares.new_name(installation)
    await admin.execute(f"CREATE DATABASE {unfinished} OWNER {seeding.SERVICE_ROLE}")
    await admin.execute("UPDATE pg_database SET datconnlimit = -2 WHERE datname = $1", spare)
    async with locked(admin, unfinished):
        pruned = await pool.prune()
        assert (pruned.removed, len(pruned.missing)) == (1, 2)
        assert await names(admin, installation) == [unfinished]
    assert (await pool.prune()).removed == 1
    assert await names(admin, installation) == []


async def test_rest_is_pruned_when_one_spare_cannot_be_removed(
    pool: SparePool, installation: str, admin: asyncpg.Connection
) -> None:
    ours, occupied = spares.new_name(installation), spares.new_name(installation)
    await admin.execute(f"CREATE DATABASE {occupied}")  # a superuser's
    await admin.execute(f"CREATE DATABASE {ours} OWNER {seeding.SERVICE_ROLE}")
    assert (await pool.prune()).removed == 1
    assert await names(admin, installation) == [occupied]


async def test_databases_of_others_are_untouched_when_spares_are_pruned(
    server: Server, pool: SparePool, installation: str, template: str, admin: asyncpg.Connection
) -> None:
    stranger = str(uuid.uuid4())
    theirs = [
        spares.new_name(stranger),
        f"ods_spare_{installation.replace('-', '')[:16]}_short",
        f"my_{spares.new_name(installation)}"[:63],
    ]
    for name in theirs:
        await admin.execute(f"CREATE DATABASE {name} OWNER {seeding.SERVICE_ROLE}")
    comments = [
        "District 9",
        SpareMark(stranger, template, Fingerprint(1, 1), 1).comment,
        SpareMark(installation, template, Fingerprint(1, 1), 1).comment.replace("oid", "another member"),
        Owner(
            "default",
            1,
            "CreateInstanceJob-1-1",
            stranger,
            installation,
            database_id=stranger,
            revision=stranger,
        ).comment,
    ]
    for comment in comments:
        theirs.append(spares.new_name(installation))
        await admin.execute(f"CREATE DATABASE {theirs[-1]} OWNER {seeding.SERVICE_ROLE}")
        await admin.execute(f"COMMENT ON DATABASE {theirs[-1]} IS '{comment}'")
    before = [await fingerprint(admin, name) for name in theirs]
    try:
        assert (await pool.prune()).removed == 0
        assert (await pool.report()).unfinished == 0
        assert [await fingerprint(admin, name) for name in theirs] == before
    finally:
        for name in theirs:
            await admin.execute(f"DROP DATABASE {name}")


async def test_missing_spares_are_ordered_and_surplus_ones_removed_when_the_limits_say_so(
    server: Server, pool: SparePool, installation: str, template: str, admin: asyncpg.Connection
) -> None:
    orders = (await pool.prune()).missing
    assert [order.template for order in orders] == [template] * 2
    for order in orders:
        await pool.replenish(order)
    assert (await pool.prune()).missing == []
    size = await admin.fetchval("SELECT pg_database_size($1)", template)
    (found,) = (await pool.report()).templates
    assert found == TemplatePool(template, wanted=2, ready=2, stale=0, size_bytes=found.size_bytes)
    assert found.size_bytes == pytest.approx(2 * size, rel=0.1)
    fewer = pool_of(server, installation, template, replace(PLENTY, size_bytes=int(1.5 * size)))
    assert (await fewer.prune()).removed == 1
    assert len(await names(admin, installation)) == 1
    assert (await pool_of(server, installation, template, NONE).prune()).removed == 1
    assert await names(admin, installation) == []


async def test_template_gets_no_spares_when_it_is_missing_or_may_not_be_read(
    server: Server, installation: str, template: str, admin: asyncpg.Connection
) -> None:
    assert (await pool_of(server, installation, "Nowhere", PLENTY).prune()).missing == []
    await admin.execute(f'REVOKE CONNECT ON DATABASE "{template}" FROM PUBLIC')
    await admin.execute(f'ALTER DATABASE "{template}" OWNER TO postgres')
    async with without_statistics(admin):
        assert (await pool_of(server, installation, template, PLENTY).prune()).missing == []


async def test_templates_size_is_read_again_only_when_its_state_has_changed(
    server: Server,
    template: str,
    admin: asyncpg.Connection,
    postgres: EmbeddedPostgres,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes, read = TemplateSizes(), Mock(wraps=provisioning.size_of)
    monkeypatch.setattr(provisioning, "size_of", read)
    async with server.session() as asking:
        before = await sizes.of(asking, template)
        assert [await sizes.of(asking, template), read.call_count] == [before, 1]
        await _altered(admin, postgres, template)
        after = await sizes.of(asking, template)
        assert [await sizes.of(asking, template), read.call_count] == [after, 2]
        await admin.execute(f'ALTER DATABASE "{template}" ALLOW_CONNECTIONS true')
        assert [await sizes.of(asking, template), await sizes.of(asking, template)] == [after] * 2
        assert read.call_count == 4  # sessions on it may change it meanwhile
    assert before < after == await admin.fetchval("SELECT pg_database_size($1)", template)
