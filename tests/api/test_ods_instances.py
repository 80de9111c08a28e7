"""`/v2/odsInstances`, rule by rule."""

import asyncio
import base64
import itertools
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import httpx
import pytest

from ods.embedded.polling import wait_until
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.store import InstanceStore
from tests.api.server import Server
from tests.api.service import bearer, faults_of
from tests.ods_api import decrypt
from tests.postgres.instance_states import bring_to
from tests.servers import ENCRYPTION_KEY, session

ODS_INSTANCES = "/v2/odsInstances"
CONNECTION_STRING = "host=test;port=90;username=test;password=test;database=X;pooling=false"
JSON = {"Content-Type": "application/json"}
FIELDS: dict[str, object] = {
    "name": "A name",
    "instanceType": "A type",
    "connectionString": CONNECTION_STRING,
}


@pytest.fixture
async def rows(registry_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    async with session(registry_dsn) as connection:
        yield connection


async def create(api: httpx.AsyncClient, **changes: object) -> int:
    answer = await api.post(ODS_INSTANCES, json=FIELDS | changes)
    assert answer.status_code == 201, answer.text
    return int(answer.headers["Location"].rpartition("/")[2])


async def test_ods_instances_are_listed_by_name_without_connection_string_when_no_order_is_asked_for(
    filled_api: httpx.AsyncClient,
) -> None:
    answer = await filled_api.get(ODS_INSTANCES)

    assert answer.json() == [
        {"id": 2, "name": "B", "instanceType": "Minimal"},
        {"id": 3, "name": "a", "instanceType": None},
        {"id": 1, "name": "b", "instanceType": "Minimal"},
    ]


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("orderBy=Name", [2, 3, 1]),
        ("ORDERBY=NAME&Direction=Ascending", [2, 3, 1]),
        ("orderBy=name&direction=desc", [1, 3, 2]),
        ("orderBy=id", [1, 2, 3]),
        ("orderBy=ID&direction=DESCENDING", [3, 2, 1]),
        ("orderBy=InstanceType", [1, 2, 3]),
        ("orderBy=instanceType&direction=Desc", [3, 1, 2]),
        ("direction=sideways", [2, 3, 1]),
        ("direction=DESC", [1, 3, 2]),
        ("orderBy=", [2, 3, 1]),
        ("orderBy=id&offset=1", [2, 3]),
        ("orderBy=id&offset=1&limit=1", [2]),
        ("limit=0", []),
        ("limit=10000", [2, 3, 1]),
        ("id=3", [3]),
        ("id=4", []),
        ("name=b", [1]),
        ("name=B", [2]),
        ("name=", []),
        ("name=b%00", []),
        ("instanceType=Minimal", [2, 1]),
        ("instancetype=minimal", []),
        ("instanceType=Minimal&name=b&id=1", [1]),
        ("instanceType=Minimal&name=b&id=2", []),
    ],
)
async def test_list_is_what_was_asked_for_when_a_query_says_so(
    filled_api: httpx.AsyncClient, query: str, ids: list[int]
) -> None:
    answer = await filled_api.get(f"{ODS_INSTANCES}?{query}")

    assert [row["id"] for row in answer.json()] == ids


@pytest.mark.parametrize("word", ["ConnectionString", "x", "name ", "id desc", "\x00"])
async def test_list_is_refused_under_orderby_when_the_order_is_unknown(
    idle_api: httpx.AsyncClient, word: str
) -> None:
    answer = await idle_api.get(ODS_INSTANCES, params={"orderBy": word})

    assert faults_of(answer) == {"orderBy": ["'Order By' must be one of Name, InstanceType, Id."]}


@pytest.mark.parametrize("parameter", ["offset", "limit"])
async def test_list_is_refused_when_a_number_is_negative(idle_api: httpx.AsyncClient, parameter: str) -> None:
    answer = await idle_api.get(ODS_INSTANCES, params={parameter: -1})

    assert [name.lower() for name in faults_of(answer)] == [parameter]


async def test_whole_list_is_told_when_ten_thousand_are_asked_for(
    api: httpx.AsyncClient, rows: asyncpg.Connection
) -> None:
    await rows.execute("INSERT INTO dbo.odsinstances (name) SELECT 'n' || n FROM generate_series(1, 10001) n")
    answer = await api.get(ODS_INSTANCES, params={"limit": 10_000})

    assert len(answer.json()) == 10_000
    assert len((await api.get(ODS_INSTANCES)).json()) == 25


