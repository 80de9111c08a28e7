"""Instances that an Admin API writes past this service, as clients of either surface see them."""

from collections.abc import AsyncIterator

import asyncpg
import httpx
import pytest

from ods.registry.storage.engine import create_registry_engine
from ods.settings.settings import Settings
from ods.tenants import tenant
from tests.api.service import NOBODY, bearer, client_of, running
from tests.postgres.legacy_schemas import ADMIN_API_RENAME
from tests.servers import session

INSTANCES = "/v2/dbInstances"
MANAGE = "/v2/odsInstances/manage"
VIEW = "/v2/tenants/default/odsInstances/edOrgs"


@pytest.fixture
async def rows(registry_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    async with session(registry_dsn) as connection:
        yield connection


@pytest.mark.parametrize(
    "word", ["PendingCreate", "CreateInProgress", "Created", "CreateError", "PendingDelete"]
)
async def test_row_is_shown_and_left_alone_when_an_admin_api_has_added_it(
    api: httpx.AsyncClient, rows: asyncpg.Connection, word: str
) -> None:
    number = await rows.fetchval(
        "INSERT INTO adminapi.dbinstances (name, status, databasetemplate) VALUES ('Theirs', $1, 'Minimal')"
        " RETURNING id",
        word,
    )
    (listed,) = (await api.get(INSTANCES)).json()
    assert (listed["id"], listed["jobId"], listed["links"]["job"]) == (number, None, None)
    assert (await api.get(f"{INSTANCES}/{number}")).json() == listed
    (managed,) = (await api.get(MANAGE)).json()
    assert (managed["id"], managed["status"], managed["odsInstanceId"]) == (number, word, None)
    (shown,) = (await api.get(VIEW)).json()["odsInstances"]
    assert (shown["odsInstanceManageId"], shown["status"]) == (number, word)

    refused = await api.delete(f"{INSTANCES}/{number}")
    assert refused.status_code == 409
    assert "ods migrate" in refused.json()["nextStep"]
    assert list((await api.delete(f"{MANAGE}/{number}")).json()["errors"]) == ["id"]
    assert await rows.fetchval("SELECT status FROM adminapi.dbinstances") == word


async def test_requests_are_answered_503_when_the_script_that_renames_the_table_takes_long(
    settings: Settings, rows: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tenant, "create_registry_engine", lambda dsn, *_: create_registry_engine(dsn, 5, 0.3))
    async with running(settings, NOBODY) as app, client_of(app, headers=bearer(settings)) as client:
        assert (await client.get(INSTANCES)).status_code == 200
        transaction = rows.transaction()
        await transaction.start()
        await rows.execute(ADMIN_API_RENAME)
        wanted = {"name": "Waits", "databaseTemplate": "Minimal"}
        for answer in (await client.get(INSTANCES), await client.post(INSTANCES, json=wanted)):
            assert answer.status_code == 503
            assert answer.json()["detail"] == "Try again in a few seconds."
            assert int(answer.headers["Retry-After"]) > 0
        await transaction.rollback()
        assert (await client.post(INSTANCES, json=wanted)).status_code == 202
