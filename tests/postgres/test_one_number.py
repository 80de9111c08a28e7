"""The number of a new instance: its id and its OdsInstanceId, which clients take for one."""

import asyncio
import uuid

import asyncpg
import pytest

from ods.model.operations import Template
from ods.registry.instances.adoptions import DatabaseName, ToldInstance
from ods.registry.instances.store import InstanceStore
from ods.registry.migrations import upgrade
from ods.registry.storage.engine import create_registry_engine
from ods.tenants.tenant import Tenant
from tests.postgres.ed_fi_admin import EdFiAdmin
from tests.postgres.instance_states import CONNECTION_STRING, stores
from tests.postgres.legacy_schemas import ADMIN_API_INSTANCES, LAYOUTS, ODS_API

pytestmark = pytest.mark.long

ODS_IDS = "dbo.odsinstances_odsinstanceid_seq"
OWN_IDS = "adminapi.dbinstances_id_seq"
BY_ADMIN_API = (
    "INSERT INTO adminapi.dbinstances (name, status, databasetemplate, operation, arguments)"
    " VALUES ('theirs ' || gen_random_uuid(), 'Deleted', 'Minimal', 'Delete',"
    ' \'{"keep": false, "backup_first": false}\') RETURNING id'
)
BY_ODS_API = (
    "INSERT INTO dbo.odsinstances (name) VALUES ('theirs ' || gen_random_uuid()) RETURNING odsinstanceid"
)


@pytest.fixture
async def highest(rows: asyncpg.Connection) -> int:
    """A number above all that other tests have used, from which both sequences have gone on."""
    return await level(rows)


async def level(rows: asyncpg.Connection) -> int:
    first, second = [await rows.fetchval(f"SELECT nextval('{sequence}')") for sequence in (ODS_IDS, OWN_IDS)]
    for sequence in (ODS_IDS, OWN_IDS):
        await rows.execute(f"SELECT setval('{sequence}', $1)", max(first, second))
    return int(max(first, second))


async def reserved(instances: InstanceStore, name: str) -> int:
    """The one number of a new instance."""
    instance = (await instances.reserve(name, Template.MINIMAL)).instance
    assert instance.id == instance.ods_instance_id
    return instance.id


async def test_numbers_are_the_next_ones_when_instances_are_reserved(
    instances: InstanceStore, highest: int, name: str
) -> None:
    assert [await reserved(instances, f"{name} {n}") for n in range(3)] == [highest + n for n in (1, 2, 3)]


async def test_number_is_one_when_many_are_reserved_at_once_while_others_add_rows(
    instances: InstanceStore, rows: asyncpg.Connection, highest: int, name: str
) -> None:
    async def add_rows() -> list[int]:
        return [await rows.fetchval(statement) for _ in range(20) for statement in (BY_ADMIN_API, BY_ODS_API)]

    ours = (reserved(instances, f"{name} {n}") for n in range(20))
    numbers, theirs = await asyncio.gather(asyncio.gather(*ours), add_rows())
    assert len(set(numbers)) == 20
    assert not set(numbers) & set(theirs)
    assert min(numbers) > highest


IN_USE = {
    "OdsInstanceId": "INSERT INTO dbo.odsinstances (odsinstanceid, name) VALUES ($1, 'theirs')",
    "id": "INSERT INTO adminapi.dbinstances (id, name, status, databasetemplate, operation, arguments)"
    " VALUES ($1, 'theirs', 'Deleted', 'Minimal', 'Delete', '{\"keep\": false, \"backup_first\": false}')",
    "reserved OdsInstanceId": "INSERT INTO adminapi.dbinstances"
    " (name, odsinstanceid, status, databasetemplate, operation)"
    " VALUES ('theirs', $1, 'Completed', 'Minimal', 'Create')",
}


@pytest.mark.parametrize("column", IN_USE)
async def test_next_free_number_is_used_when_a_row_of_either_table_has_the_first(
    instances: InstanceStore, rows: asyncpg.Connection, name: str, column: str
) -> None:
    before = await level(rows)
    used = before + 2  # the last statement draws an id as well
    await rows.execute(IN_USE[column], used)
    await level(rows)
    numbers = [await reserved(instances, f"{name} {n}") for n in range(2)]
    assert used not in numbers
    assert numbers[1] <= used + 2


