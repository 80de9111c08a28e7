"""`GET /v2/dbInstances/{id}/usage`, and `include=usage` of the list: figures made true on purpose."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx
import pytest

from ods.databases import statements
from ods.databases.inspection import usage
from ods.embedded import seeding
from ods.embedded.polling import wait_until
from ods.embedded.postgres import EmbeddedPostgres
from ods.model.arguments import Way
from ods.registry.instances.deletes import Delete
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.jobs import InstanceJob
from ods.registry.instances.store import InstanceStore
from ods.settings.settings import Settings
from tests.api.service import NOBODY, bearer, client_of, faults_of, running
from tests.postgres.instance_states import bring_to, marked_by
from tests.servers import make_settings, session, without_statistics

INSTANCES = "/v2/dbInstances"
INCLUDING = {"include": "usage"}

TABLES = """
CREATE SCHEMA edfi;
CREATE TABLE edfi.student (id int PRIMARY KEY, name text) WITH (autovacuum_enabled = false);
CREATE TABLE edfi.staff (id int PRIMARY KEY) WITH (autovacuum_enabled = false);
CREATE TABLE edfi.parent (id int) WITH (autovacuum_enabled = false);
CREATE TABLE edfi.attendance (day date) PARTITION BY RANGE (day);
INSERT INTO edfi.student SELECT n, repeat('x', 100) FROM generate_series(1, 1000) n;
INSERT INTO edfi.staff SELECT n FROM generate_series(1, 70) n;
ANALYZE edfi.student
"""
"""`staff` has rows that were never counted; `parent` is empty, and was never counted either."""
TABLES_OF_THE_ODS_API = """
CREATE TABLE dbo.applications (applicationid serial PRIMARY KEY);
CREATE TABLE dbo.apiclients (apiclientid serial PRIMARY KEY, application_applicationid int);
GRANT SELECT ON dbo.applications, dbo.apiclients TO ods_service;
INSERT INTO dbo.applications VALUES (4), (7), (9);
INSERT INTO dbo.apiclients VALUES (41, 4), (42, 4), (71, 7), (91, 9), (92, NULL)
"""


@dataclass(frozen=True)
class Case:
    """A completed instance with a database that carries its mark."""

    job: InstanceJob
    dsn: str
    admin: asyncpg.Connection

    @property
    def id(self) -> int:
        return self.job.instance_id

    @property
    def database(self) -> str:
        return self.job.database

    @property
    def path(self) -> str:
        return f"{INSTANCES}/{self.id}/usage"


@pytest.fixture
def uncached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "_FRESH_SECONDS", 0.0)


@asynccontextmanager
async def marked_database(admin: asyncpg.Connection, job: InstanceJob) -> AsyncIterator[None]:
    """The database of the instance of `job`, with its mark."""
    owner = marked_by(job)
    await admin.execute(f'CREATE DATABASE "{job.database}" OWNER {seeding.SERVICE_ROLE}')
    await admin.execute(f"COMMENT ON DATABASE \"{job.database}\" IS '{owner.comment}'")
    try:
        yield
    finally:
        await admin.execute(f'DROP DATABASE IF EXISTS "{job.database}" WITH (FORCE)')


@pytest.fixture
async def case(
    instances: InstanceStore,
    job_store: JobStore,
    admin: asyncpg.Connection,
    postgres: EmbeddedPostgres,
    name: str,
) -> AsyncIterator[Case]:
    job = await bring_to(instances, job_store, "Completed", name)
    async with marked_database(admin, job):
        yield Case(job, postgres.dsn(job.database), admin)


@asynccontextmanager
async def using(case: Case, application: str) -> AsyncIterator[asyncpg.Connection]:
    """A session of an application on the instance's database."""
    async with session(f"{case.dsn}?application_name={application}") as opened:
        yield opened


@pytest.fixture
async def applications(registry_dsn: str, postgres: EmbeddedPostgres) -> AsyncIterator[asyncpg.Connection]:
    """A session on the registry, which has the tables of the ODS/API."""
    async with session(postgres.dsn(registry_dsn.rpartition("/")[2])) as superuser:
        await superuser.execute(TABLES_OF_THE_ODS_API)
        yield superuser
        await superuser.execute("DELETE FROM dbo.apiclientodsinstances")
        await superuser.execute("DROP TABLE dbo.apiclients, dbo.applications")


