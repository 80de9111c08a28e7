"""Input of any content and size: it is granted as it is or refused, never cut, and never a fault of ours."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from string import ascii_letters, digits
from urllib.parse import quote

import httpx
import hypothesis
import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import strategies as st

from ods.model.operations import Template
from ods.registry.instances.naming import database_name, name_errors
from ods.settings.settings import Settings
from tests.api import server
from tests.api.server import Server
from tests.api.service import bearer
from tests.ods_api import decrypt
from tests.servers import ENCRYPTION_KEY, NUMBERS, session

INSTANCES = "/v2/dbInstances"
ODS_INSTANCES = "/v2/odsInstances"
BOUNDED = hypothesis.settings(
    max_examples=60,
    deadline=None,
    derandomize=True,  # the same examples in every run
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # what one example leaves disturbs no other
)
FEWER = hypothesis.settings(BOUNDED, max_examples=15)  # each costs hashes

VICIOUS = st.sampled_from(
    [
        "",
        "'; DROP TABLE adminapi.dbinstances; --",
        '"; DROP DATABASE postgres; --',
        "%00",
        "\x00",
        "\ud800",
        "\u202e",
        "x" * 20_000,  # longer addresses are refused by the tests' own client
        "../../etc/passwd",
        "{{7*7}}",
        "%s%n",
        "9" * 5000,
        "-1",
        "1e999",
        "NaN",
        "٣",
        "🦆" * 50,
        "\r\nSet-Cookie: a=b",
    ]
)
text = st.text() | VICIOUS
encodable = text.map(lambda value: value.encode(errors="replace").decode())
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=10,
)
names = st.text(f"{ascii_letters}{digits} _", min_size=1, max_size=50)
media_types = (
    st.sampled_from(["application/json", "application/x-www-form-urlencoded", "multipart/form-data"]) | text
)


def assert_no_fault(answer: httpx.Response) -> None:
    assert answer.status_code < 500, answer.text
    if answer.headers.get("Content-Type", "").endswith("json"):
        answer.json()


@BOUNDED
@given(name=names | text | values, template=st.sampled_from(list(Template)) | values)
@example(name=f"{'n' * 45}z", template="Sample")  # as long as a name may be
@example(name=f"{'n' * 45} z", template="Sample")
async def test_instance_is_exactly_what_was_asked_for_or_refused_when_its_body_is_any_json(
    api: httpx.AsyncClient, name: object, template: object
) -> None:
    body = json.dumps({"name": name, "databaseTemplate": template}).encode()
    answer = await api.post(INSTANCES, content=body, headers={"Content-Type": "application/json"})

    assert answer.status_code in {202, 400}
    lawful = isinstance(name, str) and not name_errors(name) and template in list(Template)
    if not lawful:
        assert answer.status_code == 400
    elif answer.status_code == 400:
        assert "already exists" in answer.text
    else:
        assert isinstance(name, str)
        shown = (await api.get(f"{INSTANCES}/{answer.json()['id']}")).json()
        assert shown["name"] == name.strip()
        assert shown["databaseName"] == database_name(name.strip(), Template(str(template)))
        assert len(shown["databaseName"].encode()) <= 63


@BOUNDED
@given(
    name=text | values,
    kind=text | values,
    connection_string=text.map(lambda value: f"host=h;password={value}") | text | values,
)
@example(name="ä" * 100, kind="\U0001f986" * 100, connection_string=f"host=h;password={'ä' * 528}")
@example(name=" ", kind=" " * 101, connection_string="host=h;password='a;b';Pooling=TRUE")
async def test_ods_instance_is_exactly_what_was_asked_for_or_refused_when_its_body_is_any_json(
    api: httpx.AsyncClient, registry_dsn: str, name: object, kind: object, connection_string: object
) -> None:
    asked = {"name": name, "instanceType": kind, "connectionString": connection_string}
    headers = {"Content-Type": "application/json"}
    answer = await api.post(ODS_INSTANCES, content=json.dumps(asked), headers=headers)

    assert answer.status_code in {201, 400}
    if answer.status_code == 201:
        number = answer.json()["id"]
        shown = (await api.get(f"{ODS_INSTANCES}/{number}")).json()
        assert (shown["name"], shown["instanceType"]) == (name, kind)
        async with session(registry_dsn) as connection:
            stored = await connection.fetchval(
                "DELETE FROM dbo.odsinstances WHERE odsinstanceid = $1 RETURNING connectionstring", number
            )
        assert decrypt(stored, base64.b64decode(ENCRYPTION_KEY)) == connection_string


@FEWER
@given(key=text | values, value=text | values)
@example(key="ä" * 50, value="\U0001f986" * 50)
async def test_context_is_exactly_what_was_asked_for_or_refused_when_its_body_is_any_json(
    api: httpx.AsyncClient, registry_dsn: str, key: object, value: object
) -> None:
    async with session(registry_dsn) as connection:
        await connection.execute("INSERT INTO dbo.odsinstances VALUES (1, 'one') ON CONFLICT DO NOTHING")
    asked = {"odsInstanceId": 1, "contextKey": key, "contextValue": value}
    headers = {"Content-Type": "application/json"}
    answer = await api.post("/v2/odsInstanceContexts", content=json.dumps(asked), headers=headers)

    assert answer.status_code in {201, 400}
    if answer.status_code == 201:
        path = f"/v2{answer.headers['Location']}"
        assert (await api.get(path)).json() == asked | {"id": answer.json()["id"]}
        assert (await api.delete(path)).status_code == 200


@BOUNDED
@given(description=text | values, label=text | values, key=text, context=text | values, more=st.booleans())
@example(
    description="ä" * 500,
    label="x" * 63,
    key="example.org/" + "k" * 63,
    context="\U0001f986" * 50,
    more=False,
)
async def test_attributes_are_exactly_what_was_asked_for_or_refused_when_the_body_is_any_json(
    api: httpx.AsyncClient,
    description: object,
    label: object,
    key: str,
    context: object,
    more: bool,  # noqa: FBT001 - an example
) -> None:
    new = {"name": f"Any {next(NUMBERS)}", "databaseTemplate": "Minimal"}
    path = f"{INSTANCES}/{(await api.post(INSTANCES, json=new)).json()['id']}"
    contexts = [{"contextKey": f"k{next(NUMBERS)}", "contextValue": context}]
    asked = {"description": description, "labels": {key: label}, "contexts": contexts}
    sent = asked | ({key: label} if more else {})
    headers = {"Content-Type": "application/json"}
    answer = await api.patch(path, content=json.dumps(sent), headers=headers)

    assert answer.status_code in {200, 400}
    shown = (await api.get(path)).json()
    if answer.status_code == 400:
        assert (shown["description"], shown["labels"], shown["contexts"]) == (None, {}, [])
    else:
        assert shown["description"] == (
            str(description) if description and str(description).strip() else None
        )
        assert shown["labels"] == ({} if label is None else {key: label})
        assert shown["contexts"] == contexts
        assert (await api.patch(path, json={"contexts": []})).status_code == 200


@BOUNDED
@given(query=text)
async def test_list_has_no_fault_when_the_label_is_any_text(api: httpx.AsyncClient, query: str) -> None:
    assert_no_fault(await api.get(INSTANCES, params={"label": query.encode(errors="replace").decode()}))


@BOUNDED
@given(content=st.binary(max_size=300) | text.map(lambda value: value.encode(errors="surrogatepass")))
@example(content=b'{"name": ' + b"[" * 5000)
@example(content=b'{"name": "\xff"}')
@example(content=b'{"name": "\\ud800", "databaseTemplate": "Minimal"}')
@example(content=b'{"name": NaN, "databaseTemplate": Infinity}')
@example(content=b"\xef\xbb\xbf{}")
@example(content=b"a" * (1024 * 1024 + 1))
@example(content=b"&" * 100_000)
@example(content=b"%" * 10_000)
@pytest.mark.parametrize(
    "path",
    [INSTANCES, f"{INSTANCES}/1/retry", ODS_INSTANCES, "/connect/register", "/connect/token"],
)
async def test_body_is_no_fault_when_it_is_any_bytes_of_any_kind(
    idle_api: httpx.AsyncClient, path: str, content: bytes
) -> None:
    for media_type in ("application/json", "application/x-www-form-urlencoded", "", "x"):
        answer = await idle_api.post(path, content=content, headers={"Content-Type": media_type})
        assert_no_fault(answer)
        assert not answer.is_success


@BOUNDED
@given(
    key=st.sampled_from(["offset", "limit", "id", "name", "orderBy", "direction", "instanceType"])
    | encodable,
    value=encodable | names,
)
@pytest.mark.parametrize("path", [INSTANCES, ODS_INSTANCES, "/v2/audit", "/v2/jobs/x", f"{INSTANCES}/1"])
async def test_query_is_no_fault_when_its_values_are_any_text(
    idle_api: httpx.AsyncClient, path: str, key: str, value: str
) -> None:
    answer = await idle_api.get(path, params={key: value})
    assert answer.status_code in {200, 400, 404}
    assert_no_fault(answer)


@BOUNDED
@given(query=st.binary(max_size=100))
async def test_query_is_no_fault_when_it_is_any_bytes(idle_api: httpx.AsyncClient, query: bytes) -> None:
    assert_no_fault(await idle_api.get(f"{INSTANCES}?{quote(query, safe='=&;+')}"))


@BOUNDED
@given(wanted=names | encodable)
async def test_name_is_found_exactly_or_not_at_all_when_it_is_any_text(
    api: httpx.AsyncClient, wanted: str
) -> None:
    listed = await api.get(INSTANCES, params={"name": wanted})
    assert listed.status_code == 200
    assert all(row["name"] == wanted for row in listed.json())


@BOUNDED
@given(part=encodable | st.integers().map(str))
@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT"])
@pytest.mark.parametrize("path", [INSTANCES, ODS_INSTANCES, "/v2/jobs", "/v2", ""])
async def test_path_is_no_fault_when_its_parts_are_any_text(
    idle_api: httpx.AsyncClient, method: str, path: str, part: str
) -> None:
    answer = await idle_api.request(method, f"{path}/{quote(part, safe='')}")
    assert_no_fault(answer)


@FEWER
@given(
    client_id=st.text(min_size=1, max_size=300) | encodable,
    display_name=st.text(min_size=1, max_size=300),
    secret=st.text(min_size=28, max_size=130).map(lambda value: f"aA1!{value}") | encodable,
)
@example(client_id="ä" * 248, display_name="ä" * 256, secret="aA1!" + "ä" * 124)
async def test_client_is_exactly_as_registered_or_refused_when_its_fields_are_any_text(
    stranger: httpx.AsyncClient, registry_dsn: str, client_id: str, display_name: str, secret: str
) -> None:
    unique = f"{next(NUMBERS)} {client_id}"
    form = {"ClientId": unique, "ClientSecret": secret, "DisplayName": display_name}
    answer = await stranger.post("/connect/register", data=form)

    assert answer.status_code in {200, 400}
    async with session(registry_dsn) as connection:
        rows = await connection.fetch(
            "SELECT displayname FROM adminapi.applications WHERE clientid = $1", unique.replace("\x00", "")
        )
    if answer.status_code == 400:
        assert rows == []
        return
    assert [row["displayname"] for row in rows] == [display_name]
    grant = {"grant_type": "client_credentials", "scope": "edfi_admin_api/full_access", "client_id": unique}
    assert (await stranger.post("/connect/token", data=grant | {"client_secret": secret})).status_code == 200
    shortened = grant | {"client_secret": secret[:-1]}
    assert (await stranger.post("/connect/token", data=shortened)).status_code == 401


@BOUNDED
@given(
    authorization=text,
    media_type=media_types,
    other=st.dictionaries(st.text(ascii_letters + "-", min_size=1), st.binary(max_size=50), max_size=3),
)
async def test_headers_are_no_fault_when_their_values_are_anything(
    idle_stranger: httpx.AsyncClient, authorization: str, media_type: str, other: dict[str, bytes]
) -> None:
    headers: list[tuple[bytes, bytes]] = [
        (b"Authorization", authorization.encode(errors="surrogatepass")),
        (b"Content-Type", media_type.encode(errors="surrogatepass")),
        *((name.encode(), value) for name, value in other.items()),
    ]
    for path in (INSTANCES, "/connect/token", "/connect/register", "/v2/nowhere"):
        assert_no_fault(await idle_stranger.post(path, content=b"{}", headers=headers))


@pytest.fixture(scope="module")
async def fuzzed(idle_settings: Settings) -> AsyncIterator[Server]:
    """A real server, which must be as well after all bytes as before."""
    async with server.serving(idle_settings) as serving:
        yield serving
        assert await serving.serves()
        log = await serving.stop()
    assert "ERROR" not in log
    assert "Traceback" not in log


async def statuses(serving: Server, sent: bytes) -> list[int]:
    """The statuses of the answers to `sent`; a server that waits for the rest is told that none comes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", serving.port)
    writer.write(sent)
    received = b""
    with suppress(TimeoutError, ConnectionError):
        received = await asyncio.wait_for(reader.read(), 0.5)
    with suppress(ConnectionError):
        writer.write_eof()
    with suppress(ConnectionError):
        received += await asyncio.wait_for(reader.read(), 5)
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()
    return [int(part[:3]) for part in received.split(b"HTTP/1.1 ")[1:]]


