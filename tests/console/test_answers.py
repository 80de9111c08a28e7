"""What the console answers on the wire: headers, cookies, addresses behind proxies, several tenants."""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from time import monotonic

import asyncpg
import httpx
import pytest
from fastapi.routing import iter_route_contexts

from api.middleware import shedding
from ods.console.app import router
from ods.console.static_files import static_files
from ods.embedded.polling import wait_until
from ods.embedded.postgres import EmbeddedPostgres
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.store import InstanceStore
from ods.registry.sign_in_links import SignInLinks, address_of
from ods.registry.storage.engine import create_registry_engine
from ods.settings.settings import DEFAULT_TENANT, Settings
from tests import registries
from tests.api.server import Server, serving
from tests.api.service import NOBODY, running
from tests.console.conftest import Serve, add_clients
from tests.console.people import CLIENT, READER, SECRET
from tests.postgres.instance_states import bring_to
from tests.servers import environment, make_settings, make_tenant_settings, session

TLS = {"X-Forwarded-Proto": "https", "Host": "ods.example.org"}
LOG_IN = {"client_id": CLIENT, "client_secret": SECRET}

SIGN_OUT = "/console/sign-out"
ENDS = (
    "DELETE FROM adminapi.consolesessions WHERE digest = $1",
    "UPDATE adminapi.consolesessions SET lastusedat = lastusedat - interval '31 minutes' WHERE digest = $1",
    """
    UPDATE adminapi.applications SET enabled = false
    WHERE clientid = (SELECT client FROM adminapi.consolesessions WHERE digest = $1)
    """,
)
"""How sessions end otherwise: ended elsewhere, not used for too long, or their client is disabled."""

SINGLE_TENANT = dict.fromkeys(("ODS_ADMIN_DSN", "ODS_MASTER_DSN", "ODS_INSTANCE_CONNECTION_STRING"))
"""What is not set where there are several tenants."""


@asynccontextmanager
async def visitor(server: Server, headers: Mapping[str, str] = {}) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, headers=headers) as client:
        yield client


async def sign_in(client: httpx.AsyncClient, path: str = "/console", **fields: str) -> httpx.Response:
    page = await client.get(f"{path}/sign-in")
    token = re.search(r'name="csrf" value="([^"]+)"', page.text)
    assert token
    client.cookies.update(page.cookies)
    return await client.post(f"{path}/sign-in", data={"csrf": token[1], **LOG_IN, **fields})


async def test_pages_let_browsers_load_and_run_nothing_else_when_they_are_sent(server: Server) -> None:
    async with visitor(server) as client:
        answer = await client.get("/console/sign-in")
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "same-origin"
    assert answer.headers["Cache-Control"] == "no-store"
    assert "Strict-Transport-Security" not in answer.headers
    assert "<style" not in answer.text
    assert not re.search(r"<script(?![^>]* src=)|\son\w+=|\sstyle=", answer.text)


async def test_browsers_keep_styles_and_scripts_when_these_do_not_change(server: Server) -> None:
    async with visitor(server) as client:
        answers = [await client.get(f"/console/static/{file.address}") for file in static_files().values()]
        missing = await client.get("/console/static/console.000000000000.css")
    assert {answer.headers["Cache-Control"] for answer in answers} == {"public, max-age=31536000, immutable"}
    assert [answer.content for answer in answers] == [file.content for file in static_files().values()]
    assert missing.status_code == 404


