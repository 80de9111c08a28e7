"""Amounts of the type `money`, which PostgreSQL writes and reads by the locale of a session."""

import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from ods.backups.backing_up import back_up
from ods.backups.copying import copy_contents
from ods.backups.layout import dump_of
from ods.backups.manifest import BackupRequest
from ods.backups.monitoring import Monitor
from ods.backups.restoring import restore
from ods.backups.snapshots import Database
from ods.backups.storage import BackupStore
from ods.embedded.postgres import _ENVIRONMENT
from tests.backups.test_round_trip import call, opened
from tests.servers import product_server, seeded_postgres, server_folder, service_dsn, session

pytestmark = pytest.mark.long

LOCALE = "fr_CA.utf8"
"""Where sessions have the locale C, its decimal comma separates thousands, and its `$` is known."""
AMOUNTS = ["12.50", "99.99", "-7.25", "1234567.89"]
EMPTY = ("restored", "copied", "restored_by_hand")


@pytest.fixture
def locales() -> Iterator[str]:
    """A folder that has the locale."""
    if not Path("/usr/share/i18n/locales/fr_CA").exists():
        pytest.skip("apt-get install locales")
    with server_folder() as folder:
        folder.chmod(0o755)
        localedef = "/usr/bin/localedef"
        subprocess.run([localedef, "-i", "fr_CA", "-f", "UTF-8", str(folder / LOCALE)], check=True)  # noqa: S603
        yield str(folder)


@pytest.fixture
async def databases(locales: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[dict[str, Database]]:
    """`paid`, and empty ones; the sessions of all have the locale."""
    monkeypatch.setattr("ods.embedded.postgres._ENVIRONMENT", _ENVIRONMENT | {"LOCPATH": locales})
    async with seeded_postgres() as postgres:
        async with session(service_dsn(postgres, "postgres")) as maintenance:
            for name in ("paid", *EMPTY):
                await maintenance.execute(f"CREATE DATABASE {name}")
                # In the empty ones, what is read without a locale being said, is read wrong.
                await maintenance.execute(f"ALTER DATABASE {name} SET lc_monetary TO '{LOCALE}'")
        async with session(service_dsn(postgres, "paid")) as inside:
            await inside.execute("CREATE TABLE paid (number int, amount money)")
            rows = list(enumerate(AMOUNTS))
            await inside.executemany("INSERT INTO paid VALUES ($1, $2::text::numeric::money)", rows)
        server = product_server(postgres)
        yield {name: Database(server, name) for name in ("paid", *EMPTY)}
        await server.close()


async def amounts(database: Database) -> list[str]:
    """What is in the database, with the digits that its clients read."""
    async with opened(database) as inside:
        rows = await inside.fetch("SELECT amount::numeric::text AS digits FROM paid ORDER BY number")
    return [row["digits"] for row in rows]


async def test_amounts_are_the_same_when_a_database_is_restored_or_copied_into_another_locale(
    databases: dict[str, Database],
    folder: Path,
    folder_store: BackupStore,
    wanted: BackupRequest,
    monitor: Monitor,
) -> None:
    paid = databases["paid"]
    assert await amounts(paid) == AMOUNTS
    made = await back_up(paid, folder_store, wanted, monitor)
    await restore(folder_store, made, databases["restored"], monitor)
    await copy_contents(paid, databases["copied"], monitor)
    # As docs/operations/backups.md says.
    file, options = str(folder / dump_of(wanted.key, encrypted=False)), ("--no-owner", "--no-privileges")
    by_hand, in_c = databases["restored_by_hand"], {"lc_monetary": "C"}
    call("pg_restore", *options, "--exit-on-error", file, database=by_hand, settings=in_c)
    for name in EMPTY:
        assert await amounts(databases[name]) == AMOUNTS, name
