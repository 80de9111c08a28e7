"""`ods template load` on a real server: what is published, what is refused, and what is left."""

import asyncio
import gzip
import http.server
import shutil
import subprocess
import tempfile
import threading
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast
from unittest.mock import AsyncMock

import asyncpg
import httpx
import pytest
from temporalio.testing import ActivityEnvironment

from activities.passes import ReconcileActivities
from ods.cli.dump_files import Dump, DumpForm
from ods.cli.registry_access import RegistryAccess
from ods.cli.restore_programs import Destination, needed_extensions, restore
from ods.cli.template_load import TemplateAccess, load
from ods.databases.constants import TEMPLATE_PREFIX, private_prefix
from ods.databases.errors import DatabaseFaultError
from ods.databases.ownership import Owner
from ods.databases.provisioning import Copy, TemplateSizes, clone
from ods.databases.server import Server
from ods.databases.templates import spares
from ods.databases.templates.loading import LoadTarget, loading
from ods.databases.templates.marks import (
    Contents,
    TemplateMark,
    TemplateState,
    new_private_name,
)
from ods.databases.templates.reports import remove_leftovers
from ods.databases.templates.spare_pool import Limits, SpareOrder, SparePool
from ods.embedded import seeding
from ods.embedded.errors import CommandError
from ods.embedded.postgres import EmbeddedPostgres
from ods.programs.postgres import client_program
from ods.programs.private_logs import PrivateLog
from ods.registry.audit import AuditTrail
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.store import InstanceStore
from ods.settings.settings import CloneStrategy
from ods.tenants.tenant import Tenant
from tests.postgres.postgres_inspection import exists
from tests.servers import (
    INSTALLATION,
    NUMBERS,
    POSTGRES_VERSION,
    SAMPLE_TEMPLATE,
    service_dsn,
    session,
    since_postgres,
)

PHASES = [
    *("Examining the file", "Loading into a private database", "Checking the database"),
    *("Collecting statistics", "Publishing"),
]
SCRIPT = "EdFi.Ods.Standard.Standard.6.1.0.Artifacts.PgSql.Structure.Ods.0010-Schemas.sql"
_FIRST_WITH_EXTENSIONS = 17
"""The wheel of PostgreSQL 16 has none of the extensions that come with PostgreSQL."""
with_extensions = since_postgres(_FIRST_WITH_EXTENSIONS, "pg_trgm in its wheel")
JOURNAL = 'CREATE TABLE public."DeployJournal" (scriptname text, applied timestamp)'


