"""`/v2/odsInstanceDerivatives`, rule by rule."""

import asyncio
import base64
from collections.abc import AsyncIterator

import asyncpg
import httpx
import pytest

from tests.api.service import faults_of
from tests.ods_api import decrypt
from tests.servers import ENCRYPTION_KEY, session

DERIVATIVES = "/v2/odsInstanceDerivatives"
CONNECTION_STRING = "host=test;port=90;username=test;password=test;database=X;pooling=false"
OTHER_TYPE = (
    "The value for the Derivative type is not allowed."
    " The only accepted values are: 'ReadReplica' or 'Snapshot'."
)


@pytest.fixture
async def rows(registry_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A session, past the product, on a registry with two ODS instances."""
    async with session(registry_dsn) as connection:
        await connection.execute("INSERT INTO dbo.odsinstances VALUES (1, 'one'), (2, 'two')")
        yield connection


def body(
    ods_instance_id: object = 1, kind: object = "Snapshot", text: object = CONNECTION_STRING
) -> dict[str, object]:
    return {"odsInstanceId": ods_instance_id, "derivativeType": kind, "connectionString": text}


async def create(api: httpx.AsyncClient, *values: object) -> str:
    """Create a derivative; returns its path."""
    answer = await api.post(DERIVATIVES, json=body(*values))
    assert answer.status_code == 201, answer.text
    return f"/v2{answer.headers['Location']}"


async def decrypted(rows: asyncpg.Connection) -> list[str]:
    stored = await rows.fetch("SELECT connectionstring FROM dbo.odsinstancederivatives ORDER BY 1")
    return [decrypt(row[0], base64.b64decode(ENCRYPTION_KEY)) for row in stored]


async def test_derivative_is_recorded_with_its_connection_string_encrypted_and_never_shown_when_it_is_posted(
    api: httpx.AsyncClient, rows: asyncpg.Connection
) -> None:
    answer = await api.post(DERIVATIVES, json=body())

    (row,) = await rows.fetch("SELECT * FROM dbo.odsinstancederivatives")
    number = row["odsinstancederivativeid"]
    shown = {"id": number, "odsInstanceId": 1, "derivativeType": "Snapshot"}
    assert answer.status_code == 201
    assert answer.headers["Location"] == f"/odsInstanceDerivatives/{number}"
    assert answer.json() == shown
    assert (await api.get(f"{DERIVATIVES}/{number}")).json() == shown
    assert (await api.get(DERIVATIVES)).json() == [shown]
    assert (await api.get("/v2/odsInstances/1")).json()["odsInstanceDerivatives"] == [shown]
    assert await decrypted(rows) == [CONNECTION_STRING]


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize(
    ("sent", "kept"),
    [("readreplica", "ReadReplica"), ("READREPLICA", "ReadReplica"), ("snapShot", "Snapshot")],
)
async def test_type_is_kept_as_the_ods_api_spells_it_when_it_is_posted_in_another_case(
    api: httpx.AsyncClient, sent: str, kept: str
) -> None:
    path = await create(api, "1", sent)

    assert (await api.get(path)).json()["derivativeType"] == kept


@pytest.mark.parametrize(
    ("changes", "property_name", "message"),
    [
        ({"derivativeType": ""}, "DerivativeType", "'Derivative Type' must not be empty."),
        ({"derivativeType": None}, "DerivativeType", "'Derivative Type' must not be empty."),
        ({"derivativeType": "  "}, "DerivativeType", "'Derivative Type' must not be empty."),
        (
            {"derivativeType": "Snapshots"},
            "DerivativeType",
            OTHER_TYPE,
        ),
        (
            {"derivativeType": " Snapshot"},
            "DerivativeType",
            OTHER_TYPE,
        ),
        ({"connectionString": "WrongConnection"}, "ConnectionString", "The connection string is not valid."),
        (
            {"connectionString": f"host=h;password={'p' * 1200}"},
            "ConnectionString",
            "'Connection String' is too long",
        ),
        (
            {"odsInstanceId": 0},
            "OdsInstanceId",
            "'Ods Instance Id' is the id of no ODS instance. Please provide valid ods instance id.",
        ),
    ],
)
async def test_derivative_is_refused_when_a_value_breaks_a_rule(
    filled_api: httpx.AsyncClient, changes: dict[str, object], property_name: str, message: str
) -> None:
    for answer in (
        await filled_api.post(DERIVATIVES, json=body(3) | changes),
        await filled_api.put(f"{DERIVATIVES}/1", json=body(3) | changes),
    ):
        ((found, (told,)),) = faults_of(answer).items()
        assert found == property_name
        assert told.startswith(message)


@pytest.mark.parametrize("text", [None, "", " "])
async def test_connection_string_is_required_by_post_and_kept_by_put_when_there_is_none(
    api: httpx.AsyncClient, rows: asyncpg.Connection, text: str | None
) -> None:
    refused = await api.post(DERIVATIVES, json=body(text=text))
    path = await create(api)
    answer = await api.put(path, json=body(2, "ReadReplica", text))

    assert faults_of(refused) == {"ConnectionString": ["'Connection String' must not be empty."]}
    assert answer.status_code == 200
    shown = {"id": int(path.rpartition("/")[2]), "odsInstanceId": 2, "derivativeType": "ReadReplica"}
    assert (await api.get(path)).json() == shown
    assert await decrypted(rows) == [CONNECTION_STRING]


async def test_connection_string_is_replaced_when_put_has_another(
    api: httpx.AsyncClient, rows: asyncpg.Connection
) -> None:
    path = await create(api)
    answer = await api.put(path, json=body(text="server=other;db=Y"))

    assert answer.status_code == 200
    assert await decrypted(rows) == ["server=other;db=Y"]


async def test_ods_instance_is_not_found_when_a_derivative_names_an_unknown_one(
    filled_api: httpx.AsyncClient,
) -> None:
    for answer in (
        await filled_api.post(DERIVATIVES, json=body(4, "", "")),
        await filled_api.put(f"{DERIVATIVES}/1", json=body(4, "")),
    ):
        assert answer.status_code == 404
        assert answer.json()["title"].startswith("Not found: odsInstance with ID 4. ")


@pytest.mark.parametrize("number", ["1", "0", "x", "2147483648"])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_derivative_is_not_found_when_none_has_the_id(
    idle_api: httpx.AsyncClient, method: str, number: str
) -> None:
    answer = await idle_api.request(method, f"{DERIVATIVES}/{number}")

    assert answer.status_code == 404
    assert answer.json()["title"].startswith("Not found: odsInstanceDerivative with ID ")


@pytest.mark.usefixtures("rows")
async def test_derivative_is_refused_under_the_empty_key_when_its_pair_is_not_unique(
    api: httpx.AsyncClient,
) -> None:
    first = await create(api)
    second = await create(api, 1, "ReadReplica")

    for answer in (
        await api.post(DERIVATIVES, json=body(1, "snapshot")),
        await api.put(second, json=body(1, "SNAPSHOT")),
    ):
        ((property_name, (message,)),) = faults_of(answer).items()
        assert property_name == ""
        assert "must be unique" in message
    assert (await api.put(first, json=body(1, "snapshot"))).status_code == 200


@pytest.mark.usefixtures("rows")
async def test_one_post_wins_when_two_of_one_pair_are_made_at_once(api: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(
        *(api.post(DERIVATIVES, json=body(1, kind)) for kind in ("Snapshot", "snapshot", "SNAPSHOT"))
    )

    assert sorted(answer.status_code for answer in answers) == [201, 400, 400]


@pytest.mark.usefixtures("rows")
async def test_derivative_is_gone_when_it_is_deleted(api: httpx.AsyncClient) -> None:
    path = await create(api)
    answer = await api.delete(path)

    assert answer.status_code == 200
    assert answer.json()["title"]
    assert (await api.get(path)).status_code == 404
    assert (await api.delete(path)).status_code == 404


@pytest.mark.parametrize(
    ("query", "order"),
    [
        ("", [3, 1, 2]),
        ("orderBy=derivativetype&direction=descending", [1, 2, 3]),
        ("orderBy=ID", [1, 2, 3]),
        ("orderBy=odsinstanceid&direction=desc", [1, 3, 2]),
        ("offset=1&limit=1", [1]),
        ("limit=10000", [3, 1, 2]),
    ],
)
async def test_derivatives_are_listed_as_asked_when_there_are_some(
    filled_api: httpx.AsyncClient, query: str, order: list[int]
) -> None:
    answer = await filled_api.get(f"{DERIVATIVES}?{query}")

    assert [row["id"] for row in answer.json()] == order


@pytest.mark.parametrize("word", ["connectionString", "name"])
async def test_list_is_refused_when_the_order_is_unknown(idle_api: httpx.AsyncClient, word: str) -> None:
    answer = await idle_api.get(DERIVATIVES, params={"orderBy": word})

    assert list(faults_of(answer)) == ["orderBy"]