async def test_the_cookie_is_safe_when_the_browser_comes_over_tls(
    settings: Settings, clients: None, serve: Serve
) -> None:
    async with (
        serve(settings, "--forwarded-allow-ips", "127.0.0.1", "--root-path", "/ods") as server,
        visitor(server, TLS) as client,
    ):
        page = await client.get("/ods/console/sign-in")
        token = re.search(r'name="csrf" value="([^"]+)"', page.text)
        assert token
        cookies = dict(page.cookies.items())
        answer = await client.post(
            "/ods/console/sign-in", data={"csrf": token[1], **LOG_IN}, headers={"Cookie": joined(cookies)}
        )
        assert answer.status_code == 303
        assert answer.headers["Location"] == "/ods/console/instances"
        cookie = answer.headers["Set-Cookie"]
        assert cookie.startswith("__Host-ods-console-ods=")
        assert {"HttpOnly", "Secure", "Path=/", "SameSite=lax"} <= set(cookie.split("; "))
        assert answer.headers["Strict-Transport-Security"] == "max-age=31536000; includeSubDomains"
        listed = await client.get("/ods/console/instances", headers={"Cookie": cookie.partition(";")[0]})
        assert listed.status_code == 200
        assert 'href="/ods/console/jobs"' in listed.text
        assert 'href="/console' not in listed.text


def joined(cookies: Mapping[str, str]) -> str:
    return "; ".join(f"{name}={value}" for name, value in cookies.items())


async def test_no_secret_is_asked_for_when_it_would_cross_the_network_in_the_clear(server: Server) -> None:
    async with visitor(server, {"Host": "ods.example.org"}) as client:
        answer = await client.get("/console/sign-in")
    assert "Signing in needs HTTPS" in answer.text


async def test_only_browsers_are_led_to_the_console_when_the_root_is_asked_for(server: Server) -> None:
    async with visitor(server) as client:
        program = await client.get("/")
        browser = await client.get("/", headers={"Accept": "text/html,*/*;q=0.8"})
    assert program.json()["applicationName"]
    assert (browser.status_code, browser.headers["Location"]) == (303, "/console")


async def test_there_is_no_console_when_it_is_switched_off(settings: Settings, serve: Serve) -> None:
    async with serve(settings.model_copy(update={"console": False})) as server, visitor(server) as client:
        assert (await client.get("/console")).status_code == 404
        assert (await client.get("/", headers={"Accept": "text/html"})).status_code == 200


async def test_nothing_of_an_instance_is_changed_when_instances_are_not_managed(
    settings: Settings, clients: None, serve: Serve
) -> None:
    changes = [
        re.sub("{.*?}", "1", str(route.path))
        for route in iter_route_contexts(router.routes)
        if "POST" in (route.methods or ())
    ]
    of_instances = [path for path in changes if re.match("/console/(instances|trash|backups)", path)]
    assert len(of_instances) > 15
    unmanaged = settings.model_copy(update={"instance_management": False})
    async with serve(unmanaged) as server, visitor(server) as client:
        await sign_in(client)
        page = await client.get("/console/instances")
        token = re.search(r'name="csrf" value="([^"]+)"', page.text)
        assert token
        for path in of_instances:
            answer = await client.post(path, data={"csrf": token[1]})
            assert answer.status_code == 400, path
            assert "disabled on application settings" in answer.text, path


async def test_the_secret_of_a_session_is_not_in_the_registry_when_a_client_signs_in(
    server: Server, settings: Settings
) -> None:
    async with visitor(server) as client:
        answer = await sign_in(client)
    assert answer.status_code == 303
    async with session(settings.admin_dsn.get_secret_value()) as connection:
        (row,) = await connection.fetch("SELECT * FROM adminapi.consolesessions")

        async def is_audited() -> bool:
            entries = await connection.fetch("SELECT client, path, status FROM adminapi.audit")
            return (CLIENT, "/console/sign-in", 303) in [tuple(entry) for entry in entries]

        await wait_until(is_audited, 10)  # it is written after the answer
    kept = client.cookies[f"ods-console-{server.port}"].partition(".")[2]
    assert kept not in str(dict(row))
    assert kept.encode() not in row["digest"]


@pytest.mark.parametrize(
    ("path", "headers", "counts"),
    [
        ("/console/jobs", {}, True),
        ("/console/jobs/rows", {"HX-Request": "true", "Console-Live": "1"}, False),
        ("/console/static/nothing.js", {}, False),
    ],
)
async def test_a_session_goes_on_when_a_person_asks_for_something(
    server: Server, registry: asyncpg.Connection, path: str, headers: dict[str, str], *, counts: bool
) -> None:
    async with visitor(server) as client:
        await sign_in(client)
        await registry.execute(
            "UPDATE adminapi.consolesessions SET lastusedat = lastusedat - interval '20 minutes'"
        )
        await client.get(path, headers=headers)
        used = await registry.fetchval(
            "SELECT lastusedat > timezone('utc', now()) - interval '1 minute' FROM adminapi.consolesessions"
        )
    assert used is counts