@pytest.mark.parametrize("behind", [ODS_IDS, OWN_IDS])
async def test_sequence_is_brought_in_step_when_it_is_behind_as_after_a_restore(
    instances: InstanceStore, rows: asyncpg.Connection, highest: int, name: str, behind: str
) -> None:
    before = [await reserved(instances, f"{name} {n}") for n in range(5)]
    await rows.execute(f"SELECT setval('{behind}', $1)", highest)

    after = [await reserved(instances, f"{name} {n} again") for n in range(5)]
    assert before[-1] < after[0] < before[-1] + 5
    assert after == [after[0] + n for n in range(5)]
    assert await rows.fetchval(BY_ADMIN_API) == after[-1] + 1
    assert await rows.fetchval(BY_ODS_API) == after[-1] + 1


async def test_number_is_free_when_both_sequences_are_behind(
    instances: InstanceStore, rows: asyncpg.Connection, highest: int, name: str
) -> None:
    before = [await reserved(instances, f"{name} {n}") for n in range(3)]
    for sequence in (ODS_IDS, OWN_IDS):
        await rows.execute(f"SELECT setval('{sequence}', $1)", highest)
    assert await reserved(instances, f"{name} again") == before[-1] + 1


async def test_sequences_are_brought_in_step_when_one_is_far_ahead(
    instances: InstanceStore, rows: asyncpg.Connection, highest: int, name: str
) -> None:
    far = highest + 1_000_000_000
    await rows.execute(f"SELECT setval('{ODS_IDS}', $1)", far)
    numbers = [await reserved(instances, f"{name} {n}") for n in range(2)]
    assert far < numbers[0] < far + 10
    assert numbers[1] == numbers[0] + 1
    assert await rows.fetchval(BY_ADMIN_API) == await rows.fetchval(BY_ODS_API)


async def test_number_is_one_when_a_sequence_counts_in_steps(dsn: str, bare: asyncpg.Connection) -> None:
    await upgrade(dsn)
    await bare.execute(f"ALTER SEQUENCE {ODS_IDS} INCREMENT BY 10")
    engine = create_registry_engine(dsn)
    try:
        async with asyncio.timeout(10):
            numbers = [await reserved(stores(engine)[0], f"New {n}") for n in range(3)]
    finally:
        await engine.dispose()
    assert [number % 10 for number in numbers] == [numbers[0] % 10] * 3
    assert await bare.fetchval(BY_ODS_API) > numbers[-1]
    assert await bare.fetchval(BY_ADMIN_API) > numbers[-1]


async def test_no_number_is_given_again_when_rows_of_an_admin_api_are_adopted(
    ed_fi_admin: EdFiAdmin,
) -> None:
    """Neither after a migration that has set the sequences, nor by the sequence of the other table."""
    sql = ed_fi_admin.sql
    await sql.execute(ODS_API)
    await sql.execute(f"SELECT setval('{ODS_IDS}', 500)")
    await upgrade(ed_fi_admin.dsn)
    added = await ed_fi_admin.add("Theirs", "PendingCreate", None)
    assert added == 501
    await ed_fi_admin.migrate_again()
    number = await sql.fetchval("SELECT odsinstanceid FROM adminapi.dbinstances")
    assert number > 500
    later = [await sql.fetchval(statement) for statement in (BY_ADMIN_API, BY_ODS_API)]
    assert min(later) > number


