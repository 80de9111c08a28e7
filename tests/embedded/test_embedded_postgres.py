import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from ods.embedded import postgres, postgres_binaries
from ods.embedded.errors import CommandError
from ods.embedded.polling import wait_until
from ods.embedded.ports import free_port
from ods.embedded.postgres import EmbeddedPostgres
from ods.embedded.postgres_binaries import PostgresVersion
from ods.embedded.supervisor import Supervisor
from tests.servers import POSTGRES_VERSION, unsafe_postgres

PASSWORD = "superuser-password"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has to step down")


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedPostgres]:
    folder = tmp_path_factory.mktemp("embedded")
    async with unsafe_postgres(folder / "data", PASSWORD) as running:
        yield running


async def value(server: EmbeddedPostgres, query: str) -> object:
    connection = await asyncpg.connect(server.dsn())
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


def owner_of(pid: int) -> int | None:
    try:
        return Path(f"/proc/{pid}").stat().st_uid
    except FileNotFoundError:
        return None


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.fixture
def closed_folder(tmp_path: Path) -> Path:
    """A folder that only root may enter."""
    tmp_path.chmod(0o700)
    return tmp_path


async def test_server_answers_with_its_settings_when_started(server: EmbeddedPostgres) -> None:
    version = await value(server, "SHOW server_version_num")
    assert str(version).startswith(POSTGRES_VERSION)
    assert await value(server, "SHOW fsync") == "off"
    assert await value(server, "SHOW listen_addresses") == "127.0.0.1"
    assert await value(server, "SELECT pg_encoding_to_char(encoding) FROM pg_database LIMIT 1") == "UTF8"


async def test_wrong_password_is_refused_when_connecting(server: EmbeddedPostgres) -> None:
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(server.dsn().replace(PASSWORD, "another"))


async def test_other_password_is_reported_when_the_data_have_one(
    server: EmbeddedPostgres, tmp_path: Path
) -> None:
    with pytest.raises(CommandError, match="another superuser password"):
        await EmbeddedPostgres(tmp_path / "data", server.port, "another").answers()


async def test_nothing_is_left_when_the_throw_away_server_ends(tmp_path: Path) -> None:
    async with unsafe_postgres(tmp_path / "data", PASSWORD) as server:
        data, pid = (tmp_path / "data").resolve(), server.pid
        assert data.exists()
    assert not data.exists()
    assert not (tmp_path / "data").is_symlink()
    assert owner_of(pid) is None


async def test_data_are_durable_by_default_when_no_setting_says_otherwise(tmp_path: Path) -> None:
    command = EmbeddedPostgres(tmp_path / "data", free_port(), PASSWORD, version=POSTGRES_VERSION).command()
    assert not [argument for argument in command.arguments if "fsync" in argument or "commit" in argument]


async def test_data_are_created_anew_when_the_first_time_was_interrupted(tmp_path: Path) -> None:
    server = unsafe_postgres(tmp_path / "data", PASSWORD)
    await server.initialise()
    home = (tmp_path / "data").resolve()
    (home / "cluster").rename(home / "cluster.new")
    (home / "cluster.new" / "PG_VERSION").unlink()
    async with server:
        assert await server.answers()


async def test_data_are_refused_with_what_to_do_when_another_version_made_them(tmp_path: Path) -> None:
    server = unsafe_postgres(tmp_path / "data", PASSWORD)
    other = next(version for version in PostgresVersion if version is not POSTGRES_VERSION)
    await server.initialise()
    made_by = (tmp_path / "data").resolve() / "cluster" / "PG_VERSION"
    made_by.write_text(f"{other}\n")
    with pytest.raises(CommandError) as refused:
        await server.initialise()
    assert str(refused.value) == (
        f"The data in {tmp_path / 'data'} were made by PostgreSQL {other}, which {POSTGRES_VERSION} cannot"
        f" read; start with --postgres-version {other}, or choose another folder with --data-dir."
    )
    server.remove()


@pytest.mark.parametrize(
    ("version", "command"),
    [
        (PostgresVersion.V16, "pip install 'ods-instance-management[postgres-versions]'"),
        (PostgresVersion.V17, "make postgres-versions"),
        (PostgresVersion.V18, "pip install 'ods-instance-management[embedded]'"),
    ],
)
async def test_command_that_installs_it_is_told_when_a_version_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: PostgresVersion, command: str
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    with pytest.raises(CommandError, match=f"PostgreSQL {version} is not installed") as refused:
        await EmbeddedPostgres(tmp_path / "data", free_port(), PASSWORD, version=version).initialise()
    assert f"`{command}`" in str(refused.value)
    assert not (tmp_path / "data").exists()


