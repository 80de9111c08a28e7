"""Upgrades of PostgreSQL and of the system under it, by the commands of the page of its versions."""

import os
import re
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from ods.databases.locales import sorted_anew
from ods.embedded.ports import free_port
from ods.embedded.postgres import SUPERUSER, EmbeddedPostgres
from tests.servers import (
    MINIMAL_TEMPLATE,
    SUPERUSER_PASSWORD,
    seeded,
    server_folder,
    service_dsn,
    session,
    since_postgres,
    unsafe_postgres,
)

pytestmark = pytest.mark.long

PAGE = Path(__file__).parents[2] / "docs" / "operations" / "postgresql-versions.md"
OPEN, CLOSE, REINDEX = re.findall(
    r"```sh\n(.+?)```", PAGE.read_text().partition("## To a newer")[2], re.DOTALL
)
IN_TRASH = "ods_trash_5ca56e56199a4642abdf3d8573749ae3_2"
DATABASES = """
SELECT datname, oid, datallowconn, datistemplate, shobj_description(oid, 'pg_database') AS comment
FROM pg_database WHERE datname LIKE 'EdFi%' OR datname LIKE 'ods%' ORDER BY datname
"""

CHANGED_COLLATION = "UPDATE pg_database SET datcollversion = '0' WHERE datcollversion IS NOT NULL"
MOVED_TO_MUSL = """
UPDATE pg_database SET datlocprovider = 'c', datcollate = 'C.UTF-8', datctype = 'C.UTF-8', datlocale = NULL,
       datcollversion = '2.36' WHERE datname = $1
"""


@pytest.fixture
async def old() -> AsyncIterator[EmbeddedPostgres]:
    """A server with a closed template and a closed database in the trash."""
    with server_folder() as folder:
        server = unsafe_postgres(folder / "old", SUPERUSER_PASSWORD)
        async with seeded(server):
            async with session(service_dsn(server, "postgres")) as maintenance:
                await maintenance.execute(f"CREATE DATABASE {IN_TRASH}")
                await maintenance.execute(f"COMMENT ON DATABASE {IN_TRASH} IS 'the mark'")
            async with session(service_dsn(server, IN_TRASH)) as inside:
                await inside.execute("CREATE TABLE treasure AS SELECT generate_series(1, 42)")
            async with session(server.dsn()) as maintenance:
                await maintenance.execute(f"ALTER DATABASE {IN_TRASH} ALLOW_CONNECTIONS false")
            yield server


def programs_of(server: EmbeddedPostgres) -> Path:
    """The folder of the server's programs."""
    return Path(server.command().arguments[0]).parent


def cluster_of(server: EmbeddedPostgres) -> Path:
    """The folder of the server's data."""
    _, option, cluster, *_ = server.command().arguments
    assert option == "-D"
    return Path(cluster)


def by_the_page(commands: str, server: EmbeddedPostgres, folder: Path) -> None:
    """Run commands of the page in a folder, as an operator does."""
    environment = {
        "PATH": f"{programs_of(server)}:{os.defpath}",
        "PGPASSWORD": SUPERUSER_PASSWORD,
        "ODS_SERVER": server.dsn().removesuffix("/postgres"),
    }
    subprocess.run(["/bin/bash", "-euc", commands], cwd=folder, env=environment, check=True)  # noqa: S603


def upgrade(old: EmbeddedPostgres, new: EmbeddedPostgres, *options: str) -> subprocess.CompletedProcess[str]:
    """How pg_upgrade ends; both servers are stopped."""
    account, programs = new.command().account, programs_of(new)
    work = cluster_of(new).with_name("upgrade")
    work.mkdir(exist_ok=True)
    if account is not None:
        os.chown(work, account.uid, account.gid)
    paths = {"socketdir": work, "old-bindir": programs, "new-bindir": programs}
    folders = {"old-datadir": cluster_of(old), "new-datadir": cluster_of(new)}
    ports = {"old-port": free_port(), "new-port": free_port()}
    given = [f"--{name}={value}" for name, value in (paths | folders | ports).items()]
    return subprocess.run(  # noqa: S603 - of the wheel
        [programs / "pg_upgrade", "--no-sync", f"--username={SUPERUSER}", *given, *options],
        cwd=work,
        env={"PATH": os.defpath, "LC_ALL": "C", "PGPASSWORD": SUPERUSER_PASSWORD},
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
        capture_output=True,
        text=True,
        check=False,
    )


async def told(server: EmbeddedPostgres) -> tuple[list[tuple[object, ...]], int]:
    """What the service knows of each database, and the system identifier."""
    async with session(server.dsn()) as maintenance:
        rows = [tuple(row) for row in await maintenance.fetch(DATABASES)]
        return rows, await maintenance.fetchval("SELECT system_identifier FROM pg_control_system()")