async def test_contexts_and_derivatives_are_shown_when_one_ods_instance_is_asked_for(
    filled_api: httpx.AsyncClient,
) -> None:
    answer = await filled_api.get(f"{ODS_INSTANCES}/1")

    assert answer.json() == {
        "id": 1,
        "name": "b",
        "instanceType": "Minimal",
        "odsInstanceContexts": [
            {"id": 2, "odsInstanceId": 1, "contextKey": "\uffff", "contextValue": "1"},
            {"id": 4, "odsInstanceId": 1, "contextKey": "\U00010000", "contextValue": "3"},
        ],
        "odsInstanceDerivatives": [{"id": 2, "odsInstanceId": 1, "derivativeType": "Snapshot"}],
    }


@pytest.mark.parametrize("number", ["1", "0", "-1", "x", "2147483648", "%00"])
@pytest.mark.parametrize(
    ("method", "suffix"), [("GET", ""), ("PUT", ""), ("DELETE", ""), ("GET", "/applications")]
)
async def test_ods_instance_is_not_found_when_none_has_the_id(
    idle_api: httpx.AsyncClient, method: str, suffix: str, number: str
) -> None:
    answer = await idle_api.request(method, f"{ODS_INSTANCES}/{number}{suffix}")

    assert answer.status_code == 404
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["title"].startswith("Not found: odsInstance with ID ")


async def test_ods_instance_is_recorded_when_it_is_posted(
    api: httpx.AsyncClient, rows: asyncpg.Connection
) -> None:
    answer = await api.post(ODS_INSTANCES, json=FIELDS)

    (row,) = await rows.fetch("SELECT * FROM dbo.odsinstances")
    assert answer.status_code == 201
    assert answer.headers["Location"] == f"/odsInstances/{row['odsinstanceid']}"
    assert answer.json() == {"id": row["odsinstanceid"], "name": "A name", "instanceType": "A type"}
    assert (row["name"], row["instancetype"]) == ("A name", "A type")
    assert decrypt(row["connectionstring"], base64.b64decode(ENCRYPTION_KEY)) == CONNECTION_STRING


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"name": None}, {"Name": ["'Name' must not be empty."]}),
        ({"name": " \t "}, {"Name": ["'Name' must not be empty."]}),
        (
            {"name": "n" * 101},
            {"Name": ["'Name' must be 100 characters or fewer. You entered 101 characters."]},
        ),
        ({"name": 5}, {"Name": ["'Name' must be text."]}),
        (
            {"instanceType": "t" * 101},
            {
                "InstanceType": [
                    "'Instance Type' must be 100 characters or fewer. You entered 101 characters."
                ]
            },
        ),
        ({"instanceType": []}, {"InstanceType": ["'Instance Type' must be text."]}),
        ({"connectionString": None}, {"ConnectionString": ["'Connection String' must not be empty."]}),
        ({"connectionString": "  "}, {"ConnectionString": ["'Connection String' must not be empty."]}),
        ({"connectionString": True}, {"ConnectionString": ["'Connection String' must be text."]}),
    ],
)
async def test_post_is_refused_with_every_fault_when_values_break_rules(
    idle_api: httpx.AsyncClient, changes: dict[str, object], expected: dict[str, list[str]]
) -> None:
    assert faults_of(await idle_api.post(ODS_INSTANCES, json=FIELDS | changes)) == expected


async def test_what_is_no_text_is_told_with_the_rest_when_the_ods_instance_exists(
    filled_api: httpx.AsyncClient,
) -> None:
    body = {"name": 5, "instanceType": "t" * 101, "connectionString": {}}
    for answer in (
        await filled_api.post(ODS_INSTANCES, json=body),
        await filled_api.put(f"{ODS_INSTANCES}/1", json=body),
    ):
        errors = faults_of(answer)
        assert set(errors) == {"Name", "InstanceType", "ConnectionString"}
        assert (errors["Name"], errors["ConnectionString"]) == (
            ["'Name' must be text."],
            ["'Connection String' must be text."],
        )
    assert (await filled_api.put(f"{ODS_INSTANCES}/4", json=body)).status_code == 404


@pytest.mark.parametrize("property_name", ["name", "instanceType", "connectionString"])
@pytest.mark.parametrize("letter", ["\x00", "\ud800"])
async def test_post_is_refused_when_a_value_cannot_be_stored(
    idle_api: httpx.AsyncClient, property_name: str, letter: str
) -> None:
    body = json.dumps(FIELDS | {property_name: f"{FIELDS[property_name]}{letter}"})
    answer = await idle_api.post(ODS_INSTANCES, content=body, headers=JSON)

    assert list(faults_of(answer)) == [property_name[0].upper() + property_name[1:]]


