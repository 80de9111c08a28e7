"""Stores that are away, slow, full, missing or closed to us: what is said, and that nothing looks whole."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from obstore.exceptions import GenericError

from ods.backups import local_folder, storage
from ods.backups.backing_up import back_up
from ods.backups.errors import BackupFaultError, StoreRefusedError
from ods.backups.layout import folder_of
from ods.backups.manifest import BackupRequest, Manifest
from ods.backups.monitoring import Monitor
from ods.backups.restoring import restore
from ods.backups.snapshots import Database
from ods.backups.storage import BackupStore, StoreTimeouts, part_bytes
from ods.backups.store_errors import translate_store_errors
from ods.backups.stored_backups import delete_backup, list_backups, load_manifest
from tests.backups.obstructed_proxy import Obstacle, obstructed_proxy
from tests.backups.s3_server import S3Server
from tests.backups.stores import SHORT, names_in
from tests.quotas import largest_file

pytestmark = pytest.mark.faults

_ROOM = 12 * 2**20
"""Bytes that go through a proxy: one part of an upload, and a bit of the next."""


@contextmanager
def fault(reason: str, *, outage: bool) -> Iterator[None]:
    """The body fails for this reason, which has nothing of a library, of an answer or of credentials."""
    with pytest.raises(BackupFaultError, match=reason) as raised:
        yield
    assert raised.value.outage is outage
    for word in ("key-for-tests", "Debug", "Error", "status code", "os error", "<", "127.0.0.1"):
        assert word not in raised.value.reason
    assert raised.value.__suppress_context__ or raised.value.__context__ is None


async def every_step_fails(
    store: BackupStore,
    reason: str,
    made: Manifest,
    databases: tuple[Database, Database],
    monitor: Monitor,
    *,
    outage: bool,
) -> None:
    """Whatever is done with the store fails for this reason.

    Args:
        made: a backup that was made there.
        databases: one that can be backed up, and an empty one.
    """
    ods, empty = databases
    again = BackupRequest(made.key, made.mark, made.name, made.kind)
    steps: list[Callable[[], Awaitable[object]]] = [
        lambda: back_up(ods, store, again, monitor),
        lambda: list_backups(store),
        lambda: load_manifest(store, made.key),
        lambda: restore(store, made, empty, monitor),
        lambda: delete_backup(store, made.key),
    ]
    for step in steps:
        with fault(reason, outage=outage):
            await step()


@pytest.mark.parametrize("obstacle", [Obstacle.CUT, Obstacle.HOLD])
async def test_nothing_looks_whole_when_an_upload_is_interrupted(
    obstacle: Obstacle,
    s3: S3Server,
    s3_store: BackupStore,
    bucket: str,
    large: Database,
    wanted: BackupRequest,
    monitor: Monitor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with obstructed_proxy(s3.port, _ROOM, obstacle) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        with fault("cannot be reached, or is too slow", outage=True):
            await back_up(large, BackupStore(f"s3://{bucket}/of/backups", SHORT), wanted, monitor)
    assert await list_backups(s3_store) == {}
    assert [key.rpartition("/")[2] for key in await s3.keys(bucket)] == ["being-written"]


async def test_backup_is_made_when_connections_are_cut_once(
    s3: S3Server,
    s3_store: BackupStore,
    bucket: str,
    large: Database,
    wanted: BackupRequest,
    monitor: Monitor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with obstructed_proxy(s3.port, _ROOM, Obstacle.CUT_ONCE) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        # Longer than `SHORT`: on a busy machine, what was cut is sent again later than within a second.
        store = BackupStore(f"s3://{bucket}/of/backups", StoreTimeouts(answer=20, retries=20))
        made = await back_up(large, store, wanted, monitor)
    assert await load_manifest(s3_store, wanted.key) == made


async def test_upload_is_tried_again_when_the_answer_to_its_end_was_lost(
    s3_store: BackupStore,
    large: Database,
    wanted: BackupRequest,
    monitor: Monitor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Asked once more to end it, S3 knows no such upload: https://docs.aws.amazon.com/AmazonS3/latest/API."""

    async def end_and_ask_again(*arguments: Any) -> None:
        await upload(*arguments)
        raise FileNotFoundError("NoSuchUpload")

    upload = storage._upload  # noqa: SLF001 - as the store knows it
    monkeypatch.setattr(storage, "_upload", end_and_ask_again)
    with fault("lost what was being written", outage=True):
        await back_up(large, s3_store, wanted, monitor)
    monkeypatch.setattr(storage, "_upload", upload)
    made = await back_up(large, s3_store, wanted, monitor)
    assert await load_manifest(s3_store, wanted.key) == made