@pytest.mark.parametrize("ahead", [OWN_IDS, "adminapi.odsinstancemanages_id_seq"])
async def test_no_number_is_given_again_when_two_tables_become_one(
    ed_fi_admin: EdFiAdmin, ahead: str
) -> None:
    await ed_fi_admin.install()
    await ed_fi_admin.sql.execute(ADMIN_API_INSTANCES.replace("dbinstances", "odsinstancemanages"))
    await ed_fi_admin.sql.execute(
        "INSERT INTO adminapi.odsinstancemanages"
        " (name, odsinstanceid, status, databasetemplate, databasename)"
        " VALUES ('Theirs', 7, 'Created', 'Minimal', 'Theirs')"
    )
    await ed_fi_admin.sql.execute(f"SELECT setval('{ahead}', 500)")
    await upgrade(ed_fi_admin.dsn)
    assert await ed_fi_admin.add("Later", "Created", 8) > 500
    assert await ed_fi_admin.sql.fetchval(BY_ODS_API) > 500


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_rows_keep_their_numbers_and_new_ones_have_one_when_tables_are_adopted(
    dsn: str, bare: asyncpg.Connection, layout: str
) -> None:
    await bare.execute(LAYOUTS[layout])
    await upgrade(dsn)
    ids = "SELECT array_agg(id ORDER BY id) FROM adminapi.dbinstances"
    before = await bare.fetchval(ids) or []
    engine = create_registry_engine(dsn)
    try:
        numbers = [await reserved(stores(engine)[0], f"New {n}") for n in range(2)]
    finally:
        await engine.dispose()
    assert numbers[1] == numbers[0] + 1
    assert await bare.fetchval(ids) == before + numbers
    assert numbers[0] > (await bare.fetchval("SELECT max(odsinstanceid) FROM dbo.odsinstances") or 0)


@pytest.mark.parametrize("used", [False, True])
async def test_lost_instance_has_its_ods_instance_id_when_no_other_instance_has_it(
    tenant: Tenant, rows: asyncpg.Connection, highest: int, name: str, *, used: bool
) -> None:
    number = highest + 10
    if used:
        await rows.execute(
            IN_USE["id"],
            number,
        )
    lost = lost_instance(name, number, 1)
    restored = await tenant.adoptions.follow(lost, DatabaseName(f"EdFi_Ods_{name}", CONNECTION_STRING))
    assert restored.ods_instance_id == number
    assert (restored.id == number) is not used


def lost_instance(name: str, number: int, published_by: int, last: int = 1) -> ToldInstance:
    mark, request = str(uuid.uuid4()), str(uuid.uuid4())
    its = (name, Template.MINIMAL, number, mark, published_by, None, request, request)
    return ToldInstance(*its, last_number=last)


KNOWN = {
    "job": (
        "INSERT INTO adminapi.jobstatuses (jobid, status, createdat)"
        " VALUES ('BackupInstanceJob-' || $1 || '-7', 'Completed', now())"
    ),
    "backup": (
        "INSERT INTO adminapi.backups (id, instanceid, odsinstanceid, mark, installation, name, kind, jobid,"
        " template, createdat, details) VALUES (gen_random_uuid(), $1, $1, gen_random_uuid(),"
        " gen_random_uuid(), 'A', 'requested', 'BackupInstanceJob-' || $1 || '-7', 'Minimal', now(), '{}')"
    ),
    "snapshot": (
        "INSERT INTO adminapi.snapshots (instanceid, jobnumber, databasename, databaseid, status, createdat)"
        " VALUES ($1, 7, 'EdFi_Ods_A_Snapshot', gen_random_uuid(), 'Completed', now())"
    ),
    "version": (
        "INSERT INTO adminapi.databases"
        " (instanceid, databasetemplate, jobnumber, databaseid, reason, trashedat, purgeafter)"
        " VALUES ($1, 'Minimal', 7, gen_random_uuid(), 'replaced', now(), now())"
    ),
}
"""What the registry may still have of an instance whose row is lost, each of its seventh job."""


@pytest.mark.parametrize("what", KNOWN)
@pytest.mark.parametrize(("published_by", "last"), [(1, 1), (9, 9), (1, 9)])
async def test_lost_instance_goes_on_after_the_jobs_that_the_registry_and_its_databases_know(
    tenant: Tenant, rows: asyncpg.Connection, highest: int, name: str, what: str, published_by: int, last: int
) -> None:
    number = highest + 10
    await rows.execute(KNOWN[what].replace("$1", str(number)))
    await rows.execute(KNOWN["job"].replace("$1", f"1{number}").replace("-7", "-70"))  # of another one
    lost = lost_instance(name, number, published_by, last)
    restored = await tenant.adoptions.follow(lost, DatabaseName(f"EdFi_Ods_{name}", CONNECTION_STRING))
    assert restored.job_number == max(8, last) + 1