async def test_an_open_page_is_told_when_what_it_fetches_needs_a_client_that_is_signed_in(
    server: Server,
) -> None:
    async with visitor(server) as client:
        answer = await client.get("/console/jobs/rows", headers={"HX-Request": "true"})
        stream = await client.get("/console/live", headers={"Accept": "text/event-stream"})
    assert (answer.status_code, answer.content) == (401, b"")
    assert (stream.status_code, stream.content) == (401, b"")


async def test_a_fragment_that_is_known_is_answered_as_the_one_that_was_made(server: Server) -> None:
    live = {"HX-Request": "true", "Console-Live": "1"}
    async with visitor(server) as client:
        await sign_in(client)
        async with client.stream("GET", "/console/live", headers={"Accept": "text/event-stream"}) as stream:
            lines = stream.aiter_lines()
            while not re.fullmatch(r"data: \*", await anext(lines)):
                pass
            made, known = [await client.get("/console/jobs/rows", headers=live) for _ in range(2)]
            other = await client.get("/console/jobs/rows", headers=live | {"Cookie": "ods-console=none"})
    assert known.status_code == 200
    assert known.content == made.content
    for name in ("Content-Security-Policy", "Cache-Control", "HX-Replace-Url", "Content-Type"):
        assert known.headers.get(name) == made.headers.get(name), name
    assert known.headers["X-Request-ID"] != made.headers["X-Request-ID"]
    assert other.status_code == 401


async def test_the_stream_of_an_open_page_is_no_use_of_its_session(
    server: Server, registry: asyncpg.Connection
) -> None:
    async with visitor(server) as client:
        await sign_in(client)
        await registry.execute(
            "UPDATE adminapi.consolesessions SET lastusedat = lastusedat - interval '20 minutes'"
        )
        async with client.stream("GET", "/console/live", headers={"Accept": "text/event-stream"}) as stream:
            lines = stream.aiter_lines()
            while not re.fullmatch(r"data: \*", await anext(lines)):
                pass
        assert stream.headers["Content-Type"].startswith("text/event-stream")
        assert await registry.fetchval(
            "SELECT lastusedat < timezone('utc', now()) - interval '19 minutes' FROM adminapi.consolesessions"
        )


async def test_the_stream_ends_within_five_seconds_when_its_session_has_ended_while_all_changes(
    server: Server, instances: InstanceStore, job_store: JobStore, settings: Settings
) -> None:
    await bring_to(instances, job_store, "Completed", "Grand Bend")
    registry_dsn = settings.admin_dsn.get_secret_value()
    changing = asyncio.create_task(_change_constantly(registry_dsn))
    try:
        streams = [_stream_after_end(server, registry_dsn, way) for way in (SIGN_OUT, *ENDS)]
        assert max(await asyncio.wait_for(asyncio.gather(*streams), 30)) < 5
    finally:
        changing.cancel()


async def _change_constantly(registry_dsn: str) -> None:
    async with session(registry_dsn) as registry:
        while True:
            await registry.execute(
                "UPDATE adminapi.dbinstances SET lastmodifieddate = timezone('utc', now())"
            )
            await asyncio.sleep(0.1)


