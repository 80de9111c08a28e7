"""The page *Recovery*: what a recovery would do, doing it, and what is asked and confirmed before."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from html import unescape
from pathlib import Path

import asyncpg
import httpx
import pytest

from ods.console.views.recovery import RecoveryPage
from ods.databases.errors import DatabaseFaultError
from ods.embedded.polling import wait_until
from ods.embedded.seeding import SERVICE_ROLE
from ods.model.arguments import Way
from ods.recovery import recovery
from ods.recovery.following import UnusableError
from ods.recovery.plan import Plan, Question, RecoveryStep, StepKind
from ods.recovery.recovery import Recovery
from ods.registry.instances.deletes import Delete
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.store import InstanceStore
from ods.settings.settings import Settings
from ods.tenants.known_store import store_for_backup
from ods.tenants.tenant import Tenant
from tests.api.test_console_truth import CLIENT, browser, csrf_of, read, shown
from tests.postgres.instance_states import bring_to, marked_by
from tests.servers import session

__all__ = ["browser"]

LATER = "5e9d5e86-21d8-4a3c-9a76-d2a6f2b4a1ef"
DONE, BUTTON = "What the recovery has done", '<button class="primary">Recover</button>'
ACCEPT_STORE = "This is the right store of backups"
CONFIRM = "No other service works on the original of this registry"


@dataclass(frozen=True)
class Lost:
    """An instance whose database has, on the server, a name that the registry does not know."""

    id: int
    name: str
    database: str
    comment: str
    earlier: str

    @property
    def step(self) -> str:
        return f"'{self.name}' is brought in step with its database '{self.database}'."


@pytest.fixture
def settings(settings: Settings, store: Path) -> Settings:
    return settings.model_copy(update={"backup_url": store.as_uri()})


@pytest.fixture
async def lost(
    instances: InstanceStore, job_store: JobStore, admin: asyncpg.Connection, name: str
) -> AsyncIterator[Lost]:
    async with lost_instance(instances, job_store, admin, name) as it:
        yield it


@asynccontextmanager
async def lost_instance(
    instances: InstanceStore, job_store: JobStore, admin: asyncpg.Connection, name: str
) -> AsyncIterator[Lost]:
    job = await bring_to(instances, job_store, "Completed", name)
    database = job.database.replace("_Minimal", "_later_Minimal")
    comment = replace(marked_by(job), number=2, revision=LATER).comment
    await made(admin, database, comment)
    try:
        yield Lost(job.instance_id, name, database, comment, job.database)
    finally:
        carrying = "SELECT datname FROM pg_database WHERE shobj_description(oid, 'pg_database') LIKE $1"
        for row in await admin.fetch(
            carrying, f"%{job.mark}%"
        ):  # those that were not chosen are in the trash
            await admin.execute(f'DROP DATABASE "{row["datname"]}" WITH (FORCE)')


async def made(admin: asyncpg.Connection, database: str, comment: str) -> None:
    await admin.execute(f'CREATE DATABASE "{database}" OWNER {SERVICE_ROLE}')
    await admin.execute(f"COMMENT ON DATABASE \"{database}\" IS '{comment}'")


async def recover(browser: httpx.AsyncClient, **fields: str) -> httpx.Response:
    token = csrf_of(await browser.get("/console/recovery"))
    return await browser.post("/console/recovery", data={"csrf": token, **fields})


async def database_of(tenant: Tenant, lost: Lost) -> str | None:
    row = await tenant.queries.any_instance(lost.id)
    assert row is not None
    return row.database_name


async def test_plan_is_shown_and_carried_out_and_what_was_done_is_told(
    browser: httpx.AsyncClient, tenant: Tenant, lost: Lost
) -> None:
    await browser.get("/console/recovery/again")
    before = await browser.get("/console/recovery")
    assert (lost.step in read(before), BUTTON in before.text, DONE in before.text) == (True, True, False)
    assert await database_of(tenant, lost) == lost.earlier
    assert lost.database in read(before).partition("What a recovery does")[0]  # among the findings
    after = read(await recover(browser))
    assert f"{DONE} {lost.step} It is over" in after
    assert "nothing is to be recovered" in after
    assert "Nothing that was in the trash when this was seen is dropped before" in after
    assert await database_of(tenant, lost) == lost.database
    assert BUTTON not in (await browser.get("/console/recovery")).text
    entries = await shown(browser, "/audit")
    assert re.search(rf"{CLIENT}.*POST.*/console/recovery.*200", entries)


async def test_reason_is_told_when_a_step_is_refused(
    browser: httpx.AsyncClient, tenant: Tenant, lost: Lost, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> None:
        raise UnusableError("It has no extension of ours.")

    monkeypatch.setattr(recovery, "follow", refuse)
    page = read(await recover(browser))
    assert f"{DONE} It has done nothing." in page
    assert f"{lost.step} It could not be done: It has no extension of ours." in page
    assert await database_of(tenant, lost) == lost.earlier


async def test_a_question_is_asked_until_it_is_answered(
    browser: httpx.AsyncClient, tenant: Tenant, lost: Lost, admin: asyncpg.Connection
) -> None:
    await made(admin, lost.earlier, lost.comment)
    for page in (await browser.get("/console/recovery"), await recover(browser)):
        assert f"Which database had {lost.name} (" in read(page)
        assert sorted(re.findall(r'name="choose-1"[^>]*value="([^"]+)"', page.text)) == sorted(
            [lost.database, lost.earlier]
        )
        assert " checked" not in page.text
    unknown = await recover(browser, **{"choose-1": "no_database"})
    assert unknown.status_code == 400
    assert "'no_database' is no database of an instance." in unescape(unknown.text)
    after = read(await recover(browser, **{"choose-1": lost.database}))
    assert f"{DONE} {lost.step}" in after
    assert await database_of(tenant, lost) == lost.database


async def test_what_was_chosen_is_not_asked_again_when_the_time_of_one_request_is_over(
    browser: httpx.AsyncClient,
    tenant: Tenant,
    lost: Lost,
    admin: asyncpg.Connection,
    instances: InstanceStore,
    job_store: JobStore,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recovery, "_PER_REQUEST_SECONDS", -1)
    async with lost_instance(instances, job_store, admin, f"{name} b") as other:
        for one in (lost, other):
            await made(admin, one.earlier, one.comment)
        chosen = {"choose-1": lost.database, "choose-2": other.database}
        page = await recover(browser, **chosen)
        assert f"{DONE} {lost.step} There was no time for all of it." in read(page)
        assert "Which database had" not in page.text
        kept = dict(re.findall(r'<input type="hidden" name="(choose-[^"]+)" value="([^"]+)"', page.text))
        assert list(kept.values()) == [other.database]
        assert f"{DONE} {other.step}" in read(await recover(browser, **kept))
        assert await database_of(tenant, other) == other.database


async def test_client_that_may_only_read_sees_the_plan_and_is_refused(
    browser: httpx.AsyncClient, tenant: Tenant, lost: Lost, registry_dsn: str
) -> None:
    token = csrf_of(await browser.get("/console/recovery"))
    async with session(registry_dsn) as rows:
        await rows.execute("UPDATE adminapi.applications SET scope = 'read_only'")

    async def may_only_read() -> bool:
        return "read only" in (await browser.get("/console/recovery")).text

    await wait_until(may_only_read, 10)
    page = await browser.get("/console/recovery")
    assert (lost.step in read(page), BUTTON in page.text) == (True, False)
    assert (await browser.post("/console/recovery", data={"csrf": token})).status_code == 403
    assert await database_of(tenant, lost) == lost.earlier


async def test_a_registry_that_was_moved_goes_on_only_if_that_is_ticked(
    browser: httpx.AsyncClient, tenant: Tenant, lost: Lost, registry_dsn: str
) -> None:
    moved = "UPDATE adminapi.installation SET registrydatabase = registrydatabase + 1"
    place = "SELECT registrydatabase FROM adminapi.installation"
    assert CONFIRM not in await shown(browser, "/recovery")

    async def asks() -> bool:
        return CONFIRM in await shown(browser, "/recovery")

    async with session(registry_dsn) as rows:
        before = await rows.fetchval(place)
        await rows.execute(moved)
        try:
            await wait_until(asks, 10)
            refused = await recover(browser)
            assert refused.status_code == 503
            assert "Tick that no other service works on the original" in refused.text
            assert await rows.fetchval(place) == before + 1
            assert await database_of(tenant, lost) == lost.earlier
            done = read(await recover(browser, confirm="true"))
            assert f"{DONE} {lost.step}" in done
            assert "jobs wait until the operator confirms" not in done
            assert await rows.fetchval(place) == before
        finally:
            await rows.execute("UPDATE adminapi.installation SET registrydatabase = $1", before)


async def test_store_of_backups_that_a_copy_uses_is_accepted_if_that_is_ticked(
    browser: httpx.AsyncClient, tenant: Tenant, registry_dsn: str
) -> None:
    await store_for_backup(tenant)
    assert ACCEPT_STORE not in await shown(browser, "/recovery")
    async with session(registry_dsn) as rows:  # as a copy claims it
        await rows.execute("UPDATE adminapi.installation SET storeclaimid = gen_random_uuid()")
    assert ACCEPT_STORE in await shown(browser, "/recovery")
    assert ACCEPT_STORE in read(await recover(browser))
    assert ACCEPT_STORE not in read(await recover(browser, accept_store="true"))
    assert ACCEPT_STORE not in await shown(browser, "/recovery")


async def test_jobs_are_named_that_waited_to_drop_a_database(
    browser: httpx.AsyncClient,
    tenant: Tenant,
    lost: Lost,
    instances: InstanceStore,
    job_store: JobStore,
    name: str,
) -> None:
    deleted = await bring_to(instances, job_store, "Completed", f"{name} b")
    drop = (await instances.request_delete(deleted.instance_id, Delete(Way.DROP))).job
    page = read(await recover(browser))
    assert f"{drop.job_id} was cancelled, which would have dropped a database of {name} b." in page
    assert lost.step in page


async def test_findings_are_shown_when_the_server_is_away_after_the_last_look(
    browser: httpx.AsyncClient, lost: Lost, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> Plan:
        raise DatabaseFaultError("The PostgreSQL server cannot be reached.", retryable=True)

    await browser.get("/console/recovery/again")
    monkeypatch.setattr(Recovery, "plan", away)
    page = read(await browser.get("/console/recovery"))
    assert "What is to be done is not known now: The PostgreSQL server cannot be reached." in page
    assert lost.database in page


def test_what_is_asked_fits_into_one_form_when_much_is_to_be_decided() -> None:
    questions = [Question(number, f"Instance {number}", []) for number in range(30)]
    steps = [
        RecoveryStep(
            StepKind.HAND_OVER, one, str(one), str(one), str(one), None, is_earlier=False, is_chosen=True
        )
        for one in range(5)
    ]
    plan = Plan(steps, questions, [], [], None, 30, [])
    page = RecoveryPage(datetime.now(UTC), [], plan, None, chosen=["1", "3", "7"])
    assert sorted(page.kept.values()) == ["1", "3"]
    assert page.questions == questions[:10]
