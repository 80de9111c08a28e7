"""The exchange of a template by a loaded one: what it refuses and carries over, what creates notice of it."""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from statistics import median

import asyncpg
import pytest

from ods.databases import provisioning
from ods.databases.activating import rename
from ods.databases.constants import TEMPLATE_PREFIX, private_prefix
from ods.databases.errors import DatabaseFaultError
from ods.databases.ownership import Owner
from ods.databases.provisioning import CloneRequest, TemplateSizes, provision
from ods.databases.server import Server
from ods.databases.templates import marks, spares
from ods.databases.templates.loading import LoadTarget, TemplateLoad, loading
from ods.databases.templates.marks import (
    Generation,
    TemplateMark,
    TemplateState,
    new_private_name,
)
from ods.databases.templates.spare_pool import Limits, SpareOrder, SparePool
from ods.databases.templates.spares import SpareMark
from ods.embedded import seeding
from ods.settings.settings import CloneStrategy
from tests.postgres.owners import requesting
from tests.postgres.postgres_inspection import exists
from tests.servers import INSTALLATION, MINIMAL_TEMPLATE, NUMBERS

_OID = "SELECT oid::int8 FROM pg_database WHERE datname = $1"
_COMMENT = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = $1"
_ACCESS = """
SELECT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(grantee) END AS role, privilege_type
FROM pg_database, aclexplode(datacl) WHERE datname = $1 AND grantee <> datdba
"""
_SETTINGS = """
SELECT unnest(setconfig) FROM pg_db_role_setting JOIN pg_database ON pg_database.oid = setdatabase
WHERE datname = $1 AND setrole = 0
"""
_DELAY_SECONDS = 0.05
"""How much longer a create may take because a template is published meanwhile."""


@pytest.fixture
def installation() -> str:
    """An installation of the test's own."""
    return str(uuid.uuid4())


@pytest.fixture
async def template(admin: asyncpg.Connection, installation: str) -> AsyncIterator[str]:
    """A template that no load has made; all that loads and spares leave is removed in the end."""
    name = f"Exchanged Template {next(NUMBERS)}"
    await admin.execute(
        f'CREATE DATABASE "{name}" TEMPLATE "{MINIMAL_TEMPLATE}" OWNER {seeding.SERVICE_ROLE}'
        " IS_TEMPLATE true ALLOW_CONNECTIONS false"
    )
    yield name
    prefixes = [
        private_prefix(TEMPLATE_PREFIX, installation),
        f"ods_spare_{installation.replace('-', '')[:16]}_",
    ]
    query = "SELECT datname FROM pg_database, unnest($1::text[]) AS prefix WHERE starts_with(datname, prefix)"
    for left in [name, *(row["datname"] for row in await admin.fetch(query, prefixes))]:
        await admin.execute(f'ALTER DATABASE "{left}" IS_TEMPLATE false')
        await admin.execute(f'DROP DATABASE "{left}" WITH (FORCE)')


@pytest.fixture
def target(installation: str, template: str) -> LoadTarget:
    return LoadTarget(installation, "Exchanged", template, frozenset())


@pytest.fixture
def wanted(wanted: CloneRequest, template: str, installation: str) -> CloneRequest:
    return replace(wanted, template=template, installation=installation)


async def load(server: Server, target: LoadTarget) -> TemplateLoad:
    """Publish an empty template."""
    async with loading(server, target) as begun:
        await begun.publish()
    return begun


async def provisioned(server: Server, wanted: CloneRequest) -> int | None:
    """Make the database; returns which generation of its template it is a copy of."""
    async with server.fenced(wanted.owner) as fenced:
        return (await provision(fenced, wanted, TemplateSizes())).template_generation


async def owner_of(admin: asyncpg.Connection, database: str) -> Owner:
    owner = Owner.read(await admin.fetchval(_COMMENT, database))
    assert owner is not None
    return owner


# What it refuses


_STRANGER = Owner(
    *("default", 7, "CreateInstanceJob-7-1", str(uuid.uuid4()), INSTALLATION, 1),
    database_id=INSTALLATION,
    revision=INSTALLATION,
)


@pytest.mark.parametrize(
    "statements",
    [
        f"COMMENT ON DATABASE \"{{}}\" IS '{_STRANGER.comment}'",
        'ALTER DATABASE "{0}" ALLOW_CONNECTIONS true; ALTER DATABASE "{0}" ALLOW_CONNECTIONS false',
        'GRANT CONNECT ON DATABASE "{}" TO pg_monitor',
    ],
    ids=["adopted", "opened", "granted"],
)
async def test_old_template_stays_when_another_session_has_changed_it_during_the_load(
    server: Server, target: LoadTarget, admin: asyncpg.Connection, statements: str
) -> None:
    before = await admin.fetchval(_OID, target.database)
    async with loading(server, target) as begun:
        for statement in statements.split("; "):
            await admin.execute(
                statement.replace("{0}", target.database).replace('"{}"', f'"{target.database}"')
            )
        comment = await admin.fetchval(_COMMENT, target.database)
        with pytest.raises(DatabaseFaultError, match="changed the template meanwhile"):
            await begun.publish()
    assert await admin.fetchval(_OID, target.database) == before
    assert await admin.fetchval(_COMMENT, target.database) == comment
    query = "SELECT count(*) FROM pg_database WHERE starts_with(datname, $1)"
    assert not await admin.fetchval(query, private_prefix(TEMPLATE_PREFIX, target.installation))


