"""`GET /v2/odsInstances/{id}/applications`, on the tables of an ODS/API and on a registry without them."""

from collections.abc import AsyncIterator

import asyncpg
import httpx
import pytest

from tests.ods_api import APPLICATION_DETAILS, APPLICATION_TABLES
from tests.servers import session

SIS = {
    "id": 1,
    "applicationName": "A SIS",
    "claimSetName": "SIS Vendor",
    "educationOrganizationIds": [255901, 6000203000000],
    "vendorId": 7,
    "profileIds": [4, 5],
    "odsInstanceIds": [1, 2],
    "enabled": True,
}
NAMELESS = {
    "id": 2,
    "applicationName": None,
    "claimSetName": None,
    "educationOrganizationIds": [],
    "vendorId": None,
    "profileIds": [],
    "odsInstanceIds": [1],
    "enabled": False,
}


@pytest.fixture
async def rows(registry_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A session on the registry, past the product; tables of an ODS/API that it makes there are removed."""
    async with session(registry_dsn) as connection:
        yield connection
        await connection.execute(
            "DROP TABLE IF EXISTS dbo.applicationeducationorganizations, dbo.profileapplications,"
            " dbo.apiclients, dbo.applications"
        )


async def applications(api: httpx.AsyncClient, ods_instance_id: int) -> list[object]:
    answer = await api.get(f"/v2/odsInstances/{ods_instance_id}/applications")
    assert answer.status_code == 200
    listed: list[object] = answer.json()
    return listed


async def test_applications_are_those_with_a_client_of_the_ods_instance_when_there_are_some(
    api: httpx.AsyncClient, rows: asyncpg.Connection
) -> None:
    await rows.execute(APPLICATION_TABLES + APPLICATION_DETAILS)

    assert await applications(api, 1) == [SIS, NAMELESS]
    assert [one["id"] for one in await applications(api, 2) if isinstance(one, dict)] == [1, 3]
    assert await applications(api, 3) == []


async def test_details_are_empty_when_their_tables_are_missing(
    api: httpx.AsyncClient, rows: asyncpg.Connection
) -> None:
    await rows.execute(APPLICATION_TABLES)

    assert await applications(api, 1) == [
        SIS | {"educationOrganizationIds": [], "profileIds": []},
        NAMELESS,
    ]


async def test_there_are_no_applications_when_there_are_no_such_tables(
    api: httpx.AsyncClient, rows: asyncpg.Connection
) -> None:
    await rows.execute("INSERT INTO dbo.odsinstances VALUES (1, 'one')")
    await rows.execute("INSERT INTO dbo.apiclientodsinstances VALUES (DEFAULT, 7, 1)")

    assert await applications(api, 1) == []
