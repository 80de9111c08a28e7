"""Copies of instances from the request to the database, as clients see them."""

import asyncio
from typing import Any

import asyncpg
import httpx
import pytest

from embedded.postgres import EmbeddedPostgres
from tests.postgres.postgres_inspection import exists
from tests.servers import service_dsn, session

pytestmark = pytest.mark.usefixtures("workers")

INSTANCES = "/v2/dbInstances"


async def made(api: httpx.AsyncClient, body: dict[str, Any]) -> dict[str, Any]:
    """The instance that a request has made."""
    answer = await api.post(INSTANCES, json=body)
    assert answer.status_code == 202, answer.text
    async with asyncio.timeout(30):
        while True:
            shown: dict[str, Any] = (await api.get(f"{INSTANCES}/{answer.json()['id']}")).json()
            if shown["status"] in {"Completed", "Error"}:
                assert shown["status"] == "Completed", shown["errorMessage"]
                return shown
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("mode", ["online", "closed"])
async def test_copy_has_data_of_its_source_and_attributes_of_its_own_when_a_client_requests_it(
    api: httpx.AsyncClient, postgres: EmbeddedPostgres, admin: asyncpg.Connection, name: str, mode: str
) -> None:
    attributes = {"labels": {"year": "2026"}, "contexts": [{"contextKey": "year", "contextValue": name}]}
    source = await made(api, {"name": name, "databaseTemplate": "Minimal", **attributes})
    async with session(service_dsn(postgres, source["databaseName"])) as inside:
        await inside.execute("CREATE TABLE treasure AS SELECT 42 AS answer")

    wanted = {"name": f"{name} copy", "copyOf": source["id"], "mode": mode, "labels": {"year": "2027"}}
    copy = await made(api, wanted)

    assert (copy["copyOf"], copy["mode"], copy["operation"]) == (source["id"], mode, "Create")
    assert (copy["labels"], copy["contexts"]) == ({"year": "2027"}, [])
    job = (await api.get(f"/v2/jobs/{copy['jobId']}")).json()
    assert (job["status"], job["operation"]) == ("Completed", "Create")
    async with session(service_dsn(postgres, copy["databaseName"])) as inside:
        assert await inside.fetchval("SELECT answer FROM treasure") == 42
        await inside.execute("UPDATE treasure SET answer = 43")
    async with session(service_dsn(postgres, source["databaseName"])) as inside:
        assert await inside.fetchval("SELECT answer FROM treasure") == 42

    await api.patch(f"{INSTANCES}/{source['id']}", json={"contexts": []})
    assert (await api.delete(f"{INSTANCES}/{source['id']}")).status_code == 202
    assert await exists(admin, copy["databaseName"])


async def test_copy_of_a_copy_and_two_copies_at_once_are_made_when_they_are_requested(
    api: httpx.AsyncClient, name: str
) -> None:
    source = await made(api, {"name": name, "databaseTemplate": "Minimal"})
    first, second = await asyncio.gather(
        *(made(api, {"name": f"{name} {word}", "copyOf": source["id"]}) for word in ("a", "b"))
    )
    third = await made(api, {"name": f"{name} c", "copyOf": first["id"], "mode": "closed"})
    assert (first["copyOf"], second["copyOf"], third["copyOf"]) == (source["id"], source["id"], first["id"])
