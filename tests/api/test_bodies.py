"""Bodies: how much of one is read, how long it is waited for, and that reading it does not hold up others."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from time import perf_counter

import httpx
import pytest

from api.http import parsing
from api.http.parsing import parsed_form, parsed_json
from api.http.problems import ProblemError
from ods.settings.settings import Settings
from tests.api.probing import probing
from tests.api.server import Server
from tests.api.service import NOBODY, bearer, client_of, running

FORM = {"Content-Type": "application/x-www-form-urlencoded"}
JSON = {"Content-Type": "application/json"}
INSTANCES = "/v2/dbInstances"
FORMS = ["/connect/register", "/connect/token"]
LARGEST_FORM = 16 * 1024
LARGEST_JSON = 1024 * 1024


def assert_problem(answer: httpx.Response, status: int, title: str, detail: str) -> None:
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json() == {"title": title, "status": status, "detail": detail}
    assert answer.status_code == status


@pytest.mark.parametrize("path", FORMS)
async def test_form_is_refused_when_it_is_too_large(idle_stranger: httpx.AsyncClient, path: str) -> None:
    fits = await idle_stranger.post(path, content=b"a=" + b"x" * (LARGEST_FORM - 2), headers=FORM)
    assert fits.status_code in {400, 401}
    assert fits.json().get("title") != "The body is too large"

    answer = await idle_stranger.post(path, content=b"a=" + b"x" * (LARGEST_FORM - 1), headers=FORM)
    assert_problem(answer, 413, "The body is too large", "Send at most 16,384 bytes.")


@pytest.mark.parametrize("path", FORMS)
async def test_form_is_refused_when_it_has_too_many_fields(
    idle_stranger: httpx.AsyncClient, path: str
) -> None:
    fits = await idle_stranger.post(path, content=b"&".join([b"a=b"] * 20), headers=FORM)
    assert fits.json().get("title") != "The form has too many fields"

    answer = await idle_stranger.post(path, content=b"&".join([b"%41"] * 21), headers=FORM)
    assert_problem(answer, 400, "The form has too many fields", "Send at most 20 fields.")


@pytest.mark.parametrize(
    ("body", "twice"),
    [
        ('{"name": "One", "name": "Two", "databaseTemplate": "Minimal"}', "name"),
        (
            '{"name": "One", "databaseTemplate": "Minimal", "protected": true, "Protected": false}',
            "protected",
        ),
        ('{"name": "One", "databaseTemplate": "Minimal", "labels": {"a": "1", "a": "2"}}', "a"),
        ('{"name": "One", "contexts": [{"contextKey": "a", "ContextKey": "b"}]}', "contextkey"),
    ],
)
async def test_json_is_refused_when_it_has_a_member_twice(
    idle_api: httpx.AsyncClient, body: str, twice: str
) -> None:
    answer = await idle_api.post(INSTANCES, content=body, headers=JSON)
    assert_problem(
        answer, 400, "The body has a member twice", f"Send '{twice}' once, in one case of letters."
    )


@pytest.mark.parametrize("path", FORMS)
async def test_form_is_refused_when_it_has_a_field_twice(idle_stranger: httpx.AsyncClient, path: str) -> None:
    answer = await idle_stranger.post(path, content=b"scope=a&scope=b", headers=FORM)
    assert_problem(answer, 400, "The body has a member twice", "Send 'scope' once, in one case of letters.")


async def test_none_of_many_is_made_when_one_has_a_member_twice(idle_api: httpx.AsyncClient) -> None:
    body = '{"instances": [{"name": "One", "protected": true, "Protected": false}]}'
    answer = await idle_api.post(f"{INSTANCES}/bulk", content=body, headers=JSON)
    assert_problem(
        answer, 400, "The body has a member twice", "Send 'protected' once, in one case of letters."
    )


def test_member_may_be_there_twice_with_one_value() -> None:
    assert dict(parsed_json(b'{"name": "a", "Name": "a", "x": {"y": 1, "y": 1}}')) == {
        "name": "a",
        "x": {"y": 1},
    }


def test_labels_may_differ_in_case_alone() -> None:
    labels = {"District": "1", "district": "2"}
    assert parsed_json(json.dumps({"labels": labels}).encode())["labels"] == labels


async def test_json_is_refused_when_it_is_larger_than_the_setting_says(
    idle_settings: Settings, idle_api: httpx.AsyncClient
) -> None:
    large = json.dumps({"name": "x" * 2000}).encode()
    assert (await idle_api.post(INSTANCES, content=large, headers=JSON)).status_code == 400
    answer = await idle_api.post(INSTANCES, content=b" " * (LARGEST_JSON + 1), headers=JSON)
    assert_problem(answer, 413, "The body is too large", "Send at most 1,048,576 bytes.")

    little = idle_settings.model_copy(update={"json_limit": 2000})
    async with running(little, NOBODY) as app, client_of(app, headers=bearer(little)) as client:
        answer = await client.post(INSTANCES, content=large, headers=JSON)
    assert_problem(answer, 413, "The body is too large", "Send at most 2,000 bytes.")


async def test_json_is_refused_when_it_has_too_many_values(idle_api: httpx.AsyncClient) -> None:
    answer = await idle_api.post(INSTANCES, json={"values": [0] * 10_001})
    assert_problem(
        answer,
        400,
        "The body has too many values",
        "Send at most 10,000 commas and opening brackets, those in texts included.",
    )


async def test_nothing_of_a_body_is_read_when_its_announced_length_is_far_too_large(
    idle_stranger: httpx.AsyncClient,
) -> None:
    read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(100):
            read += 1
            yield b"x" * 1000

    headers = {**FORM, "Content-Length": "20000000"}
    answer = await idle_stranger.post("/connect/token", content=body(), headers=headers)
    assert (answer.status_code, read) == (413, 0)


async def test_reading_ends_early_when_a_body_has_no_end(idle_stranger: httpx.AsyncClient) -> None:
    read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 1
            yield b"x" * 1024 * 1024

    answer = await idle_stranger.post("/connect/token", content=body(), headers=FORM)
    assert answer.status_code == 413
    assert read < 20


@pytest.mark.timed
async def test_request_times_out_when_its_body_does_not_arrive(
    idle_stranger: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parsing, "_BODY_SECONDS", 0.3)

    async def body() -> AsyncIterator[bytes]:
        while True:  # never silent for long, and never done
            yield b"a"
            await asyncio.sleep(0.05)

    started = perf_counter()
    async with asyncio.timeout(5):
        answer = await idle_stranger.post("/connect/token", content=body(), headers=FORM)

    assert perf_counter() - started < 2
    assert_problem(answer, 408, "The body did not arrive in time", "Send the whole body within 0.3 seconds.")
    assert answer.headers["Connection"] == "close"


@pytest.mark.parametrize("path", ["/", "/docs", INSTANCES])
async def test_request_is_refused_when_its_query_has_too_many_fields(
    idle_api: httpx.AsyncClient, path: str
) -> None:
    assert (await idle_api.get(f"{path}?{'a&' * 99}")).status_code == 200
    answer = await idle_api.get(f"{path}?{'%41&' * 100}")
    assert_problem(answer, 400, "The query has too many fields", "Send at most 100 fields.")


def seconds_to_read(read: Callable[[], object]) -> float:
    """How long it takes to read a body, at best."""
    durations = []
    for _ in range(5):
        started = perf_counter()
        with suppress(ProblemError):
            read()
        durations.append(perf_counter() - started)
    return min(durations)


def most_seconds() -> float:
    """What reading a body may take: 10 ms where Python reads the largest body of empty objects in 17 ms."""
    return 0.6 * seconds_to_read(lambda: json.loads(b"[" + b"{}," * (LARGEST_JSON // 3 - 2) + b"{}]"))


@pytest.mark.parametrize(
    "body",
    [
        b"[" + b"{}," * (LARGEST_JSON // 3 - 2) + b"{}]",
        b"[" + b"1," * (LARGEST_JSON // 2 - 2) + b"1]",
        b"{" + b",".join(b'"%x":1' % number for number in range(100_000)) + b"}",
        b"{" + b",".join(b'"%x":{}' % number for number in range(4_999)) + b"}",
        b"[" + b",".join([b"1" * 4000] * 250) + b"]",
        b"[" + b",".join([b"0." + b"1" * 100] * 9_999) + b"]",
        b'{"a":"' + b"\\n" * (LARGEST_JSON // 2 - 8) + b'"}',
        b'{"a":"' + b"\\u00e9" * (LARGEST_JSON // 6 - 4) + b'"}',
        b'{"a":"' + "é".encode() * (LARGEST_JSON // 2 - 8) + b'"}',
        b"[" * LARGEST_JSON,
        b" " * LARGEST_JSON,
        b"1" * LARGEST_JSON,
        b"0." + b"1" * (LARGEST_JSON - 2),
    ],
    ids=range(13),
)
@pytest.mark.timed
def test_json_is_read_soon_when_it_is_made_to_take_long(body: bytes) -> None:
    assert len(body) <= LARGEST_JSON
    assert seconds_to_read(lambda: parsed_json(body)) < most_seconds()


@pytest.mark.timed
def test_form_is_read_soon_when_it_is_made_to_take_long() -> None:
    body = b"&".join([b"%41" * (LARGEST_FORM // 60 - 1)] * 20)
    assert seconds_to_read(lambda: parsed_form(body)) < most_seconds()


@pytest.mark.timed
async def test_others_are_answered_meanwhile_when_many_large_forms_come_at_once(serving: Server) -> None:
    body = b"%41&" * (LARGEST_JSON // 4)
    form = "Content-Type: application/x-www-form-urlencoded"
    with probing(serving.port) as seconds:
        answers = await asyncio.gather(
            *(serving.ask("POST /connect/token", form, body=body) for _ in range(20))
        )

    assert {answer.status for answer in answers} == {413}
    print(f"longest delay {1000 * max(seconds):.0f} ms")  # noqa: T201 - the figure
    assert max(seconds) < 0.5
