"""A registry that was copied, a server that is another one, and installations that share a server."""

import asyncio
import json
import subprocess
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from unittest.mock import AsyncMock, Mock

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.databases import DatabaseActivities
from activities.errors import OUTAGE
from activities.job_fence import ConcurrencyLimit
from ods.databases.errors import DatabaseFaultError
from ods.databases.ownership import Owner
from ods.databases.server import Server
from ods.embedded.postgres import EmbeddedPostgres
from ods.model.operations import Template
from ods.recovery.compare.detector import DriftDetector
from ods.recovery.compare.findings import DriftKind
from ods.registry.installation import InstallationStore
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.jobs import JobWait
from ods.registry.instances.queries import InstanceQueries
from ods.registry.instances.store import InstanceStore
from ods.registry.snapshots.store import SnapshotStore
from ods.registry.storage.engine import create_registry_engine
from ods.registry.storage.errors import InstallationNotConfirmedError
from ods.settings.settings import Settings
from ods.tenants import installation_check
from ods.tenants.installation_check import InstallationCheck
from ods.tenants.tenant import Tenant, open_tenants
from tests import preloaded, registries, servers
from tests.api.server import environment
from tests.postgres.instance_states import bring_to, stores
from tests.servers import NUMBERS, make_settings, make_tenant_settings, service_dsn, session
from tests.servers import environment as variables_of

JOBS_WORD = "Another installation … `ods recover --apply --confirm`, or ODS_SHARED_SERVER=true."
"""What a job has recorded that it waits for."""
_ANSWERED = """
INSERT INTO adminapi.idempotencykeys (client, key, request, status, headers, body, createdat)
VALUES ('one', 'deploy-1', '', 202, '{}', '{}', now())
"""

RECOVER = ("recover", "--apply", "--yes")
RENEW = ("ods.cli", *RECOVER, "--as-new-installation")
Run = subprocess.CompletedProcess[str]
Installation = Callable[..., Run]