async def test_replaced_template_stays_when_the_operator_has_made_it_the_template_and_a_load_fails(
    server: Server, target: LoadTarget, admin: asyncpg.Connection
) -> None:
    private = new_private_name(target.installation)
    mark = TemplateMark(target.installation, "Exchanged", TemplateState.REPLACED, generation=1)
    await admin.execute(
        f'CREATE DATABASE "{private}" OWNER {seeding.SERVICE_ROLE} IS_TEMPLATE true ALLOW_CONNECTIONS false'
    )
    await admin.execute(f"COMMENT ON DATABASE \"{private}\" IS '{mark.comment}'")
    with pytest.raises(RuntimeError):
        async with loading(server, replace(target, database=private)):
            raise RuntimeError
    assert await exists(admin, private)


async def test_operator_is_told_to_look_when_the_connection_is_lost_while_a_template_is_published(
    server: Server, target: LoadTarget, admin: asyncpg.Connection
) -> None:
    async with loading(server, target) as begun:
        exchange = begun._exchange  # noqa: SLF001 - to end its session

        async def lost(mark: TemplateMark, loaded: int) -> None:
            await admin.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_locks WHERE locktype = 'advisory'"
                " AND objsubid = 1 AND (classid::bigint << 32 | objid::bigint) = hashtextextended($1, 0)",
                begun.database,
            )
            await exchange(mark, loaded)

        begun._exchange = lost  # type: ignore[method-assign]  # noqa: SLF001 - as above
        with pytest.raises(DatabaseFaultError, match="`ods template list` shows when"):
            await begun.publish()
    await admin.execute(f'DROP DATABASE "{begun.database}" WITH (FORCE)')


# What it carries over


async def test_grants_and_settings_of_the_old_template_are_those_of_the_new_one_when_it_is_published(
    server: Server, target: LoadTarget, admin: asyncpg.Connection
) -> None:
    name = target.database
    for statement in (
        f'REVOKE ALL ON DATABASE "{name}" FROM PUBLIC',
        f'GRANT CONNECT, TEMPORARY ON DATABASE "{name}" TO pg_monitor',
        f"ALTER DATABASE \"{name}\" SET search_path = 'edfi', 'it''s; --', public",
        f'ALTER DATABASE "{name}" SET default_transaction_read_only = on',
        f"ALTER DATABASE \"{name}\" SET work_mem = '9MB'",
    ):
        await admin.execute(statement)
    access = set(await admin.fetch(_ACCESS, name))
    settings = set(await admin.fetch(_SETTINGS, name))
    assert (len(access), len(settings)) == (2, 3)
    await admin.execute(f"ALTER DATABASE \"{name}\" SET log_min_messages = 'debug1'")

    before = await admin.fetchval(_OID, name)
    begun = await load(server, target)
    assert await admin.fetchval(_OID, name) != before
    assert set(await admin.fetch(_ACCESS, name)) == access
    assert set(await admin.fetch(_SETTINGS, name)) == settings
    assert begun.settings_left_out == ["log_min_messages"]


async def test_everyone_may_connect_to_the_new_template_when_the_old_one_has_no_grants(
    server: Server, target: LoadTarget, admin: asyncpg.Connection
) -> None:
    begun = await load(server, target)
    assert begun.settings_left_out == []
    query = "SELECT datacl IS NULL FROM pg_database WHERE datname = $1"
    assert await admin.fetchval(query, target.database)


# The generation


async def test_database_says_of_which_generation_it_is_when_it_is_a_clone(
    server: Server, target: LoadTarget, wanted: CloneRequest, admin: asyncpg.Connection
) -> None:
    assert await provisioned(server, wanted) is None
    await admin.execute(f'DROP DATABASE "{wanted.database}"')
    for generation in (1, 2):
        await load(server, target)
        assert await provisioned(server, wanted) == generation
        assert await provisioned(server, wanted) == generation  # finds what it has made
        assert (await owner_of(admin, wanted.database)).template_generation == generation
        await admin.execute(f'DROP DATABASE "{wanted.database}"')


async def test_database_says_of_which_generation_it_is_when_it_was_renamed(
    server: Server, target: LoadTarget, wanted: CloneRequest, admin: asyncpg.Connection
) -> None:
    await load(server, target)
    await provisioned(server, wanted)
    renamed = f"{wanted.database}_renamed"
    owner = replace(wanted.owner, number=2)
    async with server.fenced(owner) as fenced:
        await rename(server, fenced, owner, wanted.database, renamed)
    marked = await owner_of(admin, renamed)
    assert (marked.template_generation, marked.number) == (1, 2)
    await admin.execute(f'DROP DATABASE "{renamed}"')


