"""Whether the store of backups is the one that the registry knows at its URL."""

import asyncio
import json
import shutil
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest

from ods.backups.storage import StoreTimeouts
from ods.backups.store_identity import OtherStoreError
from ods.embedded.postgres import EmbeddedPostgres
from ods.settings.settings import Settings
from ods.tenants.known_store import backup_obstacle, known_store, require_backups
from ods.tenants.tenant import Tenant
from tests import preloaded
from tests.mount_points import mount, unmount
from tests.servers import environment, make_settings


@pytest.fixture
def settings(postgres: EmbeddedPostgres, registry_dsn: str, store: Path) -> Settings:
    return make_settings(postgres, registry_dsn, backup_url=store.as_uri())


@pytest.fixture(autouse=True)
async def fresh(rows: asyncpg.Connection) -> None:
    """The registry has used no store yet."""
    await rows.execute("UPDATE adminapi.installation SET backupstores = '{}'")


def with_store(tenant: Tenant, store: Path) -> Tenant:
    """The tenant with its backups in another folder."""
    return replace(tenant, settings=tenant.settings.model_copy(update={"backup_url": store.as_uri()}))


def ids_of(store: Path) -> list[str]:
    return [path.name for path in store.glob("_store/*") if path.is_file()]


async def stores(rows: asyncpg.Connection) -> dict[str, str]:
    known: dict[str, str] = json.loads(await rows.fetchval("SELECT backupstores FROM adminapi.installation"))
    return known


async def test_store_is_known_from_its_first_use_on(
    tenant: Tenant, rows: asyncpg.Connection, store: Path
) -> None:
    await asyncio.gather(*(known_store(tenant) for _ in range(5)))
    known = await stores(rows)
    assert known.keys() == {store.as_uri()}
    assert known[store.as_uri()] in ids_of(store)
    disk = unmount(store)
    with pytest.raises(OtherStoreError, match="mount its disk"):
        await known_store(tenant)
    assert ids_of(store) == []
    mount(disk, store)
    await known_store(tenant)
    assert await stores(rows) == known


async def test_store_is_another_one_when_it_has_another_id(tenant: Tenant, store: Path) -> None:
    await known_store(tenant)
    unmount(store)
    (store / "_store").mkdir()
    (store / "_store" / "5e0b9b0c-0000-4000-8000-000000000000").touch()
    with pytest.raises(OtherStoreError, match="does not have the id"):
        await known_store(tenant)


async def test_restored_registry_takes_over_the_id_that_the_store_has(
    tenant: Tenant, rows: asyncpg.Connection, store: Path
) -> None:
    await known_store(tenant)
    known = await stores(rows)
    await rows.execute("UPDATE adminapi.installation SET backupstores = '{}'")  # as before its first use
    await known_store(tenant)
    assert await stores(rows) == known
    assert len(ids_of(store)) == 1


async def test_each_address_has_a_store_of_its_own_when_the_setting_is_changed(
    tenant: Tenant, rows: asyncpg.Connection, store: Path
) -> None:
    await known_store(tenant)
    other, copied = store.with_name("other"), store.with_name("copied")
    other.mkdir()
    await known_store(with_store(tenant, other))
    shutil.copytree(store, copied)
    await known_store(with_store(tenant, copied))
    known = await stores(rows)
    assert known[copied.as_uri()] == known[store.as_uri()] != known[other.as_uri()]
    unmount(store)
    with pytest.raises(OtherStoreError):
        await known_store(tenant)
    await known_store(with_store(tenant, other))


async def test_request_leaves_a_store_that_is_away_to_its_job_and_refuses_another_one(
    tenant: Tenant, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ods.tenants.known_store._SOON", StoreTimeouts(answer=0.5, retries=0.5))
    for name, value in _AWAY.items():
        monkeypatch.setenv(name, value)
    bucket = tenant.settings.model_copy(update={"backup_url": "s3://backups"})
    await require_backups(replace(tenant, settings=bucket))
    assert await backup_obstacle(replace(tenant, settings=bucket)) is None

    await require_backups(tenant)
    unmount(store)
    with pytest.raises(OtherStoreError):
        await require_backups(tenant)
    assert "mount its disk" in str(await backup_obstacle(tenant))


_RECOVER = ("ods.cli", "recover", "--apply", "--yes")
_AWAY = {
    "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
    "AWS_ALLOW_HTTP": "true",
    "AWS_REGION": "us-east-1",
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
}


async def test_store_is_accepted_by_the_command_and_its_original_is_not_any_more(
    tenant: Tenant, settings: Settings, rows: asyncpg.Connection, store: Path
) -> None:
    await known_store(tenant)
    before = await stores(rows)
    disk = unmount(store)
    run = await asyncio.to_thread(preloaded.run, *_RECOVER, env=environment(settings))
    assert (run.returncode, "Add --accept-store" in run.stderr, store.as_uri() in run.stderr) == (
        1,
        True,
        True,
    )
    assert ids_of(store) == []
    run = await asyncio.to_thread(
        preloaded.run, *_RECOVER, "--accept-store", "--json", env=environment(settings)
    )
    assert json.loads(run.stdout)["left"]["store"] is None, run.stderr
    await known_store(tenant)
    assert ids_of(store) == [(await stores(rows))[store.as_uri()]] != list(before.values())
    assert await rows.fetchval("SELECT path FROM adminapi.audit ORDER BY id DESC LIMIT 1") == (
        "ods recover --apply --accept-store"
    )
    mount(disk, store)
    with pytest.raises(OtherStoreError):
        await known_store(tenant)


async def test_command_says_what_is_missing_when_there_is_no_store(settings: Settings, store: Path) -> None:
    command = (*_RECOVER, "--accept-store")
    shutil.rmtree(store)
    run = await asyncio.to_thread(preloaded.run, *command, env=environment(settings))
    assert (run.returncode, "does not exist" in run.stderr) == (1, True)
    none = environment(settings.model_copy(update={"backup_url": None}))
    run = await asyncio.to_thread(preloaded.run, *command, env=none)
    assert (run.returncode, "Set ODS_BACKUP_URL" in run.stderr) == (1, True)
