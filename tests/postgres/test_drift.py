"""Each contradiction between registry and server is found, and nothing else is."""

import asyncio
import re
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import asyncpg
import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.databases import DatabaseActivities
from activities.job_fence import ConcurrencyLimit
from activities.statuses import StatusActivities
from ods.databases import provisioning
from ods.databases.errors import HOW_TO_RECOVER
from ods.databases.ownership import KnownOwner, Owner
from ods.databases.provisioning import CloneRequest
from ods.databases.server import Server
from ods.databases.templates.spares import new_name
from ods.embedded import seeding
from ods.embedded.postgres import EmbeddedPostgres
from ods.model.arguments import Way
from ods.model.operations import Template
from ods.recovery.compare.detector import DriftDetector
from ods.recovery.compare.findings import RECOVER, Drift, DriftKind, Remedy, RemedyAction, is_suspect
from ods.recovery.plan import StepKind
from ods.recovery.recovery import Recovery
from ods.registry.connection_strings.ods_connection_strings import OdsConnectionStrings
from ods.registry.instances.deletes import Delete
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.jobs import InstanceJob, StartedJob
from ods.registry.instances.naming import trash_name
from ods.registry.instances.queries import InstanceQueries
from ods.registry.instances.store import InstanceStore
from ods.registry.storage.errors import InstanceNotFoundError
from ods.settings.settings import CloneStrategy, Settings
from ods.tenants.job_owners import owner_of
from ods.tenants.tenant import Tenant
from tests.ods import add_ods_instance, connection_string
from tests.postgres.instance_states import add_version, bring_to, marked_by
from tests.postgres.owners import by_another
from tests.postgres.postgres_inspection import UNREADABLE, row_of, unreadable
from tests.servers import MINIMAL_TEMPLATE, SAMPLE_TEMPLATE

pytestmark = pytest.mark.long


@pytest.fixture
def detector(tenant: Tenant) -> DriftDetector:
    return DriftDetector(tenant)


@pytest.fixture
async def completed(
    instances: InstanceStore,
    job_store: JobStore,
    server: Server,
    settings: Settings,
    admin: asyncpg.Connection,
    name: str,
) -> AsyncIterator[InstanceJob]:
    """An instance as it should be."""
    job = (await instances.reserve(name, Template.MINIMAL)).job
    await job_store.begin(job)
    owner = marked_by(job)
    async with server.fenced(owner) as fenced:
        await provisioning.provision(
            fenced,
            CloneRequest(owner, MINIMAL_TEMPLATE, job.database, CloneStrategy.AUTO),
            provisioning.TemplateSizes(),
        )
    strings = OdsConnectionStrings.from_settings(settings)
    await job_store.finish_create(job, strings.encrypted(job.database))
    yield job
    await admin.execute(f'DROP DATABASE IF EXISTS "{job.database}"')


async def _found(detector: DriftDetector, kind: DriftKind) -> list[Drift]:
    return [drift for drift in await detector.detect() if drift.kind is kind]


_OF_INSTANCES = """
SELECT datname FROM pg_database
WHERE NOT datistemplate
    AND (shobj_description(oid, 'pg_database') LIKE '%"mark"%' OR datname LIKE 'EdFi\\_Ods\\_Test\\_%')
"""
"""By their marks; or by their names, as tests have removed marks."""


@pytest.fixture
async def without_leftovers(admin: asyncpg.Connection) -> None:
    """Databases of instances that earlier tests have left would be told of with those of this test."""
    for row in await admin.fetch(_OF_INSTANCES):
        await admin.execute("UPDATE pg_database SET datconnlimit = -1 WHERE datname = $1", row["datname"])
        await admin.execute(f'DROP DATABASE "{row["datname"]}" WITH (FORCE)')


async def _recovered(tenant: Tenant, *chosen: str) -> list[StepKind]:
    """What a recovery has done; nothing is left of it."""
    outcome = await Recovery(tenant).apply(chosen)
    assert (outcome.refused, outcome.plan.is_empty) == ([], True)
    return [step.kind for step in outcome.done]


async def test_nothing_is_reported_when_all_is_well(detector: DriftDetector, completed: InstanceJob) -> None:
    found = await detector.detect()
    # Other tests of this run have databases of their own on the same server.
    assert not [drift for drift in found if completed.name in drift.subject]
    assert not [drift for drift in found if completed.database in drift.subject]
    assert not [drift for drift in found if drift.kind is DriftKind.TEMPLATE_UNUSABLE]


async def test_nothing_is_reported_when_jobs_are_under_way(
    detector: DriftDetector, instances: InstanceStore, job_store: JobStore, completed: InstanceJob, name: str
) -> None:
    running = (await instances.reserve(f"{name} b", Template.MINIMAL)).job
    await job_store.begin(running)
    deletion = (await instances.request_delete(completed.instance_id)).job
    await job_store.begin(deletion)
    about = (name, completed.database, running.database)
    assert not [drift for drift in await detector.detect() if any(word in drift.subject for word in about)]


@pytest.mark.parametrize(("ahead", "words"), [(8, "8 days, 0:00:00"), (-8, "behind that of the machine")])
async def test_clock_of_the_one_server_is_reported_when_that_of_the_process_differs(
    detector: DriftDetector, monkeypatch: pytest.MonkeyPatch, ahead: int, words: str
) -> None:
    """Registry and ODS databases are on one server, whose clock is wrong for both."""
    assert await _found(detector, DriftKind.CLOCKS_DIFFER) == []
    monkeypatch.setattr(
        "ods.recovery.compare.detector._own_time", lambda: datetime.now(UTC) - timedelta(days=ahead)
    )
    (found,) = await _found(detector, DriftKind.CLOCKS_DIFFER)
    assert found.subject == "registry and process"
    assert words in found.explanation
    assert is_suspect([found]) == found


async def test_row_of_an_admin_api_is_reported_when_a_sweep_could_not_adopt_it(
    detector: DriftDetector, rows: asyncpg.Connection, tenant: Tenant, name: str
) -> None:
    added = await rows.fetchval(
        "INSERT INTO adminapi.dbinstances (name, status, databasetemplate, lastmodifieddate)"
        " VALUES ($1, 'PendingCreate', 'Other', '2026-01-01') RETURNING id",
        name,
    )
    assert await _found(detector, DriftKind.ROW_NOT_ADOPTED) == []
    await tenant.admin_api_rows.adopt()
    (drift,) = await _found(detector, DriftKind.ROW_NOT_ADOPTED)
    assert drift.subject == f"{added} {name}"
    assert drift.explanation.endswith("There is no template 'Other'.")