async def test_post_is_refused_with_all_faults_together_when_several_rules_are_broken(
    api: httpx.AsyncClient,
) -> None:
    await create(api)
    answer = await api.post(
        ODS_INSTANCES,
        json={"name": "A name", "instanceType": "t" * 101, "connectionString": "WrongConnection"},
    )

    errors = faults_of(answer)
    assert set(errors) == {"Name", "InstanceType", "ConnectionString"}
    assert "already exists" in errors["Name"][0]
    assert "is not valid" in errors["ConnectionString"][0]


@pytest.mark.parametrize(("length", "fits"), [(1000, True), (1200, False), (500_000, False)])
async def test_post_is_refused_when_the_encrypted_connection_string_would_not_fit_its_column(
    api: httpx.AsyncClient, length: int, *, fits: bool
) -> None:
    answer = await api.post(
        ODS_INSTANCES, json=FIELDS | {"connectionString": f"host=h;password={'p' * length}"}
    )

    if fits:
        assert answer.status_code == 201
    else:
        assert list(faults_of(answer)) == ["ConnectionString"]


async def test_values_as_long_as_their_columns_are_kept_whole_when_they_are_posted(
    api: httpx.AsyncClient,
) -> None:
    number = await create(api, name="ä" * 100, instanceType="🦆" * 100)
    shown = (await api.get(f"{ODS_INSTANCES}/{number}")).json()

    assert (shown["name"], shown["instanceType"]) == ("ä" * 100, "🦆" * 100)


async def test_one_post_wins_when_two_of_one_name_are_made_at_once(api: httpx.AsyncClient) -> None:
    bodies = [FIELDS | {"instanceType": kind} for kind in ("a", "b", None, None)]
    answers = await asyncio.gather(*(api.post(ODS_INSTANCES, json=body) for body in bodies))

    assert sorted(answer.status_code for answer in answers) == [201, 400, 400, 400]
    for answer in answers:
        if answer.status_code == 400:
            assert "already exists" in faults_of(answer)["Name"][0]


async def test_one_post_wins_when_the_same_name_is_asked_for_as_an_instance_at_once(
    api: httpx.AsyncClient,
) -> None:
    for number in range(5):
        new = {"name": f"Race {number}", "databaseTemplate": "Minimal"}
        answers = await asyncio.gather(
            api.post("/v2/dbInstances", json=new),
            api.post(ODS_INSTANCES, json=FIELDS | {"name": f"Race {number}"}),
        )
        granted = [answer for answer in answers if answer.is_success]
        (refused,) = [answer for answer in answers if not answer.is_success]
        assert len(granted) == 1
        assert "already exists" in faults_of(refused)["Name"][0]


async def test_name_and_type_are_replaced_and_the_connection_string_kept_when_put_has_none(
    api: httpx.AsyncClient, rows: asyncpg.Connection
) -> None:
    number = await create(api)
    stored = await rows.fetchval("SELECT connectionstring FROM dbo.odsinstances")
    for text in (None, "", "  "):
        answer = await api.put(
            f"{ODS_INSTANCES}/{number}", json={"name": f"New {text}", "connectionString": text}
        )
        assert answer.status_code == 200
        assert (await api.get(ODS_INSTANCES)).json() == [
            {"id": number, "name": f"New {text}", "instanceType": None}
        ]
        assert await rows.fetchval("SELECT connectionstring FROM dbo.odsinstances") == stored


async def test_put_is_refused_when_its_values_break_rules(api: httpx.AsyncClient) -> None:
    await create(api, name="Taken")
    path = f"{ODS_INSTANCES}/{await create(api)}"

    assert "already exists" in faults_of(await api.put(path, json=FIELDS | {"name": "Taken"}))["Name"][0]
    several = {"name": "", "instanceType": "t" * 101, "connectionString": "WrongConnection"}
    assert set(faults_of(await api.put(path, json=several))) == {"Name", "InstanceType", "ConnectionString"}
    assert (await api.put(path, json=FIELDS)).status_code == 200


async def test_delete_is_answered_with_a_title_when_nothing_refers_to_the_ods_instance(
    api: httpx.AsyncClient,
) -> None:
    path = f"{ODS_INSTANCES}/{await create(api)}"
    answer = await api.delete(path)

    assert answer.status_code == 200
    assert answer.json()["title"]
    assert (await api.get(path)).status_code == 404
    assert (await api.delete(path)).status_code == 404


