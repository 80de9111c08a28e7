"""An Admin API that names the table of the instances anew while this service is at work."""

import asyncio
from typing import Any

import asyncpg
import httpx
from temporalio.client import Client

from ods.embedded.polling import wait_until
from ods.settings.settings import Settings
from tests.api.service import served
from tests.end_to_end.steps import sweep
from tests.end_to_end.test_client_journey import AdminApp
from tests.postgres.legacy_schemas import ADMIN_API_RENAME
from tests.servers import session

INSTANCES = "/v2/dbInstances"
WAITING = (
    "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'adminapi.odsinstancemanages'::regclass"
)

ADD = """
INSERT INTO adminapi.odsinstancemanages
    (name, odsinstanceid, odsinstancename, status, databasetemplate, databasename, lastrefreshed,
     lastmodifieddate)
VALUES ($1, $2, $1, $3, 'Minimal', $4, '2026-01-01', '2026-01-02')
"""
AFTERWARDS = {
    "PendingCreate": "Created",
    "PendingDelete": "Deleted",
    **{word: word for word in ("Created", "CreateInProgress", "CreateFailed", "CreateError")},
    **{word: word for word in ("DeleteInProgress", "Deleted", "DeleteFailed", "DeleteError")},
}


async def test_requests_wait_and_jobs_are_completed_when_the_table_is_renamed_meanwhile(
    settings: Settings, registry_dsn: str, own_temporal: Client
) -> None:
    async with served(settings, own_temporal) as client, session(registry_dsn) as script:
        app = AdminApp(client, "default")
        await app.log_in()
        await app.ask("POST", INSTANCES, 202, _wanted(0))
        transaction = script.transaction()
        await transaction.start()
        await script.execute(ADMIN_API_RENAME)
        requests = [asyncio.create_task(_ask_everything(client, number)) for number in range(1, 4)]

        async def all_wait() -> bool:
            return bool(await script.fetchval(WAITING) >= len(requests))

        await wait_until(all_wait, 10)
        await transaction.commit()
        answers = [answer for answered in await asyncio.gather(*requests) for answer in answered]
        assert {answer.status_code for answer in answers} == {200, 202}

        async def all_completed() -> bool:
            return await _statuses(client) == ["Completed"] * 4

        await wait_until(all_completed, 30)
        assert await _shared_statuses(script) == ["Created"] * 4
        for number in range(4):
            await app.ask("DELETE", f"{INSTANCES}/{await _id(client, number)}", 202)

        async def all_deleted() -> bool:
            return await _statuses(client) == ["Deleted"] * 4

        await wait_until(all_deleted, 30)
        assert await _shared_statuses(script) == ["Deleted"] * 4


async def test_rows_of_an_admin_api_are_adopted_when_jobs_run_beside(
    settings: Settings, registry_dsn: str, own_temporal: Client, name: str
) -> None:
    async with served(settings, own_temporal) as client, session(registry_dsn) as script:
        app = AdminApp(client, "default")
        await app.log_in()
        await script.execute(ADMIN_API_RENAME)
        for number in range(4):
            await app.ask("POST", INSTANCES, 202, _wanted(number) | {"name": f"{name} {number}"})
        for number, word in enumerate(AFTERWARDS, start=5000):
            is_new = word.startswith("Pending")
            facts = (None, None) if is_new else (number, f"EdFi_Ods_{name}_{word}_Minimal")
            await script.execute(ADD, f"{name}_{word}", facts[0], word, facts[1])
        await sweep(own_temporal, settings)
        await sweep(own_temporal, settings)  # a delete is carried out by the sweep after its adoption
        expected = {f"{name}_{word}": status for word, status in AFTERWARDS.items()}
        expected |= {f"{name} {number}": "Created" for number in range(4)}

        async def are_as_expected() -> bool:
            rows = await script.fetch("SELECT name, status FROM adminapi.odsinstancemanages")
            return {row["name"]: row["status"] for row in rows} == expected

        await wait_until(are_as_expected, 30)
        made = (
            "SELECT count(*) FROM adminapi.odsinstancemanages JOIN pg_database ON datname = databasename"
            " WHERE name = $1"
        )
        assert await script.fetchval(made, f"{name}_PendingCreate") == 1
        left = "SELECT count(*) FROM adminapi.managed_instances WHERE jobnumber = 0 AND state <> 'Deleted'"
        assert await script.fetchval(left) == 2  # an Admin API says that it works on them


def _wanted(number: int) -> dict[str, Any]:
    return {"name": f"Shared {number}", "databaseTemplate": "Minimal"}


async def _ask_everything(client: httpx.AsyncClient, number: int) -> list[httpx.Response]:
    return [
        await client.get(INSTANCES),
        await client.post(INSTANCES, json=_wanted(number)),
        await client.get("/v2/tenants/default/odsInstances/edOrgs"),
    ]


async def _statuses(client: httpx.AsyncClient) -> list[str]:
    return [row["status"] for row in (await client.get(INSTANCES)).json()]


async def _id(client: httpx.AsyncClient, number: int) -> int:
    (row,) = (await client.get(INSTANCES, params={"name": f"Shared {number}"})).json()
    return int(row["id"])


async def _shared_statuses(script: asyncpg.Connection) -> list[str]:
    rows = await script.fetch("SELECT status FROM adminapi.odsinstancemanages ORDER BY id")
    return [row["status"] for row in rows]