async def told(api: httpx.AsyncClient, case: Case) -> dict[str, Any]:
    """What the endpoint of the instance tells."""
    answer = await api.get(case.path)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def listed(api: httpx.AsyncClient, instance_id: int) -> dict[str, Any]:
    """The instance as the list shows it with its usage."""
    answer = await api.get(INSTANCES, params=INCLUDING | {"id": instance_id})
    assert answer.status_code == 200, answer.text
    (found,) = answer.json()
    return dict(found)


async def listed_figures(api: httpx.AsyncClient, case: Case) -> dict[str, Any]:
    found = await listed(api, case.id)
    assert found["usageObstacle"] is None
    return dict(found["usage"])


async def test_tables_are_told_as_postgresql_has_counted_them(api: httpx.AsyncClient, case: Case) -> None:
    async with session(case.dsn) as inside:
        await inside.execute(TABLES)
        bytes_of_student = await inside.fetchval("SELECT pg_total_relation_size('edfi.student')")
        size = await inside.fetchval("SELECT pg_database_size(current_database())")
    found = await told(api, case)

    assert (found["tables"], found["rowsEstimated"], found["sizeBytes"]) == (4, 1000, size)
    assert found["largestTables"][0] == {
        "name": "edfi.student",
        "bytes": bytes_of_student,
        "rowsEstimated": 1000,
    }
    rows = {table["name"]: table["rowsEstimated"] for table in found["largestTables"]}
    assert rows == {"edfi.student": 1000, "edfi.staff": None, "edfi.parent": 0, "edfi.attendance": None}


async def test_ten_largest_tables_are_told_when_there_are_more(api: httpx.AsyncClient, case: Case) -> None:
    async with session(case.dsn) as inside:
        for number in range(12):
            await inside.execute(f"CREATE TABLE filled_{number} (filling text)")
            rows = [("x" * 1000,)] * number * 20
            await inside.executemany(f"INSERT INTO filled_{number} VALUES ($1)", rows)  # noqa: S608 - a number
    found = await told(api, case)

    names = [table["name"] for table in found["largestTables"]]
    assert found["tables"] == 12
    assert names == [f"public.filled_{number}" for number in range(11, 1, -1)]


async def test_nothing_is_made_up_when_the_database_is_empty_and_unused(
    api: httpx.AsyncClient, case: Case
) -> None:
    found = await told(api, case)
    assert {name: found[name] for name in ("tables", "rowsEstimated", "largestTables", "sessions")} == {
        "tables": 0,
        "rowsEstimated": None,
        "largestTables": [],
        "sessions": [],
    }
    for name in ("lastActivityAt", "oldestTransactionSeconds", "applications", "statisticsResetAt"):
        assert found[name] is None


@pytest.mark.usefixtures("uncached")
async def test_sessions_are_counted_by_application_and_state(api: httpx.AsyncClient, case: Case) -> None:
    async with (
        using(case, "SIS"),
        using(case, "SIS"),
        using(case, "SIS") as open_one,
        using(case, "Busy") as busy,
    ):
        await open_one.execute("BEGIN")
        running = asyncio.create_task(busy.execute("SELECT pg_sleep(600) /* a secret */"))
        wanted = [
            {"applicationName": "Busy", "state": "active", "count": 1},
            {"applicationName": "SIS", "state": "idle", "count": 2},
            {"applicationName": "SIS", "state": "idle in transaction", "count": 1},
        ]

        async def is_told() -> bool:
            return bool((await told(api, case))["sessions"] == wanted)

        await wait_until(is_told, 10)
        both = await api.get(case.path), await api.get(INSTANCES, params=INCLUDING)
        assert "a secret" not in both[0].text + both[1].text
        await case.admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'Busy'"
        )
        with pytest.raises(asyncpg.PostgresError):
            await running


