"""Pages of the console say what is so: of databases that are not an instance's own, and of labels."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from html import unescape

import asyncpg
import httpx
import pytest
from fastapi import FastAPI

from ods.databases.inspection import usage
from ods.embedded import seeding
from ods.embedded.polling import wait_until
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.jobs import InstanceJob
from ods.registry.instances.store import InstanceStore
from ods.tenants.tenant import Tenant
from tests.postgres.instance_states import add_version, bring_to, marked_by
from tests.secret_search import as_secret
from tests.servers import session

CLIENT, SECRET = "a-person", as_secret("A-secret-of-32-characters-or-more-1!")
NOTHING_IS_DROPPED = (
    "It was never created: nothing is dropped. A database of that name that is not its own stays as it is."
)
NO_SIZE = "Size \N{EN DASH} "


@pytest.fixture
async def browser(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A browser in which a client is signed in to the console."""
    transport = httpx.ASGITransport(app, client=("127.0.0.1", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080") as browser:
        form = {"ClientId": CLIENT, "ClientSecret": SECRET, "DisplayName": CLIENT}
        assert (await browser.post("/connect/register", data=form)).is_success
        token = csrf_of(await browser.get("/console/sign-in"))
        typed = {"csrf": token, "client_id": CLIENT, "client_secret": SECRET}
        assert (await browser.post("/console/sign-in", data=typed)).status_code == 303
        yield browser


@pytest.fixture
async def failed(instances: InstanceStore, job_store: JobStore, name: str) -> InstanceJob:
    """The create of an instance, which has failed."""
    return await bring_to(instances, job_store, "Error", name)


@pytest.fixture
async def job(instances: InstanceStore, job_store: JobStore, name: str) -> InstanceJob:
    """The create of an instance, which is completed."""
    return await bring_to(instances, job_store, "Completed", name)


@asynccontextmanager
async def database(admin: asyncpg.Connection, name: str, comment: str = "") -> AsyncIterator[None]:
    """A database of this name, with this comment."""
    await admin.execute(f'CREATE DATABASE "{name}" OWNER {seeding.SERVICE_ROLE}')
    try:
        if comment:
            await admin.execute(f"COMMENT ON DATABASE \"{name}\" IS '{comment}'")
        yield
    finally:
        await admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def own_comment(job: InstanceJob) -> str:
    return marked_by(job).comment


def csrf_of(page: httpx.Response) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', page.text)
    assert found
    return found[1]


def read(page: httpx.Response) -> str:
    """What a person reads on the page."""
    assert page.status_code == 200, page.text
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", page.text)).split())


async def shown(browser: httpx.AsyncClient, path: str) -> str:
    return read(await browser.get(f"/console{path}"))


@pytest.mark.parametrize("way", ["delete", "purge", "detach"])
async def test_nothing_is_said_to_be_dropped_when_the_database_in_the_way_is_not_the_instances(
    browser: httpx.AsyncClient, admin: asyncpg.Connection, failed: InstanceJob, way: str
) -> None:
    async with database(admin, failed.database):
        page = await shown(browser, f"/instances/{failed.instance_id}/{way}")
    assert NOTHING_IS_DROPPED in page
    assert NO_SIZE in page
    for other in ("dropped at once", "Purge it", "Detach it", "ods instance adopt"):
        assert other not in page


async def test_nothing_is_said_to_be_dropped_when_a_failed_create_has_left_no_database(
    browser: httpx.AsyncClient, failed: InstanceJob
) -> None:
    assert NOTHING_IS_DROPPED in await shown(browser, f"/instances/{failed.instance_id}/delete")


async def test_database_is_said_to_go_to_the_trash_when_a_failed_create_has_left_its_own(
    browser: httpx.AsyncClient, admin: asyncpg.Connection, failed: InstanceJob
) -> None:
    async with database(admin, failed.database, own_comment(failed)):
        page = await shown(browser, f"/instances/{failed.instance_id}/delete")
    for words in ("The database goes to the trash, closed.", "Purge it", "Detach it"):
        assert words in page
    for words in (NO_SIZE, "never created"):
        assert words not in page


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("delete", ""),
        ("purge", "is dropped as well"),
        ("detach", "is dropped when its own time is over, and cannot come back"),
    ],
)
async def test_databases_before_resets_are_named_when_they_go_with_the_instance(
    browser: httpx.AsyncClient, job: InstanceJob, registry_dsn: str, page: str, said: str
) -> None:
    async with session(registry_dsn) as rows:
        version = await add_version(rows, job.instance_id)
    text = await shown(browser, f"/instances/{job.instance_id}/{page}")
    assert said in text
    assert (f"{said}: {version}" in text) is (version in text) is bool(said)


async def test_both_cases_are_told_when_the_server_does_not_say_whose_the_database_is(
    browser: httpx.AsyncClient, failed: InstanceJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage, "_READ_SECONDS", 0)
    page = await shown(browser, f"/instances/{failed.instance_id}/delete")
    assert "goes with it if it carries the mark of this instance; one that is not its own stays" in page
    assert "nothing is dropped" not in page


