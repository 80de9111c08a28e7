"""What the console keeps in the registry: sessions, and how open pages learn what has changed."""

import asyncio
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from ods.model.operations import Template
from ods.registry.clients.credentials import ClientScope
from ods.registry.console_sessions import ConsoleSessions, Identity
from ods.registry.instances.job_list import RecentChanges
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.store import InstanceStore
from ods.registry.sign_in_attempts import BegunSignIn, SignInAttempts
from tests.postgres.instance_states import bring_to

DIGEST, OTHER = b"1" * 32, b"2" * 32
CLIENT = Identity("a-client", None)
PERSON = Identity("oidc:a-person", UUID(int=1), ClientScope.READ_ONLY)
KEPT = {"path": "/instances/new", "fields": {"name": "Grand Bend"}}
BEGUN = BegunSignIn("/instances/new", KEPT)


@pytest.fixture
def sessions(engine: AsyncEngine) -> ConsoleSessions:
    return ConsoleSessions(engine, most=3)


@pytest.fixture
def changes(engine: AsyncEngine) -> RecentChanges:
    return RecentChanges(engine)


async def test_a_session_is_found_until_it_is_ended_when_it_was_opened(sessions: ConsoleSessions) -> None:
    await sessions.open(DIGEST, CLIENT, KEPT)
    found = await sessions.find(DIGEST)
    assert found is not None
    assert (found.identity, found.kept, found.use_is_noted) == (CLIENT, KEPT, True)
    assert await sessions.find(OTHER) is None
    await sessions.forget_kept(DIGEST)
    found = await sessions.find(DIGEST)
    assert found is not None
    assert found.kept is None
    await sessions.end(DIGEST)
    assert await sessions.find(DIGEST) is None


async def test_a_session_is_found_when_it_is_one_of_more_than_a_query_has_parameters(
    sessions: ConsoleSessions,
) -> None:
    await sessions.open(DIGEST, CLIENT, None)
    unknown = [number.to_bytes(32) for number in range(40_000)]
    assert set(await sessions.find_all([*unknown, DIGEST])) == {DIGEST}


async def test_a_check_is_not_due_again_at_once_when_it_was_begun(
    sessions: ConsoleSessions, rows: asyncpg.Connection
) -> None:
    await sessions.open(DIGEST, PERSON, None, renewal=b"a token")
    await rows.execute("UPDATE adminapi.consolesessions SET checkedat = checkedat - interval '11 minutes'")
    found = await sessions.find(DIGEST)
    assert found is not None
    assert found.check.is_due
    assert await sessions.begin_check(DIGEST) == b"a token"
    found = await sessions.find(DIGEST)
    assert found is not None
    assert not found.check.is_due  # else each look of each open page would ask the registry to begin one


async def test_the_oldest_session_ends_when_an_account_has_too_many(
    sessions: ConsoleSessions, rows: asyncpg.Connection
) -> None:
    await sessions.open(OTHER, PERSON, None)
    digests = [bytes([number]) * 32 for number in range(5)]
    for digest in digests:
        await sessions.open(digest, CLIENT, None)
    left = {one.digest for one in await sessions.all(None)}
    assert left == {OTHER, *digests[2:]}
    await asyncio.gather(*(sessions.open(bytes([9, number]) * 16, CLIENT, None) for number in range(4)))
    assert len(await sessions.all(CLIENT.name)) == 3


@pytest.mark.parametrize(
    ("idle", "age", "left"),
    [
        ("29 minutes", "0 minutes", 1),
        ("31 minutes", "0 minutes", 0),
        ("0 minutes", "719 minutes", 1),
        ("0 minutes", "721 minutes", 0),
    ],
)
async def test_a_session_ends_when_it_is_idle_or_old(
    sessions: ConsoleSessions, rows: asyncpg.Connection, idle: str, age: str, left: int
) -> None:
    await sessions.open(DIGEST, CLIENT, None)
    await rows.execute(
        "UPDATE adminapi.consolesessions SET lastusedat = lastusedat - CAST($1 AS text)::interval,"
        " createdat = createdat - CAST($2 AS text)::interval",
        *(idle, age),
    )
    assert (await sessions.find(DIGEST) is not None) is bool(left)
    await sessions.open(OTHER, CLIENT, None)
    assert await rows.fetchval("SELECT count(*) FROM adminapi.consolesessions") == 1 + left


async def test_a_session_goes_on_when_it_is_used(sessions: ConsoleSessions, rows: asyncpg.Connection) -> None:
    await sessions.open(DIGEST, CLIENT, None)
    await rows.execute("UPDATE adminapi.consolesessions SET lastusedat = lastusedat - interval '20 minutes'")
    found = await sessions.find(DIGEST)
    assert found is not None
    assert not found.use_is_noted
    await sessions.note_use(DIGEST)
    found = await sessions.find(DIGEST)
    assert found is not None
    assert found.use_is_noted


async def test_the_scope_is_the_sessions_own_when_an_issuer_has_identified_the_person(
    sessions: ConsoleSessions,
) -> None:
    await sessions.open(DIGEST, PERSON, None)
    found = await sessions.find(DIGEST)
    assert found is not None
    assert found.identity == PERSON


@pytest.mark.parametrize(("minutes", "found"), [(9, BEGUN), (11, None)])
async def test_an_attempt_to_sign_in_counts_once_and_for_ten_minutes(
    engine: AsyncEngine, rows: asyncpg.Connection, minutes: int, found: BegunSignIn | None
) -> None:
    attempts = SignInAttempts(engine)
    await attempts.begin(DIGEST, BEGUN)
    await rows.execute(
        "UPDATE adminapi.signinattempts SET createdat = createdat - make_interval(mins => $1)", minutes
    )
    assert await attempts.take(OTHER) is None
    assert await attempts.take(DIGEST) == found
    assert await attempts.take(DIGEST) is None
    await attempts.begin(OTHER, BegunSignIn("", None))
    assert await rows.fetchval("SELECT count(*) FROM adminapi.signinattempts") == 1


async def test_pages_learn_what_has_changed_when_jobs_get_on(
    changes: RecentChanges, instances: InstanceStore, job_store: JobStore, rows: asyncpg.Connection
) -> None:
    old = await bring_to(instances, job_store, "Completed", "Old")
    await rows.execute(
        "UPDATE adminapi.managed_instances SET lastmodifieddate = lastmodifieddate - interval '1 minute'"
    )
    requested = await instances.reserve("Grand Bend", Template.MINIMAL)
    first = await changes.read()
    assert set(first.instances) == {requested.instance.id}
    assert set(first.jobs) == {requested.job.job_id}
    assert first.jobs[requested.job.job_id].status == "Pending"
    await job_store.begin(requested.job)
    second = await changes.read()
    assert second.jobs[requested.job.job_id].status == "InProgress"
    assert second.instances != first.instances
    assert old.instance_id not in second.instances


async def test_pages_learn_it_from_indexes_when_there_are_many_instances(
    rows: asyncpg.Connection, instances: InstanceStore
) -> None:
    await instances.reserve("Grand Bend", Template.MINIMAL)
    # Few rows are read faster without an index, so that is forbidden.
    await rows.execute("SET enable_seqscan = off")
    plan = await rows.fetch(
        "EXPLAIN SELECT id, lastmodifieddate FROM adminapi.managed_instances"
        " WHERE lastmodifieddate > timezone('utc', now()) - interval '10 seconds'"
    )
    await rows.execute("RESET enable_seqscan")
    assert "ix_dbinstances_modified" in "\n".join(row[0] for row in plan)