@pytest.mark.usefixtures("uncached")
async def test_last_activity_and_oldest_transaction_are_those_of_the_open_sessions(
    api: httpx.AsyncClient, case: Case
) -> None:
    async with using(case, "First") as first, using(case, "Second") as second:
        await first.execute("BEGIN")
        began = await first.fetchval("SELECT now()")
        await second.execute("BEGIN")
        last = await second.fetchval("SELECT clock_timestamp()")
        found = await listed_figures(api, case)
        now = await case.admin.fetchval("SELECT clock_timestamp()")

        at = datetime.fromisoformat(found["lastActivityAt"])
        assert last - timedelta(milliseconds=50) <= at <= now
        assert found["lastActivityAt"].endswith("Z")
        age = found["oldestTransactionSeconds"]
        assert (last - began).total_seconds() < age <= (now - began).total_seconds()
        await first.execute("COMMIT")
        await second.execute("COMMIT")
        assert (await listed_figures(api, case))["oldestTransactionSeconds"] is None

        running = asyncio.create_task(second.execute("SELECT pg_sleep(600)"))

        async def is_active() -> bool:
            sessions = (await listed_figures(api, case))["sessions"]
            return any(some["state"] == "active" for some in sessions)

        await wait_until(is_active, 10)
        before = datetime.now(UTC)
        assert datetime.fromisoformat((await listed_figures(api, case))["lastActivityAt"]) >= before
        running.cancel()


@pytest.mark.usefixtures("uncached")
async def test_own_sessions_are_no_activity(api: httpx.AsyncClient, case: Case) -> None:
    async with using(case, "ods%20instance%20management"):
        found = await told(api, case)
    assert (found["sessions"], found["lastActivityAt"]) == ([], None)


@pytest.mark.usefixtures("uncached")
async def test_transactions_and_hits_are_those_since_the_statistics_were_reset(
    api: httpx.AsyncClient, case: Case
) -> None:
    async with session(case.dsn) as inside:
        await inside.execute("SELECT pg_stat_reset()")
    reset = await case.admin.fetchval(
        "SELECT stats_reset FROM pg_stat_database WHERE datname = $1", case.database
    )
    async with session(case.dsn) as inside:
        await inside.execute("CREATE TABLE numbers AS SELECT generate_series(1, 10000)")
        for _ in range(40):
            await inside.execute("SELECT count(*) FROM numbers")
    query = (
        "SELECT xact_commit + xact_rollback AS transactions,"
        " blks_hit::float8 / (blks_hit + blks_read) AS ratio FROM pg_stat_database WHERE datname = $1"
    )

    async def is_told() -> bool:
        found = await listed_figures(api, case)
        row = await case.admin.fetchrow(query, case.database)
        told = (found["transactions"], found["cacheHitRatio"])
        return bool(found["transactions"] >= 41 and told == pytest.approx(tuple(row or ())))

    await wait_until(is_told, 10)
    found = await listed_figures(api, case)
    assert datetime.fromisoformat(found["statisticsResetAt"]) == reset
    assert 0.5 < found["cacheHitRatio"] <= 1


@pytest.mark.usefixtures("uncached")
async def test_applications_are_those_with_a_client_that_may_use_the_instance(
    api: httpx.AsyncClient, case: Case, applications: asyncpg.Connection
) -> None:
    assert (await told(api, case))["applications"] == {"count": 0, "ids": []}
    await applications.executemany(
        "INSERT INTO dbo.apiclientodsinstances (apiclient_apiclientid, odsinstance_odsinstanceid)"
        " VALUES ($1, $2)",
        [(client, case.job.ods_instance_id) for client in (71, 41, 42, 92)],
    )
    wanted = {"count": 2, "ids": [4, 7]}
    assert (await told(api, case))["applications"] == wanted
    assert (await listed_figures(api, case))["applications"] == wanted


async def test_list_tells_the_same_as_the_endpoint_but_for_the_tables(
    api: httpx.AsyncClient, case: Case
) -> None:
    one, some = await told(api, case), await listed_figures(api, case)
    assert set(one) - set(some) == {"tables", "rowsEstimated", "largestTables"}
    assert one | some == one


async def test_list_is_as_before_when_usage_is_not_included(api: httpx.AsyncClient, case: Case) -> None:
    (plain,) = (await api.get(INSTANCES)).json()
    assert plain == (await api.get(f"{INSTANCES}/{case.id}")).json()
    (empty,) = (await api.get(INSTANCES, params={"include": ""})).json()
    assert empty == plain
    (included,) = (await api.get(INSTANCES, params={"INCLUDE": "Usage"})).json()
    assert set(included) - set(plain) == {"usage", "usageObstacle"}
    assert included | plain == included


