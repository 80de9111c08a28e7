"""nginx and Caddy with the files in deploy/proxy, before two services that say what they were asked."""

import asyncio
import os
import re
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from tests import debian
from tests.reverse_proxy import FOLDER, Caddy, Nginx, ReverseProxy
from tests.stand_in import serving

pytestmark = pytest.mark.long  # Debian's packages are fetched where the programs are not installed

FIRST, SECOND = b"data: 1\n\n", b"data: 2\n\n"


class Service:
    """Says which service it is, and what it was asked; a stream sends its second half when it is told to."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.go_on = asyncio.Event()
        self.app = Starlette()
        self.app.add_route("/{path:path}", self.answer, ["GET", "POST"])

    async def answer(self, request: Request) -> Response:
        body = await request.body()
        if request.url.path.endswith(("/events", "/dump")):
            return StreamingResponse(self._stream(), media_type="text/event-stream")
        told = {
            "service": self.name,
            "target": request.scope["raw_path"].decode(),
            "query": request.url.query,
            "headers": [[name, value] for name, value in request.headers.items()],
            "size": len(body),
        }
        return JSONResponse(told, headers={"Strict-Transport-Security": "max-age=1"})

    async def _stream(self) -> AsyncIterator[bytes]:
        yield FIRST
        await self.go_on.wait()
        yield SECOND


@asynccontextmanager
async def between(proxy: ReverseProxy, ods: Service, admin_api: Service) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the proxy, behind which both services are."""
    async with serving(ods.app) as ods_url, serving(admin_api.app) as admin_api_url:
        proxy.configure(ods_url, admin_api_url)
        async with proxy.running(), httpx.AsyncClient(verify=proxy.trust, base_url=proxy.url) as client:
            yield client


@pytest.fixture
def ods() -> Service:
    return Service("ods")


@pytest.fixture(params=[Nginx, Caddy])
def proxy(request: pytest.FixtureRequest, tmp_path: Path) -> ReverseProxy:
    made: ReverseProxy = request.param(tmp_path)
    return made


@pytest.fixture
async def client(proxy: ReverseProxy, ods: Service) -> AsyncIterator[httpx.AsyncClient]:
    async with between(proxy, ods, Service("admin-api")) as client:
        yield client


async def told(client: httpx.AsyncClient, path: str, **options: Any) -> dict[str, Any]:
    # Absolute: a path that begins with two slashes would be taken for another host.
    answer = await client.get(f"{str(client.base_url).removesuffix('/')}{path}", **options)
    assert answer.status_code == 200, answer.text
    said: dict[str, Any] = answer.json()
    return said


@pytest.mark.parametrize("prefix", ["", "/edfi"])
def test_nginx_accepts_the_file_when_addresses_and_certificate_are_there(tmp_path: Path, prefix: str) -> None:
    nginx = Nginx(tmp_path, prefix)
    nginx.configure("http://127.0.0.1:8000", "http://127.0.0.1:8081")
    lines = nginx.examine().splitlines()
    assert len(lines) == 2, lines  # no warning besides
    assert lines[-1].endswith("test is successful")


@pytest.mark.parametrize("prefix", ["", "/edfi"])
def test_caddy_accepts_the_file_when_addresses_and_certificate_are_there(tmp_path: Path, prefix: str) -> None:
    caddy = Caddy(tmp_path, prefix)
    caddy.configure("http://127.0.0.1:8000", "http://127.0.0.1:8081")
    assert "Valid configuration" in caddy.examine()


