"""Of two registries that have the same installation and store, at most one cleans that store."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from temporalio.testing import ActivityEnvironment

from activities.backup_cleaning import BackupCleaning, CleaningReport
from ods.backups.errors import BackupFaultError, StoreFullError
from ods.backups.storage import BackupStore
from ods.backups.store_identity import SharedStoreError
from ods.embedded.postgres import EmbeddedPostgres
from ods.recovery.compare.detector import DriftDetector
from ods.recovery.compare.findings import Drift, DriftKind
from ods.registry.backups.stores import BackupStores
from ods.tenants.known_store import claim_store, known_store, unshared_store
from ods.tenants.tenant import Tenant, open_tenants
from tests import preloaded, registries
from tests.quotas import largest_file
from tests.servers import environment, make_settings, session

pytestmark = pytest.mark.long  # each test has two registries


@pytest.fixture
async def pair(prepared_postgres: EmbeddedPostgres, store: Path) -> AsyncIterator[tuple[Tenant, Tenant]]:
    """Two registries of one installation that use the same store, as after a copy of the first one."""
    async with AsyncExitStack() as stack:
        both, installation = [], uuid4()
        for _ in range(2):
            dsn = await stack.enter_async_context(registries.cloned(prepared_postgres))
            async with session(dsn) as rows:
                await rows.execute("UPDATE adminapi.installation SET id = $1", installation)
            settings = make_settings(prepared_postgres, dsn, backup_url=store.as_uri())
            (tenant,) = await stack.enter_async_context(open_tenants(settings))
            both.append(tenant)
        first, second = both
        await claimed(first)
        await copy_row(first, second)
        yield first, second


async def copy_row(of: Tenant, to: Tenant) -> None:
    """Give one registry what the other one knows of the store."""
    async with session(of.settings.admin_dsn.get_secret_value()) as source:
        (known,) = await source.fetch(
            "SELECT backupstores, storeclaim, storeclaimid, storeconflict FROM adminapi.installation"
        )
    async with session(to.settings.admin_dsn.get_secret_value()) as target:
        await target.execute(
            "UPDATE adminapi.installation SET backupstores = $1, storeclaim = $2, storeclaimid = $3,"
            " storeconflict = $4",
            *known,
        )


async def claimed(tenant: Tenant) -> None:
    """What a pass does first."""
    await claim_store(await known_store(tenant), BackupStores(tenant.engine), tenant.name)


async def is_claimed(tenant: Tenant) -> bool:
    """Whether a pass of this registry may go on."""
    try:
        await claimed(tenant)
    except SharedStoreError:
        return False
    return True


async def findings(tenant: Tenant) -> list[str]:
    return [
        it.explanation for it in await DriftDetector(tenant).detect() if it.kind is DriftKind.STORE_SHARED
    ]


async def accepted(tenant: Tenant) -> None:
    command = ("ods.cli", "recover", "--apply", "--yes")
    variables = environment(tenant.settings)
    refused = await asyncio.to_thread(preloaded.run, *command, env=variables)
    assert (refused.returncode, "Add --accept-store" in refused.stderr) == (1, True)
    asked = await asyncio.to_thread(preloaded.run, "ods.cli", "recover", "--apply", env=variables)
    assert (asked.returncode, "Is that the right store of backups" in asked.stderr) == (1, True)
    run = await asyncio.to_thread(preloaded.run, *command, "--accept-store", "--json", env=variables)
    assert json.loads(run.stdout)["left"]["store"] is None, run.stderr


def claims_in(store: Path) -> list[Path]:
    return sorted(store.glob("_store/*/*/*"))


async def cleaned(tenant: Tenant) -> CleaningReport:
    async def start(backup_id: UUID) -> None:
        del backup_id

    async def detect() -> list[Drift]:
        return []

    return await ActivityEnvironment().run(BackupCleaning(tenant, start, detect).clean_backups)


async def test_each_pass_replaces_the_claim(pair: tuple[Tenant, Tenant], store: Path) -> None:
    (before,) = claims_in(store)
    for _ in range(2):
        await claimed(pair[0])
    (after,) = claims_in(store)
    assert (before.name[:2], after.name[:2], after.parent) == ("1-", "3-", before.parent)
    assert await findings(pair[0]) == []


async def test_second_registry_does_not_clean_nor_the_first_from_then_on(
    pair: tuple[Tenant, Tenant], store: Path
) -> None:
    first, second = pair
    assert [await is_claimed(one) for one in (first, second, first, second)] == [True, False, False, False]
    for tenant in pair:
        (found,) = await findings(tenant)
        assert store.as_uri() in found
        left = (await cleaned(tenant)).left
        assert left is not None
        assert "`ods recover --apply --accept-store`" in left
        await known_store(tenant)  # where backups are made meanwhile
        with pytest.raises(SharedStoreError):
            await unshared_store(tenant)
    assert len(claims_in(store)) == 2


@pytest.mark.parametrize("chosen", [0, 1])
async def test_registry_cleans_once_it_was_accepted_and_the_other_one_was_stopped(
    pair: tuple[Tenant, Tenant], store: Path, chosen: int
) -> None:
    for tenant in pair:
        await is_claimed(tenant)
    own, other = pair[chosen], pair[1 - chosen]
    await is_claimed(own)
    await accepted(own)
    assert await findings(own) == []
    assert [await is_claimed(own) for _ in range(2)] == [True, True]
    assert len(claims_in(store)) == 1
    assert not await is_claimed(other)
    assert not await is_claimed(own), "the other one has not been stopped"
    await accepted(own)
    assert await is_claimed(own)


async def test_copy_cleans_once_it_is_another_installation_or_has_another_store(
    pair: tuple[Tenant, Tenant], store: Path
) -> None:
    first, second = pair
    assert [await is_claimed(one) for one in pair] == [True, False]
    other = store.with_name("other")
    other.mkdir()
    settings = second.settings.model_copy(update={"backup_url": other.as_uri()})
    await claimed(replace(second, settings=settings))
    assert await findings(second) == []
    assert not await is_claimed(second)
    await second.instances.installation.renew()
    assert await findings(second) == []
    assert await is_claimed(second)
    await accepted(first)
    assert [await is_claimed(one) for one in (second, first)] == [True, True]


async def test_finding_goes_when_there_is_no_store_any_more(pair: tuple[Tenant, Tenant]) -> None:
    second = pair[1]
    assert [await is_claimed(one) for one in pair] == [True, False]
    await cleaned(replace(second, settings=second.settings.model_copy(update={"backup_url": None})))
    assert await findings(second) == []


async def test_restored_registry_does_not_clean_until_it_was_accepted(pair: tuple[Tenant, Tenant]) -> None:
    first, yesterday = pair
    await claimed(first)
    await copy_row(yesterday, first)
    assert [await is_claimed(first) for _ in range(2)] == [False, False]
    await accepted(first)
    assert await is_claimed(first)


async def test_one_of_two_registries_that_claim_at_once_finds_the_other(
    pair: tuple[Tenant, Tenant], monkeypatch: pytest.MonkeyPatch
) -> None:
    write, both_looked = BackupStore.write, asyncio.Barrier(2)

    async def together(self: BackupStore, path: str, content: bytes) -> None:
        await both_looked.wait()
        await write(self, path, content)

    with monkeypatch.context() as patched:
        patched.setattr(BackupStore, "write", together)
        async with asyncio.timeout(20):
            tries = await asyncio.gather(*(is_claimed(one) for one in pair))
    assert not all(tries)
    assert [await is_claimed(one) for one in pair] == [False, False]


@pytest.mark.parametrize(
    ("where", "step"),
    [
        (BackupStores, "claim"),
        (BackupStore, "write"),
        (BackupStore, "list_objects"),
        (BackupStore, "delete"),
        (BackupStores, "record_conflict"),
    ],
)
@pytest.mark.parametrize("is_done", [False, True])
async def test_registry_claims_again_wherever_the_last_pass_has_died(
    pair: tuple[Tenant, Tenant], monkeypatch: pytest.MonkeyPatch, where: type, step: str, *, is_done: bool
) -> None:
    real = getattr(where, step)

    async def dies(*arguments: Any) -> None:
        if is_done:
            await real(*arguments)
        raise BackupFaultError("It has died.", outage=True)

    with monkeypatch.context() as patched:
        patched.setattr(where, step, dies)
        for _ in range(2):
            with pytest.raises(BackupFaultError, match="died"):
                await claimed(pair[0])
    assert [await is_claimed(pair[0]) for _ in range(2)] == [True, True]
    assert not await is_claimed(pair[1])


async def test_late_write_of_a_suspended_worker_is_no_other_registry(
    pair: tuple[Tenant, Tenant], monkeypatch: pytest.MonkeyPatch, store: Path
) -> None:
    first, write = pair[0], BackupStore.write

    async def late(self: BackupStore, path: str, content: bytes) -> None:
        with monkeypatch.context() as others:
            others.setattr(BackupStore, "write", write)
            for _ in range(2):
                await claimed(first)
        await write(self, path, content)

    with monkeypatch.context() as patched:
        patched.setattr(BackupStore, "write", late)
        assert await is_claimed(first)
    assert await findings(first) == []
    assert await is_claimed(first)
    assert len(claims_in(store)) == 1


async def test_copy_is_noticed_when_the_store_has_no_room_for_a_single_byte(
    pair: tuple[Tenant, Tenant],
) -> None:
    first, second = pair
    with largest_file(0):
        assert await is_claimed(first)
        assert not await is_claimed(second)
        assert not await is_claimed(first)


async def test_store_that_lets_nothing_be_removed_is_claimed_all_the_same(
    pair: tuple[Tenant, Tenant], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(*_: object) -> None:
        raise BackupFaultError("The store refused access.")

    first, second = pair
    monkeypatch.setattr(BackupStore, "delete", refused)
    assert [await is_claimed(first) for _ in range(2)] == [True, True]
    assert not await is_claimed(second)


async def test_store_that_is_full_is_cleaned_unless_another_registry_has_claimed_it(
    pair: tuple[Tenant, Tenant], store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: object) -> None:
        raise StoreFullError("The store is full.")

    first, second = pair
    with monkeypatch.context() as patched:
        patched.setattr(BackupStore, "write", full)
        before = claims_in(store)
        assert [await is_claimed(first) for _ in range(2)] == [True, True]
        assert claims_in(store) == before  # the last one that could be written stays
    assert await is_claimed(first)
    with monkeypatch.context() as patched:
        patched.setattr(BackupStore, "write", full)
        assert not await is_claimed(second)


async def test_store_that_was_moved_needs_no_command(pair: tuple[Tenant, Tenant], store: Path) -> None:
    first = pair[0]
    copied = store.with_name("copied")
    shutil.copytree(store, copied)
    await claimed(first)
    moved = replace(first, settings=first.settings.model_copy(update={"backup_url": copied.as_uri()}))
    assert [await is_claimed(one) for one in (moved, moved, first, moved)] == [True] * 4


async def test_tenants_with_one_id_of_an_installation_do_not_share(pair: tuple[Tenant, Tenant]) -> None:
    """As when the registry of the one was made of that of the other."""
    first, second = pair
    other = replace(second, name="other")
    assert [await is_claimed(one) for one in (first, other, first, other)] == [True] * 4


async def test_registry_of_an_earlier_release_has_no_claim_and_makes_the_first(
    pair: tuple[Tenant, Tenant], store: Path
) -> None:
    first, _ = pair
    shutil.rmtree(store / "_store" / "default")
    async with session(first.settings.admin_dsn.get_secret_value()) as rows:
        await rows.execute("UPDATE adminapi.installation SET storeclaim = 0, storeclaimid = NULL")
        assert await is_claimed(first)
        assert await rows.fetchval("SELECT storeclaim FROM adminapi.installation") == 1
        assert json.loads(await rows.fetchval("SELECT backupstores FROM adminapi.installation"))


async def test_other_objects_beside_the_claims_are_none(pair: tuple[Tenant, Tenant], store: Path) -> None:
    (claim,) = claims_in(store)
    for name in ("readme", f"9-{uuid4()}.txt", str(uuid4())):
        (claim.parent / name).touch()
    assert await is_claimed(pair[0])