async def test_database_is_of_the_generation_of_its_spare_when_it_is_claimed_during_an_exchange(
    server: Server,
    target: LoadTarget,
    wanted: CloneRequest,
    admin: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def identity() -> str:
        return target.installation

    await load(server, target)
    pool = SparePool(server, identity, [target.database], CloneStrategy.AUTO, Limits(1, 1, 10**12))
    spare = spares.new_name(target.installation)
    await pool.replenish(SpareOrder(spare, target.database))
    mark = SpareMark.read(await admin.fetchval(_COMMENT, spare))
    assert mark is not None
    assert mark.template_generation == 1
    publish = provisioning.publish_made  # to come between claim and publication

    async def overtaken(fenced: asyncpg.Connection, request: CloneRequest, *others: object) -> None:
        await load(server, target)
        await publish(fenced, request, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(provisioning, "publish_made", overtaken)
    assert await provisioned(server, wanted) == 1
    current = TemplateMark.read(await admin.fetchval(_COMMENT, target.database))
    assert current is not None
    assert current.generation == 2


@pytest.mark.parametrize(("exchange_comes", "generation"), [("before", 2), ("after", 1)])
async def test_clone_is_of_the_generation_that_it_was_copied_from_when_an_exchange_comes_between(
    server: Server,
    target: LoadTarget,
    wanted: CloneRequest,
    monkeypatch: pytest.MonkeyPatch,
    exchange_comes: str,
    generation: int,
) -> None:
    copy = provisioning._copy  # noqa: SLF001 - to come before or after it
    await load(server, target)

    async def overtaken(*arguments: object) -> None:
        if exchange_comes == "before":
            await load(server, target)
        await copy(*arguments)  # type: ignore[arg-type]
        if exchange_comes == "after":
            await load(server, target)

    monkeypatch.setattr(provisioning, "_copy", overtaken)
    assert await provisioned(server, wanted) == generation


async def test_generation_is_not_known_when_more_than_one_exchange_comes_between(
    server: Server, target: LoadTarget, wanted: CloneRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = provisioning._copy  # noqa: SLF001 - to come after it
    await load(server, target)

    async def overtaken(*arguments: object) -> None:
        await copy(*arguments)  # type: ignore[arg-type]
        for _ in range(2):
            await load(server, target)

    monkeypatch.setattr(provisioning, "_copy", overtaken)
    assert await provisioned(server, wanted) is None


async def test_generation_is_not_known_when_there_is_no_template(server: Server) -> None:
    async with server.session() as session:
        assert await marks.generation_of(session, "nowhere") is None
        before = Generation(1, 1)
        assert await marks.generation_copied(session, "nowhere", "none", before) is None


# What creates notice


@pytest.mark.timed
async def test_creates_are_delayed_by_less_than_a_twentieth_of_a_second_when_templates_are_published(
    server: Server, target: LoadTarget, admin: asyncpg.Connection
) -> None:
    """Creates alone and creates while templates are published take turns; each has a whole template."""
    await load(server, target)
    alone: list[float] = []
    beside: list[float] = []
    for _ in range(6):
        alone += await _timed_creates(server, target.database, admin, 10)
        publishing = asyncio.create_task(_publish_repeatedly(server, target, 3))
        while not publishing.done():
            beside += await _timed_creates(server, target.database, admin, 1)
        await publishing
    figures = f"alone: {_described(alone)}; beside: {_described(beside)}"
    logging.getLogger(__name__).info("Creates %s", figures)
    assert median(beside) - median(alone) < _DELAY_SECONDS, figures
    assert max(beside) - max(alone) < _DELAY_SECONDS, figures


async def _publish_repeatedly(server: Server, target: LoadTarget, times: int) -> None:
    for _ in range(times):
        await load(server, target)


async def _timed_creates(server: Server, template: str, admin: asyncpg.Connection, count: int) -> list[float]:
    seconds = []
    for _ in range(count):
        number = next(NUMBERS)
        its = ("default", number, f"CreateInstanceJob-{number}-1", str(uuid.uuid4()), INSTALLATION, 1)
        owner = requesting(Owner(*its, database_id=str(uuid.uuid4())))
        wanted = CloneRequest(owner, template, f"Timed_{number}", CloneStrategy.WAL_LOG)
        began = time.perf_counter()
        await provisioned(server, wanted)
        seconds.append(time.perf_counter() - began)
        await admin.execute(f'DROP DATABASE "{wanted.database}" WITH (FORCE)')
    return seconds


def _described(seconds: Sequence[float]) -> str:
    return f"{len(seconds)}, median {median(seconds) * 1000:.0f} ms, worst {max(seconds) * 1000:.0f} ms"