@pytest.fixture(autouse=True)
def temporary_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Logs of failed loads stay; here, in the test's own folder."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture(scope="session")
async def dumps(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with dumps of one ODS in every form."""
    folder = tmp_path_factory.mktemp("dumps")
    async with session(service_dsn(postgres, "postgres")) as server:
        await server.execute(f'CREATE DATABASE ods_dumped TEMPLATE "{SAMPLE_TEMPLATE}"')
        async with session(service_dsn(postgres, "ods_dumped")) as inside:
            if int(POSTGRES_VERSION) >= _FIRST_WITH_EXTENSIONS:
                await inside.execute("CREATE EXTENSION pg_trgm")
            await inside.execute(JOURNAL)
            await inside.execute('INSERT INTO public."DeployJournal" VALUES ($1)', SCRIPT)
        for form, name in (("custom", "ods.dump"), ("directory", "ods"), ("plain", "ods.sql")):
            program = client_program("pg_dump", int(POSTGRES_VERSION))
            subprocess.run(  # noqa: S603, ASYNC221 - short
                [program, "--format", form, "--file", folder / name, postgres.dsn("ods_dumped")], check=True
            )
    async with session(postgres.dsn()) as server:  # sessions of pg_dump may not have ended
        await server.execute("DROP DATABASE ods_dumped WITH (FORCE)")
    (folder / "ods.sql.gz").write_bytes(gzip.compress((folder / "ods.sql").read_bytes(), 1))
    return folder


@pytest.fixture
async def installation(instances: InstanceStore) -> str:
    return (await instances.installation.state()).id


@pytest.fixture
async def database(admin: asyncpg.Connection, installation: str) -> AsyncIterator[str]:
    """The name of a template's database; whatever has it, or a private name, in the end is removed."""
    name = f"Loaded_Template_{next(NUMBERS)}"
    yield name
    for left in [name, *await private(admin, installation)]:
        if await exists(admin, left):
            await admin.execute(f'ALTER DATABASE "{left}" IS_TEMPLATE false')
            await admin.execute(f'DROP DATABASE "{left}" WITH (FORCE)')


@pytest.fixture
async def old(admin: asyncpg.Connection, database: str) -> int:
    """The oid of a template that is there: without the journal that the dumps have."""
    await admin.execute(
        f'CREATE DATABASE "{database}" TEMPLATE "{SAMPLE_TEMPLATE}" OWNER {seeding.SERVICE_ROLE}'
        " IS_TEMPLATE true ALLOW_CONNECTIONS false"
    )
    return await oid(admin, database)


@pytest.fixture
def access(postgres: EmbeddedPostgres, registry_dsn: str, database: str) -> TemplateAccess:
    dsn = service_dsn(postgres, "postgres")
    registry = RegistryAccess(registry_dsn, always_open=True, master_dsn=dsn)
    templates = {"Sample": SAMPLE_TEMPLATE, "Loaded": database}
    return TemplateAccess(registry, dsn, templates, shares_server=True, shared_with={})


@pytest.fixture
def target(installation: str, database: str) -> LoadTarget:
    return LoadTarget(installation, "Loaded", database, frozenset())


def silent(_: str, __: str) -> None:
    """Show nothing."""


async def _watch() -> None:
    """See nothing wrong."""


async def oid(admin: asyncpg.Connection, database: str) -> int:
    found: int = await admin.fetchval("SELECT oid::int8 FROM pg_database WHERE datname = $1", database)
    return found


async def private(admin: asyncpg.Connection, installation: str) -> list[str]:
    """The databases with private names of the installation's templates."""
    prefix = private_prefix(TEMPLATE_PREFIX, installation)
    rows = await admin.fetch("SELECT datname FROM pg_database WHERE starts_with(datname, $1)", prefix)
    return [row["datname"] for row in rows]


async def mark_of(admin: asyncpg.Connection, database: str) -> TemplateMark | None:
    query = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = $1"
    return TemplateMark.read(await admin.fetchval(query, database))


async def has_journal(server: Server, database: str) -> bool:
    """Whether the database is a copy of what the dumps hold, and not of the old template."""
    async with server.connected(database) as inside:
        return bool(await inside.fetchval("SELECT to_regclass('public.\"DeployJournal\"') IS NOT NULL"))


@pytest.mark.parametrize("file", ["ods.dump", "ods", "ods.sql", "ods.sql.gz"])
async def test_template_is_published_closed_when_a_file_is_loaded(
    access: TemplateAccess,
    dumps: Path,
    file: str,
    database: str,
    admin: asyncpg.Connection,
    installation: str,
) -> None:
    phases: list[str] = []

    def show(phase: str, _: str) -> None:
        if phase not in phases:
            phases.append(phase)

    mark = (await load(access, "Loaded", str(dumps / file), 2, show)).mark

    assert phases == PHASES
    assert (mark.state, mark.generation) == (TemplateState.PUBLISHED, 1)
    assert mark.contents is not None
    assert (mark.contents.data_standard, mark.contents.extensions) == ("6.1.0", {})
    assert await mark_of(admin, database) == mark
    row = await admin.fetchrow(
        "SELECT datallowconn, datistemplate, datdba::regrole::text FROM pg_database WHERE datname = $1",
        database,
    )
    assert row is not None
    assert tuple(row) == (False, True, seeding.SERVICE_ROLE)
    assert await private(admin, installation) == []


async def test_new_one_takes_the_place_of_the_old_one_when_it_is_loaded_from_an_address(
    access: TemplateAccess,
    dumps: Path,
    database: str,
    old: int,
    admin: asyncpg.Connection,
    server: Server,
    installation: str,
) -> None:
    with serving(dumps) as address:
        first = await load(access, "Loaded", f"{address}/ods.dump", 2, silent)
        second = await load(access, "Loaded", f"{address}/ods.sql.gz", 1, silent)
        with pytest.raises(CommandError, match="answers 404"):
            await load(access, "Loaded", f"{address}/missing", 1, silent)
    assert (first.mark.generation, second.mark.generation) == (1, 2)
    assert await oid(admin, database) != old
    marks = {
        await oid(admin, name): await mark_of(admin, name) for name in await private(admin, installation)
    }
    made_by_hand = TemplateMark(installation, "Loaded", TemplateState.REPLACED)
    assert marks.pop(old) == made_by_hand
    assert list(marks.values()) == [replace(made_by_hand, generation=1)]
    copy = f"Copy_{next(NUMBERS)}"
    async with server.session() as own:
        await clone(own, Copy(database, copy, CloneStrategy.AUTO), TemplateSizes())
    await admin.execute(f'ALTER DATABASE "{copy}" ALLOW_CONNECTIONS true')
    assert await has_journal(server, copy)
    async with server.connected(copy) as inside:
        assert (
            await inside.fetchval("SELECT reltuples FROM pg_class WHERE oid = 'edfi.student'::regclass") > 0
        )
    await admin.execute(f'DROP DATABASE "{copy}" WITH (FORCE)')


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("CREATE EXTENSION IF NOT EXISTS nowhere;\nCREATE TABLE t ();", "does not have: nowhere"),
        ('create extension "adminpack_x" schema public;', "does not have: adminpack_x"),
        pytest.param(
            "CREATE EXTENSION dblink;", "only a superuser may create: dblink", marks=with_extensions
        ),
        ("SELECT 1;\n\\! touch /tmp/x", "Line 2 of the file has a command of psql"),
        ("\\connect postgres\nSELECT 1;", "Line 1 of the file has a command of psql"),
        ("SELECT 'SELECT 1' \\gexec\n", "Line 1 of the file has a command of psql"),
        (" create  database x;", "begins with CREATE DATABASE"),
        ("DROP ROLE x;", "begins with DROP ROLE"),
        ("ALTER SYSTEM SET fsync = off;", "begins with ALTER SYSTEM"),
        ("SELECT 1 / 0;", "psql has failed"),
        (
            "CREATE SCHEMA edfi; CREATE TABLE edfi.student ();",
            "no edfi.descriptor, edfi.educ",
        ),
        ("PGDMP and nothing else", "cannot read the archive"),
        ("\0\0", "neither an archive"),
        ("", "neither an archive"),
        ("toc.dat\0 of a tar", "neither an archive"),
    ],
)
async def test_old_template_stays_when_a_file_cannot_be_loaded(
    access: TemplateAccess,
    content: str,
    reason: str,
    database: str,
    old: int,
    admin: asyncpg.Connection,
    installation: str,
    tmp_path: Path,
) -> None:
    file = tmp_path / "file"
    file.write_text(content)
    with pytest.raises(CommandError, match=reason):
        await load(access, "Loaded", str(file), 1, silent)
    assert await oid(admin, database) == old
    assert await private(admin, installation) == []