@pytest.mark.parametrize("change", UNREADABLE)
async def test_database_is_reported_when_its_comment_cannot_be_read(
    detector: DriftDetector, admin: asyncpg.Connection, completed: InstanceJob, change: str
) -> None:
    row = await row_of(admin, completed.database)
    assert row is not None
    await _commented(admin, completed.database, unreadable(row["comment"], change))
    (drift,) = await _found(detector, DriftKind.CHANGED_BY_HAND)
    assert drift.subject == f"{completed.instance_id} {completed.name}"
    assert "does not carry the instance's mark" in drift.explanation


async def test_lost_database_is_reported_for_its_instance_and_its_ods_instance(
    detector: DriftDetector, admin: asyncpg.Connection, completed: InstanceJob
) -> None:
    await admin.execute(f'DROP DATABASE "{completed.database}"')
    (drift,) = await _found(detector, DriftKind.DATABASE_MISSING)
    assert drift.subject == f"{completed.instance_id} {completed.name}"
    assert drift.remedy == Remedy(RemedyAction.RESTORE, completed.instance_id)
    (drift,) = await _found(detector, DriftKind.ROUTE_BROKEN)
    assert drift.subject == f"{completed.ods_instance_id} {completed.name}"


@pytest.fixture
async def moved(admin: asyncpg.Connection, completed: InstanceJob) -> AsyncIterator[str]:
    """The instance's database, under a name that the registry does not know."""
    name = f"{completed.database}_moved"
    await admin.execute(f'ALTER DATABASE "{completed.database}" RENAME TO "{name}"')
    yield name
    await admin.execute(f'DROP DATABASE IF EXISTS "{name}"')


@pytest.mark.usefixtures("without_leftovers")
@pytest.mark.parametrize("is_open", [True, False])
@pytest.mark.parametrize("stands_there", ["nothing", "a database without its mark"])
async def test_database_of_another_name_is_named_and_recovered_when_it_carries_the_mark(
    detector: DriftDetector,
    tenant: Tenant,
    admin: asyncpg.Connection,
    completed: InstanceJob,
    moved: str,
    stands_there: str,
    *,
    is_open: bool,
) -> None:
    await admin.execute(f'ALTER DATABASE "{moved}" ALLOW_CONNECTIONS {is_open}')
    if stands_there != "nothing":
        await admin.execute(f'CREATE DATABASE "{completed.database}"')
    (drift,) = await _found(detector, DriftKind.CHANGED_BY_HAND)
    assert f"its mark is on '{moved}' (" in drift.explanation
    assert HOW_TO_RECOVER in drift.explanation
    assert drift.remedy is not None
    assert drift.remedy.command == "ods recover"
    assert await _recovered(tenant) == [StepKind.HAND_OVER]
    assert (await tenant.queries.instance(completed.instance_id)).database_name == moved
    left = await _found(detector, DriftKind.CHANGED_BY_HAND)
    assert ["accepts no connections" in one.explanation for one in left] == ([] if is_open else [True])


@pytest.mark.usefixtures("without_leftovers")
async def test_databases_of_other_names_are_all_named_when_several_carry_the_mark(
    detector: DriftDetector, tenant: Tenant, admin: asyncpg.Connection, completed: InstanceJob, moved: str
) -> None:
    """Which of them is the instance's, their data tell."""
    copy = f"{completed.database}_copy"
    await admin.execute(f'CREATE DATABASE "{copy}"')
    try:
        await _commented(admin, copy, marked_by(completed).comment)
        (drift,) = await _found(detector, DriftKind.CHANGED_BY_HAND)
        for one in (copy, moved):
            assert f"'{one}' (" in drift.explanation
        assert drift.remedy == RECOVER
        (asked,) = (await Recovery(tenant).apply()).plan.questions
        assert {one.name for one in asked.databases} == {copy, moved}
        assert await _recovered(tenant, moved) == [StepKind.HAND_OVER]
        assert (await tenant.queries.instance(completed.instance_id)).database_name == moved
    finally:
        await admin.execute(f'DROP DATABASE "{copy}"')


async def test_database_of_another_name_is_not_named_when_it_is_of_no_use_or_another_installation_s(
    detector: DriftDetector, admin: asyncpg.Connection, completed: InstanceJob, moved: str
) -> None:
    await _commented(admin, moved, replace(marked_by(completed), installation=str(uuid.uuid4())).comment)
    (drift,) = await _found(detector, DriftKind.DATABASE_MISSING)
    assert moved not in drift.explanation
    await _commented(admin, moved, marked_by(completed).comment)
    await admin.execute("UPDATE pg_database SET datconnlimit = -2 WHERE datname = $1", moved)
    (drift,) = await _found(detector, DriftKind.DATABASE_MISSING)
    assert moved not in drift.explanation


@pytest.mark.parametrize(
    ("column", "value", "kind", "fault"),
    [
        ("datconnlimit", "-2", DriftKind.INTERRUPTED_DROP, "half dropped"),
        ("datallowconn", "false", DriftKind.CHANGED_BY_HAND, "no connections"),
    ],
)
async def test_database_is_reported_when_its_instance_cannot_use_it(
    detector: DriftDetector,
    admin: asyncpg.Connection,
    completed: InstanceJob,
    column: str,
    value: str,
    kind: DriftKind,
    fault: str,
) -> None:
    await admin.execute(
        f"UPDATE pg_database SET {column} = {value} WHERE datname = $1",  # noqa: S608 - our own words
        completed.database,
    )
    (drift,) = await _found(detector, kind)
    assert drift.subject == f"{completed.instance_id} {completed.name}"
    assert fault in drift.explanation


async def test_no_delete_is_advised_when_the_database_is_half_dropped_and_what_was_before_a_reset_is_there(
    detector: DriftDetector, admin: asyncpg.Connection, rows: asyncpg.Connection, completed: InstanceJob
) -> None:
    half_drop = "UPDATE pg_database SET datconnlimit = -2 WHERE datname = $1"
    await admin.execute(half_drop, completed.database)
    (drift,) = await _found(detector, DriftKind.INTERRUPTED_DROP)
    assert "If nothing of it is wanted, delete the instance" in drift.explanation
    version = await add_version(rows, completed.instance_id, timedelta(days=1))
    await admin.execute(f'CREATE DATABASE "{version}"')
    try:
        (drift,) = await _found(detector, DriftKind.INTERRUPTED_DROP)
    finally:
        await admin.execute(f'DROP DATABASE "{version}"')
    assert "delete the instance" not in drift.explanation
    assert f'DROP DATABASE "{completed.database}"; then' in drift.explanation
    assert f"`ods recover --apply --choose {version}` makes that the instance's" in drift.explanation


