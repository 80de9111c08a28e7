"""`/v2/odsInstanceContexts`, rule by rule."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import httpx
import pytest

from tests.api.service import faults_of
from tests.servers import session

CONTEXTS = "/v2/odsInstanceContexts"


@pytest.fixture
async def rows(registry_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A session, past the product, on a registry with two ODS instances."""
    async with session(registry_dsn) as connection:
        await connection.execute("INSERT INTO dbo.odsinstances VALUES (1, 'one'), (2, 'two')")
        yield connection


def body(ods_instance_id: object = 1, key: object = "year", value: object = "2026") -> dict[str, object]:
    return {"odsInstanceId": ods_instance_id, "contextKey": key, "contextValue": value}


async def create(api: httpx.AsyncClient, *values: object) -> str:
    """Create a context; returns its path."""
    answer = await api.post(CONTEXTS, json=body(*values))
    assert answer.status_code == 201, answer.text
    return f"/v2{answer.headers['Location']}"


async def test_context_is_recorded_when_it_is_posted(
    api: httpx.AsyncClient, rows: asyncpg.Connection
) -> None:
    answer = await api.post(CONTEXTS, json=body())

    (row,) = await rows.fetch("SELECT * FROM dbo.odsinstancecontexts")
    assert tuple(row)[1:] == (1, "year", "2026")
    assert answer.status_code == 201
    assert answer.headers["Location"] == f"/odsInstanceContexts/{row['odsinstancecontextid']}"
    shown = {"id": row["odsinstancecontextid"], **body()}
    assert answer.json() == shown
    assert (await api.get(f"/v2{answer.headers['Location']}")).json() == shown
    assert (await api.get("/v2/odsInstances/1")).json()["odsInstanceContexts"] == [shown]


@pytest.mark.usefixtures("rows")
async def test_id_may_be_text_and_properties_in_any_case_when_a_context_is_posted(
    api: httpx.AsyncClient,
) -> None:
    answer = await api.post(
        CONTEXTS, json={"ODSINSTANCEID": "2", "ContextKey": "k", "contextvalue": "v", "other": []}
    )

    assert answer.status_code == 201
    assert answer.json()["odsInstanceId"] == 2


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"contextKey": ""}, {"ContextKey": ["'Context Key' must not be empty."]}),
        ({"contextKey": None}, {"ContextKey": ["'Context Key' must not be empty."]}),
        ({"contextValue": " \n"}, {"ContextValue": ["'Context Value' must not be empty."]}),
        (
            {"contextKey": "k" * 51},
            {"ContextKey": ["'Context Key' must be 50 characters or fewer. You entered 51 characters."]},
        ),
        (
            {"contextValue": "v" * 51},
            {"ContextValue": ["'Context Value' must be 50 characters or fewer. You entered 51 characters."]},
        ),
        ({"contextKey": 1}, {"ContextKey": ["'Context Key' must be text."]}),
    ],
)
async def test_context_is_refused_when_a_value_breaks_a_rule(
    filled_api: httpx.AsyncClient, changes: dict[str, object], expected: dict[str, list[str]]
) -> None:
    assert faults_of(await filled_api.post(CONTEXTS, json=body() | changes)) == expected
    assert faults_of(await filled_api.put(f"{CONTEXTS}/1", json=body() | changes)) == expected


@pytest.mark.parametrize("number", [0, "0", None, "x", 1.5, True, [], 10**12])
async def test_context_is_refused_under_odsinstanceid_when_that_is_zero_or_no_number(
    filled_api: httpx.AsyncClient, number: object
) -> None:
    assert list(faults_of(await filled_api.post(CONTEXTS, json=body(number)))) == ["OdsInstanceId"]
    assert list(faults_of(await filled_api.put(f"{CONTEXTS}/1", json=body(number)))) == ["OdsInstanceId"]


async def test_all_faults_are_told_together_when_a_context_breaks_several_rules(
    idle_api: httpx.AsyncClient,
) -> None:
    answer = await idle_api.post(CONTEXTS, json=body(0, "", "v" * 51))

    assert set(faults_of(answer)) == {"OdsInstanceId", "ContextKey", "ContextValue"}
    assert set(faults_of(await idle_api.post(CONTEXTS))) == {"OdsInstanceId", "ContextKey", "ContextValue"}