async def test_unknown_word_is_refused_when_it_is_to_be_included(idle_api: httpx.AsyncClient) -> None:
    answer = await idle_api.get(INSTANCES, params={"include": "usage,everything"})
    assert faults_of(answer) == {"Include": ["'Include' must be one or several of usage."]}


@pytest.mark.parametrize("state", ["Pending", "InProgress", "Error", "Pending_Rename", "Pending_Delete"])
async def test_database_is_not_found_when_the_instance_has_none(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore, name: str, state: str
) -> None:
    job = await bring_to(instances, job_store, state, name)
    answer = await api.get(f"{INSTANCES}/{job.instance_id}/usage")
    shown = await listed(api, job.instance_id)

    assert answer.status_code == 404
    assert answer.json()["title"].startswith("Not found: database with ID ")
    assert (shown["usage"], shown["usageObstacle"]) == (None, "The instance has no database.")


async def test_instance_is_not_found_when_it_is_deleted_or_unknown(
    api: httpx.AsyncClient,
    instances: InstanceStore,
    job_store: JobStore,
    admin: asyncpg.Connection,
    name: str,
) -> None:
    gone = await bring_to(instances, job_store, "Deleted", name)
    async with marked_database(admin, await bring_to(instances, job_store, "Completed", name)):
        for instance in (gone.instance_id, 10**9, "x"):
            answer = await api.get(f"{INSTANCES}/{instance}/usage")
            assert answer.status_code == 404
            assert answer.json()["title"].startswith(f"Not found: dbInstance with ID {instance}.")
        # Another instance has the name by now, and a database of the same name.
        in_trash = "Its database is in the trash, closed."
        assert (await listed(api, gone.instance_id))["usageObstacle"] == in_trash
        await instances.request_delete(gone.instance_id, Delete(Way.DROP))
        assert (await listed(api, gone.instance_id))["usageObstacle"] == in_trash
        assert (await api.get(f"{INSTANCES}/{gone.instance_id}/usage")).status_code == 404


async def test_figures_are_told_when_a_reset_has_just_given_row_and_database_another_mark(
    api: httpx.AsyncClient, case: Case, registry_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage, "_FRESH_SECONDS", 600.0)
    await listed_figures(api, case)
    other = uuid.uuid4()
    job = case.job
    owner = replace(marked_by(job), database_id=str(other))
    await case.admin.execute(f"COMMENT ON DATABASE \"{case.database}\" IS '{owner.comment}'")
    async with session(registry_dsn) as rows:
        await rows.execute("UPDATE adminapi.dbinstances SET databaseid = $1 WHERE id = $2", other, case.id)
    await listed_figures(api, case)


async def test_nobody_is_told_to_adopt_the_database_that_is_in_the_way_of_a_create(
    api: httpx.AsyncClient,
    instances: InstanceStore,
    job_store: JobStore,
    admin: asyncpg.Connection,
    name: str,
    uncached: None,
) -> None:
    job = await bring_to(instances, job_store, "Error", name)
    async with marked_database(admin, job):
        assert (await listed(api, job.instance_id))["usage"] is not None
        await admin.execute(f'COMMENT ON DATABASE "{job.database}" IS NULL')
        told = (await listed(api, job.instance_id))["usageObstacle"]
    assert told == "The instance has no database yet: the one of that name is not its own."


async def test_figures_are_those_of_a_database_that_was_made_since_they_were_last_asked(
    api: httpx.AsyncClient,
    instances: InstanceStore,
    job_store: JobStore,
    admin: asyncpg.Connection,
    name: str,
) -> None:
    job = await bring_to(instances, job_store, "Completed", name)
    assert (await listed(api, job.instance_id))["usage"] is None
    async with marked_database(admin, job):
        assert (await listed(api, job.instance_id))["usage"]["sizeBytes"] > 0