def test_caddy_accepts_the_file_as_it_is_and_formats_it_so(tmp_path: Path) -> None:
    environment = {"PATH": os.defpath, "HOME": str(tmp_path)}
    file = str(FOLDER / "Caddyfile")
    for words in (("validate", "--adapter", "caddyfile", "--config", file), ("fmt", file)):
        done = subprocess.run(  # noqa: S603 - Debian's program
            (debian.program("caddy"), *words), check=False, capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr
    assert done.stdout == Path(file).read_text()


async def test_each_service_gets_its_paths_as_they_were_looked_up(client: httpx.AsyncClient) -> None:
    for asked, service, got in (
        ("/", "admin-api", "/"),
        ("//connect/register", "admin-api", "/connect/register"),
        ("/V2/Vendors/7", "admin-api", "/V2/Vendors/7"),
        ("/v2/vendors?offset=0&limit=10000&name=a%2Fb", "admin-api", "/v2/vendors"),
        ("/v2/tenants/default/OdsInstances/edOrgs", "ods", "/v2/tenants/default/OdsInstances/edOrgs"),
        ("/v2/dbInstances", "ods", "/v2/dbInstances"),
        ("/health", "ods", "/health"),
        ("/docs", "ods", "/docs"),
        ("/somethingNew", "ods", "/somethingNew"),
    ):
        said = await told(client, asked)
        assert said["service"] == service, asked
        assert said["target"] == got, asked
        assert said["query"] == asked.partition("?")[2]


@pytest.mark.parametrize(
    "path",
    [
        *("/v2/vendors/%2e%2e/dbInstances", "/v2/vendors/..%2fdbInstances", "/v2/dbInstances/%2E%2E/vendors"),
        *("/v2/odsInstances/5/x%2f..%2f..%2f..%2fvendors%2fy/..", "/v2/odsInstances/x%5c..%5c..%5cvendors"),
    ],
)
async def test_service_gets_no_path_that_it_could_read_as_one_of_the_other(
    client: httpx.AsyncClient, path: str
) -> None:
    answer = await client.get(f"{client.base_url}".removesuffix("/") + path)
    if answer.status_code != 400:
        said = answer.json()
        assert not re.search(r"%2e|%2f|/\.\.?(/|$)", said["target"], re.IGNORECASE)
        assert (await told(client, said["target"]))["service"] == said["service"]


@pytest.mark.parametrize("kind", [Nginx, Caddy])
async def test_log_ins_come_to_the_admin_api_alone_when_both_are_below_a_prefix(
    tmp_path: Path, kind: type[ReverseProxy]
) -> None:
    proxy = kind(tmp_path, "/edfi")
    async with between(proxy, Service("ods"), Service("admin-api")) as client:
        root = proxy.url.removesuffix("/edfi")
        for path in ("/edfi", "/edfi/", "/edfi/connect/token", "/edfi/v2/vendors"):
            assert (await client.get(f"{root}{path}")).json()["service"] == "admin-api", path
        assert (await client.get(f"{root}/edfi/v2/jobs")).json()["service"] == "ods"
        outside = await client.get(f"{root}/connect/token")
        assert outside.status_code == 404 or outside.json()["service"] == "admin-api"


async def test_services_learn_who_asks_and_not_what_the_client_says_of_itself(
    client: httpx.AsyncClient,
) -> None:
    lies = {"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "http"}
    headers = {**lies, "X-Real-IP": "192.0.2.1", "tenant": "tenant1", "Authorization": "Bearer x.y.z"}
    host = f"{client.base_url.host}:{client.base_url.port}"
    for path in ("/v2/vendors", "/v2/jobs"):
        got = [tuple(pair) for pair in (await told(client, path, headers=headers))["headers"]]
        for pair in (
            *(("host", host), ("x-forwarded-host", host), ("x-forwarded-proto", "https")),
            *(("x-forwarded-for", "127.0.0.1"), ("x-real-ip", "127.0.0.1")),
            *(("tenant", "tenant1"), ("authorization", "Bearer x.y.z")),
        ):
            assert [value for name, value in got if name == pair[0]] == [pair[1]]


async def test_answer_has_the_headers_of_the_service_and_no_second_ones(client: httpx.AsyncClient) -> None:
    answer = await client.get("/v2/jobs")
    assert answer.headers.get_list("Strict-Transport-Security") == ["max-age=1"]
    added = {name for name, _ in answer.headers.multi_items()} & {"content-security-policy", "cache-control"}
    assert not added


@pytest.mark.parametrize("path", ["/console/events", "/v2/backups/1/dump"])
async def test_stream_arrives_as_it_is_sent(client: httpx.AsyncClient, ods: Service, path: str) -> None:
    async with asyncio.timeout(20), client.stream("GET", path) as answer:
        chunks = answer.aiter_raw()
        assert await anext(chunks) == FIRST  # the second half is not yet sent
        ods.go_on.set()
        assert b"".join([chunk async for chunk in chunks]) == SECOND


async def test_body_is_passed_on_unless_it_is_larger_than_any_should_be(client: httpx.AsyncClient) -> None:
    megabyte = b"x" * 2**20
    assert (await client.post("/v2/claimSets/import", content=megabyte)).json()["size"] == len(megabyte)
    too_large = await client.post("/v2/claimSets/import", content=megabyte * 21)
    assert too_large.status_code in {413, 502}  # Debian's Caddy says 502


async def test_people_are_led_to_tls_and_programs_are_refused(
    proxy: ReverseProxy, client: httpx.AsyncClient
) -> None:
    del client  # by which the proxy runs
    async with httpx.AsyncClient(base_url=proxy.plain_url) as plain:
        led = await plain.get("/console/instances?a=b")
        assert led.status_code == 301
        assert led.headers["Location"] == "https://127.0.0.1/console/instances?a=b"
        for path in ("/v2/jobs", "/connect/token", "/", "/v2/vendors"):
            assert (await plain.get(path)).status_code == 403