@pytest.mark.parametrize("number", [4, "4", -1, 2**31 - 1])
async def test_ods_instance_is_not_found_when_a_context_names_an_unknown_one(
    filled_api: httpx.AsyncClient, number: object
) -> None:
    for answer in (
        await filled_api.post(CONTEXTS, json=body(number)),
        await filled_api.post(CONTEXTS, json=body(number, "", "v" * 51)),
        await filled_api.put(f"{CONTEXTS}/1", json=body(number, 1)),
    ):
        assert answer.status_code == 404
        assert answer.json()["title"].startswith(f"Not found: odsInstance with ID {number}. ")


@pytest.mark.parametrize("number", ["1", "0", "-1", "x", "2147483648", "%00"])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_context_is_not_found_when_none_has_the_id(
    idle_api: httpx.AsyncClient, method: str, number: str
) -> None:
    answer = await idle_api.request(method, f"{CONTEXTS}/{number}")

    assert answer.status_code == 404
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["title"].startswith("Not found: odsInstanceContext with ID ")


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize("key", ["year", "YEAR", "Year"])
async def test_context_is_refused_under_the_empty_key_when_its_pair_is_not_unique(
    api: httpx.AsyncClient, key: str
) -> None:
    first = await create(api)
    second = await create(api, 1, "other")
    elsewhere = await create(api, 2, key)

    for answer in (
        await api.post(CONTEXTS, json=body(1, key)),
        await api.put(second, json=body(1, key)),
        await api.put(elsewhere, json=body(1, key)),
    ):
        ((property_name, (message,)),) = faults_of(answer).items()
        assert property_name == ""
        assert "must be unique" in message
    assert set(faults_of(await api.post(CONTEXTS, json=body(1, key, "")))) == {"", "ContextValue"}
    assert (await api.put(first, json=body(1, key, "new"))).status_code == 200  # it is no duplicate of itself


@pytest.mark.usefixtures("rows")
async def test_one_post_wins_when_two_of_one_pair_are_made_at_once(api: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(
        *(api.post(CONTEXTS, json=body(1, key)) for key in ("year", "Year", "YEAR"))
    )

    assert sorted(answer.status_code for answer in answers) == [201, 400, 400]


@pytest.mark.usefixtures("rows")
async def test_everything_of_a_context_is_replaced_when_it_is_put(api: httpx.AsyncClient) -> None:
    path = await create(api)
    answer = await api.put(path, json=body(2, "district", "255901"))

    assert answer.status_code == 200
    assert (await api.get(path)).json() == {
        "id": int(path.rpartition("/")[2]),
        **body(2, "district", "255901"),
    }
    assert (await api.get("/v2/odsInstances/1")).json()["odsInstanceContexts"] == []


@pytest.mark.usefixtures("rows")
async def test_context_is_gone_when_it_is_deleted(api: httpx.AsyncClient) -> None:
    path = await create(api)
    answer = await api.delete(path)

    assert answer.status_code == 200
    assert answer.json()["title"]
    assert (await api.get(path)).status_code == 404
    assert (await api.delete(path)).status_code == 404
    assert (await api.delete("/v2/odsInstances/1")).status_code == 200


@pytest.mark.parametrize(
    ("query", "keys"),
    [
        ("", "B a \U00010000 \uffff"),
        ("orderBy=CONTEXTKEY&direction=desc", "\uffff \U00010000 a B"),
        ("orderBy=contextValue", "\uffff B \U00010000 a"),
        ("orderBy=Id", "a \uffff B \U00010000"),
        ("orderBy=odsInstanceId", "\uffff \U00010000 a B"),
        ("offset=1&limit=2", "a \U00010000"),
        ("limit=0", ""),
        ("offset=9", ""),
    ],
)
async def test_contexts_are_listed_as_asked_when_there_are_some(
    filled_api: httpx.AsyncClient, query: str, keys: str
) -> None:
    answer = await filled_api.get(f"{CONTEXTS}?{query}")

    assert [row["contextKey"] for row in answer.json()] == keys.split()


@pytest.mark.parametrize(
    ("query", "property_name"),
    [("orderBy=name", "orderby"), ("offset=-1", "offset"), ("limit=-1", "limit"), ("limit=x", "limit")],
)
async def test_list_is_refused_when_its_query_is_impossible(
    idle_api: httpx.AsyncClient, query: str, property_name: str
) -> None:
    answer = await idle_api.get(f"{CONTEXTS}?{query}")

    assert [name.lower() for name in faults_of(answer)] == [property_name]