async def test_instance_is_said_to_be_never_created_when_it_is_deleted_after_that(
    browser: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore, failed: InstanceJob
) -> None:
    deletion = (await instances.request_delete(failed.instance_id)).job
    await job_store.begin(deletion)
    await job_store.finish_delete(deletion)
    page = await shown(browser, f"/instances/{failed.instance_id}")
    assert "was never created" in page
    assert "its database is gone" not in page


async def test_usage_is_none_when_the_database_in_the_way_is_not_the_instances(
    browser: httpx.AsyncClient, admin: asyncpg.Connection, failed: InstanceJob
) -> None:
    async with database(admin, failed.database):
        page = await shown(browser, f"/instances/{failed.instance_id}/usage")
    assert "The instance has no database yet: the one of that name is not its own." in page
    assert "adopt" not in page


async def test_database_in_the_way_is_told_when_the_last_look_at_the_server_has_found_it(
    browser: httpx.AsyncClient, admin: asyncpg.Connection, name: str
) -> None:
    token = csrf_of(await browser.get("/console/instances/new"))
    typed = {"csrf": token, "origin": "template", "template": "Minimal", "name": name}
    path, in_the_way = "/console/instances/new/plan", f"EdFi_Ods_{name.replace(' ', '_')}_Minimal"
    assert "It can be created." in read(await browser.post(path, data=typed))
    async with database(admin, in_the_way):
        await browser.get("/console/recovery/again", follow_redirects=True)
        plan = read(await browser.post(path, data=typed))
        drift = await shown(browser, "/recovery")
    assert f"Database {in_the_way} " in plan
    assert "had a database of that name when it was last looked at: No instance of this tenant has" in plan
    assert "It can be created." not in plan
    assert "It can be created." in read(await browser.post(path, data=typed | {"name": f"{name} b"}))
    card = drift[drift.index(in_the_way) :]
    assert "then leave it alone, and choose another name. If nothing uses it, and its data" in card


async def test_labels_are_refused_when_a_key_is_typed_twice(
    browser: httpx.AsyncClient, job: InstanceJob, name: str
) -> None:
    edit = f"/console/instances/{job.instance_id}/edit"
    token = csrf_of(await browser.get("/console/instances/new"))
    typed = {"csrf": token, "labels": "backup=weekly\nbackup=never"}
    new = typed | {"origin": "template", "template": "Minimal", "name": f"{name} b"}
    plan = await browser.post("/console/instances/new/plan", data=new)
    refused = [
        await browser.post("/console/instances/new", data=new),
        await browser.post(edit, data=typed | {"description": "changed as well"}),
    ]
    assert "It can be created." not in read(plan)
    assert [page.status_code for page in refused] == [400, 400]
    for page in (plan, *refused):
        assert "The key 'backup' is there twice. Give it once." in unescape(page.text)
    assert "backup=never" in refused[1].text
    listed = await shown(browser, "/instances")
    assert (name in listed, f"{name} b" in listed) == (True, False)
    there = await shown(browser, f"/instances/{job.instance_id}")
    assert "never" not in there
    assert "changed as well" not in there


async def test_job_that_has_not_begun_waits_when_the_registry_is_not_confirmed(
    browser: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore, name: str, registry_dsn: str
) -> None:
    job = await bring_to(instances, job_store, "Pending", name)
    pages = ("/instances", f"/instances/{job.instance_id}", "/jobs", f"/jobs/{job.job_id}")
    moved = "UPDATE adminapi.installation SET registrydatabase = registrydatabase + $1"

    async def is_told(*, waits: bool) -> bool:
        told = [read(await browser.get(f"/console{page}")) for page in pages]
        as_one = {"Waits: This registry was copied or moved" in page for page in told}
        banners = {"jobs wait until the operator confirms the installation" in page for page in told}
        return as_one == banners == {waits}

    async with session(registry_dsn) as rows:
        await rows.execute(moved, 1)
        try:
            await wait_until(partial(is_told, waits=True), 10)
        finally:
            await rows.execute(moved, -1)
        await wait_until(partial(is_told, waits=False), 30)


async def test_every_page_says_until_when_drops_are_held_back_after_a_restore(
    browser: httpx.AsyncClient, tenant: Tenant, registry_dsn: str
) -> None:
    told = "Nothing that was in the trash when this was seen is dropped before"
    pages = ("/instances", "/trash", "/audit", "/no-such-page", "/attention")

    async def is_told(*, holds: bool) -> bool:
        return {told in unescape((await browser.get(f"/console{page}")).text) for page in pages} == {holds}

    assert await is_told(holds=False)
    await tenant.cancellations.hold_drops()
    await wait_until(partial(is_told, holds=True), 10)
    assert "Needs you: The registry, or its server" not in await shown(browser, "/instances")
    async with session(registry_dsn) as rows:
        await rows.execute("UPDATE adminapi.installation SET helduntil = now() AT TIME ZONE 'utc'")
    await wait_until(partial(is_told, holds=False), 10)
