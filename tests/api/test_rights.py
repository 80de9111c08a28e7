"""A right that the service's role lacks on the registry: the answer names the grant, and nothing is a 500."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import httpx
import pytest

from api import health
from ods.embedded.postgres import EmbeddedPostgres
from tests.ods_api import APPLICATION_DETAILS, APPLICATION_TABLES
from tests.servers import right_missing, session

TITLE = "The service lacks a right on its database"
EXTRA_TABLES = (
    "dbo.applicationeducationorganizations, dbo.profileapplications, dbo.apiclients, dbo.applications"
)


@pytest.fixture(autouse=True)
def uncached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_FRESH_SECONDS", 0.0)


@pytest.fixture
async def superuser(postgres: EmbeddedPostgres, registry_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A session of a superuser on the registry."""
    async with session(postgres.dsn(registry_dsn.rpartition("/")[2])) as connection:
        yield connection


@asynccontextmanager
async def without(superuser: asyncpg.Connection, right: str) -> AsyncIterator[None]:
    """The service's role lacks `right`, as in "SELECT ON dbo.odsinstances"."""
    await superuser.execute(f"REVOKE {right} FROM ods_service")
    try:
        yield
    finally:
        await superuser.execute(f"GRANT {right} TO ods_service")


async def rights_of(api: httpx.AsyncClient) -> dict[str, str]:
    """What `/health` tells of the rights."""
    (part,) = (part for part in (await api.get("/health")).json()["results"] if part["name"] == "rights")
    return {str(name): str(value) for name, value in part.items()}


async def test_answer_names_the_grants_when_tables_of_the_ods_api_belong_to_another_role(
    api: httpx.AsyncClient, superuser: asyncpg.Connection
) -> None:
    await superuser.execute(APPLICATION_TABLES + APPLICATION_DETAILS)
    try:
        refused = await api.get("/v2/odsInstances/1/applications")
        told = await rights_of(api)
        await superuser.execute(f"GRANT SELECT ON {EXTRA_TABLES} TO ods_service")
        granted = await api.get("/v2/odsInstances/1/applications")
        healthy = await rights_of(api)
    finally:
        await superuser.execute(f"DROP TABLE {EXTRA_TABLES}")

    assert refused.status_code == 503
    assert refused.json()["title"] == TITLE
    for table in EXTRA_TABLES.split(", "):
        assert f"GRANT SELECT ON {table} TO ods_service;" in refused.json()["detail"]
        assert f"GRANT SELECT ON {table} TO ods_service;" in told["detail"]
    assert told["status"] == "Degraded"
    assert granted.status_code == 200
    assert healthy == {"name": "rights", "status": "Healthy"}


_OF_SEQUENCE = (
    "DO $$ BEGIN EXECUTE 'GRANT UPDATE ON SEQUENCE '"
    " || pg_get_serial_sequence('dbo.odsinstances', 'odsinstanceid') || ' TO ods_service'; END $$;"
)


@pytest.mark.parametrize(
    ("right", "method", "path"),
    [
        ("SELECT ON dbo.odsinstances", "GET", "/v2/odsInstances"),
        ("INSERT ON dbo.odsinstances", "POST", "/v2/odsInstances"),
        ("UPDATE ON SEQUENCE dbo.odsinstances_odsinstanceid_seq", "POST", "/v2/odsInstances"),
        ("SELECT ON dbo.odsinstancecontexts", "GET", "/v2/odsInstanceContexts"),
        ("SELECT ON adminapi.managed_instances", "GET", "/v2/dbInstances"),
        ("INSERT ON adminapi.jobstatuses", "POST", "/v2/dbInstances"),
        ("SELECT ON adminapi.audit", "GET", "/v2/audit"),
        ("SELECT ON adminapi.applications", "GET", "/v2/odsInstances"),
        ("USAGE ON SCHEMA dbo", "GET", "/v2/odsInstances"),
        ("EXECUTE ON FUNCTION adminapi.utf16_order(text)", "GET", "/v2/odsInstances"),
    ],
)
async def test_answer_names_the_grant_when_a_right_is_missing(
    api: httpx.AsyncClient, superuser: asyncpg.Connection, right: str, method: str, path: str
) -> None:
    body = {
        "name": "Grand Bend",
        "databaseTemplate": "Minimal",
        "instanceType": "Other",
        "connectionString": "host=test;database=any",
    }
    if "FUNCTION" in right:
        await superuser.execute(f"REVOKE {right} FROM PUBLIC")
    async with without(superuser, right.replace("UPDATE ON SEQ", "USAGE, UPDATE ON SEQ")):
        answer = await api.request(method, path, json=body if method == "POST" else None)
    if "FUNCTION" in right:
        await superuser.execute(f"GRANT {right} TO PUBLIC")

    assert (answer.status_code, answer.json()["title"]) == (503, TITLE)
    grant = f"GRANT {right} TO ods_service;"
    assert (_OF_SEQUENCE if "SEQUENCE" in right else grant) in answer.json()["detail"]


async def test_service_is_unhealthy_and_names_the_grant_when_instances_may_not_be_read(
    api: httpx.AsyncClient, superuser: asyncpg.Connection
) -> None:
    async with without(superuser, "SELECT ON adminapi.managed_instances"):
        answer = await api.get("/health")

    assert answer.status_code == 503
    registry = answer.json()["results"][0]
    assert (registry["name"], registry["status"]) == ("database", "Unhealthy")
    assert "GRANT SELECT ON adminapi.managed_instances TO ods_service;" in registry["detail"]


async def test_service_is_degraded_and_names_the_grant_when_databases_may_not_be_created(
    api: httpx.AsyncClient, admin: asyncpg.Connection
) -> None:
    async with right_missing(admin):
        answer = await api.get("/health")

    (server,) = (part for part in answer.json()["results"] if part["name"] == "odsServer")
    assert (answer.status_code, server["status"]) == (200, "Degraded")
    assert server["detail"].endswith("ALTER ROLE ods_service CREATEDB;")


async def test_answer_says_where_to_look_when_the_missing_right_is_none_of_those_known(
    api: httpx.AsyncClient, superuser: asyncpg.Connection
) -> None:
    # A trigger of another product reads a table that the service's role may not read.
    await superuser.execute(
        "CREATE TABLE public.others (id int);"
        "CREATE FUNCTION public.read_others() RETURNS trigger LANGUAGE plpgsql"
        " AS 'BEGIN PERFORM FROM public.others; RETURN new; END';"
        "CREATE TRIGGER of_others BEFORE INSERT ON dbo.odsinstances"
        " FOR EACH ROW EXECUTE FUNCTION public.read_others()"
    )
    try:
        body = {"name": "Grand Bend", "connectionString": "host=test;database=any"}
        answer = await api.post("/v2/odsInstances", json=body)
    finally:
        await superuser.execute("DROP FUNCTION public.read_others CASCADE; DROP TABLE public.others")

    assert (answer.status_code, answer.json()["title"]) == (503, TITLE)
    assert "`ods grants`" in answer.json()["detail"]
