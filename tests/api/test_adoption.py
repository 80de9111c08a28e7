"""Databases that the service did not make, handed over to instances."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import cast

import asyncpg
import httpx
import pytest

from ods.databases import adoption
from ods.databases.errors import HOW_TO_RECOVER
from ods.databases.ownership import Owner
from ods.databases.server import Server
from ods.embedded import seeding
from ods.embedded.postgres import EmbeddedPostgres
from ods.recovery.compare.detector import DriftDetector
from ods.recovery.recovery import Recovery
from ods.registry.connection_strings.encryption import encrypt
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.queries import InstanceQueries
from ods.registry.instances.store import InstanceStore
from ods.registry.storage.models import DbInstance
from ods.settings.settings import Settings
from ods.tenants.job_owners import owner_of
from ods.tenants.tenant import Tenant
from tests.api.service import NOBODY, bearer, client_of, faults_of, running
from tests.postgres.instance_states import STATES, bring_to, marked_by, status_in
from tests.postgres.postgres_inspection import row_of
from tests.servers import INSTALLATION, MINIMAL_TEMPLATE, make_settings, session

INSTANCES = "/v2/dbInstances"


class Case:
    """A completed instance, and a database of its name that carries no mark."""

    def __init__(self, admin: asyncpg.Connection, instance_id: int, owner: Owner, database: str) -> None:
        self.admin = admin
        self.id = instance_id
        self.owner = owner
        self.database = database
        self.inspecting = f"{INSTANCES}/{instance_id}/database"
        self.adopting = f"{INSTANCES}/{instance_id}/adopt"

    async def comment(self) -> str | None:
        row = await row_of(self.admin, self.database)
        assert row is not None
        return cast("str | None", row["comment"])


@pytest.fixture
async def case(
    instances: InstanceStore, job_store: JobStore, admin: asyncpg.Connection, name: str
) -> AsyncIterator[Case]:
    job = await bring_to(instances, job_store, "Completed", name)
    owner = marked_by(job)
    await admin.execute(f'CREATE DATABASE "{job.database}" OWNER {seeding.SERVICE_ROLE}')
    yield Case(admin, job.instance_id, owner, job.database)
    await admin.execute(f'DROP DATABASE IF EXISTS "{job.database}" WITH (FORCE)')


async def test_everything_is_shown_when_a_database_could_be_adopted(
    api: httpx.AsyncClient, case: Case, postgres: EmbeddedPostgres, name: str
) -> None:
    async with session(postgres.dsn(case.database)):
        answer = await api.get(case.inspecting)

    assert answer.status_code == 200
    shown = answer.json()
    assert shown.pop("sizeBytes") > 1_000_000
    assert shown == {
        "id": case.id,
        "name": name,
        "status": "Completed",
        "odsInstanceId": case.owner.ods_instance_id,
        "databaseName": case.database,
        "owner": seeding.SERVICE_ROLE,
        "sessions": 1,
        "comment": None,
        "adopted": False,
        "obstacle": None,
    }
    assert await case.comment() is None


async def test_database_carries_the_mark_and_is_no_drift_when_it_was_adopted(
    api: httpx.AsyncClient, case: Case, tenant: Tenant
) -> None:
    assert case.database in str(await DriftDetector(tenant).detect())
    for _ in range(2):  # it is safe to repeat
        answer = await api.post(case.adopting)
        assert (answer.status_code, answer.json()["adopted"]) == (200, True)
        assert case.owner.owns(await case.comment())
    assert case.database not in str(await DriftDetector(tenant).detect())
    assert (await api.get(case.inspecting)).json()["obstacle"] is None


async def test_adoption_is_refused_when_the_server_is_not_the_one_that_the_installation_knows(
    settings: Settings, api: httpx.AsyncClient, case: Case
) -> None:
    async with session(settings.admin_dsn.get_secret_value()) as instances:
        known = await instances.fetchval("SELECT serversystem FROM adminapi.installation")
        await instances.execute("UPDATE adminapi.installation SET serversystem = 'another'")
        answer = await api.post(case.adopting)
        await instances.execute("UPDATE adminapi.installation SET serversystem = $1", known)
    assert answer.status_code == 503
    assert "`ods recover --apply --confirm`" in answer.json()["detail"]
    assert await case.comment() is None


async def test_adoption_is_audited_when_it_is_asked_for(api: httpx.AsyncClient, case: Case) -> None:
    await api.post(case.adopting)
    entry = (await api.get("/v2/audit", params={"limit": 1})).json()[0]
    assert (entry["client"], entry["path"]) == ("a-client", case.adopting)
    assert (entry["instanceId"], entry["status"]) == (case.id, 200)


ADOPTABLE = {"Completed", "Completed_Rename", "Error_Rename", "Delete_Failed"}


@pytest.mark.parametrize("state", [state for state in STATES if state not in {"Completed", "Deleted"}])
async def test_adoption_depends_on_the_state_when_the_instance_is_not_completed(
    api: httpx.AsyncClient,
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    admin: asyncpg.Connection,
    name: str,
    state: str,
) -> None:
    job = await bring_to(instances, job_store, state, name)
    database = (await queries.instance(job.instance_id)).database_name
    case = Case(admin, job.instance_id, owner_of(job), database)
    await admin.execute(f'CREATE DATABASE "{database}" OWNER {seeding.SERVICE_ROLE}')
    try:
        answer = await api.post(case.adopting)
        assert case.owner.owns(await case.comment()) is (state in ADOPTABLE)
    finally:
        await admin.execute(f'DROP DATABASE "{database}"')
    if state not in ADOPTABLE:
        assert answer.status_code == 409
        assert answer.json()["state"] == status_in(state)
        assert answer.json()["nextStep"]


@pytest.mark.parametrize("method", ["GET database", "POST adopt"])
async def test_instance_is_not_found_when_it_is_deleted_or_unknown(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore, name: str, method: str
) -> None:
    job = await bring_to(instances, job_store, "Deleted", name)
    verb, _, path = method.partition(" ")
    for instance in (job.instance_id, 10**9, "x"):
        for named in ({}, {"databaseName": job.trash_database}):
            params, body = (named, None) if verb == "GET" else (None, named)
            answer = await api.request(verb, f"{INSTANCES}/{instance}/{path}", params=params, json=body)
            assert answer.status_code == 404
            assert answer.json()["title"].startswith(f"Not found: dbInstance with ID {instance}.")


async def test_database_is_not_found_when_there_is_none_of_the_name(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore, name: str
) -> None:
    job = await bring_to(instances, job_store, "Completed", name)
    for answer in (
        await api.get(f"{INSTANCES}/{job.instance_id}/database"),
        await api.post(f"{INSTANCES}/{job.instance_id}/adopt"),
    ):
        assert answer.status_code == 404
        assert answer.json()["title"].startswith(f"Not found: database with ID {job.database}.")


_OTHERS_MARK = "5e9d5e86-21d8-4a3c-9a76-d2a6f2b4a1ef"
OTHERS_COMMENT = Owner(
    *("other", 7, "CreateInstanceJob-7-1", _OTHERS_MARK, INSTALLATION), database_id=_OTHERS_MARK
).comment
OBSTACLES = {
    "has a comment, which may mean something to somebody": "COMMENT ON DATABASE {database} IS 'District 9'",
    "is a template": "ALTER DATABASE {database} IS_TEMPLATE true",
    "A DROP of the database": "UPDATE pg_database SET datconnlimit = -2 WHERE datname = {literal}",
    "does not own the database": "ALTER DATABASE {database} OWNER TO postgres",
}


@pytest.mark.parametrize("obstacle", OBSTACLES)
async def test_database_is_left_alone_and_the_reason_told_when_there_is_an_obstacle(
    api: httpx.AsyncClient, case: Case, obstacle: str
) -> None:
    statement = OBSTACLES[obstacle].replace("{database}", f'"{case.database}"')
    await case.admin.execute(statement.replace("{literal}", f"'{case.database}'"))
    before = await case.comment()
    try:
        shown, refused = await api.get(case.inspecting), await api.post(case.adopting)
    finally:
        await case.admin.execute(
            "UPDATE pg_database SET datistemplate = false WHERE datname = $1", case.database
        )

    assert (shown.status_code, refused.status_code) == (200, 409)
    assert obstacle in shown.json()["obstacle"]
    assert refused.json()["detail"] == shown.json()["obstacle"]
    assert await case.comment() == before
    assert shown.json()["adopted"] is False


@pytest.mark.parametrize("database", ["postgres", MINIMAL_TEMPLATE, "the registry"])
async def test_database_is_left_alone_when_the_service_itself_needs_it(
    api: httpx.AsyncClient, case: Case, registry_dsn: str, database: str
) -> None:
    named = registry_dsn.rpartition("/")[2] if database == "the registry" else database
    async with session(registry_dsn) as rows:
        await rows.execute("UPDATE adminapi.dbinstances SET databasename = $1", named)
    refused = await api.post(case.adopting)

    assert refused.status_code == 409
    assert "that this service itself needs" in refused.json()["detail"]


async def test_one_of_two_registries_gets_the_database_when_both_adopt_it_at_once(
    case: Case, settings: Settings
) -> None:
    rival = Owner(
        "rival", 8, "adopted", _OTHERS_MARK, INSTALLATION, database_id=_OTHERS_MARK, revision=_OTHERS_MARK
    )
    server = Server(settings.master_dsn.get_secret_value())
    async with blocked(case):
        rivals = [asyncio.create_task(adopted(server, owner, case.database)) for owner in (case.owner, rival)]
        await waiting(case, 2)
    outcomes = await asyncio.gather(*rivals)
    await server.close()
    assert sorted(outcomes) == [False, True]
    assert case.owner.owns(await case.comment()) is outcomes[0]


@asynccontextmanager
async def blocked(case: Case) -> AsyncIterator[None]:
    """No other session can comment the database meanwhile."""
    async with case.admin.transaction():
        await case.admin.execute(f'COMMENT ON DATABASE "{case.database}" IS NULL')
        yield


async def waiting(case: Case, number: int) -> None:
    async with asyncio.timeout(10):
        while await case.admin.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted") < number:
            await asyncio.sleep(0.01)


async def adopted(server: Server, owner: Owner, database: str) -> bool:
    async with server.fenced(owner) as fenced:
        found = await adoption.adopt(fenced, owner, database, set())
    assert found is not None
    return found.adopted


async def test_job_waits_when_the_database_is_being_adopted(
    tenant: Tenant, instances: InstanceStore, job_store: JobStore, name: str
) -> None:
    job = await bring_to(instances, job_store, "Delete_Failed", name)
    retry = job.__class__(**{**vars(job), "attempt": job.attempt + 1})
    async with tenant.adoptions.adopting(job.instance_id):
        begin = asyncio.create_task(job_store.begin(retry))
        done, _ = await asyncio.wait({begin}, timeout=0.2)
        assert not done
    assert (await begin).held


async def test_adoption_is_unavailable_when_the_server_is_away(
    postgres: EmbeddedPostgres, registry_dsn: str, instances: InstanceStore, job_store: JobStore, name: str
) -> None:
    job = await bring_to(instances, job_store, "Completed", name)
    away = make_settings(postgres, registry_dsn, master_dsn="postgresql://service@127.0.0.1:1/postgres")
    async with running(away, NOBODY) as app, client_of(app, headers=bearer(away)) as api:
        for answer in (
            await api.get(f"{INSTANCES}/{job.instance_id}/database"),
            await api.post(f"{INSTANCES}/{job.instance_id}/adopt"),
        ):
            assert answer.status_code == 503
            assert answer.json()["title"] == "The PostgreSQL server of the ODS databases cannot be reached."


async def recovered(tenant: Tenant, database: str, *chosen: str) -> DbInstance:
    """The instance, after a recovery has given it this database and routed the ODS/API there."""
    outcome = await Recovery(tenant).apply(chosen)
    assert ([one.database for one in outcome.done], outcome.refused) == ([database], [])
    (instance,) = await tenant.queries.live_instances()
    routed = await tenant.queries.ods_instance(instance.ods_instance_id)
    assert routed is not None
    assert tenant.connection_strings.local_database(routed.connection_string) == database
    assert (instance.status, instance.database_name) == ("Completed", database)
    return instance


async def refused(api: httpx.AsyncClient, case: Case, body: dict[str, str], words: str) -> None:
    """The way out is told to the client that looks at the database, and to the one that adopts it."""
    shown, answer = await api.get(case.inspecting, params=body), await api.post(case.adopting, json=body)
    assert (shown.status_code, answer.status_code) == (200, 409)
    for one in (words, HOW_TO_RECOVER):
        assert one in shown.json()["obstacle"]
    assert answer.json()["detail"] == shown.json()["obstacle"]


async def lose_all(registry_dsn: str) -> None:
    """The registry loses all that it knows of instances."""
    async with session(registry_dsn) as rows:
        await rows.execute("DELETE FROM dbo.odsinstances; DELETE FROM adminapi.dbinstances")


class TestAnotherName:
    """The registry calls the database otherwise, or has lost the instance."""

    @pytest.fixture
    async def renamed(self, case: Case) -> AsyncIterator[str]:
        """The instance's database, with its mark, under a name that the registry does not know."""
        comment = replace(case.owner, number=2, revision=_OTHERS_MARK, template_generation=5).comment
        name = case.database.replace("_Minimal", "_later_Minimal")
        await case.admin.execute(f"COMMENT ON DATABASE \"{case.database}\" IS '{comment}'")
        await case.admin.execute(f'ALTER DATABASE "{case.database}" RENAME TO "{name}"')
        yield name
        await case.admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    async def test_registry_calls_the_database_so_and_routes_there_when_it_is_recovered(
        self, api: httpx.AsyncClient, case: Case, renamed: str, queries: InstanceQueries, tenant: Tenant
    ) -> None:
        before = await row_of(case.admin, renamed)
        await refused(api, case, {"databaseName": renamed}, "not as the registry knows it")
        assert await row_of(case.admin, renamed) == before
        instance = await recovered(tenant, renamed)
        assert instance.database.template_generation == 5
        assert instance.job_number == 3  # the mark has told of a second job
        known = await queries.revisions_of(instance.id)
        assert known.confirmed(case.owner.database_id) == _OTHERS_MARK
        assert (await api.get(case.inspecting)).json()["obstacle"] is None
        assert (await api.post(case.adopting)).json()["adopted"]

    @pytest.fixture
    async def unmarked(self, case: Case, renamed: str) -> AsyncIterator[str]:
        """Databases without a mark, beside the instance's own: one has the name that the registry has."""
        other = case.database.replace("_Minimal", "_restored_Minimal")
        for name in (case.database, other):
            await case.admin.execute(f'CREATE DATABASE "{name}" OWNER {seeding.SERVICE_ROLE}')
        yield other
        await case.admin.execute(f'DROP DATABASE IF EXISTS "{other}" WITH (FORCE)')

    @pytest.mark.parametrize("state", ["open", "closed"])
    async def test_unmarked_database_is_left_alone_when_another_one_carries_the_mark(
        self, api: httpx.AsyncClient, case: Case, renamed: str, unmarked: str, tenant: Tenant, state: str
    ) -> None:
        await case.admin.execute(f'ALTER DATABASE "{renamed}" ALLOW_CONNECTIONS {state == "open"}')
        for body in ({}, {"databaseName": unmarked}):
            await refused(api, case, body, f"The database '{renamed}' carries the mark")
        await recovered(tenant, renamed)
        assert await case.comment() is None

    @pytest.mark.parametrize("way_out", ["comment", "invalid", "renamed back"])
    async def test_database_is_handed_over_when_no_other_one_carries_the_mark_any_more(
        self, api: httpx.AsyncClient, case: Case, renamed: str, unmarked: str, way_out: str
    ) -> None:
        admin, wanted = case.admin, {"databaseName": unmarked}
        if way_out == "comment":
            await admin.execute(f'COMMENT ON DATABASE "{renamed}" IS NULL')
        elif way_out == "invalid":
            await admin.execute("UPDATE pg_database SET datconnlimit = -2 WHERE datname = $1", renamed)
        else:
            await admin.execute(f'DROP DATABASE "{case.database}"')
            await admin.execute(f'ALTER DATABASE "{renamed}" RENAME TO "{case.database}"')
            assert (await api.post(case.adopting, json=wanted)).status_code == 409
            wanted = {}
        answer = await api.post(case.adopting, json=wanted)
        assert (answer.status_code, answer.json()["adopted"]) == (200, True), answer.text

    async def test_other_one_of_two_with_one_mark_is_handed_over_when_it_is_the_instance_s(
        self, case: Case, renamed: str, unmarked: str, tenant: Tenant
    ) -> None:
        """As when its comment was copied by hand to the database that had no mark."""
        await case.admin.execute(f"COMMENT ON DATABASE \"{case.database}\" IS '{case.owner.comment}'")
        (asked,) = (await Recovery(tenant).plan()).questions
        assert {one.name for one in asked.databases} == {case.database, renamed}
        await recovered(tenant, renamed, renamed)
        (version,) = await tenant.queries.versions()  # the other one is in the trash
        assert await row_of(case.admin, version.trash_name) is not None
        assert await row_of(case.admin, case.database) is None
        await case.admin.execute(f'DROP DATABASE "{version.trash_name}"')

    async def test_database_is_routed_to_anew_when_it_is_named_as_the_registry_calls_it(
        self, api: httpx.AsyncClient, case: Case, queries: InstanceQueries, tenant: Tenant, registry_dsn: str
    ) -> None:
        elsewhere = encrypt("host=of-the-original;database=x", bytes(32))
        async with session(registry_dsn) as rows:
            await rows.execute("UPDATE dbo.odsinstances SET connectionstring = $1", elsewhere)
        answer = await api.post(case.adopting, json={"databaseName": case.database})
        assert answer.status_code == 200, answer.text
        routed = await queries.ods_instance(case.owner.ods_instance_id)
        assert routed is not None
        assert tenant.connection_strings.local_database(routed.connection_string) == case.database

    async def test_ods_instance_is_back_when_its_row_was_removed(
        self, api: httpx.AsyncClient, case: Case, queries: InstanceQueries, tenant: Tenant, registry_dsn: str
    ) -> None:
        async with session(registry_dsn) as rows:
            await rows.execute("DELETE FROM dbo.odsinstances")
        answer = await api.post(case.adopting, json={"databaseName": case.database})
        assert answer.status_code == 200, answer.text
        routed = await queries.ods_instance(case.owner.ods_instance_id)
        assert routed is not None
        assert routed.name == (await queries.instance(case.id)).name
        assert tenant.connection_strings.local_database(routed.connection_string) == case.database

    async def test_nothing_is_routed_when_a_delete_of_the_instance_has_failed(
        self, api: httpx.AsyncClient, case: Case, queries: InstanceQueries, registry_dsn: str
    ) -> None:
        async with session(registry_dsn) as rows:
            await rows.execute("DELETE FROM dbo.odsinstances")
            await rows.execute(
                "UPDATE adminapi.managed_instances SET state = 'Delete_Failed', operation = 'Delete',"
                ' arguments = \'{"keep": false, "backup_first": false}\''
            )
        answer = await api.post(case.adopting, json={"databaseName": case.database})
        assert answer.status_code == 200, answer.text
        assert await queries.ods_instance(case.owner.ods_instance_id) is None

    async def test_nothing_changes_when_another_instance_has_a_database_of_that_name(
        self,
        api: httpx.AsyncClient,
        case: Case,
        instances: InstanceStore,
        job_store: JobStore,
        queries: InstanceQueries,
        name: str,
    ) -> None:
        other = await bring_to(instances, job_store, "Completed", f"{name} other")
        await case.admin.execute(f'CREATE DATABASE "{other.database}" OWNER {seeding.SERVICE_ROLE}')
        try:
            answer = await api.post(case.adopting, json={"databaseName": other.database})
            assert answer.status_code == 400
            assert (await queries.instance(case.id)).database_name == case.database
            row = await row_of(case.admin, other.database)
            assert row is not None
            assert row["comment"] is None
        finally:
            await case.admin.execute(f'DROP DATABASE "{other.database}"')

    @pytest.mark.parametrize(
        ("told", "tenant_then", "database"),
        [
            (("Lost", "Minimal"), "districtA", "EdFi_Ods_Lost_Minimal"),  # so was the tenant named then
            (("EdFi Ods Lost", "Minimal"), "default", "EdFi_Ods_Lost_Minimal"),
            (("Lost", "Minimal"), "default", "EdFi_Ods_Found_Minimal"),
            (("Lost", "Retired"), "default", "EdFi_Ods_Lost_Retired"),
            (("Lost", "Minimal"), "default", "by_hand"),
        ],
    )
    async def test_lost_instance_is_as_its_comment_tells_when_it_is_recovered_but_not_when_it_is_adopted(
        self,
        api: httpx.AsyncClient,
        case: Case,
        renamed: str,
        tenant: Tenant,
        registry_dsn: str,
        told: tuple[str, str],
        tenant_then: str,
        database: str,
    ) -> None:
        number = case.owner.ods_instance_id
        then = replace(case.owner, tenant=tenant_then, name=told[0], template=told[1], revision=_OTHERS_MARK)
        comment = replace(then, number=2, template_generation=5).comment
        await case.admin.execute(f"COMMENT ON DATABASE \"{renamed}\" IS '{comment}'")
        await case.admin.execute(f'ALTER DATABASE "{renamed}" RENAME TO "{database}"')
        await lose_all(registry_dsn)
        try:
            answer = await api.post(f"{INSTANCES}/{number}/adopt", json={"databaseName": database})
            assert (answer.status_code, await tenant.queries.live_instances()) == (404, [])
            instance = await recovered(tenant, database)
            assert (instance.ods_instance_id, str(instance.mark)) == (number, case.owner.mark)
            assert (instance.name, instance.database_template) == told
            own = instance.database
            assert (own.database_template, own.template_generation) == (told[1], 5)
        finally:
            await case.admin.execute(f'DROP DATABASE "{database}" WITH (FORCE)')

    async def test_instance_is_found_when_it_is_named_by_the_id_that_reasons_name(
        self,
        api: httpx.AsyncClient,
        case: Case,
        instances: InstanceStore,
        job_store: JobStore,
        registry_dsn: str,
        name: str,
    ) -> None:
        number = case.owner.ods_instance_id
        other = await bring_to(instances, job_store, "Completed", f"{name} other")
        async with session(registry_dsn) as rows:  # what ODS instances of others have done to the numbers
            await rows.execute("UPDATE adminapi.dbinstances SET id = $1 WHERE id = $2", 10**6, case.id)
            await rows.execute(
                "UPDATE adminapi.dbinstances SET id = $1 WHERE id = $2", number, other.instance_id
            )
        answer = await api.post(f"{INSTANCES}/{number}/adopt", json={"databaseName": case.database})
        assert answer.status_code == 200, answer.text
        assert (answer.json()["id"], answer.json()["odsInstanceId"]) == (10**6, number)

    async def test_reason_is_told_when_the_id_of_the_lost_instance_was_given_again(
        self, case: Case, renamed: str, tenant: Tenant, registry_dsn: str, name: str
    ) -> None:
        number = case.owner.ods_instance_id
        async with session(registry_dsn) as rows:
            await rows.execute("DELETE FROM adminapi.jobstatuses; DELETE FROM adminapi.dbinstances")
            await rows.execute("UPDATE dbo.odsinstances SET name = $1", f"{name} since")
        outcome = await Recovery(tenant).apply()
        (told,) = outcome.refused
        assert (outcome.done, told.step.database) == ([], renamed)
        assert f"The OdsInstanceId {number} was given to another instance" in told.reason
        assert await tenant.queries.live_instances() == []

    async def test_lost_instance_of_another_installation_stays_lost_when_its_tenant_has_the_same_name(
        self, case: Case, renamed: str, tenant: Tenant, registry_dsn: str
    ) -> None:
        others = replace(case.owner, installation=str(uuid.uuid4()))
        await case.admin.execute(f"COMMENT ON DATABASE \"{renamed}\" IS '{others.comment}'")
        await lose_all(registry_dsn)
        assert (await Recovery(tenant).plan()).is_empty
        assert (await Recovery(tenant).apply()).done == []
        assert await tenant.queries.live_instances() == []

    @pytest.mark.parametrize("wrong", ["", "x" * 64, 7])
    async def test_adoption_is_refused_when_no_database_can_have_the_name(
        self, api: httpx.AsyncClient, case: Case, wrong: object
    ) -> None:
        answer = await api.post(case.adopting, json={"databaseName": wrong})
        assert list(faults_of(answer)) == ["DatabaseName"]


