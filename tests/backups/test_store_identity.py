"""A store has ids, by which it is told from another one at the same address."""

import asyncio
from uuid import uuid4

from ods.backups.storage import BackupStore
from ods.backups.store_identity import StoreClaims, give_identity, has_identity, identify
from ods.backups.stored_backups import list_backups
from ods.registry.backups.stores import StoreClaim


async def test_store_keeps_the_ids_that_it_was_given(store: BackupStore) -> None:
    assert not await has_identity(store, uuid4())
    first = await identify(store)
    assert await identify(store) == first
    second = await give_identity(store)
    assert [await has_identity(store, one) for one in (first, second, uuid4())] == [True, True, False]
    assert await identify(store) in {first, second}
    assert await list_backups(store) == {}


async def test_store_has_each_id_that_it_is_given_at_once(store: BackupStore) -> None:
    given = await asyncio.gather(*(identify(store) for _ in range(5)))
    assert all([await has_identity(store, one) for one in given])


async def test_store_has_the_claims_of_a_tenant_and_installation(store: BackupStore) -> None:
    installation, (first, second) = uuid4(), [StoreClaim(number, uuid4()) for number in (9, 10)]
    claims = StoreClaims(store, "default", installation)
    others = [StoreClaims(store, "other", installation), StoreClaims(store, "default", uuid4())]
    identity = await identify(store)
    for one in (first, second):
        await claims.write(one)
    assert {*await claims.found()} == {first, second}
    assert [await other.found() for other in others] == [[], []]
    for _ in range(2):
        await claims.remove(first)
    assert await claims.found() == [second]
    assert await identify(store) == identity
    assert await list_backups(store) == {}


async def test_other_objects_in_the_folder_of_ids_are_none(folder_store: BackupStore) -> None:
    await folder_store.write("_store/readme", b"")
    await folder_store.write(f"_store/{uuid4()}/copy", b"")
    identity = await identify(folder_store)
    assert await has_identity(folder_store, identity)