async def _stream_after_end(server: Server, registry_dsn: str, way: str) -> float:
    """Seconds for which an open page is told what changes after its session has ended."""
    async with visitor(server) as client:
        await sign_in(client, client_id=READER if "applications" in way else CLIENT)
        page = await client.get("/console/jobs")
        async with client.stream("GET", "/console/live", headers={"Accept": "text/event-stream"}) as stream:
            lines = stream.aiter_lines()
            while not (await anext(lines)).startswith("data: instance:"):
                pass
            if way == SIGN_OUT:
                token = re.search(r'name="csrf" value="([^"]+)"', page.text)
                assert token
                await client.post(SIGN_OUT, data={"csrf": token[1]})
            else:
                session_id = stream.request.headers["Cookie"].partition(".")[2]
                async with session(registry_dsn) as registry:
                    await registry.execute(way, hashlib.sha256(session_id.encode()).digest())
            ended = monotonic()
            while await anext(lines) != "event: ended":
                pass
            return monotonic() - ended


async def test_each_tenant_has_its_own_sessions_when_there_are_several(
    settings: Settings, clients: None, postgres: EmbeddedPostgres, secret_hash: str
) -> None:
    async with registries.cloned(postgres) as other:
        second = make_settings(postgres, other)
        several = make_tenant_settings({"tenant1": settings, "Tenant-2": second})
        async with session(other) as connection:
            await add_clients(connection, secret_hash)
        async with (
            serving(settings, **{**SINGLE_TENANT, **environment(several)}) as server,
            visitor(server) as client,
        ):
            page = await client.get("/console/sign-in")
            assert 'name="tenant"' in page.text
            engine = create_registry_engine(other)
            secret = await SignInLinks(engine).create(CLIENT)
            await engine.dispose()
            assert (await client.get(address_of("", "tenant1", secret))).status_code == 401
            linked = await client.get(address_of("", "Tenant-2", secret))
            assert "Tenant Tenant-2" in (await client.get(linked.headers["Location"])).text
            client.cookies.clear()
            assert (await sign_in(client)).status_code == 401
            assert (await sign_in(client, tenant="Tenant-2")).status_code == 303
            assert "Tenant Tenant-2" in (await client.get("/console/instances")).text
            name = f"ods-console-{server.port}"
            stolen = client.cookies[name].replace("Tenant-2", "tenant1")
            answer = await client.get("/console/instances", headers={"Cookie": f"{name}={stolen}"})
            assert answer.status_code == 303


async def test_a_job_is_shown_without_its_workflow_when_temporal_is_away(
    settings: Settings, clients: None, serve: Serve, instances: InstanceStore, job_store: JobStore
) -> None:
    job = await bring_to(instances, job_store, "InProgress", "Grand Bend")
    async with serve(settings, TEMPORAL_ADDRESS=NOBODY) as server, visitor(server) as client:
        await sign_in(client)
        begun = monotonic()
        answer = await client.get(f"/console/jobs/{job.job_id}")
        assert monotonic() - begun < 4  # on a machine that does much else
    assert answer.status_code == 200
    assert "Temporal does not answer" in answer.text
    assert "Grand Bend" in answer.text


@pytest.mark.usefixtures("clients")
async def test_page_says_what_to_do_when_there_are_too_many_requests(
    settings: Settings, registry: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shedding, "_WAIT_SECONDS", 0.1)
    limited = settings.model_copy(update={"costly_requests_per_tenant": 1})
    async with (
        running(limited, NOBODY) as app,
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="https://ods.example.org") as client,
    ):
        assert (await sign_in(client)).status_code == 303
        assert (await client.get("/console/instances")).status_code == 200
        async with app.state.costly_requests.place(DEFAULT_TENANT):
            page = await client.get("/console/instances")
            form = await client.post("/console/instances/new", data={"name": "One"})
            assert (await client.get("/console/instances/4711")).status_code == 404
        assert (await client.get("/console/instances")).status_code == 200
    assert page.status_code == 503
    assert page.headers["Retry-After"] == "5"
    assert page.headers["Content-Type"].startswith("text/html")
    assert "<h1>The service has more requests than it can serve</h1>" in page.text
    assert "Nothing was done. Send the same request again in a few seconds." in page.text
    assert "Go to the instances" in page.text
    assert form.status_code == 403  # it has no token of the page: that is found out before it waits
    assert await registry.fetchval("SELECT count(*) FROM adminapi.audit WHERE status = 503") == 0