async def test_changes_are_refused_and_reading_goes_on_when_the_registry_is_a_copy(
    api: httpx.AsyncClient, case: Case, tenant: Tenant, registry_dsn: str, name: str
) -> None:
    async with session(registry_dsn) as rows:
        before = await rows.fetchval("SELECT registrydatabase FROM adminapi.installation")
        await rows.execute("UPDATE adminapi.installation SET registrydatabase = 1")
        try:
            body = {"name": f"{name} more", "databaseTemplate": "Minimal"}
            async with asyncio.timeout(10):  # what the API read before, it believes for two seconds
                while (refused := await api.post(INSTANCES, json=body)).status_code != 503:
                    body["name"] += " more"
                    await asyncio.sleep(0.1)
            assert "ods recover --apply --confirm" in refused.json()["detail"]
            for method, path in (
                ("PUT", f"{INSTANCES}/{case.id}"),
                ("DELETE", f"{INSTANCES}/{case.id}"),
                ("POST", case.adopting),
                ("DELETE", f"/v2/odsInstances/{case.owner.ods_instance_id}"),
            ):
                assert (await api.request(method, path, json={"name": "Other"})).status_code == 503, path
            assert (await api.get(f"{INSTANCES}/{case.id}")).status_code == 200
            told = {part["name"]: part for part in (await api.get("/health")).json()["results"]}
            assert told["installation"]["status"] == "Degraded"
            found = [drift["kind"] for drift in (await api.get("/v2/drift")).json()]
            assert "InstallationNotConfirmed" in found
        finally:
            await rows.execute("UPDATE adminapi.installation SET registrydatabase = $1", before)


