"""The usage of an instance, asked while its jobs are carried out."""

import asyncio

import httpx
from temporalio.client import Client

from ods.embedded.polling import wait_until
from ods.embedded.postgres import EmbeddedPostgres
from ods.settings.settings import Settings
from tests.api.service import bearer, served
from tests.servers import make_settings

INSTANCES = "/v2/dbInstances"


async def test_instance_is_renamed_and_deleted_when_its_usage_is_asked_all_the_time(
    postgres: EmbeddedPostgres, registry_dsn: str, own_temporal: Client, name: str
) -> None:
    settings: Settings = make_settings(postgres, registry_dsn, rate_limiting=False)
    async with served(settings, own_temporal) as client:
        client.headers.update(bearer(settings))
        created = await client.post(INSTANCES, json={"name": name, "databaseTemplate": "Minimal"})
        path = f"{INSTANCES}/{created.json()['id']}"

        async def ended(answer: httpx.Response) -> None:
            job = f"/v2/jobs/{answer.json()['jobId']}"

            async def is_done() -> bool:
                return bool((await client.get(job)).json()["status"] == "Completed")

            await wait_until(is_done, 30)

        async def ask() -> None:
            while True:
                usage = await client.get(f"{path}/usage")
                page = await client.get(INSTANCES, params={"include": "usage"})
                assert usage.status_code in {200, 404, 409, 503}, usage.text
                assert page.status_code == 200, page.text

        await ended(created)
        assert (await client.get(f"{path}/usage")).json()["tables"] > 10
        asking = [asyncio.create_task(ask()) for _ in range(4)]
        await ended(await client.put(path, json={"name": f"{name} new"}))
        assert (await client.get(f"{path}/usage")).json()["tables"] > 10
        await ended(await client.delete(path))
        assert not any(task.done() for task in asking)
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        (shown,) = (await client.get(INSTANCES, params={"include": "usage"})).json()
    assert (shown["status"], shown["usageObstacle"]) == (
        "Deleted",
        "Its database is in the trash, closed.",
    )