raw_headers = st.lists(
    st.tuples(
        st.sampled_from([b"Authorization", b"Content-Type", b"Cookie", b"X-Forwarded-For", b"Expect"])
        | st.binary(min_size=1, max_size=20),
        st.binary(max_size=100),
        st.sampled_from([1, 1, 1, 1000]),  # how often it is repeated
    ),
    max_size=4,
)


@BOUNDED
@given(headers=raw_headers, target=st.sampled_from([b"/v2/dbInstances", b"/", b"/connect/token"]))
async def test_server_is_well_when_headers_are_any_bytes(
    fuzzed: Server, headers: list[tuple[bytes, bytes, int]], target: bytes
) -> None:
    lines = [b"GET " + target + b" HTTP/1.1", b"Host: api", b"Connection: close"]
    lines += [name + b": " + value * times for name, value, times in headers]
    told = await statuses(fuzzed, b"\r\n".join([*lines, b"", b""]))
    assert all(status < 500 for status in told)
    assert told or any(
        b"\n" in name + value for name, value, _ in headers
    )  # another request was not finished


@BOUNDED
@given(method=st.binary(min_size=1, max_size=10), target=st.binary(min_size=1, max_size=100))
async def test_server_is_well_when_the_request_line_is_any_bytes(
    fuzzed: Server, method: bytes, target: bytes
) -> None:
    authorization = bearer(fuzzed.settings)["Authorization"].encode()
    told = await statuses(
        fuzzed,
        method
        + b" /v2/"
        + target
        + b" HTTP/1.1\r\nHost: api\r\nConnection: close\r\nAuthorization: "
        + authorization
        + b"\r\n\r\n",
    )
    assert all(status < 500 for status in told)


@BOUNDED
@given(noise=st.binary(max_size=200))
async def test_server_is_well_when_a_request_is_noise(fuzzed: Server, noise: bytes) -> None:
    assert all(status < 500 for status in await statuses(fuzzed, noise + b"\r\n\r\n"))