async def test_database_is_not_shown_when_it_is_not_the_instances(api: httpx.AsyncClient, case: Case) -> None:
    other = replace(marked_by(case.job), tenant="other", mark="5e9d5e86-21d8-4a3c-9a76-d2a6f2b4a1ef")
    for comment in (f"'{other.comment}'", "NULL"):
        await case.admin.execute(f'COMMENT ON DATABASE "{case.database}" IS {comment}')
        answer, shown = await api.get(case.path), await listed(api, case.id)
        assert answer.status_code == 409
        assert f"`ods instance adopt {case.id}`" in answer.json()["detail"]
        assert (shown["usage"], shown["usageObstacle"]) == (None, answer.json()["detail"])


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("ALTER DATABASE {} ALLOW_CONNECTIONS false", "accepts no connections"),
        ("UPDATE pg_database SET datconnlimit = -2 WHERE datname = '{}'", "was interrupted"),
    ],
)
async def test_tables_are_not_told_when_the_database_cannot_be_connected_to(
    api: httpx.AsyncClient, case: Case, statement: str, reason: str
) -> None:
    name = case.database if "'" in statement else f'"{case.database}"'
    await case.admin.execute(statement.format(name))
    answer = await api.get(case.path)

    assert answer.status_code == 409
    assert reason in answer.json()["detail"]
    assert (await listed_figures(api, case))["sizeBytes"] > 0


async def test_answer_says_so_when_tables_are_locked(
    api: httpx.AsyncClient, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage, "_TABLES_SECONDS", 1)
    async with session(case.dsn) as holder:
        await holder.execute("CREATE TABLE locked (id int)")
        await holder.execute("BEGIN; LOCK TABLE locked")
        answer = await api.get(case.path)

    assert answer.status_code == 503
    assert "another session holds locks on them" in answer.json()["title"]
    assert answer.headers["Retry-After"] == "5"


async def test_answer_names_the_grant_when_sessions_of_other_roles_are_hidden(
    api: httpx.AsyncClient, case: Case
) -> None:
    async with without_statistics(case.admin):
        answer, shown = await api.get(case.path), await listed(api, case.id)

    assert (answer.status_code, answer.json()["title"]) == (503, "The service lacks a right on its database")
    assert answer.json()["detail"].endswith("GRANT pg_read_all_stats TO ods_service;")
    assert (shown["usage"], shown["usageObstacle"]) == (None, answer.json()["detail"])


async def test_answer_names_the_grant_when_the_role_may_not_connect(
    api: httpx.AsyncClient, case: Case
) -> None:
    await case.admin.execute(f'REVOKE CONNECT ON DATABASE "{case.database}" FROM PUBLIC, ods_service')
    answer = await api.get(case.path)

    assert answer.status_code == 503
    grant = f'GRANT CONNECT ON DATABASE "{case.database}" TO the role of ODS_MASTER_DSN;'
    assert answer.json()["detail"].endswith(grant)
    assert (await listed_figures(api, case))["sizeBytes"] > 0


async def test_server_is_asked_once_when_fifty_clients_ask_at_once(
    api: httpx.AsyncClient, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    async def counted(session: asyncpg.Connection, query: str, *arguments: Any) -> list[asyncpg.Record]:
        asked.append(query)
        return await statements.fetch_rows(session, query, *arguments)

    monkeypatch.setattr(usage, "fetch_rows", counted)
    answers = await asyncio.gather(*(listed(api, case.id) for _ in range(50)))
    assert len(asked) == 1
    assert all(answer["usage"]["sizeBytes"] > 0 for answer in answers)


async def test_list_tells_the_reason_when_the_server_is_away(
    postgres: EmbeddedPostgres, registry_dsn: str, case: Case
) -> None:
    dsn = "postgresql://any:any@127.0.0.1:1/postgres"
    settings: Settings = make_settings(postgres, registry_dsn, rate_limiting=False, master_dsn=dsn)
    async with running(settings, NOBODY) as app, client_of(app, headers=bearer(settings)) as api:
        shown, answer = await listed(api, case.id), await api.get(case.path)

    reason = "The PostgreSQL server of the ODS databases cannot be reached."
    assert (shown["usage"], shown["usageObstacle"]) == (None, reason)
    assert (answer.status_code, answer.json()["title"]) == (503, reason)