async def test_nothing_is_reported_when_a_rename_failed_but_that_its_database_has_another_name(
    detector: DriftDetector,
    instances: InstanceStore,
    job_store: JobStore,
    admin: asyncpg.Connection,
    completed: InstanceJob,
) -> None:
    job = (await instances.request_rename(completed.instance_id, f"{completed.name} new")).job
    await job_store.begin(job)
    await job_store.fail(job, "The server was away.")
    assert _about(await detector.detect(), completed.name) == []
    await admin.execute(f'ALTER DATABASE "{job.database}" RENAME TO "{job.new_database}"')
    (drift,) = await _found(detector, DriftKind.CHANGED_BY_HAND)
    assert drift.explanation.startswith(f"The instance is Error. Its database '{job.database}'")
    await admin.execute(f'DROP DATABASE "{job.new_database}"')


async def test_older_registry_is_reported_when_a_delete_was_refused_for_that(
    detector: DriftDetector,
    instances: InstanceStore,
    job_store: JobStore,
    rows: asyncpg.Connection,
    completed: InstanceJob,
) -> None:
    await rows.execute("UPDATE adminapi.databaserevisions SET id = gen_random_uuid()")
    assert await _found(detector, DriftKind.REGISTRY_PUT_BACK)
    deletion = (await instances.request_delete(completed.instance_id)).job
    await job_store.begin(deletion, "It was published later than the registry knows.")
    await job_store.fail(deletion, "It was published later than the registry knows.")
    assert await _found(detector, DriftKind.REGISTRY_PUT_BACK)


async def test_older_registry_is_reported_when_its_instances_change_all_the_time(
    detector: DriftDetector, rows: asyncpg.Connection, completed: InstanceJob
) -> None:
    await rows.execute("UPDATE adminapi.databaserevisions SET id = gen_random_uuid()")

    async def change() -> None:
        seconds = 0
        while True:
            seconds += 1
            await rows.execute(
                "UPDATE adminapi.dbinstances SET lastmodifieddate = now() + $1 * interval '1 second'", seconds
            )
            await asyncio.sleep(0)

    changing = asyncio.create_task(change())
    try:
        assert await _found(detector, DriftKind.REGISTRY_PUT_BACK)
    finally:
        changing.cancel()
        await asyncio.wait([changing])