@pytest.mark.parametrize("obstacle", [Obstacle.CUT, Obstacle.HOLD])
async def test_restore_fails_when_a_download_is_interrupted(
    obstacle: Obstacle,
    s3: S3Server,
    s3_store: BackupStore,
    bucket: str,
    large: Database,
    empty: Database,
    wanted: BackupRequest,
    monitor: Monitor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = await back_up(large, s3_store, wanted, monitor)
    async with obstructed_proxy(s3.port, _ROOM, obstacle) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        with fault("cannot be reached, or is too slow", outage=True):
            await restore(BackupStore(f"s3://{bucket}/of/backups", SHORT), made, empty, monitor)


async def test_every_step_is_an_outage_when_the_store_is_away(
    bucket: str,
    s3_store: BackupStore,
    ods: Database,
    empty: Database,
    wanted: BackupRequest,
    monitor: Monitor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = await back_up(ods, s3_store, wanted, monitor)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    await every_step_fails(
        BackupStore(f"s3://{bucket}/of/backups", SHORT),
        "cannot be reached",
        made,
        (ods, empty),
        monitor,
        outage=True,
    )


async def test_every_step_says_so_when_the_credentials_are_refused(
    s3: S3Server,
    s3_store: BackupStore,
    ods: Database,
    empty: Database,
    wanted: BackupRequest,
    monitor: Monitor,
) -> None:
    made = await back_up(ods, s3_store, wanted, monitor)
    await s3.refuse_credentials()
    try:
        await every_step_fails(s3_store, "refused access to s3://", made, (ods, empty), monitor, outage=False)
    finally:
        await s3.accept_credentials()


@pytest.mark.parametrize("code", ["ExpiredToken", "InvalidToken", "TokenRefreshRequired"])
def test_reason_names_the_credentials_when_a_token_for_a_time_has_ended(code: str) -> None:
    """S3 answers that with the status of a request that is wrong."""
    answer = f"Server returned non-2xx status code: 400 Bad Request: <Error><Code>{code}</Code></Error>"
    with (
        pytest.raises(StoreRefusedError, match="Correct the credentials"),
        translate_store_errors("s3://bucket"),
    ):
        raise GenericError(answer)


async def test_every_step_says_so_when_the_bucket_does_not_exist(
    s3_store: BackupStore,
    ods: Database,
    empty: Database,
    wanted: BackupRequest,
    monitor: Monitor,
) -> None:
    made = await back_up(ods, s3_store, wanted, monitor)
    await every_step_fails(
        BackupStore("s3://there-is-none/of/backups", SHORT),
        "bucket or container of s3://there-is-none/of/backups.* does not exist",
        made,
        (ods, empty),
        monitor,
        outage=False,
    )


async def test_reason_names_the_environment_when_there_are_no_credentials(
    bucket: str, ods: Database, wanted: BackupRequest, monitor: Monitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with fault("There are no credentials", outage=False):
        BackupStore(f"s3://{bucket}", SHORT)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    # Where a machine of the cloud would ask for its own.
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://169.254.169.254:9")
    with fault("There are no credentials", outage=False):
        await back_up(ods, BackupStore(f"s3://{bucket}", SHORT), wanted, monitor)


async def test_nothing_is_left_when_the_disk_is_full(
    folder: Path, folder_store: BackupStore, large: Database, wanted: BackupRequest, monitor: Monitor
) -> None:
    with fault("is full", outage=False), largest_file(_ROOM):
        await back_up(large, folder_store, wanted, monitor)
    assert names_in(folder) == []


def test_folder_is_made_when_a_pass_removes_the_empty_one_above_it_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = Path.mkdir

    def make_late(folder: Path, **arguments: Any) -> None:
        if folder.name == "backup":
            monkeypatch.undo()
            local_folder.remove(tmp_path, folder)
        make(folder, **arguments)

    monkeypatch.setattr(Path, "mkdir", make_late)
    local_folder.prepare(tmp_path, tmp_path / "tenant" / "instance" / "backup" / "being-written")
    assert (tmp_path / "tenant" / "instance" / "backup").is_dir()


async def test_reason_says_so_when_the_folder_is_gone(
    folder: Path, folder_store: BackupStore, ods: Database, wanted: BackupRequest, monitor: Monitor
) -> None:
    folder.rmdir()  # noqa: ASYNC240 - at once
    with fault("does not exist", outage=False):
        await back_up(ods, folder_store, wanted, monitor)
    with fault("does not exist", outage=False):
        BackupStore(folder.as_uri())


async def test_others_go_on_and_the_reason_says_so_when_the_folder_never_answers(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient = StoreTimeouts(stall=1)
    store = BackupStore(folder.as_uri(), impatient)
    answers, is_dir = threading.Event(), Path.is_dir

    def hanging(path: Path) -> bool:
        return is_dir(path) if path != folder else answers.wait(60)

    monkeypatch.setattr(Path, "is_dir", hanging)
    try:
        asked: list[asyncio.Future[object]] = [
            asyncio.ensure_future(store.read("manifest.json")) for _ in range(50)
        ]
        asked.append(asyncio.ensure_future(BackupStore.open(folder.as_uri(), impatient)))
        assert await asyncio.wait_for(asyncio.to_thread(lambda: "looked up"), 5) == "looked up"
        for one in asked:
            with fault("cannot be reached, or is too slow", outage=True):
                await one
    finally:
        answers.set()


@pytest.mark.parametrize(
    "url",
    [
        *("", "backups", "/backups", "ftp://host/backups", "https://host/backups", "file://backups"),
        *("file:relative", "s3://", "s3:///prefix", "s3://key:secret@bucket", "s3://bucket?secret=secret"),
        *("s3://bucket#secret", "memory://"),
    ],
)
def test_url_is_refused_when_it_is_no_address_of_a_store(url: str) -> None:
    with pytest.raises(BackupFaultError) as raised:
        BackupStore(url)
    assert "secret" not in raised.value.reason
    assert not raised.value.outage


@pytest.mark.parametrize(
    ("variable", "url"),
    [("AZURE_STORAGE_ACCOUNT_NAME", "az://container/of/backups"), ("GOOGLE_SKIP_SIGNATURE", "gs://bucket")],
)
def test_store_is_opened_when_the_url_names_another_cloud(
    variable: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "true")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "c2VjcmV0")
    assert BackupStore(url).location("x/y") == f"{url}/x/y"


@pytest.mark.parametrize(("gigabytes", "mebibytes"), [(0, 8), (50, 8), (200, 22), (1000, 32)])
def test_parts_are_larger_when_there_would_be_too_many(gigabytes: int, mebibytes: int) -> None:
    assert part_bytes(gigabytes * 2**30) // 2**20 == mebibytes


async def test_one_backup_alone_is_refused_when_a_file_is_in_the_place_of_its_folder(
    folder: Path, folder_store: BackupStore, wanted: BackupRequest
) -> None:
    place = folder / folder_of(wanted.key)
    place.parent.mkdir(parents=True)
    place.write_text("in the way")
    steps: list[Callable[[], Awaitable[object]]] = [
        lambda: delete_backup(folder_store, wanted.key),
        lambda: folder_store.delete_folder(folder_of(wanted.key)),
        lambda: load_manifest(folder_store, wanted.key),
    ]
    for step in steps:
        with fault("a file is in the place of a folder", outage=False):
            await step()