async def test_data_are_no_statements_when_a_file_holds_them_for_copy(
    access: TemplateAccess, dumps: Path, tmp_path: Path, database: str, admin: asyncpg.Connection
) -> None:
    data = "CREATE TABLE public.words (word text);\nCOPY public.words (word) FROM stdin;\n"
    lines = "DROP DATABASE everything\n\\\\! nothing\n\\\\restrict me\n\\.\n"
    file = tmp_path / "words.sql"
    file.write_text((dumps / "ods.sql").read_text() + data + lines)
    await load(access, "Loaded", str(file), 1, silent)
    assert await exists(admin, database)


@pytest.mark.parametrize("marker", [b"\\.\n", b"ALTER TABLE ONLY", b"-- PostgreSQL database dump complete"])
async def test_old_template_stays_when_the_end_of_a_file_is_missing(
    access: TemplateAccess,
    dumps: Path,
    marker: bytes,
    tmp_path: Path,
    database: str,
    old: int,
    admin: asyncpg.Connection,
) -> None:
    content = (dumps / "ods.sql").read_bytes()
    file = tmp_path / "cut.sql"
    file.write_bytes(content[: content.rindex(marker)])
    with pytest.raises(CommandError, match="is not whole"):
        await load(access, "Loaded", str(file), 1, silent)
    assert await oid(admin, database) == old