async def test_older_registry_is_reported_when_something_of_it_is_handed_back_meanwhile(
    detector: DriftDetector,
    tenant: Tenant,
    rows: asyncpg.Connection,
    completed: InstanceJob,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installation, at = await tenant.installation.id(), datetime.now(UTC)
    later = StartedJob(installation, completed.mark, completed.number + 1, at)
    lost = StartedJob(installation, str(uuid.uuid4()), 1, at)

    async def hand_back(_: float) -> None:
        await rows.execute("UPDATE adminapi.dbinstances SET jobnumber = jobnumber + 1")

    monkeypatch.setattr("ods.recovery.compare.detector.asyncio", SimpleNamespace(sleep=hand_back))
    assert is_suspect(await detector.detect([later, lost])) is not None


async def test_foreign_database_is_reported_when_it_stands_in_an_instances_place(
    detector: DriftDetector, admin: asyncpg.Connection, completed: InstanceJob
) -> None:
    await admin.execute(f'COMMENT ON DATABASE "{completed.database}" IS NULL')
    (drift,) = await _found(detector, DriftKind.CHANGED_BY_HAND)
    assert "mark" in drift.explanation


async def test_lost_ods_instance_is_reported(
    detector: DriftDetector, rows: asyncpg.Connection, completed: InstanceJob
) -> None:
    await rows.execute("DELETE FROM dbo.odsinstances")
    (drift,) = await _found(detector, DriftKind.ROUTE_BROKEN)
    assert str(completed.ods_instance_id) in drift.explanation


async def test_ods_instance_on_another_server_is_none_of_our_business(
    detector: DriftDetector, settings: Settings, rows: asyncpg.Connection
) -> None:
    strings = OdsConnectionStrings.from_settings(settings)
    local = strings.encrypted("nowhere")
    elsewhere = settings.model_copy(
        update={
            "instance_connection_string": type(settings.instance_connection_string)("host=elsewhere;port=1")
        }
    )
    foreign = OdsConnectionStrings.from_settings(elsewhere).encrypted("nowhere")
    await rows.executemany(
        "INSERT INTO dbo.odsinstances (name, connectionstring) VALUES ($1, $2)",
        [("local", local), ("foreign", foreign), ("unreadable", "x|y|z"), ("none", None)],
    )
    (drift,) = await _found(detector, DriftKind.ROUTE_BROKEN)
    assert drift.subject.endswith(" local")


async def test_instance_is_reported_when_its_ods_instance_leads_to_another_server(
    detector: DriftDetector, tenant: Tenant, rows: asyncpg.Connection, completed: InstanceJob
) -> None:
    """As one that was left out when the others were led to the server that they were moved to."""
    elsewhere = f"host=former;port=5433;database={completed.database};username=u;password=secret"
    await rows.execute(
        "UPDATE dbo.odsinstances SET connectionstring = $1",
        tenant.connection_strings.encrypted_text(elsewhere),
    )
    (drift,) = await _found(detector, DriftKind.ROUTED_ELSEWHERE)
    assert drift.subject == f"{completed.ods_instance_id} {completed.name}"
    assert f"'{completed.database}' on former:5433" in drift.explanation
    assert "secret" not in drift.explanation
    assert drift.remedy == Remedy(RemedyAction.ADOPT, completed.instance_id, completed.database)
    await rows.execute(
        "UPDATE dbo.odsinstances SET connectionstring = $1",
        tenant.connection_strings.encrypted(completed.database),
    )
    assert await _found(detector, DriftKind.ROUTED_ELSEWHERE) == []


async def test_other_ods_instance_is_reported_when_it_has_been_left_on_the_server_from_which_one_was_moved(
    detector: DriftDetector, tenant: Tenant, rows: asyncpg.Connection, completed: InstanceJob
) -> None:
    """As one for a vendor, which led to the database of the instance before that was moved."""
    names = [completed.database, "managed elsewhere"]
    strings = [
        tenant.connection_strings.encrypted_text(f"host=former;database={name};password=secret")
        for name in names
    ]
    await rows.executemany(
        "INSERT INTO dbo.odsinstances (odsinstanceid, name, connectionstring) VALUES ($1, $2, $3)",
        [(9001, "Vendor", strings[0]), (9002, "Other product", strings[1])],
    )
    (drift,) = await _found(detector, DriftKind.ROUTED_ELSEWHERE)
    assert drift.subject == "9001 Vendor"
    assert f"'{completed.database}' on former:5432" in drift.explanation
    assert f"instance {completed.instance_id} '{completed.name}'" in drift.explanation
    assert "PUT /v2/odsInstances/9001" in drift.explanation
    assert "secret" not in drift.explanation
    assert drift.remedy is None


async def test_derivative_is_reported_when_it_leads_to_the_database_of_another_instance(
    detector: DriftDetector,
    tenant: Tenant,
    instances: InstanceStore,
    rows: asyncpg.Connection,
    completed: InstanceJob,
    name: str,
) -> None:
    other = await bring_to(instances, tenant.jobs, "Completed", f"{name} other")
    by_hand = await rows.fetchval(
        "INSERT INTO dbo.odsinstances (name) VALUES ('by hand') RETURNING odsinstanceid"
    )
    its = tenant.connection_strings.encrypted(completed.database)
    await rows.executemany(
        "INSERT INTO dbo.odsinstancederivatives"
        " (odsinstance_odsinstanceid, derivativetype, connectionstring) VALUES ($1, $2, $3)",
        [
            (completed.ods_instance_id, "ReadReplica", its),
            (by_hand, "ReadReplica", its),
            (other.ods_instance_id, "ReadReplica", its),
            (other.ods_instance_id, "Snapshot", "iv|ciphertext|hmac"),
        ],
    )
    (drift,) = await _found(detector, DriftKind.ROUTED_ELSEWHERE)
    assert drift.subject == f"{other.ods_instance_id} {other.name} ReadReplica"
    assert f"'{completed.database}'" in drift.explanation
    assert f"{completed.instance_id} '{completed.name}'" in drift.explanation


async def test_ods_instance_is_reported_when_it_leads_to_the_database_of_an_instance_and_is_not_its_own(
    detector: DriftDetector,
    tenant: Tenant,
    instances: InstanceStore,
    rows: asyncpg.Connection,
    completed: InstanceJob,
    name: str,
) -> None:
    failed = await bring_to(instances, tenant.jobs, "Error", f"{name} failed")
    its = tenant.connection_strings.encrypted(completed.database)
    await rows.execute("UPDATE dbo.odsinstances SET connectionstring = $1", its)
    await rows.executemany(
        "INSERT INTO dbo.odsinstances (name, connectionstring) VALUES ($1, $2)",
        [
            ("by a client", its),
            ("of another product", tenant.connection_strings.encrypted(failed.database)),
            ("unreadable", "iv|ciphertext|hmac"),
        ],
    )
    found = await _found(detector, DriftKind.ROUTED_ELSEWHERE)
    (drift,) = [one for one in found if "its clients read and write its data" in one.explanation]
    assert drift.subject.endswith(" by a client")
    assert f"{completed.instance_id} '{completed.name}'" in drift.explanation


async def test_database_is_reported_when_no_instance_has_it(
    detector: DriftDetector, admin: asyncpg.Connection, owner: Owner
) -> None:
    name = f"EdFi_Ods_{owner.ods_instance_id}_Minimal"
    await admin.execute(f'CREATE DATABASE "{name}"')
    try:
        found = await _found(detector, DriftKind.DATABASE_WITHOUT_INSTANCE)
        assert name in [drift.subject for drift in found]
    finally:
        await admin.execute(f'DROP DATABASE "{name}"')
    assert name not in [drift.subject for drift in await detector.detect()]


async def test_database_is_reported_when_its_instance_is_deleted(
    detector: DriftDetector,
    instances: InstanceStore,
    job_store: JobStore,
    admin: asyncpg.Connection,
    completed: InstanceJob,
) -> None:
    deletion = (await instances.request_delete(completed.instance_id, Delete(Way.DROP))).job
    await job_store.begin(deletion)
    await job_store.finish_delete(deletion)
    await admin.execute(f'ALTER DATABASE "{completed.database}" RENAME TO "Marked"')
    try:
        found = await _found(detector, DriftKind.DATABASE_WITHOUT_INSTANCE)
        assert "Marked" in [drift.subject for drift in found]
    finally:
        await admin.execute(f'ALTER DATABASE "Marked" RENAME TO "{completed.database}"')


async def test_database_is_not_reported_when_an_ods_instance_or_its_derivative_leads_to_it(
    detector: DriftDetector,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    """As one that was detached and goes on to be served, and those of an Ed-Fi installation from before."""
    database = f"EdFi_Ods_{name}_Minimal"
    await admin.execute(f'CREATE DATABASE "{database}"')
    try:
        assert database in [drift.subject for drift in await detector.detect()]
        await add_ods_instance(rows, name, connection_string(postgres.port, database))
        assert database not in [drift.subject for drift in await detector.detect()]
        await rows.execute(
            """
            INSERT INTO dbo.odsinstancederivatives
                (odsinstance_odsinstanceid, derivativetype, connectionstring)
            SELECT odsinstanceid, 'ReadReplica', connectionstring FROM dbo.odsinstances WHERE name = $1
            """,
            name,
        )
        await rows.execute("UPDATE dbo.odsinstances SET connectionstring = NULL WHERE name = $1", name)
        assert database not in [drift.subject for drift in await detector.detect()]
    finally:
        await rows.execute("DELETE FROM dbo.odsinstancederivatives")
        await admin.execute(f'DROP DATABASE "{database}"')


@pytest.mark.parametrize(("state", "told"), [("Pending", False), ("InProgress", False), ("Error", True)])
async def test_foreign_database_is_reported_when_it_is_in_the_way_of_a_create_that_has_failed(
    detector: DriftDetector,
    instances: InstanceStore,
    job_store: JobStore,
    admin: asyncpg.Connection,
    name: str,
    *,
    state: str,
    told: bool,
) -> None:
    job = await bring_to(instances, job_store, state, name)
    await admin.execute(f'CREATE DATABASE "{job.database}"')
    try:
        found = [drift.subject for drift in await _found(detector, DriftKind.DATABASE_WITHOUT_INSTANCE)]
        assert (job.database in found) == told
        # One that its own create has left.
        await admin.execute(f"COMMENT ON DATABASE \"{job.database}\" IS '{marked_by(job).comment}'")
        assert job.database not in [drift.subject for drift in await detector.detect()]
    finally:
        await admin.execute(f'DROP DATABASE "{job.database}"')


@pytest.mark.parametrize("tenant_name", ["default", "tenant2"])
async def test_database_of_another_tenant_is_left_out_when_two_tenants_share_a_server(
    detector: DriftDetector, admin: asyncpg.Connection, owner: Owner, tenant: Tenant, tenant_name: str
) -> None:
    """By the installation: what the comment calls the tenant may be of before that had another name."""
    name = f"EdFi_Ods_{owner.ods_instance_id}_Minimal"
    own = await tenant.installation.id()
    await admin.execute(f'CREATE DATABASE "{name}"')
    try:
        for installation, is_left_out in ((str(uuid.uuid4()), True), (own, False)):
            marked = replace(owner, tenant=tenant_name, installation=installation)
            await admin.execute(f"COMMENT ON DATABASE \"{name}\" IS '{marked.comment}'")
            told = "; ".join(f"{drift.subject} {drift.explanation}" for drift in await detector.detect())
            assert (name not in told) is is_left_out
    finally:
        await admin.execute(f'DROP DATABASE "{name}"')


async def test_staging_database_is_reported_when_its_instance_is_deleted_but_not_when_it_is_unknown(
    detector: DriftDetector,
    instances: InstanceStore,
    job_store: JobStore,
    admin: asyncpg.Connection,
    owner: Owner,
    name: str,
) -> None:
    job = (await instances.reserve(name, Template.MINIMAL)).job
    await job_store.begin(job)
    await job_store.fail(job, "no")
    deletion = (await instances.request_delete(job.instance_id)).job
    await job_store.begin(deletion)
    await job_store.finish_delete(deletion)
    ours = owner_of(job).staging_name
    forgotten = replace(owner_of(job), mark=str(uuid.uuid4())).staging_name  # the registry was put back
    of_another = replace(owner, installation=str(uuid.uuid4())).staging_name
    try:
        for database in (ours, forgotten, of_another):
            await admin.execute(f"CREATE DATABASE {database}")
        found = [drift.subject for drift in await _found(detector, DriftKind.DATABASE_WITHOUT_INSTANCE)]
        assert {ours, forgotten} <= {*found}
        assert of_another not in found
    finally:
        for database in (ours, forgotten, of_another):
            await admin.execute(f"DROP DATABASE IF EXISTS {database}")


async def test_invalid_database_is_reported_when_it_is_not_ours(
    detector: DriftDetector, admin: asyncpg.Connection, owner: Owner
) -> None:
    name = f"broken_{owner.ods_instance_id}"
    await admin.execute(f"CREATE DATABASE {name}")
    await admin.execute("UPDATE pg_database SET datconnlimit = -2 WHERE datname = $1", name)
    try:
        (drift,) = await _found(detector, DriftKind.INTERRUPTED_DROP)
        assert drift.subject == name
    finally:
        await admin.execute(f"DROP DATABASE {name}")


@pytest.mark.usefixtures("without_leftovers")
async def test_way_back_is_told_when_the_database_of_a_deleted_instance_is_not_in_the_trash(
    detector: DriftDetector,
    tenant: Tenant,
    instances: InstanceStore,
    job_store: JobStore,
    completed: InstanceJob,
    admin: asyncpg.Connection,
) -> None:
    """As after the server was restored to before the delete."""

    async def told(kind: DriftKind) -> Drift:
        (found,) = await _found(detector, kind)
        assert found.subject == f"{completed.instance_id} {completed.name}"
        also = {drift.subject for drift in await _found(detector, DriftKind.DATABASE_WITHOUT_INSTANCE)}
        assert completed.database not in also, "what no instance has may be dropped, by the page"
        return found

    deletion = (await instances.request_delete(completed.instance_id)).job
    await job_store.begin(deletion)
    await job_store.finish_delete(deletion)
    drift = await told(DriftKind.CHANGED_BY_HAND)
    assert f"its mark is on '{completed.database}' (" in drift.explanation
    assert HOW_TO_RECOVER in drift.explanation
    assert drift.remedy == RECOVER
    assert await _recovered(tenant) == [StepKind.DELETE]
    assert await detector.detect() == []
    row = await row_of(admin, str(deletion.trash_database))
    assert row is not None
    assert not row["datallowconn"]

    await admin.execute(f'DROP DATABASE "{deletion.trash_database}"')
    assert "It cannot come back" in (await told(DriftKind.DATABASE_MISSING)).explanation


@pytest.fixture
async def trashed(
    tenant: Tenant, instances: InstanceStore, completed: InstanceJob, admin: asyncpg.Connection
) -> AsyncIterator[InstanceJob]:
    """The delete of an instance in the trash, on both sides."""
    deletion = (await instances.request_delete(completed.instance_id)).job
    await tenant.jobs.begin(deletion)
    await ActivityEnvironment().run(DatabaseActivities(tenant, ConcurrencyLimit(1)).trash, deletion)
    yield deletion
    await admin.execute(f'DROP DATABASE IF EXISTS "{deletion.trash_database}" WITH (FORCE)')


async def known_owner(tenant: Tenant, job: InstanceJob) -> KnownOwner:
    """The instance of the job, with the requests that the registry knows."""
    return owner_of(job).knowing(await tenant.jobs.known_revisions(job), job.request, job.attempt)


async def _commented(admin: asyncpg.Connection, database: str, comment: str | None) -> None:
    text = "NULL" if comment is None else f"'{comment}'"
    await admin.execute(f'COMMENT ON DATABASE "{database}" IS {text}')


async def _undelete(tenant: Tenant, job: InstanceJob) -> None:
    undelete = (await tenant.instances.request_undelete(job.instance_id)).job
    assert (await tenant.jobs.begin(undelete)).held
    await ActivityEnvironment().run(DatabaseActivities(tenant, ConcurrencyLimit(1)).undelete, undelete)
    encrypted = tenant.connection_strings.encrypted(job.database)
    assert await tenant.jobs.finish_undelete(undelete, encrypted)


async def _purged(tenant: Tenant, job: InstanceJob) -> None:
    purge = (await tenant.instances.request_purge(job.instance_id)).job
    await tenant.jobs.begin(purge)
    assert (
        await ActivityEnvironment().run(DatabaseActivities(tenant, ConcurrencyLimit(1)).purge, purge)
    ).is_recorded


def _about(found: list[Drift], *words: str) -> list[Drift]:
    return [drift for drift in found if any(word in str(drift) for word in words)]


async def test_nothing_is_reported_when_registry_and_server_agree_on_what_is_in_the_trash(
    detector: DriftDetector, trashed: InstanceJob
) -> None:
    found = await detector.detect()
    assert _about(found, trashed.name, trashed.database, str(trashed.trash_database)) == []


@pytest.mark.parametrize("change", [None, *UNREADABLE], ids=["none", *UNREADABLE])
async def test_comment_is_reported_when_it_was_removed_or_changed_of_a_database_in_the_trash(
    detector: DriftDetector,
    tenant: Tenant,
    instances: InstanceStore,
    admin: asyncpg.Connection,
    trashed: InstanceJob,
    change: str | None,
) -> None:
    row = await row_of(admin, str(trashed.trash_database))
    assert row is not None
    comment = None if change is None else unreadable(row["comment"], change)
    await _commented(admin, str(trashed.trash_database), comment)
    (drift,) = await _found(detector, DriftKind.CHANGED_BY_HAND)
    assert drift.subject == f"{trashed.instance_id} {trashed.name}"
    assert "does not carry the instance's mark" in drift.explanation
    # The remedy that it names is one.
    statement = drift.explanation.partition("again: ")[2].partition(" If ")[0].rstrip(".")
    await admin.execute(statement)
    assert await _found(detector, DriftKind.CHANGED_BY_HAND) == []
    purge = (await instances.request_delete(trashed.instance_id, Delete(Way.DROP))).job
    await tenant.jobs.begin(purge)
    assert (
        await ActivityEnvironment().run(DatabaseActivities(tenant, ConcurrencyLimit(1)).purge, purge)
    ).is_recorded
    assert not await admin.fetchval(_EXISTS, trashed.trash_database)


_EXISTS = "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("published", "does not say in its comment that it is in the trash"),
        ("opened", "was opened"),
    ],
)
async def test_database_in_the_trash_is_reported_when_it_was_changed_by_hand_and_undelete_brings_it_back(
    detector: DriftDetector,
    tenant: Tenant,
    admin: asyncpg.Connection,
    trashed: InstanceJob,
    change: str,
    words: str,
) -> None:
    database, owner = str(trashed.trash_database), await known_owner(tenant, trashed)
    match change:
        case "published":
            await _commented(admin, database, owner.comment)
        case "opened":
            await admin.execute(f'ALTER DATABASE "{database}" ALLOW_CONNECTIONS true')
    (drift,) = await _found(detector, DriftKind.CHANGED_BY_HAND)
    assert words in drift.explanation
    assert f"`ods instance undelete {trashed.instance_id}`" in drift.explanation
    await _undelete(tenant, trashed)
    assert await admin.fetchval(_EXISTS, trashed.database)
    assert await _found(detector, DriftKind.CHANGED_BY_HAND) == []


