"""`GET /v2/templates`: what the server tells, and why no instance can be made of a template."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import asyncpg
import httpx
import pytest

from ods.databases.templates.marks import Contents, TemplateMark, TemplateState
from ods.embedded import seeding
from ods.embedded.postgres import EmbeddedPostgres
from ods.settings.settings import Settings
from tests.api.service import NOBODY, bearer, client_of, running
from tests.servers import MINIMAL_TEMPLATE, NUMBERS, make_settings, session, without_statistics

TEMPLATES = "/v2/templates"


@pytest.fixture
async def database(admin: asyncpg.Connection) -> AsyncIterator[str]:
    """A closed template of the service's role."""
    name = f"Listed_Template_{next(NUMBERS)}"
    await admin.execute(
        f'CREATE DATABASE "{name}" TEMPLATE "{MINIMAL_TEMPLATE}" OWNER {seeding.SERVICE_ROLE}'
        " ALLOW_CONNECTIONS false"
    )
    yield name
    await admin.execute(
        "UPDATE pg_database SET datconnlimit = -1, datistemplate = false WHERE datname = $1", name
    )
    await admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def settings(postgres: EmbeddedPostgres, registry_dsn: str, database: str) -> Settings:
    further = {"Listed": database, "Missing": "Nowhere"}
    return make_settings(postgres, registry_dsn, rate_limiting=False, templates=further)


@pytest.fixture
async def api(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with running(settings, NOBODY) as app, client_of(app, headers=bearer(settings)) as client:
        yield client


async def listed(api: httpx.AsyncClient, name: str = "Listed") -> dict[str, Any]:
    answer = await api.get(TEMPLATES)
    assert answer.status_code == 200
    found: dict[str, dict[str, Any]] = {it["name"]: it for it in answer.json()}
    assert list(found) == ["Minimal", "Sample", "Listed", "Missing"]
    return found[name]


async def test_closed_template_is_ready_and_stays_closed_when_it_is_listed(
    api: httpx.AsyncClient, database: str, admin: asyncpg.Connection
) -> None:
    found = await listed(api)
    assert found.pop("bytes") > 1_000_000
    assert found == {
        "name": "Listed",
        "database": database,
        "contents": None,
        "generation": None,
        "loadedAt": None,
        "spares": 0,
        "sessions": 0,
        "open": False,
        "ready": True,
        "obstacle": None,
    }
    assert not await admin.fetchval("SELECT datallowconn FROM pg_database WHERE datname = $1", database)


async def test_contents_are_told_when_the_comment_of_a_closed_template_has_them(
    api: httpx.AsyncClient, database: str, admin: asyncpg.Connection
) -> None:
    mark = TemplateMark(
        "an installation",
        "Listed",
        TemplateState.PUBLISHED,
        generation=2,
        loaded_at=datetime(2026, 11, 26, 1, 2, 3, tzinfo=UTC),
        contents=Contents(1006, "6.1.0", {"TPDM": "1.1.0"}),
    )
    await admin.execute(f"COMMENT ON DATABASE \"{database}\" IS '{mark.comment}'")
    found = await listed(api)
    assert (found["generation"], found["loadedAt"]) == (2, "2026-11-26T01:02:03Z")
    assert found["contents"] == {"tables": 1006, "dataStandard": "6.1.0", "extensions": {"TPDM": "1.1.0"}}


async def test_contents_are_read_when_the_template_is_open(
    api: httpx.AsyncClient, database: str, admin: asyncpg.Connection, postgres: EmbeddedPostgres
) -> None:
    await admin.execute(f'ALTER DATABASE "{database}" ALLOW_CONNECTIONS true')
    script = "EdFi.Ods.Standard.Standard.6.1.0.Artifacts.PgSql.Structure.Ods.0010-Schemas.sql"
    async with session(postgres.dsn(database)) as inside:
        await inside.execute('CREATE TABLE public."DeployJournal" (scriptname text, applied timestamp)')
        await inside.execute('INSERT INTO public."DeployJournal" VALUES ($1)', script)
        await inside.execute(f'GRANT SELECT ON public."DeployJournal" TO {seeding.SERVICE_ROLE}')
        while_in_use = await listed(api)
    assert while_in_use["contents"]["dataStandard"] == "6.1.0"
    assert while_in_use["contents"]["tables"] > 10
    assert (while_in_use["open"], while_in_use["ready"], while_in_use["sessions"]) == (True, False, 1)
    assert "hold up every create" in while_in_use["obstacle"]


async def test_reason_is_told_when_a_template_is_missing(api: httpx.AsyncClient) -> None:
    found = await listed(api, "Missing")
    assert (found["ready"], found["bytes"], found["open"]) == (False, None, None)
    assert "does not exist" in found["obstacle"]


HIDDEN = (
    'ALTER DATABASE "{0}" OWNER TO postgres; ALTER DATABASE "{0}" IS_TEMPLATE true;'
    ' REVOKE CONNECT ON DATABASE "{0}" FROM public'
)


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ('ALTER DATABASE "{}" OWNER TO postgres', "IS_TEMPLATE true"),
        ("UPDATE pg_database SET datconnlimit = -2 WHERE datname = '{}'", "DROP of the database was inter"),
    ],
)
async def test_reason_is_told_when_a_template_cannot_be_copied(
    api: httpx.AsyncClient, database: str, admin: asyncpg.Connection, statement: str, reason: str
) -> None:
    await admin.execute(statement.format(database))
    found = await listed(api)
    assert not found["ready"]
    assert reason in found["obstacle"]


async def test_connect_is_asked_for_when_the_role_may_not_read_the_size(
    api: httpx.AsyncClient, database: str, admin: asyncpg.Connection
) -> None:
    await admin.execute(HIDDEN.format(database))
    async with without_statistics(admin):
        found = await listed(api)
    assert not found["ready"]
    assert "Grant it CONNECT" in found["obstacle"]
