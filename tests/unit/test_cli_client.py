"""The HTTP client of the commands, on a server that limits requests for tokens."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from ods.cli import client
from ods.cli.client import AdminApi
from ods.embedded.errors import CommandError


class _Limited(BaseHTTPRequestHandler):
    refusals: list[str] = []  # noqa: RUF012 - set by each test
    tokens = 0
    bodies: list[object] = []  # noqa: RUF012 - emptied before each test
    tenancy: tuple[int, object] = (404, {})
    listed: list[int] = []  # noqa: RUF012 - set by each test
    leaving: list[int] = []  # noqa: RUF012 - set by each test

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path != "/connect/token":
            _Limited.bodies.append(json.loads(body))
            self._answer(202, {"id": 7}, {})
            return
        _Limited.tokens += 1
        if self.refusals:
            pause = self.refusals.pop(0)
            self._answer(429, {"title": "Too many requests"}, {"Retry-After": pause})
        else:
            self._answer(200, {"access_token": "a-token"}, {})

    def do_GET(self) -> None:
        if self.path == "/v2/tenancy":
            assert "Authorization" not in self.headers
            self._answer(*self.tenancy, {})
        elif self.path.startswith("/v2/dbInstances?"):
            query = parse_qs(urlsplit(self.path).query)
            offset, limit = (int(query[name][0]) for name in ("offset", "limit"))
            self._answer(200, [{"id": it} for it in self.listed[offset : offset + limit]], {})
            del self.listed[: self.leaving.pop(0) if self.leaving else 0]
        else:
            self._answer(200, {"id": 7}, {})

    def _answer(self, status: int, content: object, headers: dict[str, str]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def api() -> Iterator[AdminApi]:
    _Limited.tokens, _Limited.bodies = 0, []
    with ThreadingHTTPServer(("127.0.0.1", 0), _Limited) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        with AdminApi(f"http://127.0.0.1:{server.server_port}", "a-client", "a-secret") as api:
            yield api
        server.shutdown()


def test_token_is_requested_again_when_the_api_says_when(
    api: AdminApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(client, "sleep", slept.append)
    _Limited.refusals = ["2", "1"]
    assert api.instance(7) == {"id": 7}
    assert (slept, _Limited.tokens) == ([2, 1], 3)


@pytest.mark.parametrize("pause", ["31", "soon"])
def test_refusal_is_told_when_the_wait_would_be_long_or_is_not_said(api: AdminApi, pause: str) -> None:
    _Limited.refusals = [pause]
    with pytest.raises(CommandError, match="Too many requests"):
        api.instance(7)
    assert _Limited.tokens == 1


@pytest.mark.parametrize("filters", [{"label": [""]}, {"status": ["Completed", ""]}, {"name": ""}])
def test_nothing_is_listed_when_what_is_asked_for_is_empty(
    api: AdminApi, filters: dict[str, str | list[str]]
) -> None:
    with pytest.raises(CommandError, match=f"The {next(iter(filters))} that is asked for is empty"):
        list(api.instances(**filters))
    with pytest.raises(CommandError, match="asked for is empty"):
        api.jobs(1, status=[""])
    assert _Limited.tokens == 0


@pytest.mark.parametrize("leaving", [[], [1], [0, 3], [400, 400], [1200], [5000]], ids=str)
@pytest.mark.parametrize("number", [0, 1, 499, 500, 501, 999, 1000, 1700])
def test_each_one_is_listed_once_when_others_stop_matching_between_two_pages(
    api: AdminApi, number: int, leaving: list[int]
) -> None:
    _Limited.listed, _Limited.leaving = list(range(number)), list(leaving)
    listed = [row["id"] for row in api.instances()]
    assert len(listed) == len(set(listed))
    assert set(range(number)) >= set(listed) >= set(_Limited.listed)


def test_body_names_only_what_is_given_when_an_instance_or_its_database_comes_back(api: AdminApi) -> None:
    for name in (None, "Grand Bend"):
        api.undelete(7, name)
        api.undo_reset(7, name)
        api.adopt(7, name)
    named = [{"name": "Grand Bend"}, {"database": "Grand Bend"}, {"databaseName": "Grand Bend"}]
    assert _Limited.bodies == [{}, {}, {}, *named]


@pytest.mark.parametrize(
    ("status", "content", "has_one"),
    [
        (200, {"tenants": []}, True),
        (200, {"tenants": ["district1"]}, False),
        (200, {}, False),
        (200, [], False),
        (200, "a page of something else", False),
        (404, {"title": "Not found."}, False),
        (503, {"message": "This service is for several tenants, and none is configured."}, False),
    ],
)
def test_api_has_one_tenant_when_it_says_so(
    api: AdminApi, monkeypatch: pytest.MonkeyPatch, *, status: int, content: object, has_one: bool
) -> None:
    monkeypatch.setattr(_Limited, "tenancy", (status, content))
    assert api.has_one_tenant() is has_one
    assert _Limited.tokens == 0


def test_nothing_is_known_of_tenants_when_no_api_answers() -> None:
    with AdminApi("http://127.0.0.1:1", "a-client", "a-secret") as nowhere:
        assert not nowhere.has_one_tenant()


@pytest.mark.parametrize(
    ("text", "is_id"), [("58", True), ("0058", False), ("0", False), ("District 58", False)]
)
def test_text_is_an_id_when_it_is_a_number_as_ids_are_written(
    api: AdminApi, monkeypatch: pytest.MonkeyPatch, text: str, *, is_id: bool
) -> None:
    monkeypatch.setattr(AdminApi, "id_of", lambda _, name: {text: 7}[name])
    assert api.id_named(text) == (58 if is_id else 7)