@pytest.mark.usefixtures("without_leftovers")
@pytest.mark.parametrize(
    ("since", "kind"), [("undeleted", StepKind.TAKE_BACK), ("undeleted and deleted", StepKind.DELETE)]
)
async def test_advice_can_be_followed_when_the_registry_is_of_before_an_undelete(
    detector: DriftDetector,
    tenant: Tenant,
    admin: asyncpg.Connection,
    trashed: InstanceJob,
    since: str,
    kind: StepKind,
) -> None:
    later = by_another(await known_owner(tenant, trashed))
    name = trashed.database
    if since == "undeleted and deleted":
        later, name = replace(later, trashed_name=name), str(trashed.trash_database)
    else:
        await admin.execute(f'ALTER DATABASE "{trashed.trash_database}" RENAME TO "{name}"')
        await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
    await _commented(admin, name, later.comment)
    found = _about(await detector.detect(), name)
    (older,) = [drift for drift in found if drift.kind is DriftKind.REGISTRY_PUT_BACK]
    assert older.remedy == RECOVER
    assert await _recovered(tenant) == [kind]
    assert await detector.detect() == []
    assert await admin.fetchval(_EXISTS, name)
    if kind is StepKind.DELETE:
        await _undelete(tenant, trashed)
    instance = await tenant.queries.instance(trashed.instance_id)
    assert (instance.status, instance.database_name) == ("Completed", trashed.database)
    assert await admin.fetchval(_EXISTS, trashed.database)


