"""The view that Admin App synchronises from: every clause of its contract."""

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import httpx
import pytest

from ods.model.operations import Template
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.store import InstanceStore
from tests.postgres.instance_states import STATES, bring_to
from tests.servers import session

VIEW = "/v2/tenants/default/odsInstances/edOrgs"
WITHOUT_ODS_INSTANCE = {"Pending", "InProgress", "Error", "InProgress_Delete", "Deleted", "Delete_Failed"}


@pytest.fixture
async def rows(registry_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    async with session(registry_dsn) as connection:
        yield connection


async def _shown(api: httpx.AsyncClient) -> list[dict[str, Any]]:
    answer = await api.get(VIEW)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"
    shown: list[dict[str, Any]] = answer.json()["odsInstances"]
    return shown


async def _add(rows: asyncpg.Connection, name: str) -> int:
    added: int = await rows.fetchval(
        "INSERT INTO dbo.odsinstances (name) VALUES ($1) RETURNING odsinstanceid", name
    )
    return added


async def _add_row(
    rows: asyncpg.Connection, name: str, status: str, ods_instance: int | None, changed: str
) -> int:
    """A row as an Admin API may have left it."""
    added: int = await rows.fetchval(
        "INSERT INTO adminapi.dbinstances (name, status, odsinstanceid, databasetemplate, databasename,"
        " operation, lastmodifieddate) VALUES ($1, $2, $3, 'Minimal', $4, 'Create', $5::text::timestamp)"
        " RETURNING id",
        name,
        status,
        ods_instance,
        f"db {name} {status}",
        changed,
    )
    return added


async def test_view_is_empty_when_the_tenant_has_nothing(api: httpx.AsyncClient) -> None:
    assert (await api.get(VIEW)).json() == {"id": "default", "name": "default", "odsInstances": []}


async def test_every_member_is_there_when_there_is_an_instance_with_organizations(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore, rows: asyncpg.Connection
) -> None:
    job = await bring_to(instances, job_store, "Completed", "Grand Bend")
    await rows.execute(
        "INSERT INTO adminapi.educationorganizations (instanceid, instancename, educationorganizationid,"
        " nameofinstitution, shortnameofinstitution, discriminator, parentid) VALUES"
        " ($1, '', 255901001, E'A \"quoted\" \\\\ school \\n ü', NULL, 'edfi.School', 255901),"
        " ($1, '', 255901, 'A district', 'AD', 'edfi.LocalEducationAgency', NULL),"
        " ($1 + 1, '', 1, 'Of an ODS instance that is gone', NULL, 'edfi.School', NULL)",
        job.ods_instance_id,
    )
    assert await _shown(api) == [
        {
            "id": job.ods_instance_id,
            "odsInstanceManageId": job.instance_id,
            "name": job.name,
            "instanceType": "Minimal",
            "status": "Created",
            "databaseTemplate": "Minimal",
            "databaseName": job.database,
            "educationOrganizations": [
                {
                    "educationOrganizationId": 255901,
                    "nameOfInstitution": "A district",
                    "shortNameOfInstitution": "AD",
                    "discriminator": "edfi.LocalEducationAgency",
                    "parentId": None,
                },
                {
                    "educationOrganizationId": 255901001,
                    "nameOfInstitution": 'A "quoted" \\ school \n ü',
                    "shortNameOfInstitution": None,
                    "discriminator": "edfi.School",
                    "parentId": 255901,
                },
            ],
        }
    ]


async def test_ods_instance_is_created_when_it_was_made_by_hand(
    api: httpx.AsyncClient, rows: asyncpg.Connection
) -> None:
    added = await _add(rows, "By hand")
    assert await _shown(api) == [
        {
            "id": added,
            "odsInstanceManageId": None,
            "name": "By hand",
            "instanceType": None,
            "status": "Created",
            "databaseTemplate": None,
            "databaseName": None,
            "educationOrganizations": [],
        }
    ]


@pytest.mark.parametrize("state", STATES)
async def test_status_is_in_the_words_of_manage_when_the_instance_is_in_any_state(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore, state: str
) -> None:
    job = await bring_to(instances, job_store, state, "In a state")
    (shown,) = await _shown(api)
    (managed,) = (await api.get("/v2/odsInstances/manage")).json()
    assert shown["odsInstanceManageId"] == managed["id"] == job.instance_id
    for member in ("name", "status", "databaseTemplate", "databaseName"):
        assert shown[member] == managed[member]
    routed = state not in WITHOUT_ODS_INSTANCE
    assert shown["id"] == (job.ods_instance_id if routed else None)
    assert shown["instanceType"] == ("Minimal" if routed else None)


async def test_ods_instances_come_first_in_utf_16_order_when_there_are_also_others(
    api: httpx.AsyncClient, instances: InstanceStore, rows: asyncpg.Connection
) -> None:
    names = ["b", "B", "a", "\U0001f600", "\uffee", "Ä", " "]
    for name in names:
        await _add(rows, name)
    first = await instances.reserve("Zulu", Template.MINIMAL)
    second = await instances.reserve("Alpha", Template.MINIMAL)
    shown = await _shown(api)
    assert [one["name"] for one in shown] == [
        *sorted(names, key=lambda name: name.encode("utf-16-be")),
        *("Zulu", "Alpha"),
    ]
    ids = [one["odsInstanceManageId"] for one in shown]
    assert ids == [*[None] * len(names), first.instance.id, second.instance.id]


async def test_newest_row_is_shown_when_an_ods_instance_has_several(
    api: httpx.AsyncClient, rows: asyncpg.Connection
) -> None:
    north, south = await _add(rows, "North"), await _add(rows, "South")
    await _add_row(rows, "North", "Deleted", north, "2026-01-01")
    newest = await _add_row(rows, "North", "Deleted", north, "2026-03-01")
    await _add_row(rows, "North", "Deleted", north, "2026-02-01")
    live = await _add_row(rows, "South", "Completed", south, "2026-01-01")
    await _add_row(rows, "South", "Deleted", south, "2026-03-01")
    shown = await _shown(api)
    assert [(one["id"], one["odsInstanceManageId"], one["status"]) for one in shown] == [
        (north, newest, "Deleted"),
        (south, live, "Created"),
    ]


async def test_deleted_row_hides_no_live_one_when_both_have_a_name(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore, rows: asyncpg.Connection
) -> None:
    for name in ("Gone", "Made again", "Pending again", "By hand again"):
        await bring_to(instances, job_store, "Deleted", name)
    gone = await bring_to(instances, job_store, "Deleted", "Gone")
    made = await bring_to(instances, job_store, "Completed", "Made again")
    pending = await bring_to(instances, job_store, "Pending", "Pending again")
    by_hand = await _add(rows, "By hand again")
    shown = await _shown(api)
    assert [(one["name"], one["id"], one["odsInstanceManageId"], one["status"]) for one in shown] == [
        ("By hand again", by_hand, None, "Created"),
        ("Made again", made.ods_instance_id, made.instance_id, "Created"),
        ("Gone", None, gone.instance_id, "Deleted"),
        ("Pending again", None, pending.instance_id, "PendingCreate"),
    ]


async def test_every_instance_is_shown_once_when_there_are_ten_thousand(
    api: httpx.AsyncClient, rows: asyncpg.Connection
) -> None:
    await rows.execute(
        "INSERT INTO dbo.odsinstances (odsinstanceid, name)"
        " SELECT 9000000 + n, 'Instance ' || n FROM generate_series(1, 10000) AS n"
    )
    await rows.execute(
        "INSERT INTO adminapi.educationorganizations"
        " (instanceid, instancename, educationorganizationid, nameofinstitution, discriminator)"
        " SELECT 9000000 + n, '', 1, 'S', 'edfi.School' FROM generate_series(1, 10000) AS n"
    )
    shown = await _shown(api)
    assert len({one["id"] for one in shown}) == len(shown) == 10_000
    assert [one["name"] for one in shown] == sorted(one["name"] for one in shown)
    assert all(len(one["educationOrganizations"]) == 1 for one in shown)


@pytest.mark.parametrize(
    "path", ["/V2/TENANTS/DEFAULT/ODSINSTANCES/EDORGS/", "/v2/tenants/Default/odsinstances/edorgs"]
)
async def test_view_is_found_when_path_and_tenant_are_spelled_otherwise(
    api: httpx.AsyncClient, path: str
) -> None:
    assert (await api.get(path)).json()["id"] == "default"


@pytest.mark.parametrize("tenant", ["other", "default2", "%00", "x" * 1000, "DEFAULT%20"])
async def test_answer_is_404_without_body_when_there_is_no_such_tenant(
    idle_api: httpx.AsyncClient, tenant: str
) -> None:
    answer = await idle_api.get(f"/v2/tenants/{tenant}/odsInstances/edOrgs")
    assert (answer.status_code, answer.content) == (404, b"")