@pytest.fixture
async def victim(admin: asyncpg.Connection) -> AsyncIterator[str]:
    """Another database of the service's role, such as an instance's."""
    name = f"Victim_{next(NUMBERS)}"
    async with made(admin, name, seeding.SERVICE_ROLE, None):
        yield name


async def test_other_databases_stay_when_a_script_would_drop_them(
    access: TemplateAccess, dumps: Path, tmp_path: Path, victim: str, admin: asyncpg.Connection
) -> None:
    file = tmp_path / "drop.sql"
    file.write_text(f'{(dumps / "ods.sql").read_text()}SELECT 1; DROP DATABASE "{victim}";')
    with pytest.raises(CommandError, match="begins with DROP DATABASE"):
        await load(access, "Loaded", str(file), 1, silent)
    assert await exists(admin, victim)


@with_extensions
async def test_other_databases_stay_when_an_archive_would_drop_them(
    access: TemplateAccess, dumps: Path, tmp_path: Path, victim: str, admin: asyncpg.Connection
) -> None:
    statement = f'DROP DATABASE "{victim}";'.encode()
    harmless = b"CREATE EXTENSION IF NOT EXISTS pg_trgm WITH SCHEMA public;"
    content = (dumps / "ods.dump").read_bytes()
    assert harmless in content
    file = tmp_path / "drop.dump"
    file.write_bytes(content.replace(harmless, statement.ljust(len(harmless)), 1))
    with pytest.raises(CommandError, match="begins with DROP DATABASE"):
        await load(access, "Loaded", str(file), 1, silent)
    assert await exists(admin, victim)


@with_extensions
@pytest.mark.parametrize("name", ["ods.dump", "ods/toc.dat"])
async def test_extension_that_the_server_lacks_is_told_before_anything_is_made_when_an_archive_needs_it(
    access: TemplateAccess, dumps: Path, tmp_path: Path, name: str, admin: asyncpg.Connection
) -> None:
    lacking = "nowhere"
    query = "SELECT count(*) FROM pg_available_extensions WHERE name = $1"
    assert await admin.fetchval(query, lacking) == 0
    shutil.copytree(dumps, tmp_path / "dumps")
    file = tmp_path / "dumps" / name
    file.write_bytes(file.read_bytes().replace(b"pg_trgm", lacking.encode()))
    archive = file if file.suffix == ".dump" else file.parent
    phases: list[str] = []
    with pytest.raises(CommandError, match=f"the server does not have: {lacking}. Install"):
        await load(access, "Loaded", str(archive), 1, lambda phase, _: phases.append(phase))
    assert phases == ["Examining the file"]


async def test_template_is_loaded_when_an_editor_has_marked_the_file_as_utf_8(
    access: TemplateAccess, dumps: Path, tmp_path: Path
) -> None:
    file = tmp_path / "marked.sql"
    file.write_text((dumps / "ods.sql").read_text(), encoding="utf-8-sig")
    assert (await load(access, "Loaded", str(file), 1, silent)).mark.generation == 1