@pytest.mark.usefixtures("without_leftovers")
async def test_advice_can_be_followed_when_a_delete_would_drop_what_a_later_one_has_moved_to_the_trash(
    detector: DriftDetector,
    tenant: Tenant,
    instances: InstanceStore,
    admin: asyncpg.Connection,
    completed: InstanceJob,
) -> None:
    """A move to the trash failed; the registry was restored to when a purge was requested after that."""
    failed = (await instances.request_delete(completed.instance_id)).job
    await tenant.jobs.begin(failed)
    await tenant.jobs.fail(failed, "Sessions do not end.")
    drop = (await instances.request_delete(completed.instance_id, Delete(Way.DROP))).job
    owner = await known_owner(tenant, drop)
    later = replace(by_another(owner), trashed_name=completed.database)
    await admin.execute(f'ALTER DATABASE "{completed.database}" RENAME TO "{drop.trash_database}"')
    await admin.execute(f'ALTER DATABASE "{drop.trash_database}" ALLOW_CONNECTIONS false')
    await _commented(admin, str(drop.trash_database), later.comment)
    (drift,) = await _found(detector, DriftKind.REGISTRY_PUT_BACK)
    assert f"'{drop.trash_database}'" in drift.explanation
    assert drift.remedy == RECOVER

    statuses = StatusActivities(tenant)
    assert "Nothing was done to it" in str((await ActivityEnvironment().run(statuses.begin, drop)).refusal)
    activities = DatabaseActivities(tenant, ConcurrencyLimit(1))
    with pytest.raises(ApplicationError, match=re.escape(HOW_TO_RECOVER)):
        await ActivityEnvironment().run(activities.drop, drop)
    await tenant.jobs.fail(drop, "It was moved to the trash later than the registry knows.")
    assert await _recovered(tenant) == [StepKind.DELETE]
    assert await detector.detect() == []
    with pytest.raises(InstanceNotFoundError):  # what would have dropped it is over
        await instances.request_retry(completed.instance_id)
    await _purged(tenant, drop)
    assert not await admin.fetchval(_EXISTS, drop.trash_database)


