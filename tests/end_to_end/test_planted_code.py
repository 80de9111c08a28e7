"""Code that another role has planted in an instance's database reaches no other one when it is restored."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import httpx
import pytest

from ods.embedded import seeding
from ods.embedded.postgres import EmbeddedPostgres
from ods.model.operations import InstanceStatus, JobStatus
from ods.model.origins import BackupOrigin, CopyMode, CopyOrigin, Origin
from ods.registry.instances.jobs import InstanceJob
from ods.settings.settings import Settings
from tests.end_to_end.conftest import Operator
from tests.end_to_end.steps import created
from tests.end_to_end.test_backups import backed_up, verified
from tests.secret_search import as_secret
from tests.servers import make_settings, session

pytestmark = pytest.mark.usefixtures("workers")

_PLANTER = "ods_planter"
_PASSWORD = as_secret("planter-password-for-tests")
# `reach` tries what would harm the database of another instance, and notes who has tried. In the words of
# PostgreSQL, a function of an index or of a generated column must be immutable; what it calls need not be.
_PLANTED = """
CREATE TABLE public.seen (who name, place text);
GRANT INSERT ON public.seen TO PUBLIC;
CREATE FUNCTION public.reach(place text) RETURNS boolean LANGUAGE plpgsql AS $reach$
    DECLARE attempt text;
    BEGIN
        INSERT INTO public.seen VALUES (current_user, place);
        FOREACH attempt IN ARRAY ARRAY[
            'COMMENT ON DATABASE "{victim}" IS NULL', 'ALTER DATABASE "{victim}" RENAME TO stolen',
            'ALTER DATABASE "{victim}" ALLOW_CONNECTIONS false', 'GRANT ods_service TO ods_planter',
            'SET ROLE ods_service', 'RESET ROLE', 'CREATE ROLE ods_planted'
        ] LOOP
            BEGIN
                EXECUTE attempt;
            EXCEPTION WHEN OTHERS THEN NULL;
            END;
        END LOOP;
        RETURN true;
    END $reach$;
