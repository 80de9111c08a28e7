"""A service whose role owns nothing: it works with what `ods grants` prints, and names what is missing."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import asyncpg
import httpx
import pytest
from temporalio.client import Client

from ods.cli.grants import parts_of
from ods.embedded.polling import wait_until
from ods.embedded.postgres import EmbeddedPostgres
from ods.model.operations import JobStatus
from ods.registry.rights.script import script
from ods.registry.storage.errors import RefusedError
from ods.settings.settings import Settings
from tests.api.service import NOBODY, bearer, client_of, running, served
from tests.end_to_end.conftest import Operator
from tests.ods_api import APPLICATION_DETAILS, APPLICATION_TABLES
from tests.secret_search import as_secret
from tests.servers import NUMBERS, make_settings, session

_EARLIER_SEQUENCE_NAMES = """
ALTER SEQUENCE dbo.odsinstancecontexts_odsinstancecontextid_seq
    RENAME TO odsinstancecontext_odsinstancecontextid_seq;
ALTER SEQUENCE dbo.odsinstancederivatives_odsinstancederivativeid_seq
    RENAME TO odsinstancederivative_odsinstancederivativeid_seq
"""
"""As in a real EdFi_Admin, whose tables Ed-Fi's scripts have renamed."""
PASSWORD = as_secret("password-of-the-least-role")


async def run_script(postgres: EmbeddedPostgres, lines: list[str]) -> None:
    """Run what `ods grants` prints, as a database administrator does with psql."""
    for part in "\n".join(lines).split("\\connect ")[1:]:
        database, _, statements = part.partition("\n")
        async with session(postgres.dsn(database.strip('"'))) as superuser:
            await superuser.execute(statements)


@asynccontextmanager
async def hardened(admin: asyncpg.Connection) -> AsyncIterator[None]:
    """A server on which an administrator has taken a function from all roles."""
    function = "FUNCTION pg_catalog.pg_control_system()"
    await admin.execute(f"REVOKE EXECUTE ON {function} FROM PUBLIC")
    try:
        yield
    finally:
        await admin.execute(f"GRANT EXECUTE ON {function} TO PUBLIC")


@pytest.fixture
async def least(
    postgres: EmbeddedPostgres, registry_dsn: str, admin: asyncpg.Connection
) -> AsyncIterator[Settings]:
    """Settings of a service whose role may log in, and has no right at all."""
    role = f"least_{next(NUMBERS)}"
    database = registry_dsn.rpartition("/")[2]
    await admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'")
    await admin.execute(f'REVOKE CONNECT ON DATABASE "{database}" FROM PUBLIC')
    async with session(postgres.dsn(database)) as owner:
        await owner.execute(f"{APPLICATION_TABLES}; {APPLICATION_DETAILS}")
        await owner.execute("REVOKE EXECUTE ON FUNCTION adminapi.utf16_order FROM PUBLIC")
        await owner.execute(_EARLIER_SEQUENCE_NAMES)
    login = f"postgresql://{role}:{PASSWORD}@127.0.0.1:{postgres.port}"
    async with hardened(admin):
        yield make_settings(
            postgres, f"{login}/{database}", master_dsn=f"{login}/postgres", rate_limiting=False
        )
    async with session(postgres.dsn(database)) as owner:
        await owner.execute(f"DROP OWNED BY {role}")
    await admin.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def every_get(client: httpx.AsyncClient, ids: dict[str, str]) -> list[tuple[str, int]]:
    """The paths that were asked for, with the statuses of the answers."""
    paths = (await client.get("/openapi.json")).json()["paths"]
    asked = [re.sub(r"{(\w+)}", lambda found: ids.get(found[1], "1"), path) for path in paths]
    reading = [path for path, methods in zip(asked, paths.values(), strict=True) if "get" in methods]
    return [(path, (await client.get(path)).status_code) for path in reading]


async def test_instance_lives_and_dies_when_the_role_has_what_the_command_prints(
    least: Settings, postgres: EmbeddedPostgres, own_temporal: Client, name: str
) -> None:
    await run_script(postgres, list(script(parts_of(least))))
    async with served(least, own_temporal) as client:
        client.headers.update(bearer(least))

        async def ended(answer: httpx.Response) -> None:
            assert answer.status_code == 202, answer.text
            job = f"/v2/jobs/{answer.json()['jobId']}"

            async def is_done() -> bool:
                told = (await client.get(job)).json()
                assert told["status"] != JobStatus.ERROR, told
                return bool(told["status"] == JobStatus.COMPLETED)

            await wait_until(is_done, 30)

        wanted = {"name": name, "databaseTemplate": "Minimal"}
        created = await client.post("/v2/dbInstances", json=wanted)
        await ended(created)
        instance = (await client.get("/v2/dbInstances", params={"name": name})).json()[0]
        path = f"/v2/dbInstances/{instance['id']}"
        await ended(await client.put(path, json={"name": f"{name} renamed"}))
        told = await every_get(
            client, {"job_id": created.json()["jobId"], "tenant_name": "default", "name": "default"}
        )
        assert [path for path, status in told if status >= 500] == []
        health = (await client.get("/health")).json()["results"]
        assert {"name": "rights", "status": "Healthy"} in health
        await ended(await client.delete(path))
        await ended(await client.post(f"{path}/undelete"))
        await ended(await client.delete(path))
        await ended(await client.delete(f"{path}?purge=true"))


async def test_answer_names_the_grant_when_the_role_may_not_connect(least: Settings) -> None:
    async with running(least, NOBODY) as app, client_of(app, headers=bearer(least)) as client:
        answer = await client.get("/v2/odsInstances")
        health = await client.get("/health")

    assert answer.status_code == 503
    assert "GRANT CONNECT ON its database TO the role of ODS_ADMIN_DSN;" in answer.json()["detail"]
    assert health.status_code == 503
    assert "GRANT CONNECT" in health.json()["results"][0]["detail"]


@pytest.mark.usefixtures("workers")
async def test_reason_of_the_job_names_the_grant_when_the_end_may_not_be_recorded(
    operator: Operator, postgres: EmbeddedPostgres, registry_dsn: str, name: str
) -> None:
    async with session(postgres.dsn(registry_dsn.rpartition("/")[2])) as owner:
        await owner.execute("REVOKE INSERT ON dbo.odsinstances FROM ods_service")
        job = await operator.create(name)
        assert await operator.ended(job) is JobStatus.ERROR
        row = await operator.queries.job(job.job_id)
        grant = "GRANT INSERT ON dbo.odsinstances TO ods_service"
        assert row is not None
        assert grant in (row.error_message or "")
        await owner.execute(grant)
    with suppress(RefusedError):  # the clean-up of the failure may have completed it by now
        await operator.retry(job)
    assert await operator.reached(job, {JobStatus.COMPLETED}) is JobStatus.COMPLETED