async def test_file_is_loaded_into_the_private_database_when_the_address_names_another_one(
    access: TemplateAccess, dumps: Path, dsn: str, server: Server, database: str, admin: asyncpg.Connection
) -> None:
    other = dsn.rpartition("/")[2]
    misleading = replace(access, dsn=f"{access.dsn}?dbname={other}")
    await load(misleading, "Loaded", str(dumps / "ods.dump"), 1, silent)
    async with server.connected(other) as inside:
        assert await inside.fetchval("SELECT to_regclass('edfi.student') IS NULL")
    assert await exists(admin, database)


@pytest.mark.parametrize("command", ["SELECT 'SELECT 1' \\gexec\n", "\\! true\n", "\\connect postgres\n"])
async def test_psql_obeys_no_command_in_a_file_when_that_was_not_examined(
    access: TemplateAccess, server: Server, target: LoadTarget, command: str, tmp_path: Path
) -> None:
    file, log = tmp_path / "file", tmp_path / "log"
    file.write_text(f"SELECT 1;\n{command}SELECT 2;\n")
    async with loading(server, target) as begun:
        destination = Destination(access.dsn, begun.database, int(POSTGRES_VERSION), 1, PrivateLog(log, log))
        with pytest.raises(CommandError, match="psql has failed"):
            await restore(Dump(file, DumpForm.SQL), destination, _watch)
    assert "backslash commands are restricted" in log.read_text()