CREATE FUNCTION public.reached(place text, id int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
    $$BEGIN PERFORM public.reach(place); RETURN id; END$$;
CREATE FUNCTION public.triggered() RETURNS trigger LANGUAGE plpgsql AS
    $$BEGIN PERFORM public.reach('trigger'); RETURN NEW; END$$;
CREATE FUNCTION public.with_rights_of_its_owner() RETURNS name SECURITY DEFINER LANGUAGE plpgsql AS
    $$BEGIN PERFORM public.reach('definer'); RETURN current_user; END$$;
CREATE DOMAIN public.planted AS int CHECK (public.reach('domain'));
CREATE TABLE public.traps (
    id int CHECK (public.reach('check')),
    domain public.planted,
    generated int GENERATED ALWAYS AS (public.reached('generated', id)) STORED
);
INSERT INTO public.traps (id, domain) SELECT n, n FROM generate_series(1, 20) AS n;
CREATE INDEX ON public.traps (public.reached('index', id));
CREATE TRIGGER planted BEFORE INSERT ON public.traps FOR EACH ROW EXECUTE FUNCTION public.triggered();
CREATE MATERIALIZED VIEW public.shown AS SELECT public.reached('view', id) FROM public.traps;
GRANT SELECT ON public.traps, public.seen TO ods_service;
TRUNCATE public.seen
"""


@dataclass(frozen=True)
class Case:
    """An instance with planted code, and another one that it is after."""

    planted: InstanceJob
    victim: InstanceJob


@pytest.fixture
def settings(postgres: EmbeddedPostgres, registry_dsn: str, store: Path) -> Settings:
    return make_settings(postgres, registry_dsn, backup_url=store.as_uri(), backup_verify="never")


@pytest.fixture
async def case(
    operator: Operator, postgres: EmbeddedPostgres, admin: asyncpg.Connection, name: str
) -> AsyncIterator[Case]:
    case = Case(await created(operator, name), await created(operator, f"{name} victim"))
    await admin.execute(f"CREATE ROLE {_PLANTER} LOGIN PASSWORD '{_PASSWORD}'")
    async with session(postgres.dsn(case.planted.database)) as inside:
        await inside.execute(f"GRANT CREATE ON SCHEMA public TO {_PLANTER}")
    async with session(_as_planter(postgres, case.planted.database)) as outside:
        await outside.execute(_PLANTED.format(victim=case.victim.database))
    yield case
    for row in await admin.fetch(
        "SELECT quote_ident(datname) AS name FROM pg_database WHERE NOT datistemplate"
        " AND datname NOT IN ('postgres') AND EXISTS (SELECT FROM pg_shdepend WHERE dbid = pg_database.oid"
        " AND refclassid = 'pg_authid'::regclass AND refobjid = $1::regrole)",
        _PLANTER,
    ):
        await admin.execute(f"DROP DATABASE {row['name']} WITH (FORCE)")
    await admin.execute(f"DROP ROLE {_PLANTER}")


def _as_planter(postgres: EmbeddedPostgres, database: str) -> str:
    return f"postgresql://{_PLANTER}:{_PASSWORD}@127.0.0.1:{postgres.port}/{database}"


async def mark_of(admin: asyncpg.Connection, job: InstanceJob) -> str | None:
    mark: str | None = await admin.fetchval(
        "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = $1 AND datallowconn",
        job.database,
    )
    return mark


async def _from_backup(api: httpx.AsyncClient, case: Case) -> Origin:
    backup = await backed_up(api, case.planted)
    # The planted code runs, and notes that in a table: there are other rows than were backed up.
    assert "public.seen" in (await verified(api, backup))["verificationError"]
    return BackupOrigin(backup["id"])


async def _from_copy(_: httpx.AsyncClient, case: Case) -> Origin:
    return CopyOrigin(case.planted.instance_id, CopyMode.ONLINE)


ORIGINS: Mapping[str, Callable[[httpx.AsyncClient, Case], Awaitable[Origin]]] = {
    "a backup": _from_backup,
    "an online copy": _from_copy,
}


@pytest.mark.parametrize("origin", ORIGINS)
async def test_planted_code_reaches_nothing_when_its_database_is_restored(
    operator: Operator,
    api: httpx.AsyncClient,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    case: Case,
    origin: str,
) -> None:
    mark = await mark_of(admin, case.victim)
    wanted = await ORIGINS[origin](api, case)
    job = (await operator.instances.reserve(f"{case.planted.name} back", "Minimal", origin=wanted)).job
    await operator.starter.start(job)
    assert await operator.ended(job) is JobStatus.COMPLETED

    async with session(_as_planter(postgres, job.database)) as outside:
        assert await outside.fetchval("SELECT public.with_rights_of_its_owner()") == seeding.RESTORED_OWNER
    async with session(postgres.dsn(job.database)) as inside:
        seen = {tuple(row) for row in await inside.fetch("SELECT DISTINCT who, place FROM public.seen")}
        for table in ("traps", "shown"):
            owner = await inside.fetchval("SELECT tableowner FROM pg_tables WHERE tablename = $1", table)
            assert owner in {None, seeding.RESTORED_OWNER}
    assert {place for who, place in seen if who == seeding.RESTORE_ROLE} >= {"check", "domain", "generated"}
    assert (seeding.RESTORED_OWNER, "index") in seen  # ANALYZE has called it
    assert seeding.SERVICE_ROLE not in {who for who, _ in seen}
    assert mark is not None
    assert await mark_of(admin, case.victim) == mark
    assert not await admin.fetchval("SELECT pg_has_role($1, 'ods_service', 'MEMBER')", _PLANTER)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("SET array_nulls = off", "ALTER ROLE ods_restore RESET ALL;"),
        (f"PASSWORD '{_PASSWORD}'", "The server refuses the login of ODS_RESTORE_DSN"),
    ],
)
async def test_restore_fails_when_planted_code_has_changed_the_login(
    operator: Operator,
    api: httpx.AsyncClient,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    case: Case,
    change: str,
    told: str,
) -> None:
    async with session(postgres.dsn(case.planted.database)) as inside:
        await inside.execute(
            "CREATE OR REPLACE FUNCTION public.reach(place text) RETURNS boolean LANGUAGE plpgsql AS $$BEGIN"
            f" IF current_user = 'ods_restore' THEN ALTER ROLE ods_restore {change}; END IF;"
            " RETURN true; END$$"
        )
    password = await admin.fetchval("SELECT rolpassword FROM pg_authid WHERE rolname = 'ods_restore'")
    backup = await backed_up(api, case.planted)
    wanted = BackupOrigin(backup["id"])
    job = (await operator.instances.reserve(f"{case.planted.name} back", "Minimal", origin=wanted)).job
    await operator.starter.start(job)
    try:
        assert await operator.ended(job) is JobStatus.ERROR
        row = await operator.instance(job)
        assert row.status == InstanceStatus.ERROR
        assert row.error_message is not None
        assert told in row.error_message
    finally:
        await admin.execute(f"ALTER ROLE ods_restore PASSWORD '{password}'; ALTER ROLE ods_restore RESET ALL")