RELATIONS = {
    "Applications": "INSERT INTO dbo.apiclientodsinstances VALUES (DEFAULT, 7, $1)",
    "OdsInstanceContexts": "INSERT INTO dbo.odsinstancecontexts VALUES (DEFAULT, $1, 'year', '2026')",
    "OdsInstanceDerivatives": "INSERT INTO dbo.odsinstancederivatives VALUES (DEFAULT, $1, 'Snapshot', 's')",
}


@pytest.mark.parametrize(
    "relations", [kinds for count in (1, 2, 3) for kinds in itertools.combinations(RELATIONS, count)]
)
async def test_delete_is_refused_under_id_with_a_message_for_each_relation_when_rows_refer_to_it(
    api: httpx.AsyncClient, rows: asyncpg.Connection, relations: tuple[str, ...]
) -> None:
    number = await create(api)
    for relation in relations:
        await rows.execute(RELATIONS[relation], number)
    errors: dict[str, Any] = faults_of(await api.delete(f"{ODS_INSTANCES}/{number}"))

    assert list(errors) == ["Id"]
    assert len(errors["Id"]) == len(relations)
    for relation, message in zip(relations, errors["Id"], strict=True):
        assert relation in message
        assert message.endswith("Can not be deleted.")
    assert (await api.get(f"{ODS_INSTANCES}/{number}")).status_code == 200


async def test_change_is_refused_under_id_when_a_job_of_the_instance_is_under_way(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore
) -> None:
    job = await bring_to(instances, job_store, "Pending_Delete", "Going")
    path = f"{ODS_INSTANCES}/{job.ods_instance_id}"

    for answer in (await api.delete(path), await api.put(path, json=FIELDS)):
        ((property_name, (message,)),) = faults_of(answer).items()
        assert property_name == "Id"
        assert "Pending_Delete" in message


@pytest.mark.usefixtures("workers")
async def test_database_is_dropped_when_the_renamed_ods_instance_of_an_instance_is_deleted(
    api_with_temporal: httpx.AsyncClient, admin: asyncpg.Connection, name: str
) -> None:
    api = api_with_temporal
    created = (await api.post("/v2/dbInstances", json={"name": name, "databaseTemplate": "Minimal"})).json()
    await ended(api, created["jobId"])
    path = f"{ODS_INSTANCES}/{created['odsInstanceId']}"
    assert (await api.put(path, json={"name": f"{name} renamed"})).status_code == 200
    shown = (await api.get(f"/v2/dbInstances/{created['id']}")).json()
    deleted = await api.delete(path)

    job = f"DeleteInstanceJob-{created['odsInstanceId']}-2"
    assert deleted.status_code == 200
    assert (await api.get(path)).status_code == 404
    await ended(api, job)
    assert (shown["name"], shown["odsInstanceName"]) == (f"{name} renamed", f"{name} renamed")
    ((row),) = (await api.get("/v2/dbInstances", params={"id": created["id"]})).json()
    assert (row["name"], row["status"]) == (f"{name} renamed", "Deleted")
    exists = "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)"
    assert not await admin.fetchval(exists, shown["databaseName"])
    entries = (await api.get("/v2/audit")).json()
    (entry,) = [entry for entry in entries if entry["method"] == "DELETE"]
    assert (entry["path"], entry["instanceId"], entry["jobId"]) == (path, created["id"], job)


async def ended(api: httpx.AsyncClient, job: str) -> None:
    async def is_done() -> bool:
        return bool((await api.get(f"/v2/jobs/{job}")).json()["status"] == "Completed")

    await wait_until(is_done, 30)


async def test_bytes_are_as_agreed_when_a_client_speaks_plain_http(serving: Server) -> None:
    head = f"Host: api\r\nConnection: close\r\nAuthorization: {bearer(serving.settings)['Authorization']}\r\n"
    body = json.dumps({"NAME": "Plain", "connectionstring": CONNECTION_STRING})
    created = await serving.answer(
        f"POST /v2/ODSINSTANCES/ HTTP/1.1\r\n{head}Content-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
    )
    location = re.search(rb"\r\nlocation: /odsInstances/(\d+)\r\n", created)
    listed = await serving.answer(f"GET /v2/odsinstances?Name=Plain HTTP/1.1\r\n{head}\r\n".encode())

    assert created.startswith(b"HTTP/1.1 201 Created\r\n")
    assert location is not None
    assert listed.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\ncontent-type: application/json\r\n" in listed
    assert listed.endswith(b'\r\n\r\n[{"id":%d,"name":"Plain","instanceType":null}]' % int(location[1]))