async def test_load_fails_when_the_file_cannot_be_read_to_its_end_any_more(
    access: TemplateAccess, server: Server, target: LoadTarget, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_bytes(gzip.compress(b"SELECT 1;\n" * 9999)[:-8])
    async with loading(server, target) as begun, asyncio.timeout(30):
        log = PrivateLog(tmp_path / "log", tmp_path / "kept")
        destination = Destination(access.dsn, begun.database, int(POSTGRES_VERSION), 1, log)
        with pytest.raises(CommandError, match="cannot be read"):
            await restore(Dump(file, DumpForm.SQL), destination, _watch)


async def test_archive_arrives_as_it_is_when_the_server_of_the_address_would_compress_it(
    access: TemplateAccess, dumps: Path
) -> None:
    with serving(dumps, _Compressing) as address:
        loaded = await load(access, "Loaded", f"{address}/ods.dump", 1, silent)
    assert loaded.mark.generation == 1


async def test_nothing_is_fetched_when_an_address_leads_out_of_https(
    access: TemplateAccess, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = []

    def answer(_: object, request: httpx.Request) -> httpx.Response:
        fetched.append(str(request.url))
        if request.url.scheme == "https":
            return httpx.Response(302, headers={"Location": "http://files.example.org/ods.sql"})
        return httpx.Response(200, content=b"SELECT 1;")

    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", answer)
    with pytest.raises(CommandError, match="without https"):
        await load(access, "Loaded", "https://example.org/ods.sql", 1, silent)
    assert len(fetched) == 2


@pytest.mark.parametrize("place", ["file:///etc/passwd", "ftp://example.org/ods.sql"])
async def test_nothing_is_fetched_when_an_address_leads_to_no_web_address(
    access: TemplateAccess, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(*_: object) -> httpx.Response:
        return httpx.Response(302, headers={"Location": place})

    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", answer)
    with pytest.raises(CommandError, match="cannot be read"):
        await load(access, "Loaded", "https://operator:a-secret@example.org/ods.sql", 1, silent)


async def test_operator_is_told_that_the_template_is_loaded_when_only_the_audit_trail_fails(
    access: TemplateAccess,
    dumps: Path,
    database: str,
    admin: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def away(*_: object) -> None:
        raise OSError

    monkeypatch.setattr(AuditTrail, "record", away)
    with pytest.raises(CommandError, match="is loaded and published, but the audit trail"):
        await load(access, "Loaded", str(dumps / "ods.dump"), 1, silent)
    assert await exists(admin, database)


@with_extensions
async def test_extensions_are_told_when_a_dump_creates_some(dumps: Path) -> None:
    for name in ("ods.dump", "ods"):
        assert await needed_extensions(Dump(dumps / name, DumpForm.ARCHIVE)) == {"pg_trgm"}
    for name in ("ods.sql", "ods.sql.gz"):
        assert await needed_extensions(Dump(dumps / name, DumpForm.SQL)) == {"pg_trgm"}


_UUID = str(uuid.uuid4())
OWNER = Owner(
    "default", 1, "CreateInstanceJob-1-1", _UUID, INSTALLATION, 1, database_id=_UUID, revision=_UUID
)
FOREIGN = TemplateMark(str(uuid.uuid4()), "Loaded", TemplateState.PUBLISHED, contents=Contents(1, None, {}))


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        (f"COMMENT ON DATABASE \"{{}}\" IS '{OWNER.comment}'", "belongs to an instance"),
        (f"COMMENT ON DATABASE \"{{}}\" IS '{FOREIGN.comment}'", "loaded by the installation"),
        ('ALTER DATABASE "{}" IS_TEMPLATE false ALLOW_CONNECTIONS true', "not marked as a template"),
        ('ALTER DATABASE "{}" OWNER TO postgres', "belongs to another role"),
    ],
)
async def test_load_is_refused_when_the_database_may_be_something_else(
    access: TemplateAccess,
    dumps: Path,
    statement: str,
    reason: str,
    database: str,
    old: int,
    admin: asyncpg.Connection,
) -> None:
    await admin.execute(statement.replace("{}", database, 1))
    with pytest.raises(CommandError, match=reason):
        await load(access, "Loaded", str(dumps / "ods.dump"), 1, silent)
    assert await oid(admin, database) == old


async def test_load_is_refused_when_sessions_are_on_the_old_template(
    access: TemplateAccess, dumps: Path, database: str, old: int, admin: asyncpg.Connection, server: Server
) -> None:
    await admin.execute(f'ALTER DATABASE "{database}" ALLOW_CONNECTIONS true')
    async with server.connected(database):
        with pytest.raises(CommandError, match="has sessions on it"):
            await load(access, "Loaded", str(dumps / "ods.dump"), 1, silent)
    assert await oid(admin, database) == old


async def test_load_is_refused_when_the_name_is_not_a_template_of_its_own(
    access: TemplateAccess, dumps: Path, database: str
) -> None:
    file = str(dumps / "ods.dump")
    with pytest.raises(CommandError, match="no template Other; there are Sample, Loaded"):
        await load(access, "Other", file, 1, silent)
    shared = replace(access, templates={"Loaded": database, "Same": database})
    with pytest.raises(CommandError, match="needed for something else"):
        await load(shared, "Same", file, 1, silent)
    with pytest.raises(CommandError, match="no file or folder /nowhere"):
        await load(access, "Loaded", "/nowhere/ods.dump", 1, silent)


async def test_second_load_is_refused_when_another_session_loads_the_template(
    access: TemplateAccess, dumps: Path, server: Server, target: LoadTarget
) -> None:
    async with loading(server, target):
        with pytest.raises(CommandError, match="Another session loads the template"):
            await load(access, "Loaded", str(dumps / "ods.dump"), 1, silent)


async def test_nothing_is_replaced_when_another_session_changes_the_template_meanwhile(
    server: Server, target: LoadTarget, old: int, admin: asyncpg.Connection, installation: str
) -> None:
    aside = f"Aside_{next(NUMBERS)}"
    async with loading(server, target) as begun:
        await admin.execute(f'ALTER DATABASE "{target.database}" RENAME TO "{aside}"')
        await admin.execute(
            f'CREATE DATABASE "{target.database}" OWNER {seeding.SERVICE_ROLE} ALLOW_CONNECTIONS false'
        )
        theirs = await oid(admin, target.database)
        with pytest.raises(DatabaseFaultError, match="changed the template meanwhile"):
            await begun.publish()
    assert await oid(admin, target.database) == theirs
    assert await private(admin, installation) == []
    await admin.execute(f'ALTER DATABASE "{aside}" IS_TEMPLATE false')
    await admin.execute(f'DROP DATABASE "{aside}"')


async def test_replaced_template_goes_with_the_last_spare_when_it_has_spares(
    access: TemplateAccess,
    dumps: Path,
    database: str,
    old: int,
    server: Server,
    admin: asyncpg.Connection,
    installation: str,
) -> None:
    async def identity() -> str:
        return installation

    loaded = await load(access, "Loaded", str(dumps / "ods.dump"), 1, silent)
    (made_by_hand,) = await private(admin, installation)
    assert loaded.kept == made_by_hand
    assert await oid(admin, made_by_hand) == old
    first = await oid(admin, database)
    pool = SparePool(server, identity, [database], CloneStrategy.AUTO, Limits(1, 1, 10**12))
    await pool.replenish(SpareOrder(spares.new_name(installation), database))
    assert (await load(access, "Loaded", str(dumps / "ods.dump"), 1, silent)).kept is None
    (kept,) = set(await private(admin, installation)) - {made_by_hand}
    assert await oid(admin, kept) == first
    replaced = TemplateMark(installation, "Loaded", TemplateState.REPLACED, generation=1)
    assert await mark_of(admin, kept) == replaced
    async with server.session() as own:
        assert await remove_leftovers(own, installation, set()) == []
        assert (await pool.prune()).removed == 1
        assert await remove_leftovers(own, installation, {kept}) == []
        assert await remove_leftovers(own, installation, set()) == [kept]
    assert not await exists(admin, kept)
    assert await oid(admin, made_by_hand) == old


@asynccontextmanager
async def made(admin: asyncpg.Connection, name: str, owner: str, comment: str | None) -> AsyncIterator[str]:
    await admin.execute(f'CREATE DATABASE "{name}" OWNER {owner} ALLOW_CONNECTIONS false')
    if comment is not None:
        await admin.execute(f"COMMENT ON DATABASE \"{name}\" IS '{comment}'")
    try:
        yield name
    finally:
        await admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


async def test_only_what_says_that_it_may_go_is_removed_when_loads_have_left_databases(
    admin: asyncpg.Connection, server: Server, installation: str
) -> None:
    role = seeding.SERVICE_ROLE
    own = TemplateMark(installation, "Loaded", TemplateState.LOADING).comment
    first, last = (
        TemplateMark(str(uuid.UUID(int=number)), "Loaded", TemplateState.LOADING).comment
        for number in (0, 2**128 - 1)
    )

    def name() -> str:
        return new_private_name(installation)

    async with (
        made(admin, name(), role, own) as left,
        made(admin, name(), role, None) as unnamed,
        made(admin, name(), role, first),
        made(admin, name(), role, last),
        made(admin, name(), role, "of the operator"),
        made(admin, name(), role, own.replace("loading", "published")),
        made(admin, name(), "postgres", own),
        made(admin, f"{private_prefix(TEMPLATE_PREFIX, installation)}by_hand", role, own),
        made(admin, new_private_name(str(uuid.uuid4())), role, own),
        made(admin, name(), role, None) as opened,
        made(admin, name(), role, own) as held,
        server.session() as other,
        server.session() as ours,
    ):
        await admin.execute(f'ALTER DATABASE "{opened}" ALLOW_CONNECTIONS true')
        async with spares.locked(other, held):
            assert set(await remove_leftovers(ours, installation, set())) == {left, unnamed}
        assert await remove_leftovers(ours, installation, set()) == [held]


async def test_database_without_a_comment_stays_when_it_is_not_empty(
    admin: asyncpg.Connection, server: Server, installation: str
) -> None:
    """An operator may have taken away the comment of a template that was replaced, to keep it."""
    async with made(admin, new_private_name(installation), seeding.SERVICE_ROLE, None) as kept:
        await admin.execute(f'ALTER DATABASE "{kept}" ALLOW_CONNECTIONS true')
        async with server.connected(kept) as inside:
            await inside.execute(
                "CREATE TABLE public.filling AS SELECT repeat('x', 1000) FROM generate_series(1, 3000)"
            )
        await admin.execute(f'ALTER DATABASE "{kept}" ALLOW_CONNECTIONS false')
        async with server.session() as ours:
            assert await remove_leftovers(ours, installation, set()) == []


async def _publish(server: Server, target: LoadTarget, rows: int) -> None:
    """Load a template that says how many rows it has, and has them."""
    async with loading(server, target) as begun:
        async with server.connected(begun.database) as inside:
            await inside.execute("CREATE TABLE public.filling (row int, words text)")
            await inside.execute(
                "INSERT INTO public.filling"
                " SELECT row, repeat('x', 1000) FROM generate_series(1, $1::int) AS row",
                rows,
            )
            await inside.execute(f"CREATE TABLE public.said AS SELECT {rows} AS rows")
        await begun.publish()


@pytest.mark.long
async def test_each_copy_is_a_whole_template_when_others_are_published_meanwhile(
    server: Server, target: LoadTarget, admin: asyncpg.Connection
) -> None:
    sizes, copies = TemplateSizes(), list[str]()
    await _publish(server, target, 1)

    async def copy() -> None:
        name = f"Copy_{next(NUMBERS)}"
        async with server.session() as own:
            await clone(own, Copy(target.database, name, CloneStrategy.AUTO), sizes)
        copies.append(name)

    async def copy_until_all_are_published() -> None:
        while not publishing.done():
            await copy()

    async def publish() -> None:
        for rows in (9000, 2, 9001, 3):
            await _publish(server, target, rows)

    await copy()
    publishing = asyncio.create_task(publish())
    await asyncio.gather(publishing, copy_until_all_are_published(), copy_until_all_are_published())
    await copy()
    found = set()
    for name in copies:
        await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
        async with server.connected(name) as inside:
            said = await inside.fetchval("SELECT rows FROM public.said")
            assert await inside.fetchval("SELECT count(*) FROM public.filling") == said
        found.add(said)
        await admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    assert found >= {1, 3}


async def test_reconcile_removes_what_a_load_has_left_when_it_begins(
    tenant: Tenant, job_store: JobStore, admin: asyncpg.Connection, installation: str
) -> None:
    mark = TemplateMark(installation, "Loaded", TemplateState.LOADING)
    unused = cast("Any", None)
    reconcile = ReconcileActivities(
        AsyncMock(),
        job_store,
        tenant.server,
        unused,
        unused,
        unused,
        tenant.remove_template_leftovers,
        unused,
        unused,
        unused,
    )
    async with made(admin, new_private_name(installation), seeding.SERVICE_ROLE, mark.comment) as left:
        await ActivityEnvironment().run(reconcile.find_leftovers)
        assert not await exists(admin, left)


class _Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Compressing(_Silent):
    """Compresses for every client that takes it, as many web servers do."""

    def do_GET(self) -> None:
        content = Path(self.translate_path(self.path)).read_bytes()
        compress = "gzip" in self.headers.get("Accept-Encoding", "")
        self.send_response(200)
        if compress:
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        self.wfile.write(gzip.compress(content, 1) if compress else content)


@contextmanager
def serving(folder: Path, handler: type[_Silent] = _Silent) -> Iterator[str]:
    """A server of the files in a folder; gives its address."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
