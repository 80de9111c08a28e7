"""What the console keeps in the registry: sessions, and how open pages learn what has changed."""

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from registry.console_sessions import ConsoleSessions
from registry.instances.changes import RecentChanges
from registry.instances.job_store import JobStore
from registry.instances.status import Template
from registry.instances.store import InstanceStore
from tests.postgres.instance_states import bring_to

DIGEST, OTHER = b"1" * 32, b"2" * 32
KEPT = {"path": "/instances/new", "fields": {"name": "Grand Bend"}}


@pytest.fixture
def sessions(engine: AsyncEngine) -> ConsoleSessions:
    return ConsoleSessions(engine)


@pytest.fixture
def changes(engine: AsyncEngine) -> RecentChanges:
    return RecentChanges(engine)


async def test_a_session_is_found_until_it_is_ended_when_it_was_opened(sessions: ConsoleSessions) -> None:
    await sessions.open(DIGEST, "a-client", None, KEPT)
    found = await sessions.find(DIGEST)
    assert found is not None
    assert (found.client, found.kept, found.use_is_noted) == ("a-client", KEPT, True)
    assert await sessions.find(OTHER) is None
    await sessions.forget_kept(DIGEST)
    found = await sessions.find(DIGEST)
    assert found is not None
    assert found.kept is None
    await sessions.end(DIGEST)
    assert await sessions.find(DIGEST) is None


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
    await sessions.open(DIGEST, "a-client", None, None)
    await rows.execute(
        "UPDATE adminapi.consolesessions SET lastusedat = lastusedat - CAST($1 AS text)::interval,"
        " createdat = createdat - CAST($2 AS text)::interval",
        *(idle, age),
    )
    assert (await sessions.find(DIGEST) is not None) is bool(left)
    await sessions.open(OTHER, "a-client", None, None)
    assert await rows.fetchval("SELECT count(*) FROM adminapi.consolesessions") == 1 + left


async def test_a_session_goes_on_when_it_is_used(sessions: ConsoleSessions, rows: asyncpg.Connection) -> None:
    await sessions.open(DIGEST, "a-client", None, None)
    await rows.execute("UPDATE adminapi.consolesessions SET lastusedat = lastusedat - interval '20 minutes'")
    found = await sessions.find(DIGEST)
    assert found is not None
    assert not found.use_is_noted
    await sessions.note_use(DIGEST)
    found = await sessions.find(DIGEST)
    assert found is not None
    assert found.use_is_noted


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