@pytest.fixture
async def registry_dsn(prepared_postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    """A registry of the test's own, which it may copy."""
    async with registries.cloned(prepared_postgres) as dsn:
        yield dsn


@pytest.fixture
async def copied_dsn(tenant: Tenant, registry_dsn: str, postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    """A copy of the registry, after the original was used."""
    await tenant.instances.installation.state()
    await tenant.engine.dispose()
    name = f"EdFi_Admin_copy_{next(NUMBERS)}"
    async with session(service_dsn(postgres, "postgres")) as connection:
        original = registry_dsn.rpartition("/")[2]
        await connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{original}"')
        yield service_dsn(postgres, name)
        await connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
async def copied_engine(copied_dsn: str) -> AsyncIterator[AsyncEngine]:
    engine = create_registry_engine(copied_dsn)
    yield engine
    await engine.dispose()


async def test_registry_is_confirmed_where_it_is_when_it_is_used_for_the_first_time(
    tenant: Tenant, engine: AsyncEngine
) -> None:
    state = await tenant.instances.installation.require_confirmed()
    assert state.confirmed == state.here
    assert (await InstallationStore(engine).require_confirmed()).id == state.id


async def test_nothing_but_reading_is_allowed_when_the_registry_is_a_copy(
    instances: InstanceStore, job_store: JobStore, copied_engine: AsyncEngine, name: str
) -> None:
    job = await bring_to(instances, job_store, "Completed", name)  # in the original, after it was copied
    copy, copied_jobs = stores(copied_engine)
    with pytest.raises(InstallationNotConfirmedError, match="ods recover --apply --confirm"):
        await copy.reserve("Another", Template.MINIMAL)
    with pytest.raises(InstallationNotConfirmedError):
        await copied_jobs.begin(job)
    with pytest.raises(InstallationNotConfirmedError):
        await copy.request_delete(job.instance_id)
    with pytest.raises(InstallationNotConfirmedError):
        await SnapshotStore(copied_engine, copy.installation, 2).request_removal(job.instance_id, 1)
    with pytest.raises(InstallationNotConfirmedError):
        await copied_jobs.waiting_jobs(0, 10)
    assert await InstanceQueries(copied_engine).instances(offset=0, limit=1) == []
    assert (await instances.reserve("Another", Template.MINIMAL)).job.number == 1


async def test_copy_goes_on_when_it_is_confirmed(
    instances: InstanceStore, copied_engine: AsyncEngine
) -> None:
    copy, _ = stores(copied_engine)
    before = await copy.installation.state()
    await copy.installation.confirm(before)
    assert (await copy.installation.require_confirmed()).id == before.id
    await copy.reserve("Another", Template.MINIMAL)


async def test_copy_owns_no_database_of_the_original_when_it_is_renewed(
    tenant: Tenant, instances: InstanceStore, copied_engine: AsyncEngine, copied_dsn: str
) -> None:
    store = InstallationStore(copied_engine)
    async with session(copied_dsn) as rows:
        await rows.execute(
            "INSERT INTO adminapi.dbinstances (name, odsinstanceid, status, databasetemplate, databasename,"
            " operation, arguments)"
            " VALUES ('Theirs', 7, 'Completed', 'Minimal', 'EdFi_Ods_Theirs_Minimal', 'Create',"
            " '{\"origin\": {}}'),"
            " ('Gone', 8, 'Deleted', 'Minimal', 'EdFi_Ods_Gone_Minimal', 'Delete',"
            ' \'{"keep": false, "backup_first": false}\')'
        )
        await rows.execute("UPDATE adminapi.managed_instances SET undodue = true")
        await rows.execute(_ANSWERED)
        marks = "SELECT mark FROM adminapi.dbinstances"
        before = {row["mark"] for row in await rows.fetch(marks)}
        identifier = await store.renew()
        assert not before & {row["mark"] for row in await rows.fetch(marks)}  # theirs are in backups as well
        assert not await rows.fetchval("SELECT count(*) FROM adminapi.managed_instances WHERE undodue")
        assert not await rows.fetchval("SELECT count(*) FROM adminapi.idempotencykeys")
    state = await store.require_confirmed()
    assert state.id == identifier
    assert state.id != (await tenant.instances.installation.state()).id
    assert state.server is None


async def test_jobs_of_another_installation_are_not_begun_when_two_share_a_namespace(
    instances: InstanceStore, job_store: JobStore, name: str
) -> None:
    job = (await instances.reserve(name, Template.MINIMAL)).job
    assert job.installation == (await instances.installation.state()).id
    assert not (await job_store.begin(replace(job, installation=str(uuid.uuid4())))).held
    assert (await job_store.begin(job)).held


async def test_nothing_is_made_and_the_job_waits_when_its_registry_became_a_copy(
    tenant: Tenant,
    instances: InstanceStore,
    job_store: JobStore,
    name: str,
    admin: asyncpg.Connection,
    registry_dsn: str,
) -> None:
    job = (await instances.reserve(name, Template.MINIMAL)).job
    await job_store.begin(job)
    async with session(registry_dsn) as rows:
        await rows.execute("UPDATE adminapi.installation SET registrydatabase = 1")
    tenant.instances.installation.forget()
    with pytest.raises(ApplicationError, match="copied or moved") as refused:
        await ActivityEnvironment().run(DatabaseActivities(tenant, ConcurrencyLimit(1)).provision, job)
    assert (refused.value.type, refused.value.non_retryable) == (OUTAGE, False)
    assert not await admin.fetchval("SELECT count(*) FROM pg_database WHERE datname = $1", job.database)


@asynccontextmanager
async def marked_database(
    admin: asyncpg.Connection, prefix: str, installation: str, tenant: str = "default"
) -> AsyncIterator[Owner]:
    """A database of this installation on the server; its name is the prefix with the OdsInstanceId."""
    number = next(NUMBERS)
    mark, request = str(uuid.uuid4()), str(uuid.uuid4())
    owner = Owner(
        tenant, number, "CreateInstanceJob-1-1", mark, installation, 1, database_id=request, revision=request
    )
    await admin.execute(f'CREATE DATABASE "{prefix}_{number}"')
    await admin.execute(f"COMMENT ON DATABASE \"{prefix}_{number}\" IS '{owner.comment}'")
    yield owner
    await admin.execute(f'DROP DATABASE "{prefix}_{number}"')


@pytest.fixture
async def others_database(admin: asyncpg.Connection) -> AsyncIterator[Owner]:
    """Another installation has a database on the server."""
    async with marked_database(admin, "others", str(uuid.uuid4())) as owner:
        yield owner


def check_of(
    tenant: Tenant,
    others: Mapping[str, InstallationStore] = MappingProxyType({}),
    *,
    shares_server: bool = False,
) -> InstallationCheck:
    """That of the tenant beside other ones."""
    return InstallationCheck(tenant.instances.installation, "default", others, shares_server=shares_server)


async def test_nothing_may_be_changed_when_another_installation_has_databases_on_the_server(
    tenant: Tenant, server: Server, others_database: Owner
) -> None:
    async with server.session() as seen:
        with pytest.raises(InstallationNotConfirmedError, match=str(others_database.installation)):
            await check_of(tenant).require_confirmed(seen)
        await check_of(tenant, shares_server=True).require_confirmed(seen)


async def test_server_may_be_shared_when_the_operator_has_confirmed_the_other_installation(
    tenant: Tenant, server: Server, others_database: Owner
) -> None:
    check = check_of(tenant)
    async with server.session() as seen:
        others = await check.others(seen)
        assert others_database.installation in others
        await tenant.instances.installation.accept_server(await check.system(seen), sorted(others))
        await check.require_confirmed(seen)


@pytest.fixture
async def seen(tenant: Tenant, server: Server) -> AsyncIterator[asyncpg.Connection]:
    """A session; the operator has confirmed what other tests have left on the server."""
    check = check_of(tenant)
    async with server.session() as session:
        left = sorted(await check.others(session))
        await tenant.instances.installation.accept_server(await check.system(session), left)
        yield session


@pytest.fixture
async def sibling_dsn(prepared_postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    """The registry of another tenant of the service."""
    async with registries.cloned(prepared_postgres) as dsn:
        yield dsn


@pytest.fixture
async def sibling(sibling_dsn: str) -> AsyncIterator[InstallationStore]:
    """The installation of that tenant, which has been used."""
    engine = create_registry_engine(sibling_dsn)
    store = InstallationStore(engine)
    await store.state()
    yield store
    await engine.dispose()


async def test_tenants_of_one_service_share_a_server_when_nothing_was_confirmed(
    tenant: Tenant, seen: asyncpg.Connection, sibling: InstallationStore, admin: asyncpg.Connection
) -> None:
    """Whatever the comments call them."""
    installation = (await sibling.state()).id
    check = check_of(tenant, {"districtB": sibling})
    async with marked_database(admin, "others", installation):
        assert installation in await check_of(tenant).others(seen)
        assert installation not in await check.others(seen)
        assert await check.obstacle(seen) is None
        assert installation not in (await tenant.instances.installation.read()).neighbours
        await check.require_confirmed(seen)
        # It is known from now on, also if its registry is away, or it is no tenant of the service any more.
        await check_of(tenant).require_confirmed(seen)
    assert installation in (await tenant.instances.installation.state()).neighbours


@pytest.mark.parametrize("name", ["default", "districtB"])
async def test_nothing_may_be_changed_when_another_installation_has_a_tenant_of_the_same_name(
    tenant: Tenant, seen: asyncpg.Connection, sibling: InstallationStore, admin: asyncpg.Connection, name: str
) -> None:
    stranger = str(uuid.uuid4())
    async with marked_database(admin, "others", stranger, name):
        with pytest.raises(InstallationNotConfirmedError, match=stranger) as refused:
            await check_of(tenant, {"districtB": sibling}).require_confirmed(seen)
    assert "districtB" not in str(refused.value)
    assert stranger not in (await tenant.instances.installation.state()).neighbours


@pytest.mark.parametrize("what", ["registrydatabase = 1", "registrysystem = NULL, registrydatabase = NULL"])
async def test_nothing_may_be_changed_when_the_registry_of_a_tenant_may_be_a_copy(
    tenant: Tenant,
    seen: asyncpg.Connection,
    sibling: InstallationStore,
    sibling_dsn: str,
    admin: asyncpg.Connection,
    what: str,
) -> None:
    """The databases on the server may be those of the original."""
    state = await sibling.state()
    async with session(sibling_dsn) as rows, marked_database(admin, "others", state.id):
        await rows.execute(f"UPDATE adminapi.installation SET {what}")  # noqa: S608 - constants
        check = check_of(tenant, {"districtB": sibling})
        with pytest.raises(InstallationNotConfirmedError, match=state.id) as refused:
            await check.require_confirmed(seen)
        assert "the registry of districtB is away, or must be confirmed itself" in str(refused.value)
        await sibling.confirm(state)
        await check.require_confirmed(seen)


async def test_nothing_may_be_changed_when_the_registries_of_all_other_tenants_are_away_or_hang(
    tenant: Tenant, seen: asyncpg.Connection, admin: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation_check, "_ANSWERED_WITHIN", 0.1)
    stranger = str(uuid.uuid4())
    hanging = Mock(read=Mock(side_effect=partial(asyncio.sleep, 60)))
    away = {"districtB": "postgresql://service@127.0.0.1:1/EdFi_Admin"}
    async with installation_check.opened_siblings(away) as opened, marked_database(admin, "others", stranger):
        check = check_of(tenant, {**opened, "districtC": hanging})
        with pytest.raises(InstallationNotConfirmedError, match="registry of districtB, districtC is away"):
            await check.require_confirmed(seen)


@pytest.mark.parametrize("is_confirmed", [True, False])
async def test_nothing_may_be_changed_when_the_registry_of_another_tenant_is_this_installation_as_well(
    tenant: Tenant, seen: asyncpg.Connection, copied_engine: AsyncEngine, *, is_confirmed: bool
) -> None:
    """Each would drop the other's databases as its own, also where the server may be shared."""
    copy = InstallationStore(copied_engine)
    if is_confirmed:
        await copy.confirm(await copy.read())
    check = check_of(tenant, {"districtB": copy}, shares_server=True)
    with pytest.raises(InstallationNotConfirmedError, match="registry of tenant districtB") as refused:
        await check.require_confirmed(seen)
    text = str(refused.value)
    assert ("one of the two is a copy" in text) is is_confirmed
    assert ("`ods --tenant districtB recover --apply --as-new-installation`" in text) is not is_confirmed
    await copy.renew()
    await check.require_confirmed(seen)


async def test_neither_tenant_takes_a_server_when_a_registry_was_copied_before_its_first_use(
    tenant: Tenant, server: Server, registry_dsn: str, copied_dsn: str, copied_engine: AsyncEngine
) -> None:
    unused = "UPDATE adminapi.installation SET registrysystem = NULL, registrydatabase = NULL"
    for dsn in (registry_dsn, copied_dsn):
        async with session(dsn) as rows:
            await rows.execute(unused)
    own, copy = tenant.instances.installation, InstallationStore(copied_engine)
    own.forget()
    for first, second in [(own, copy), (copy, own)]:
        check = InstallationCheck(first, "default", {"districtB": second}, shares_server=False)
        async with server.session() as seen:
            with pytest.raises(InstallationNotConfirmedError, match="one of the two is a copy"):
                await check.require_confirmed(seen)
        assert (await first.read()).server is None


async def test_nothing_may_be_changed_when_two_tenants_have_one_registry_by_different_addresses(
    tenant: Tenant, seen: asyncpg.Connection, registry_dsn: str
) -> None:
    other = {"districtB": registry_dsn.replace("127.0.0.1", "localhost")}
    async with installation_check.opened_siblings(other) as opened:
        with pytest.raises(InstallationNotConfirmedError, match="is this one, by another address"):
            await check_of(tenant, opened).require_confirmed(seen)


async def test_registry_of_another_tenant_is_asked_until_it_has_answered(
    tenant: Tenant, seen: asyncpg.Connection, sibling: InstallationStore
) -> None:
    state = await sibling.state()
    read = AsyncMock(side_effect=[OSError("It is away."), state])
    check = check_of(tenant, {"districtB": Mock(read=read)})
    for _ in range(3):
        assert await check.obstacle(seen) is None
    assert read.await_count == 2


async def test_nothing_may_be_changed_when_the_server_is_another_one(tenant: Tenant, server: Server) -> None:
    check = check_of(tenant, shares_server=True)
    async with server.session() as seen:
        await check.require_confirmed(seen)  # the first server it sees is its own
        await tenant.instances.installation.accept_server("1234567890123456789")
        obstacle = await check_of(tenant, shares_server=True).obstacle(seen)
        assert obstacle is not None
        assert "1234567890123456789" in obstacle
        assert "ods recover --apply --confirm" in obstacle


async def test_server_is_asked_at_once_when_a_job_waits_for_the_operator_and_that_alone_counts(
    tenant: Tenant, server: Server, admin: asyncpg.Connection, name: str
) -> None:
    check = check_of(tenant)
    others = str(uuid.uuid4())
    async with server.session() as seen:  # what other tests have left
        left = sorted(await check.others(seen))
        await tenant.instances.installation.accept_server(await check.system(seen), left)
    assert await check.known_obstacle(server) is None
    job = await bring_to(tenant.instances, tenant.jobs, "InProgress", name)
    async with marked_database(admin, "others", others):
        await tenant.jobs.record_wait(JobWait(job, "The server is away.", 1, 60))
        assert await check.known_obstacle(server) is None, "in order within the last 30 seconds"
        await tenant.jobs.record_wait(JobWait(job, JOBS_WORD, 1, 60))
        assert others in str(await check.known_obstacle(server))
    assert await check.known_obstacle(server) is None, "it is over, though no worker has said so"


async def test_what_a_job_has_found_counts_when_the_server_is_away(
    tenant: Tenant, server: Server, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    check = check_of(tenant)
    job = await bring_to(tenant.instances, tenant.jobs, "InProgress", name)
    await tenant.jobs.record_wait(JobWait(job, JOBS_WORD, 1, 60))
    away = Mock(side_effect=DatabaseFaultError("It is away.", outage=True))
    monkeypatch.setattr(server, "session", away)
    assert await check.known_obstacle(server) == JOBS_WORD


async def test_drift_says_it_when_the_installation_must_be_confirmed(
    postgres: EmbeddedPostgres, copied_dsn: str
) -> None:
    settings: Settings = make_settings(postgres, copied_dsn)
    async with open_tenants(settings) as (copy,):
        found = [
            drift
            for drift in await DriftDetector(copy).detect()
            if drift.kind is DriftKind.INSTALLATION_NOT_CONFIRMED
        ]
    assert [drift.subject for drift in found] == [await copy.installation.id()]
    assert "--as-new-installation" in found[0].explanation


@pytest.fixture
def installation(postgres: EmbeddedPostgres, copied_dsn: str) -> Installation:
    """Runs `ods` on a copy of the registry."""
    variables = environment(make_settings(postgres, copied_dsn))
    return lambda *words: preloaded.run("ods.cli", *words, env=variables)


def shown(installation: Installation) -> dict[str, str]:
    run = installation("installation", "show", "--json")
    assert run.returncode == 0, run.stderr
    found: dict[str, str] = json.loads(run.stdout)
    return found


async def test_tenants_that_share_a_server_are_no_other_installations_to_commands(
    postgres: EmbeddedPostgres,
    registry_dsn: str,
    seen: asyncpg.Connection,
    sibling: InstallationStore,
    sibling_dsn: str,
    admin: asyncpg.Connection,
) -> None:
    """Which record nothing."""
    del seen
    installation = (await sibling.state()).id
    settings = {
        name: make_settings(postgres, dsn, shared_server=False)
        for name, dsn in (("one", registry_dsn), ("two", sibling_dsn))
    }
    variables = servers.environment(make_tenant_settings(settings))
    async with marked_database(admin, "others", installation), session(registry_dsn) as rows:
        before = await rows.fetch("SELECT neighbours FROM adminapi.installation")
        run = preloaded.run("ods.cli", "--tenant", "one", "installation", "show", "--json", env=variables)
        assert run.returncode == 0, run.stderr
        assert json.loads(run.stdout)["obstacle"] == "none"
        assert installation not in json.loads(run.stdout)["otherInstallations"]
        doctor = preloaded.run("ods.cli", "doctor", env=variables)
        (told,) = [line for line in doctor.stdout.splitlines() if "one: installation" in line]
        assert "confirmed for this registry and server" in told
        assert await rows.fetch("SELECT neighbours FROM adminapi.installation") == before


async def test_copy_is_told_and_goes_on_when_the_operator_confirms_it(
    installation: Installation, copied_engine: AsyncEngine, copied_dsn: str
) -> None:
    before = shown(installation)
    assert before["registry"] != before["confirmedRegistry"]
    assert "ods recover --apply --confirm" in before["obstacle"]
    with pytest.raises(InstallationNotConfirmedError):
        await InstallationStore(copied_engine).require_confirmed()

    refused = installation(*RECOVER)
    assert (refused.returncode, "Add --confirm" in refused.stderr) == (1, True)
    assert shown(installation) == before
    run = installation(*RECOVER, "--confirm")
    assert "Confirmed." in run.stderr + run.stdout

    after = shown(installation)
    assert (after["installation"], after["obstacle"]) == (before["installation"], "none")
    assert after["registry"] == after["confirmedRegistry"]
    assert after["server"] == after["confirmedServer"]
    assert (await InstallationStore(copied_engine).require_confirmed()).id == before["installation"]
    async with session(copied_dsn) as rows:
        assert await rows.fetchval("SELECT path FROM adminapi.audit") == "ods recover --apply --confirm"


async def test_copy_is_an_installation_of_its_own_when_the_operator_renews_it(
    installation: Installation, copied_engine: AsyncEngine, tenant: Tenant
) -> None:
    before = shown(installation)
    run = installation(*RECOVER, "--as-new-installation")
    assert run.returncode == 0, run.stderr
    after = shown(installation)
    assert after["installation"] != before["installation"]
    assert after["installation"] in run.stderr + run.stdout
    assert (await InstallationStore(copied_engine).require_confirmed()).id == after["installation"]
    assert (await tenant.instances.installation.state()).id == before["installation"]


def test_only_what_would_be_done_is_shown_without_apply(installation: Installation) -> None:
    before = shown(installation)
    run = installation("recover", "--as-new-installation")
    assert run.returncode == 1
    assert "To do: this registry becomes an installation of its own" in run.stdout
    assert shown(installation) == before


@pytest.fixture
async def own_database(tenant: Tenant, admin: asyncpg.Connection) -> AsyncIterator[str]:
    """The installation has a database on the server."""
    async with marked_database(admin, "own", await tenant.installation.id()) as owner:
        yield f"own_{owner.ods_instance_id}"


@pytest.mark.parametrize("is_away", [False, True])
async def test_original_is_not_renewed_when_its_databases_are_there_or_cannot_be_seen(
    postgres: EmbeddedPostgres,
    registry_dsn: str,
    own_database: str,
    admin: asyncpg.Connection,
    tenant: Tenant,
    *,
    is_away: bool,
) -> None:
    before = await tenant.installation.id()
    variables = environment(make_settings(postgres, registry_dsn))
    if is_away:
        variables["ODS_MASTER_DSN"] = "postgresql://service:a-password@127.0.0.1:1/postgres"
    run = preloaded.run(*RENEW, env=variables)
    assert run.returncode == 1
    assert ("cannot be reached" if is_away else "1 databases on the server are its own") in run.stderr
    tenant.instances.installation.forget()
    assert await tenant.installation.id() == before
    # As docs/operations/staging-copy.md says of a copy of the whole server.
    await admin.execute(f'COMMENT ON DATABASE "{own_database}" IS NULL')
    variables = environment(make_settings(postgres, registry_dsn))
    assert preloaded.run(*RENEW, env=variables).returncode == 0


async def test_copy_beside_the_original_is_not_confirmed_and_becomes_an_installation_of_its_own(
    postgres: EmbeddedPostgres,
    registry_dsn: str,
    copied_dsn: str,
    own_database: str,
    tenant: Tenant,
    copied_engine: AsyncEngine,
) -> None:
    """The databases of the original, which count as the copy's, do not keep it from that."""
    original, copy = make_settings(postgres, registry_dsn), InstallationStore(copied_engine)
    several = make_tenant_settings({"districtA": original, "districtB": make_settings(postgres, copied_dsn)})

    def run(name: str, *words: str) -> Run:
        variables = variables_of(several) | {"ODS_TENANT": name}
        return preloaded.run("ods.cli", *RECOVER, *words, env=variables)

    for name in ("districtA", "districtB"):
        refused = run(name, "--confirm")
        assert refused.returncode == 1
        assert "is a copy" in refused.stderr
    before = await copy.read()
    assert not before.is_confirmed
    refused = run("districtA", "--as-new-installation")
    assert refused.returncode == 1
    assert "this is no copy" in refused.stderr, "the other one is, by what its registry says"

    await copy.confirm(before)  # a dump that was confirmed when it was the only tenant
    renewed = run("districtB", "--as-new-installation")
    assert renewed.returncode == 0, renewed.stderr
    assert (await copy.read()).id != before.id == await tenant.installation.id()
    for name in ("districtA", "districtB"):
        confirmed = run(name, "--confirm")
        assert "Confirmed." in confirmed.stdout, confirmed.stderr


def test_operator_is_told_when_the_registry_of_another_tenant_cannot_be_asked(
    postgres: EmbeddedPostgres, copied_dsn: str
) -> None:
    away = make_settings(postgres, "postgresql://service@127.0.0.1:1/EdFi_Admin")
    several = make_tenant_settings({"districtA": make_settings(postgres, copied_dsn), "districtB": away})
    variables = variables_of(several) | {"ODS_TENANT": "districtA"}
    run = preloaded.run("ods.cli", *RECOVER, "--confirm", env=variables)
    assert "The registry of districtB is away" in run.stderr + run.stdout


async def test_registry_is_not_renewed_when_two_tenants_have_it(
    postgres: EmbeddedPostgres, registry_dsn: str, tenant: Tenant
) -> None:
    before = await tenant.installation.id()
    other = make_settings(postgres, registry_dsn.replace("127.0.0.1", "localhost"))
    several = make_tenant_settings({"districtA": make_settings(postgres, registry_dsn), "districtB": other})
    for option in ("--as-new-installation", "--confirm"):
        variables = variables_of(several) | {"ODS_TENANT": "districtB"}
        run = preloaded.run("ods.cli", *RECOVER, option, env=variables)
        assert run.returncode == 1
        assert "is this one, by another address" in run.stderr
    assert (await tenant.instances.installation.read()).id == before


async def test_installation_is_not_taken_over_when_its_registry_is_another_tenants_or_may_be(
    tenant: Tenant, own_database: str, seen: asyncpg.Connection, copied_engine: AsyncEngine
) -> None:
    own, copy = tenant.instances.installation, InstallationStore(copied_engine)
    installation = await tenant.installation.id()
    check = InstallationCheck(copy, "default", {"districtB": own}, shares_server=False)
    obstacle = await check.obstacle_to_take_over(seen, installation)
    assert obstacle == f"Tenant districtB is the installation {installation}: its registry is not lost."
    away = InstallationStore(create_registry_engine("postgresql://ods@127.0.0.1:1/away"))
    check = InstallationCheck(copy, "default", {"districtB": away}, shares_server=False)
    assert "districtB is away" in str(await check.obstacle_to_take_over(seen, installation))
    check = InstallationCheck(copy, "default", {}, shares_server=False)
    assert await check.obstacle_to_take_over(seen, installation) is None
    assert own_database


@pytest.mark.parametrize("option", ["--confirm", "--as-new-installation"])
def test_nothing_is_changed_when_the_operator_does_not_agree(installation: Installation, option: str) -> None:
    before = shown(installation)
    run = installation("recover", "--apply", option)  # there is no terminal that could answer
    assert run.returncode == 1
    assert before["registry"] in run.stdout
    assert shown(installation) == before


def test_registry_is_shown_when_the_server_is_away(postgres: EmbeddedPostgres, copied_dsn: str) -> None:
    variables = environment(make_settings(postgres, copied_dsn))
    variables["ODS_MASTER_DSN"] = "postgresql://service:a-password@127.0.0.1:1/postgres"
    run = preloaded.run("ods.cli", "installation", "show", env=variables)
    assert run.returncode == 0, run.stderr
    assert "cannot be reached" in run.stdout
    assert "a-password" not in run.stdout + run.stderr
