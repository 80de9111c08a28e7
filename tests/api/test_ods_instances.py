from collections.abc import AsyncIterator

import asyncpg
import httpx
import pytest

from tests.servers import session

ODS_INSTANCES = "/v2/odsInstances"
CONNECTION_STRING = "encrypted|connection|string"


@pytest.fixture
async def rows(registry_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    async with session(registry_dsn) as connection:
        for number, name in enumerate(("b", "B", "a"), start=1):
            await connection.execute(
                "INSERT INTO dbo.odsinstances VALUES ($1, $2, $3, $4)",
                number,
                name,
                None if name == "a" else "Minimal",
                CONNECTION_STRING,
            )
        yield connection


@pytest.mark.usefixtures("rows")
async def test_ods_instances_are_listed_by_code_point_when_there_are_some(api: httpx.AsyncClient) -> None:
    answer = await api.get(ODS_INSTANCES)

    assert answer.json() == [
        {"id": 2, "name": "B", "instanceType": "Minimal"},
        {"id": 3, "name": "a", "instanceType": None},
        {"id": 1, "name": "b", "instanceType": "Minimal"},
    ]
    assert (await api.get(ODS_INSTANCES, params={"offset": 1, "limit": 1})).json()[0]["id"] == 3
    assert len((await api.get(ODS_INSTANCES, params={"limit": 10_000})).json()) == 3


async def test_contexts_and_derivatives_are_shown_when_one_ods_instance_is_asked_for(
    api: httpx.AsyncClient, rows: asyncpg.Connection
) -> None:
    await rows.execute("INSERT INTO dbo.odsinstancecontexts VALUES (11, 1, 'year', '2026')")
    await rows.execute(
        "INSERT INTO dbo.odsinstancederivatives VALUES (12, 1, 'ReadReplica', $1)", CONNECTION_STRING
    )
    answer = await api.get(f"{ODS_INSTANCES}/1")

    assert answer.json() == {
        "id": 1,
        "name": "b",
        "instanceType": "Minimal",
        "odsInstanceContexts": [{"id": 11, "odsInstanceId": 1, "contextKey": "year", "contextValue": "2026"}],
        "odsInstanceDerivatives": [{"id": 12, "odsInstanceId": 1, "derivativeType": "ReadReplica"}],
    }


@pytest.mark.parametrize("number", ["1", "-1", "x", "2147483648", "%00"])
async def test_ods_instance_is_not_found_when_none_has_the_id(
    idle_api: httpx.AsyncClient, number: str
) -> None:
    answer = await idle_api.get(f"{ODS_INSTANCES}/{number}")

    assert answer.status_code == 404
    assert answer.json()["title"].startswith("Not found: odsInstance with ID ")


@pytest.mark.parametrize("parameter", ["offset", "limit"])
async def test_list_is_refused_when_a_number_is_negative(idle_api: httpx.AsyncClient, parameter: str) -> None:
    answer = await idle_api.get(ODS_INSTANCES, params={parameter: -1})

    assert answer.status_code == 400
    assert set(answer.json()["errors"]) == {parameter.title()}