async def test_databases_are_as_before_when_the_server_is_upgraded_as_the_page_says(
    old: EmbeddedPostgres, tmp_path: Path
) -> None:
    before, system = await told(old)
    assert [row[:1] + row[2:3] for row in before] == [(MINIMAL_TEMPLATE, False), (IN_TRASH, False)]
    with server_folder() as folder:
        new = unsafe_postgres(folder / "new", SUPERUSER_PASSWORD)
        await new.initialise()
        try:
            await old.stop()
            refused = upgrade(old, new, "--check")
            assert "databases must allow connections" in " ".join(refused.stdout.split())
            await old.start()
            by_the_page(OPEN, old, tmp_path)
            with pytest.raises(subprocess.CalledProcessError):
                by_the_page(OPEN, old, tmp_path)
            await old.stop()
            done = upgrade(old, new)
            assert done.returncode == 0, done.stdout[-2000:]
            await new.start()
            by_the_page(CLOSE, new, tmp_path)
            after, other_system = await told(new)
            assert after == before
            assert other_system != system
            async with session(new.dsn()) as maintenance:
                await maintenance.execute(f"ALTER DATABASE {IN_TRASH} ALLOW_CONNECTIONS true")
            async with session(service_dsn(new, IN_TRASH)) as inside:
                assert await inside.fetchval("SELECT count(*) FROM treasure") == 42
        finally:
            await new.stop()
            new.remove()


@since_postgres(17, "versions of the collations of the test's databases")
async def test_databases_are_copied_again_when_the_system_sorts_otherwise_and_the_page_is_followed(
    old: EmbeddedPostgres, tmp_path: Path
) -> None:
    async with session(old.dsn()) as maintenance:
        protect = f'ALTER DATABASE "{MINIMAL_TEMPLATE}" SET default_transaction_read_only = on'
        await maintenance.execute(protect)
        await maintenance.execute("CREATE DATABASE half_dropped")
        await maintenance.execute("UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'half_dropped'")
        before, _ = await told(old)
        await maintenance.execute(CHANGED_COLLATION)
        copy = f'CREATE DATABASE copy TEMPLATE "{MINIMAL_TEMPLATE}"'
        with pytest.raises(asyncpg.InternalServerError, match="collation version mismatch"):
            await maintenance.execute(copy)
        assert {IN_TRASH, MINIMAL_TEMPLATE, "postgres"} < set(await sorted_anew(maintenance))
        for commands in (OPEN, REINDEX, CLOSE):
            by_the_page(commands, old, tmp_path)
        assert await sorted_anew(maintenance) == []
        assert (await told(old))[0] == before
        await maintenance.execute(copy)


@since_postgres(17, "builtin locales")
async def test_databases_are_copied_again_when_the_system_tells_no_version_and_the_page_is_followed(
    old: EmbeddedPostgres, tmp_path: Path
) -> None:
    """As after a move from glibc, of which PostgreSQL knows the version, to musl."""
    async with session(old.dsn()) as maintenance:
        await maintenance.execute(MOVED_TO_MUSL, MINIMAL_TEMPLATE)
        copy = f'CREATE DATABASE copy TEMPLATE "{MINIMAL_TEMPLATE}"'
        with pytest.raises(asyncpg.InternalServerError, match="no actual collation version"):
            await maintenance.execute(copy)
        assert await sorted_anew(maintenance) == [MINIMAL_TEMPLATE]
        for commands in (OPEN, REINDEX, CLOSE):
            by_the_page(commands, old, tmp_path)
        assert await sorted_anew(maintenance) == []
        await maintenance.execute(copy)


@since_postgres(17, "versions of the collations of the test's databases")
async def test_databases_that_are_done_are_left_out_when_a_key_was_taken_twice(
    old: EmbeddedPostgres, tmp_path: Path
) -> None:
    async with session(old.dsn()) as maintenance:
        await maintenance.execute("CREATE DATABASE zzz")
        await maintenance.execute(CHANGED_COLLATION)
        async with session(old.dsn("zzz")) as inside:
            await inside.execute("CREATE TABLE twice (key text)")
            await inside.execute("INSERT INTO twice VALUES ('a'), ('a')")
            await inside.execute("CREATE INDEX twice_key ON twice (key)")
            await inside.execute(
                "UPDATE pg_index SET indisunique = true WHERE indexrelid = 'twice_key'::regclass"
            )
        by_the_page(OPEN, old, tmp_path)
        with pytest.raises(subprocess.CalledProcessError):
            by_the_page(REINDEX, old, tmp_path)
        assert await sorted_anew(maintenance) == ["zzz"]
        async with session(old.dsn("zzz")) as inside:
            await inside.execute("UPDATE twice SET key = 'b' WHERE ctid = '(0,1)'")
        by_the_page(REINDEX, old, tmp_path)
        assert await sorted_anew(maintenance) == []
