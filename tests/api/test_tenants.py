"""Several tenants behind one API: each request is for one of them, and sees nothing of the others."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from ods.embedded.postgres import EmbeddedPostgres
from ods.settings.settings import MultiTenantSettings, Settings
from tests import preloaded
from tests.api import server
from tests.api.service import NOBODY, bearer, client_of, running
from tests.secret_search import as_secret
from tests.servers import (
    NUMBERS,
    environment,
    make_settings,
    make_tenant_settings,
    service_dsn,
    session,
)

SECRET = as_secret("A-secret-of-32-characters-or-more-1!")
AWAY = SecretStr("postgresql://service:a-password@127.0.0.1:1/EdFi_Admin")
NEW = {"name": "Grand Bend", "databaseTemplate": "Minimal"}


@pytest.fixture
def several(settings: Settings, postgres: EmbeddedPostgres, second_registry_dsn: str) -> MultiTenantSettings:
    """Two tenants with registries of their own."""
    second = make_settings(postgres, second_registry_dsn, rate_limiting=False)
    return make_tenant_settings({"tenant1": settings, "Tenant-2": second})


@pytest.fixture
async def app(several: MultiTenantSettings) -> AsyncIterator[FastAPI]:
    async with running(several, NOBODY) as app:
        yield app


@pytest.fixture(scope="session")
def idle_several(idle_settings: Settings) -> MultiTenantSettings:
    """Two tenants, of which the second has no registry that could be reached."""
    second = idle_settings.model_copy(update={"admin_dsn": AWAY})
    return make_tenant_settings({"tenant1": idle_settings, "Tenant-2": second})


@pytest.fixture(scope="session")
async def idler(idle_several: MultiTenantSettings) -> AsyncIterator[httpx.AsyncClient]:
    """A client without a token, whose requests leave no traces."""
    async with running(idle_several, NOBODY) as app, client_of(app) as client:
        yield client


def as_client(several: MultiTenantSettings, tenant: str) -> dict[str, str]:
    """The headers of a client of that tenant."""
    return {"tenant": tenant, **bearer(several, tenant=tenant)}


def assert_tenant_refused(answer: httpx.Response) -> None:
    assert answer.status_code == 400
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["title"] == "Validation failed"
    ((name, messages),) = answer.json()["errors"].items()
    assert name == "Tenant"
    assert len(messages) == 1


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"tenant": ""},
        {"tenant": "tenant3"},
        {"tenant": "default"},
        {"tenant": "tenant1 tenant1"},
        {"tenant": "tenant_1"},
        {"tenant": "x" * 51},
        {"tenant": "tenant1,Tenant-2"},
        {"tenant": "ténant1".encode()},
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("GET", "/v2/dbInstances"), ("POST", "/v2/dbInstances"), ("GET", "/v2/tenants")),
        *(
            ("POST", "/connect/token"),
            ("POST", "/connect/register"),
            ("GET", "/nowhere"),
            ("GET", "/v2/nowhere"),
        ),
    ],
)
async def test_request_is_refused_when_it_names_no_tenant(
    idler: httpx.AsyncClient, idle_several: MultiTenantSettings, method: str, path: str, headers: Any
) -> None:
    assert_tenant_refused(await idler.request(method, path, headers=headers))
    known = headers | bearer(idle_several, tenant="tenant1")
    assert_tenant_refused(await idler.request(method, path, headers=known))


async def test_request_is_refused_when_it_names_two_tenants(idler: httpx.AsyncClient) -> None:
    twice = [("tenant", "tenant1"), ("tenant", "Tenant-2")]
    assert_tenant_refused(await idler.get("/v2/dbInstances", headers=twice))


async def test_wrong_version_is_told_first_when_the_tenant_is_wrong_too(idler: httpx.AsyncClient) -> None:
    answer = await idler.get("/v1/vendors", headers={"tenant": "tenant3"})
    assert answer.status_code == 400
    assert answer.json() == {"message": "Wrong API version for this instance mode."}


@pytest.mark.parametrize(
    "path", ["/", "/health", "/HEALTH/", "/docs", "/docs/start.js", "/openapi.json", "/v2/tenancy"]
)
@pytest.mark.parametrize("headers", [{}, {"tenant": "no such tenant"}])
async def test_no_tenant_is_needed_when_the_path_belongs_to_none(
    idler: httpx.AsyncClient, path: str, headers: dict[str, str]
) -> None:
    assert (await idler.get(path, headers=headers)).status_code == 200


@pytest.mark.parametrize("spelling", ["tenant1", "TENANT1", " Tenant1 "])
async def test_tenant_is_found_when_it_is_spelled_in_another_case(
    idler: httpx.AsyncClient, idle_several: MultiTenantSettings, spelling: str
) -> None:
    headers = as_client(idle_several, "tenant1") | {"tenant": spelling}
    assert (await idler.get("/v2/dbInstances", headers=headers)).json() == []


async def test_header_is_ignored_when_there_is_one_tenant(idle_api: httpx.AsyncClient) -> None:
    for name in ("", "no such tenant", "x" * 99):
        assert (await idle_api.get("/v2/dbInstances", headers={"tenant": name})).status_code == 200


async def test_token_is_refused_when_it_was_issued_for_another_tenant(
    idler: httpx.AsyncClient, idle_several: MultiTenantSettings
) -> None:
    for own, other in (("tenant1", "Tenant-2"), ("Tenant-2", "tenant1")):
        answer = await idler.get("/v2/dbInstances", headers=as_client(idle_several, own) | {"tenant": other})
        assert answer.status_code == 401
        assert answer.content == b""
        assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_client_is_known_to_its_tenant_only_when_it_has_registered(stranger: httpx.AsyncClient) -> None:
    def connect(tenant: str, path: str, **form: str) -> Any:
        form = {"ClientId": "an-app", "ClientSecret": SECRET, "client_id": "an-app", **form}
        return stranger.post(f"/connect/{path}", headers={"tenant": tenant}, data=form)

    grant = {
        "grant_type": "client_credentials",
        "scope": "edfi_admin_api/full_access",
        "client_secret": SECRET,
    }
    other_secret = SECRET[::-1]
    assert (await connect("tenant1", "register", DisplayName="A client")).status_code == 200
    assert (await connect("Tenant-2", "token", **grant)).json()["error"] == "invalid_client"
    again = await connect("TENANT-2", "register", DisplayName="A client", ClientSecret=other_secret)
    assert again.status_code == 200
    assert (await connect("Tenant-2", "token", **grant)).status_code == 401
    issued = await connect("tenant1", "token", **grant)
    headers = {"Authorization": f"Bearer {issued.json()['access_token']}"}
    assert (await stranger.get("/v2/jobs/x", headers=headers | {"tenant": "tenant1"})).status_code == 404
    assert (await stranger.get("/v2/jobs/x", headers=headers | {"tenant": "tenant-2"})).status_code == 401


async def test_rows_are_seen_by_their_tenant_only_when_names_and_ids_are_equal(
    stranger: httpx.AsyncClient, several: MultiTenantSettings
) -> None:
    first, second = as_client(several, "tenant1"), as_client(several, "Tenant-2")
    for own in several.tenants.values():
        async with session(own.admin_dsn.get_secret_value()) as registry:
            await registry.execute("ALTER SEQUENCE dbo.odsinstances_odsinstanceid_seq RESTART WITH 7000000")
            await registry.execute("ALTER TABLE adminapi.dbinstances ALTER COLUMN id RESTART WITH 7000000")
    one = await stranger.post("/v2/dbInstances", headers=first, json=NEW)
    assert (await stranger.get("/v2/dbInstances", headers=second)).json() == []
    assert (await stranger.get(one.headers["Location"], headers=second)).status_code == 404
    assert (await stranger.get(one.json()["location"], headers=second)).status_code == 404

    two = await stranger.post("/v2/dbInstances", headers=second, json=NEW)
    assert (one.status_code, two.status_code) == (202, 202)
    assert one.json() == two.json()
    async with session(several.tenants["tenant1"].admin_dsn.get_secret_value()) as registry:
        await registry.execute("UPDATE adminapi.jobstatuses SET errormessage = 'of the first'")
    told = [
        (await stranger.get(one.json()["location"], headers=headers)).json() for headers in (first, second)
    ]
    assert [job["errorMessage"] for job in told] == ["of the first", None]
    assert (await stranger.delete("/v2/dbInstances/7000000", headers=second)).status_code == 409
    entries = [(await stranger.get("/v2/audit", headers=headers)).json() for headers in (first, second)]
    assert [[entry["method"] for entry in own] for own in entries] == [
        ["POST"],
        ["DELETE", "POST"],
    ]


async def test_key_is_another_when_the_tenant_is_another(
    stranger: httpx.AsyncClient, several: MultiTenantSettings
) -> None:
    key = {"Idempotency-Key": "a key"}
    first, second = as_client(several, "tenant1") | key, as_client(several, "Tenant-2") | key

    answers = [
        await stranger.post("/v2/dbInstances", headers=headers, json=NEW | {"name": name})
        for headers, name in ((first, "One"), (second, "Two"), (first, "One"))
    ]

    assert [(answer.status_code, answer.json()["name"]) for answer in answers] == [
        *((202, "One"), (202, "Two"), (202, "One"))
    ]


async def test_view_and_refreshes_are_those_of_the_tenant_when_ids_are_equal(
    stranger: httpx.AsyncClient, several: MultiTenantSettings
) -> None:
    for name, own in several.tenants.items():
        async with session(own.admin_dsn.get_secret_value()) as registry:
            await registry.execute("INSERT INTO dbo.odsinstances (odsinstanceid, name) VALUES (7, $1)", name)
            await registry.execute(
                "INSERT INTO adminapi.educationorganizations"
                " (instanceid, instancename, educationorganizationid, nameofinstitution, discriminator)"
                " VALUES (7, $1::text, 1, $1::text, 'edfi.School')",
                name,
            )
    for name in several.tenants:
        headers = as_client(several, name)
        view = (await stranger.get(f"/v2/tenants/{name.upper()}/odsInstances/edOrgs", headers=headers)).json()
        assert (view["id"], view["name"]) == (name, name)
        (shown,) = view["odsInstances"]
        assert (shown["id"], shown["name"]) == (7, name)
        assert [one["nameOfInstitution"] for one in shown["educationOrganizations"]] == [name]

    first, second = as_client(several, "tenant1"), as_client(several, "Tenant-2")
    others = await stranger.get("/v2/tenants/Tenant-2/odsInstances/edOrgs", headers=first)
    assert (others.status_code, others.content) == (404, b"")
    job = (await stranger.post("/v2/odsInstances/7/edOrgs/refresh", headers=first)).headers["Location"]
    assert (await stranger.get(job, headers=first)).status_code == 200
    assert (await stranger.get(job, headers=second)).status_code == 404


async def test_tenants_are_told_when_anybody_asks(idler: httpx.AsyncClient) -> None:
    tenancy = (await idler.get("/")).json()["tenancy"]
    assert tenancy == {"multitenantMode": True, "tenants": ["tenant1", "Tenant-2"]}


async def test_others_are_told_by_name_alone_when_tenants_are_listed(
    stranger: httpx.AsyncClient, several: MultiTenantSettings
) -> None:
    addresses = {
        name: {
            "tenantName": name,
            "adminConnectionString": {"host": "127.0.0.1", "database": database},
            "securityConnectionString": {"host": "127.0.0.1", "database": "EdFi_Security"},
        }
        for name, database in (("tenant1", "EdFi_Admin_api"), ("Tenant-2", "EdFi_Admin_second_api"))
    }
    hidden = {"host": None, "database": None}
    for own, other in (("tenant1", "TENANT-2"), ("Tenant-2", "TENANT1")):
        headers = as_client(several, own)
        assert (await stranger.get("/v2/tenants", headers=headers)).json() == [
            one
            if name == own
            else {"tenantName": name, "adminConnectionString": hidden, "securityConnectionString": hidden}
            for name, one in addresses.items()
        ]
        assert (await stranger.get(f"/v2/tenants/{own.upper()}", headers=headers)).json() == addresses[own]
        assert_tenant_refused(await stranger.get(f"/v2/tenants/{other}", headers=headers))
    assert (await stranger.get("/v2/tenants")).status_code == 400


async def test_tenant_is_not_found_when_there_is_none_of_the_name(
    idler: httpx.AsyncClient, idle_several: MultiTenantSettings, idle_api: httpx.AsyncClient
) -> None:
    for client, headers in ((idler, as_client(idle_several, "tenant1")), (idle_api, {})):
        for name in ("tenant3", "tenant_1", "%00", "tenant1%20"):
            answer = await client.get(f"/v2/tenants/{name}", headers=headers)
            assert (answer.status_code, answer.content) == (404, b"")


async def test_only_tenant_is_called_default_when_there_are_not_several(idle_api: httpx.AsyncClient) -> None:
    (tenant,) = (await idle_api.get("/v2/tenants")).json()
    assert tenant["tenantName"] == "default"
    assert tenant["adminConnectionString"] == {"host": "127.0.0.1", "database": "EdFi_Admin_idle"}
    assert (await idle_api.get("/v2/tenants/Default")).json() == tenant


async def test_tenant_works_when_the_registry_of_another_is_away(
    several: MultiTenantSettings, settings: Settings
) -> None:
    broken = settings.model_copy(update={"admin_dsn": AWAY})
    half = make_tenant_settings({"broken": broken, "well": several.tenants["tenant1"]})
    async with running(half, NOBODY) as app, client_of(app) as client:
        health = await client.get("/health")
        refused = await client.get("/v2/dbInstances", headers=as_client(half, "broken"))
        accepted = await client.post("/v2/dbInstances", headers=as_client(half, "well"), json=NEW)
    assert health.status_code == 200
    assert health.json()["status"] == "Degraded"
    told = {part["name"]: part["status"] for part in health.json()["results"]}
    assert (told["database:broken"], told["database:well"]) == ("Unhealthy", "Healthy")
    assert refused.status_code == 503
    assert accepted.status_code == 202


async def test_service_is_unhealthy_when_no_tenants_registry_answers(settings: Settings) -> None:
    def away(port: int) -> Settings:
        dsn = SecretStr(f"postgresql://service:a-password@127.0.0.1:{port}/EdFi_Admin")
        return settings.model_copy(update={"admin_dsn": dsn})

    none = make_tenant_settings({"a": away(1), "b": away(2)})
    async with running(none, NOBODY) as app, client_of(app) as client:
        answer = await client.get("/health")
    assert answer.status_code == 503
    assert answer.json()["status"] == "Unhealthy"


async def _ods(url: str, *arguments: str, **variables: str) -> tuple[int, str]:
    """The exit code and all that the command line has printed."""
    env = {"PATH": os.defpath, "ODS_API_URL": url, **variables}
    run = await asyncio.to_thread(preloaded.run, "ods.cli", *arguments, env=env)
    return run.returncode, run.stdout + run.stderr


async def test_command_line_names_its_tenant_when_it_is_told(several: MultiTenantSettings) -> None:
    not_set = dict.fromkeys(("ODS_ADMIN_DSN", "ODS_MASTER_DSN", "ODS_INSTANCE_CONNECTION_STRING"))
    tenants = environment(several)["ODS_TENANTS"]
    client = {"ODS_CLIENT_ID": "an-app", "ODS_CLIENT_SECRET": SECRET}
    async with server.serving(several.tenants["tenant1"], ODS_TENANTS=tenants, **not_set) as serving:
        form = {"ClientId": "an-app", "ClientSecret": SECRET, "DisplayName": "A client"}
        async with httpx.AsyncClient(base_url=serving.url, headers={"tenant": "tenant1"}) as stranger:
            assert (await stranger.post("/connect/register", data=form)).status_code == 200
        listing = ("instance", "list", "--json")
        assert await _ods(serving.url, "--tenant", "tenant1", *listing, **client) == (0, "[]\n")
        assert await _ods(serving.url, *listing, **client, ODS_TENANT="tenant1") == (0, "[]\n")
        for told, tenant in (("does not accept the client", "Tenant-2"), ("there is none of that name", "x")):
            code, printed = await _ods(serving.url, "--tenant", tenant, *listing, **client)
            assert (code, told in printed) == (1, True), printed
        code, printed = await _ods(serving.url, *listing, **client)
        assert (code, "'Tenant' must not be empty" in printed) == (1, True), printed


async def test_client_is_added_to_the_tenant_that_is_named_when_there_are_several(
    several: MultiTenantSettings, stranger: httpx.AsyncClient
) -> None:
    variables = environment(several)
    code, printed = await _ods("", "--tenant", "TENANT-2", "client", "add", "an-app", "--json", **variables)
    assert code == 0, printed
    form = {
        "grant_type": "client_credentials",
        "scope": "edfi_admin_api/full_access",
        "client_id": "an-app",
        "client_secret": json.loads(printed)["clientSecret"],
    }
    told = [
        (await stranger.post("/connect/token", headers={"tenant": name}, data=form)).status_code
        for name in ("tenant1", "Tenant-2")
    ]
    assert told == [401, 200]
    for tenant in ("", "another"):
        code, printed = await _ods("", "client", "list", **variables, ODS_TENANT=tenant)
        assert (code, "tenant1, Tenant-2" in printed) == (1, True), printed


async def test_command_line_names_no_other_tenant_when_there_is_one(settings: Settings) -> None:
    client = {"ODS_CLIENT_ID": "an-app", "ODS_CLIENT_SECRET": SECRET}
    async with server.serving(settings) as serving:
        form = {"ClientId": "an-app", "ClientSecret": SECRET, "DisplayName": "A client"}
        async with httpx.AsyncClient(base_url=serving.url, headers={"tenant": "a-gateway-says"}) as stranger:
            assert (await stranger.post("/connect/register", data=form)).status_code == 200
        listing = ("instance", "list", "--json")
        for tenant in ("", "default"):
            assert await _ods(serving.url, *listing, **client, ODS_TENANT=tenant) == (0, "[]\n")
        code, printed = await _ods(serving.url, "--tenant", "tenant1", *listing, **client)
    assert (code, "has one tenant" in printed) == (1, True), printed
    code, printed = await _ods("", "--tenant", "tenant1", "client", "list", **environment(settings))
    assert (code, "has one tenant" in printed) == (1, True), printed


async def test_other_registries_are_migrated_when_one_is_away(
    settings: Settings, postgres: EmbeddedPostgres
) -> None:
    name = f"EdFi_Admin_empty_{next(NUMBERS)}"
    async with session(service_dsn(postgres, "postgres")) as maintenance:
        await maintenance.execute(f'CREATE DATABASE "{name}"')
    away = settings.model_copy(update={"admin_dsn": AWAY})
    both = make_tenant_settings({"away": away, "well": make_settings(postgres, service_dsn(postgres, name))})
    code, printed = await _ods("", "migrate", **environment(both))
    assert code == 1
    assert "Tenant away: The registry database cannot be migrated" in printed
    assert "Tenant well" not in printed
    assert "a-password" not in printed
    async with session(service_dsn(postgres, name)) as registry:
        assert await registry.fetchval("SELECT count(*) FROM adminapi.dbinstances") == 0