@needs_root
async def test_server_runs_as_another_user_when_started_as_root(server: EmbeddedPostgres) -> None:
    assert owner_of(server.pid) not in (0, None)


@needs_root
async def test_data_move_to_a_reachable_folder_when_the_system_user_cannot_reach_theirs(
    closed_folder: Path,
) -> None:
    data = closed_folder / "data"
    async with unsafe_postgres(data, PASSWORD) as server:
        assert data.is_symlink()
        assert await server.answers()
    assert mode_of(closed_folder) == 0o700


@needs_root
async def test_data_are_not_moved_to_where_systemd_removes_what_is_old(closed_folder: Path) -> None:
    data = closed_folder / "data"
    async with unsafe_postgres(data, PASSWORD):
        assert not data.readlink().is_relative_to("/var/tmp")  # noqa: S108 - nothing is written there
        assert not data.readlink().is_relative_to("/tmp")  # noqa: S108 - nor there


@needs_root
async def test_copied_link_leads_to_copied_data_before_a_server_is_started(closed_folder: Path) -> None:
    data, copy = closed_folder / "data", closed_folder / "copy" / "data"
    original = unsafe_postgres(data, PASSWORD)
    await original.initialise()
    copy.parent.mkdir()
    copy.symlink_to(data.readlink())
    copied = unsafe_postgres(copy, PASSWORD)
    try:
        with pytest.raises(CommandError, match=f"{copy} leads to the data of {data}") as refused:
            await copied.initialise()
        await original.initialise()
        told = ["/bin/sh", "-c", str(refused.value).partition("again: ")[2]]
        await asyncio.to_thread(subprocess.run, told, check=True)
        await copied.initialise()
        assert copy.resolve() != data.resolve()
        await original.initialise()
    finally:
        copied.remove()
        original.remove()


@needs_root
async def test_data_go_along_when_the_folder_of_their_link_is_moved(closed_folder: Path) -> None:
    data = closed_folder / "data"
    await unsafe_postgres(data, PASSWORD).initialise()
    moved = unsafe_postgres(data.rename(closed_folder / "moved"), PASSWORD)
    try:
        await moved.initialise()
    finally:
        moved.remove()


async def test_no_new_data_are_made_when_those_that_were_moved_are_gone(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.symlink_to(tmp_path / "unmounted")
    with pytest.raises(CommandError, match=r"are not in \S+/unmounted any more"):
        await unsafe_postgres(data, PASSWORD).initialise()
    assert data.is_symlink()
    assert not data.exists()
    data.unlink()
    server = unsafe_postgres(data, PASSWORD)
    await server.initialise()
    server.remove()


@needs_root
async def test_data_folder_is_refused_when_it_holds_files_only_root_can_reach(closed_folder: Path) -> None:
    data = closed_folder / "data"
    data.mkdir()
    (data / "precious").touch()
    with pytest.raises(CommandError, match="choose another data folder"):
        await unsafe_postgres(data, PASSWORD).initialise()
    assert (data / "precious").exists()


@needs_root
async def test_binaries_are_copied_when_the_system_user_cannot_reach_them(
    closed_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = postgres_binaries.installed(POSTGRES_VERSION)
    package = postgres_binaries.binaries_of(POSTGRES_VERSION).package
    for part in installed.glob(f"{package}*"):
        (closed_folder / part.name).symlink_to(part)
    monkeypatch.setattr(postgres, "installed", lambda version: closed_folder)
    async with unsafe_postgres(closed_folder / "data", PASSWORD) as server:
        assert await server.answers()
        assert not server.command().arguments[0].startswith(str(closed_folder))


async def test_committed_rows_survive_when_the_postmaster_is_killed(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "data", free_port(), PASSWORD, version=POSTGRES_VERSION)
    await server.initialise()
    restarts: list[str] = []
    try:
        async with Supervisor(tmp_path, restarts.append) as supervisor:
            await supervisor.start(server.command())
            await supervisor.wait_until(server.answers, "answer from PostgreSQL")
            connection = await asyncpg.connect(server.dsn())
            await connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
            killed = supervisor.pids["postgres"]
            os.kill(killed, signal.SIGKILL)
            await wait_until(lambda: _restarted(supervisor, killed), 20)
            await supervisor.wait_until(server.answers, "answer from PostgreSQL")
            assert await value(server, "SELECT answer FROM kept") == 42
            connection.terminate()
        assert restarts
        assert "database system is shut down" in (tmp_path / "postgres.log").read_text().splitlines()[-1]
    finally:
        server.remove()


async def _restarted(supervisor: Supervisor, killed: int) -> bool:
    return supervisor.pids["postgres"] != killed
