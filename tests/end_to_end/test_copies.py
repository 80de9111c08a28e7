"""Copies of instances from the request to the database, as clients see them."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import httpx
import pytest

from ods.embedded.postgres import EmbeddedPostgres
from tests.postgres.postgres_inspection import exists
from tests.servers import service_dsn, session

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("workers")]

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
            await asyncio.sleep(0.05)


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


@pytest.fixture
async def of_a_vendor(
    api: httpx.AsyncClient, postgres: EmbeddedPostgres, admin: asyncpg.Connection, name: str
) -> AsyncIterator[dict[str, Any]]:
    """An instance with a table that belongs to a role of which the service's is no member."""
    source = await made(api, {"name": name, "databaseTemplate": "Minimal"})
    await admin.execute("CREATE ROLE vendor")
    async with session(postgres.dsn(source["databaseName"])) as inside:
        await inside.execute(
            "CREATE SCHEMA reports AUTHORIZATION vendor;"
            " CREATE TABLE reports.treasure AS SELECT 42 AS answer;"
            " ALTER TABLE reports.treasure OWNER TO vendor"
        )
    yield source
    await admin.execute("REVOKE vendor FROM ods_service")
    query = "SELECT datname FROM pg_database WHERE shobj_description(oid, 'pg_database') LIKE '%\"mark\"%'"
    for row in await admin.fetch(query):
        await admin.execute(f'DROP DATABASE "{row["datname"]}" WITH (FORCE)')
    await admin.execute("DROP ROLE vendor")


async def test_online_copy_is_refused_before_its_job_when_the_role_of_the_service_may_not_make_it(
    api: httpx.AsyncClient, admin: asyncpg.Connection, of_a_vendor: dict[str, Any], name: str
) -> None:
    target = await made(api, {"name": f"{name} target", "databaseTemplate": "Minimal"})
    source, origin = of_a_vendor["id"], {"copyOf": of_a_vendor["id"]}
    new = {"name": f"{name} copy", **origin}
    reset = f"{INSTANCES}/{target['id']}/reset"
    for path, body, field in (
        (INSTANCES, new, "CopyOf"),
        (f"{INSTANCES}/bulk", {"instances": [new]}, "instances[0].CopyOf"),
        (reset, origin, "CopyOf"),
    ):
        refused = await api.post(path, json=body)
        planned = await api.post(f"{path}?dryRun=true", json=body)
        assert (refused.status_code, planned.status_code) == (400, 200), refused.text
        assert planned.json()["status"] == 400
        for errors in (refused.json()["errors"], planned.json()["errors"]):
            ((told, (reason,)),) = errors.items()
            assert told == field
            assert f"The instance {source} cannot be copied online." in reason
            assert 'GRANT vendor TO ods_service), or copy the instance closed ("mode": "closed")' in reason
    assert (await made(api, {**new, "mode": "closed"}))["copyOf"] == source

    await admin.execute("GRANT vendor TO ods_service")
    await made(api, {"name": f"{name} other", **origin})
    job = f"/v2/jobs/{(await api.post(reset, json=origin)).json()['jobId']}"
    async with asyncio.timeout(30):
        while (ended := (await api.get(job)).json())["status"] not in {"Completed", "Error"}:
            await asyncio.sleep(0.05)
    assert ended["status"] == "Completed", ended