@pytest.mark.usefixtures("without_leftovers")
async def test_advice_can_be_followed_when_the_registry_is_of_before_a_reset_and_a_delete(
    detector: DriftDetector,
    tenant: Tenant,
    instances: InstanceStore,
    admin: asyncpg.Connection,
    completed: InstanceJob,
) -> None:
    """The earlier database is the instance's; what was deleted is kept."""
    later = replace(by_another(marked_by(completed)), number=2, database_id=str(uuid.uuid4()))
    job_id = f"DeleteInstanceJob-{completed.ods_instance_id}-3"
    later = replace(later, trashed_name=completed.database, job_id=job_id)
    forgotten = trash_name(later.database_id)
    await admin.execute(f'CREATE DATABASE "{forgotten}" ALLOW_CONNECTIONS false')
    try:
        await _commented(admin, forgotten, later.comment)
        (drift,) = await _found(detector, DriftKind.REGISTRY_PUT_BACK)
        assert drift.remedy == RECOVER
        assert await _recovered(tenant) == [StepKind.HAND_OVER]
        assert await detector.detect() == []
        instance = await tenant.queries.instance(completed.instance_id)
        assert instance.database_name == completed.database
        delete = (await instances.request_delete(completed.instance_id)).job
        # The jobs go on after the one that the registry has forgotten, and the recovery.
        assert delete.number == completed.number + 3
        await tenant.jobs.begin(delete)
        activities = DatabaseActivities(tenant, ConcurrencyLimit(1))
        assert (await ActivityEnvironment().run(activities.trash, delete)).had_database is not False
        assert await admin.fetchval(_EXISTS, forgotten)
        assert not await _found(detector, DriftKind.REGISTRY_PUT_BACK)
    finally:
        for name in (forgotten, completed.trash_database):
            await admin.execute(f'DROP DATABASE IF EXISTS "{name}"')


@pytest.mark.usefixtures("without_leftovers")
async def test_number_that_was_written_by_hand_is_left_out_when_a_database_is_recovered(
    tenant: Tenant, queries: InstanceQueries, admin: asyncpg.Connection, completed: InstanceJob
) -> None:
    said = replace(marked_by(completed), number=10**12, database_id=str(uuid.uuid4()), trashed_name="A")
    by_hand = trash_name(said.database_id)
    await _commented(admin, completed.database, by_another(marked_by(completed)).comment)
    await admin.execute(f'CREATE DATABASE "{by_hand}" ALLOW_CONNECTIONS false')
    try:
        await _commented(admin, by_hand, said.comment)
        assert await _recovered(tenant) == [StepKind.HAND_OVER]
    finally:
        await admin.execute(f'DROP DATABASE IF EXISTS "{by_hand}"')
    assert (await queries.instance(completed.instance_id)).job_number == completed.number + 1


@pytest.mark.usefixtures("without_leftovers")
async def test_database_stays_when_its_instance_was_purged_and_it_came_back(
    detector: DriftDetector,
    tenant: Tenant,
    instances: InstanceStore,
    admin: asyncpg.Connection,
    trashed: InstanceJob,
) -> None:
    """As after the server was restored to before the purge."""
    purge = (await instances.request_delete(trashed.instance_id, Delete(Way.DROP))).job
    await tenant.jobs.begin(purge)
    await tenant.jobs.finish_purge(purge)
    (drift,) = _about(await detector.detect(), str(trashed.trash_database))
    assert (drift.kind, drift.remedy) == (DriftKind.DATABASE_WITHOUT_INSTANCE, None)
    assert "it is never dropped" in drift.explanation
    assert await _recovered(tenant) == []
    assert await admin.fetchval(_EXISTS, trashed.trash_database)


async def test_advice_can_be_followed_when_an_instance_was_purged_after_the_backup_of_the_registry(
    detector: DriftDetector, tenant: Tenant, admin: asyncpg.Connection, trashed: InstanceJob
) -> None:
    await admin.execute(f'DROP DATABASE "{trashed.trash_database}"')
    installation, at = await tenant.installation.id(), datetime.now(UTC)
    forgotten = StartedJob(installation, trashed.mark, trashed.number + 1, at)
    found = _about(await detector.detect([forgotten]), trashed.name, "1 jobs")
    kinds = {drift.kind for drift in found}
    assert kinds == {DriftKind.DATABASE_MISSING, DriftKind.REGISTRY_PUT_BACK}
    (missing,) = [drift for drift in found if drift.kind is DriftKind.DATABASE_MISSING]
    assert f"`ods instance purge {trashed.instance_id}`" in missing.explanation
    await _purged(tenant, trashed)
    assert _about(await detector.detect(), trashed.name) == []


async def test_spare_is_not_reported_in_whatever_state_it_is(
    detector: DriftDetector, admin: asyncpg.Connection
) -> None:
    name = new_name(str(uuid.uuid4()))
    await admin.execute(f"CREATE DATABASE {name}")
    await admin.execute("UPDATE pg_database SET datconnlimit = -2 WHERE datname = $1", name)
    try:
        assert name not in [drift.subject for drift in await detector.detect()]
    finally:
        await admin.execute(f"DROP DATABASE {name}")


async def test_template_is_reported_when_it_is_missing_or_open(
    tenant: Tenant, settings: Settings, admin: asyncpg.Connection
) -> None:
    one_more = settings.model_copy(update={"templates": {"Other": "Nowhere"}})
    detector = DriftDetector(replace(tenant, settings=one_more))
    await admin.execute(f'ALTER DATABASE "{SAMPLE_TEMPLATE}" ALLOW_CONNECTIONS true')
    try:
        found = {it.subject: it for it in await _found(detector, DriftKind.TEMPLATE_UNUSABLE)}
        assert found.keys() == {SAMPLE_TEMPLATE, "Nowhere"}
        assert "ALLOW_CONNECTIONS false" in found[SAMPLE_TEMPLATE].explanation
        assert "does not exist" in found["Nowhere"].explanation
    finally:
        await admin.execute(f'ALTER DATABASE "{SAMPLE_TEMPLATE}" ALLOW_CONNECTIONS false')


async def test_no_database_of_an_instance_shall_be_closed_when_the_settings_name_it_as_a_template(
    tenant: Tenant, settings: Settings, completed: InstanceJob
) -> None:
    one_more = settings.model_copy(update={"templates": {"Other": completed.database}})
    detector = DriftDetector(replace(tenant, settings=one_more))
    (drift,) = await _found(detector, DriftKind.TEMPLATE_UNUSABLE)
    assert drift.subject == completed.database
    assert drift.explanation.startswith("Do not close it: it is the database of an instance")


