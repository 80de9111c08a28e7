"""The addresses that the service tells its clients: as they reach it, through a proxy and below a prefix."""

import json
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from urllib.parse import urljoin, urlsplit

import httpx
import pytest
from fastapi import FastAPI

from ods.settings.settings import MultiTenantSettings, Settings
from tests.api import server
from tests.api.server import ResponseModel, Server
from tests.api.service import NOBODY, client_of, running
from tests.servers import environment, make_tenant_settings

TLS = ("X-Forwarded-Proto: https", "X-Forwarded-For: 192.0.2.7")
HOST = "X-Forwarded-Host: ods.example.org"


@pytest.fixture(scope="module")
async def proxied(idle_settings: Settings) -> AsyncIterator[Server]:
    """A server that believes the proxy at 127.0.0.1, below a prefix."""
    options = ("--forwarded-allow-ips", "127.0.0.1", "--root-path", "/ods")
    hosts = "api,127.0.0.1,ods.example.org"
    async with server.serving(idle_settings, *options, ODS_ALLOWED_HOSTS=hosts) as started:
        yield started


@pytest.fixture(scope="module")
async def unproxied(idle_settings: Settings) -> AsyncIterator[Server]:
    """A server that believes no proxy."""
    async with server.serving(idle_settings, "--forwarded-allow-ips", "") as started:
        yield started


def urls(answer: ResponseModel) -> dict[str, str]:
    assert answer.status == 200
    told: dict[str, str] = answer.json()["urls"]
    return told


@pytest.mark.parametrize(
    ("headers", "base"),
    [
        ((), "http://api/ods"),
        (TLS, "https://api/ods"),
        ((*TLS, HOST), "https://ods.example.org/ods"),
        ((*TLS, f"{HOST}:8443"), "https://ods.example.org:8443/ods"),
        ((*TLS, "X-Forwarded-Host: evil.example, ods.example.org"), "https://ods.example.org/ods"),
    ],
)
@pytest.mark.parametrize("path", ["/", "//", "/ods/", "/ods//", "/ods"])
async def test_urls_are_those_of_the_client_when_a_named_proxy_is_before_the_service(
    proxied: Server, path: str, headers: tuple[str, ...], base: str
) -> None:
    told = urls(await proxied.ask(f"GET {path}", *headers))
    assert told == {"openApiMetadata": f"{base}/openapi.json", "tenancy": f"{base}/v2/tenancy"}


async def test_proxy_is_not_believed_when_it_was_not_named(unproxied: Server) -> None:
    told = urls(await unproxied.ask("GET /", *TLS, HOST))
    assert told["tenancy"] == "http://api/v2/tenancy"


async def test_host_is_refused_when_the_proxy_was_sent_one_that_is_not_allowed(proxied: Server) -> None:
    answer = await proxied.ask("GET /", "X-Forwarded-Host: evil.example")
    assert answer.status == 400
    assert "ODS_ALLOWED_HOSTS" in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/v2/tenancy", "/ods/v2/tenancy", "/ods//V2//tenancy/", "//v2/tenancy"])
async def test_service_is_reached_when_the_proxy_leaves_or_removes_the_prefix(
    proxied: Server, path: str
) -> None:
    assert (await proxied.ask(f"GET {path}")).json() == {"tenants": []}


async def test_description_names_its_server_when_the_service_is_below_a_prefix(
    proxied: Server, unproxied: Server
) -> None:
    described = json.loads((await proxied.ask("GET /ods/openapi.json")).body)
    assert described["servers"] == [{"url": "/ods"}]
    assert "servers" not in json.loads((await unproxied.ask("GET /openapi.json")).body)


class Page(HTMLParser):
    """What a page loads, and what stands in it that a strict policy does not run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.described = ""
        self.inline: list[str] = []
        self._within = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self._within = tag
        self.inline += [name for name in named if name.startswith("on") or name == "style"]
        self.described = named.get("data-description") or self.described
        address = named.get("src") or named.get("href") or ""
        if address and not address.startswith("data:"):
            self.loaded.append(address)

    def handle_data(self, data: str) -> None:
        if self._within in {"script", "style"} and data.strip():
            self.inline.append(data)

    def handle_endtag(self, tag: str) -> None:
        self._within = ""


@pytest.mark.parametrize("path", ["/docs", "/docs/", "/ods/docs", "/ods/DOCS/"])
async def test_page_loads_only_what_the_service_has_when_it_is_below_a_prefix(
    proxied: Server, path: str
) -> None:
    answer = await proxied.ask(f"GET {path}")
    page = Page(answer.body.decode())
    policy = answer.headers["content-security-policy"]

    assert page.inline == []
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert [urlsplit(one).netloc for one in (*page.loaded, page.described)] == [""] * 4
    kinds = []
    for address in page.loaded:
        loaded = await proxied.ask(f"GET {urljoin(path, address)}")
        assert loaded.status == 200
        assert len(loaded.body) > 100
        kinds.append(loaded.headers["content-type"].partition(";")[0])
    assert kinds == ["text/css", "text/javascript", "text/javascript"]
    description = await proxied.ask(f"GET {urljoin(path, page.described)}")
    assert description.json()["openapi"].startswith("3.1")


async def test_script_asks_no_other_service_when_it_begins(idle_stranger: httpx.AsyncClient) -> None:
    start = (await idle_stranger.get("/docs/start.js")).text
    assert "validatorUrl: null" in start
    assert "http" not in start


@pytest.fixture
async def empty_app(idle_settings: Settings) -> AsyncIterator[FastAPI]:
    """An API for several tenants, of which there are none yet."""
    shared = make_tenant_settings({"a": idle_settings})
    async with running(MultiTenantSettings(**dict(shared) | {"tenants": "{}"}), NOBODY) as app:
        yield app


async def test_clients_are_told_when_there_should_be_tenants_and_are_none(empty_app: FastAPI) -> None:
    async with client_of(empty_app) as client:
        tenancy = await client.get("/v2/tenancy")
        information = (await client.get("/")).json()
        health = await client.get("/health")
        refused = await client.get("/v2/dbInstances", headers={"tenant": "a"})

    assert tenancy.status_code == 503
    assert set(tenancy.json()) == {"message"}
    assert "ODS_TENANTS" in tenancy.json()["message"]
    assert information["tenancy"] == {"multitenantMode": True, "tenants": []}
    assert health.status_code == 503
    assert (refused.status_code, list(refused.json()["errors"])) == (400, ["Tenant"])


async def test_api_starts_without_tenants_when_its_environment_names_none(idle_settings: Settings) -> None:
    variables = environment(make_tenant_settings({"a": idle_settings}))
    unset = dict.fromkeys(("ODS_ADMIN_DSN", "ODS_MASTER_DSN", "ODS_INSTANCE_CONNECTION_STRING"))
    several = json.dumps({"tenant1": json.loads(variables["ODS_TENANTS"])["a"]})
    async with server.serving(idle_settings, **unset, ODS_TENANTS="{}") as started:
        assert (await started.ask("GET /v2/tenancy")).status == 503
    async with server.serving(idle_settings, **unset, ODS_TENANTS=several) as started:
        assert (await started.ask("GET /v2/tenancy")).json() == {"tenants": ["tenant1"]}