FOREIGN = {
    "another tenant's": "COMMENT ON DATABASE {database} IS '" + OTHERS_COMMENT + "'",
    "another product's": "COMMENT ON DATABASE {database} IS 'District 9'",
    "another role's": "ALTER DATABASE {database} OWNER TO postgres",
    "of no instance's name": "ALTER DATABASE {database} RENAME TO {renamed}",
}


@pytest.mark.parametrize("whose", FOREIGN)
async def test_database_is_answered_as_one_that_is_not_there_when_it_is_foreign(
    api: httpx.AsyncClient, case: Case, whose: str
) -> None:
    missing = f"EdFi_Ods_Foreign_{case.id}_Minimal"
    foreign = f"EdFi_Admin_of_others_{case.id}" if whose == "of no instance's name" else missing
    paths = (case.inspecting, f"{INSTANCES}/{10**8}/database")

    async def answers() -> list[tuple[int, str]]:
        told = [await api.get(path, params={"databaseName": foreign}) for path in paths]
        told += [
            await api.post(path.replace("database", "adopt"), json={"databaseName": foreign})
            for path in paths
        ]
        return [(one.status_code, one.text) for one in told]

    not_there = await answers()
    await case.admin.execute(f'CREATE DATABASE "{missing}" OWNER {seeding.SERVICE_ROLE}')
    try:
        statement = FOREIGN[whose].replace("{database}", f'"{missing}"')
        await case.admin.execute(statement.replace("{renamed}", f'"{foreign}"'))
        before = await row_of(case.admin, foreign)
        assert await answers() == not_there
        assert await row_of(case.admin, foreign) == before
    finally:
        await case.admin.execute(f'DROP DATABASE "{foreign}"')
    assert {status for status, _ in not_there} == {404}
    assert all("could be adopted" in text for _, text in not_there[::2])


async def test_database_of_the_instances_name_is_not_shown_when_it_is_another_tenants(
    api: httpx.AsyncClient, case: Case
) -> None:
    await case.admin.execute(f"COMMENT ON DATABASE \"{case.database}\" IS '{OTHERS_COMMENT}'")
    shown, refused = await api.get(case.inspecting), await api.post(case.adopting)
    assert (shown.status_code, refused.status_code) == (404, 404)
    assert shown.json() == refused.json()
    assert await case.comment() == OTHERS_COMMENT