async def test_directory_without_database_is_reported_where_the_role_may_look(
    detector: DriftDetector, admin: asyncpg.Connection
) -> None:
    # COPY … TO PROGRAM makes the directory as the server's own user.
    await admin.execute("COPY (SELECT 1) TO PROGRAM 'cat > /dev/null; mkdir base/4000000000'")
    try:
        assert await _found(detector, DriftKind.ORPHAN_DIRECTORY) == []
        await admin.execute(f"GRANT EXECUTE ON FUNCTION pg_ls_dir(text) TO {seeding.SERVICE_ROLE}")
        (drift,) = await _found(detector, DriftKind.ORPHAN_DIRECTORY)
        assert drift.subject == "4000000000"
        async with admin.transaction():  # CREATE and DROP DATABASE hold this lock
            await admin.execute("LOCK TABLE pg_database IN ROW EXCLUSIVE MODE")
            assert await _found(detector, DriftKind.ORPHAN_DIRECTORY) == []
    finally:
        await admin.execute(f"REVOKE EXECUTE ON FUNCTION pg_ls_dir(text) FROM {seeding.SERVICE_ROLE}")
        await admin.execute("COPY (SELECT 1) TO PROGRAM 'rmdir base/4000000000'")


async def test_one_finding_names_the_time_between_when_the_registry_was_put_back(
    detector: DriftDetector, completed: InstanceJob, rows: asyncpg.Connection
) -> None:
    await rows.execute("UPDATE adminapi.databaserevisions SET id = gen_random_uuid()")
    (drift,) = [one for one in await detector.detect() if completed.database in str(one)]
    assert drift.kind is DriftKind.REGISTRY_PUT_BACK
    assert f"'{completed.database}'" in drift.explanation
    assert drift.remedy == RECOVER
    assert f"{datetime.now(UTC):%Y-%m-%d}" in drift.explanation

    await rows.execute("DELETE FROM dbo.odsinstances; DELETE FROM adminapi.dbinstances")
    (drift,) = [one for one in await detector.detect() if completed.database in str(one)]
    assert drift.kind is DriftKind.REGISTRY_PUT_BACK


@pytest.mark.usefixtures("without_leftovers")
async def test_copy_with_the_same_mark_is_reported_and_may_be_chosen_when_it_was_set_aside(
    detector: DriftDetector, tenant: Tenant, completed: InstanceJob, admin: asyncpg.Connection
) -> None:
    """One may have been confused with the other."""
    copy = f"{completed.database}_aside"
    own = await row_of(admin, completed.database)
    assert own is not None
    await admin.execute(f'CREATE DATABASE "{copy}" OWNER {seeding.SERVICE_ROLE}')
    try:
        await _commented(admin, copy, own["comment"])
        (drift,) = await _found(detector, DriftKind.TWO_DATABASES)
        assert drift.subject == f"{completed.database}, {copy}"
        assert f"the registry calls '{completed.database}'" in drift.explanation
        assert "drop it" not in drift.explanation
        assert "Keep all" in drift.explanation
        assert drift.remedy == RECOVER
        assert (await Recovery(tenant).apply([copy])).refused == []
        assert (await tenant.queries.instance(completed.instance_id)).database_name == copy
        (version,) = await tenant.queries.versions()
        assert await admin.fetchval(_EXISTS, version.trash_name)
        assert await detector.detect() == []
    finally:
        await admin.execute(f'DROP DATABASE "{copy}"')


@pytest.mark.usefixtures("without_leftovers")
async def test_only_a_copy_is_told_to_lose_its_comment_when_a_recovery_has_recorded_what_was_replaced(
    detector: DriftDetector, tenant: Tenant, completed: InstanceJob, admin: asyncpg.Connection
) -> None:
    own, copy = marked_by(completed), f"{completed.database}_aside"
    version = trash_name(str(uuid.uuid4()))
    database_id = str(uuid.UUID(version.rpartition("_")[2]))
    replaced = replace(by_another(own), database_id=database_id, trashed_name=completed.database)
    try:
        for name, comment in ((copy, own.comment), (version, replaced.comment)):
            await admin.execute(f'CREATE DATABASE "{name}" ALLOW_CONNECTIONS {name == copy}')
            await _commented(admin, name, comment)
        (drift,) = await _found(detector, DriftKind.TWO_DATABASES)
        assert f"'{version}' (" in drift.explanation
        assert await _recovered(tenant) == [StepKind.HAND_OVER]
        (drift,) = await _found(detector, DriftKind.TWO_DATABASES)
        assert drift.subject == f"{completed.database}, {copy}"
        assert version not in drift.explanation
        assert "drop it" not in drift.explanation
        (recorded,) = await tenant.queries.versions()
        assert (recorded.trash_name, recorded.purge_after) == (version, None)
    finally:
        for name in (copy, version):
            await admin.execute(f'DROP DATABASE IF EXISTS "{name}"')


async def test_nothing_is_asked_for_when_only_jobs_are_unknown_to_the_registry(
    detector: DriftDetector, tenant: Tenant, completed: InstanceJob, admin: asyncpg.Connection
) -> None:
    lost = StartedJob(await tenant.installation.id(), str(uuid.uuid4()), 1, datetime.now(UTC))
    for drift in await detector.detect([lost]):
        if drift.kind is DriftKind.REGISTRY_PUT_BACK and drift.subject.startswith("0 databases"):
            assert "ods recover" not in drift.explanation
            assert drift.remedy is None
    later = by_another(marked_by(completed))
    await admin.execute(f"COMMENT ON DATABASE \"{completed.database}\" IS '{later.comment}'")
    (drift,) = [one for one in await detector.detect([lost]) if one.kind is DriftKind.REGISTRY_PUT_BACK]
    assert drift.remedy == RECOVER
    assert "`ods recover`" in drift.explanation
    assert completed.database in drift.explanation


async def test_jobs_that_only_temporal_remembers_are_reported_when_the_registry_was_put_back(
    detector: DriftDetector, tenant: Tenant, completed: InstanceJob
) -> None:
    installation, at = await tenant.installation.id(), datetime.now(UTC)
    known = StartedJob(installation, completed.mark, completed.number, at)
    later = StartedJob(installation, completed.mark, completed.number + 1, at)
    lost = StartedJob(installation, str(uuid.uuid4()), 1, at)
    others = StartedJob(str(uuid.uuid4()), str(uuid.uuid4()), 1, at)

    async def reported(*started: StartedJob) -> list[str]:
        found = await detector.detect(started)
        subjects = [drift.subject for drift in found if drift.kind is DriftKind.REGISTRY_PUT_BACK]
        # Other tests of this run have left databases of the same installation on the server.
        return [subject.rpartition(", ")[2] for subject in subjects]

    assert await reported(known, others) in ([], ["0 jobs"])
    assert await reported(known, later, lost, others) == ["2 jobs"]
