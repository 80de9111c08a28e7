"""A store of backups: a folder, or a bucket or container of object storage, by its URL.

Credentials come from the environment, as the clients of each kind of object storage expect them
(`AWS_ACCESS_KEY_ID`, `AZURE_STORAGE_ACCOUNT_KEY`, `GOOGLE_APPLICATION_CREDENTIALS`, …), or from the cloud's
own machines. They are in no URL, no reason and no log.
"""

import asyncio
import atexit
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import unquote, urlsplit

import obstore
from obstore.store import ObjectStore, from_url

from ods.backups import local_folder
from ods.backups.errors import BackupFaultError, MissingObjectError
from ods.backups.store_errors import translate_store_errors

if TYPE_CHECKING:
    from obstore import Bytes, GetResult

_SCHEMES = ("file", "s3", "az", "gs")
_ALLOW_HTTP = ("AWS_ALLOW_HTTP", "AZURE_ALLOW_HTTP", "GOOGLE_ALLOW_HTTP")
_YES = {"1", "true", "yes", "on"}
_MEBIBYTE = 1024 * 1024
READ_BYTES = _MEBIBYTE
"""Read at once of an object, unless its reader wants smaller pieces."""
_PART_BYTES = 8 * _MEBIBYTE
_LARGEST_PART_BYTES = 32 * _MEBIBYTE
_IN_MEMORY_BYTES = 16 * _MEBIBYTE
"""What is sent at once: one part, or several smaller ones. Meanwhile, a store seems to take nothing."""
_MOST_PARTS = 10_000
"""Of one object on S3."""
_ABORT_SECONDS = 10
_NO_TIMEOUT = "30 days"
"""Of a request as a whole: one request reads a whole backup."""
_SETTLING_SECONDS = 0.1
"""They need some microseconds; a machine that is busy gives them their turn within this time."""
_MOST_RETRIES = 1000
"""More than fit into the time for them."""
_FILE_SYSTEM = ThreadPoolExecutor(thread_name_prefix="backups")
"""Threads of their own for calls of the file system, which never return while a network file system is away:
in those of the event loop, the names of servers are looked up as well."""

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class StoreTimeouts:
    """How long a store is waited for.

    Attributes:
        answer: seconds without a byte of an answer, or until a part of an upload is accepted.
        retries: seconds for which a request that fails is sent again.
        stall: seconds for which a stream waits for a store that takes or gives nothing. The program of
            PostgreSQL at the other end of the stream waits as well, and with its session each DROP DATABASE
            on that server. It is long enough for a store that takes 0.8 MB a second.
    """

    answer: float = 60
    retries: float = 180
    stall: float = 20


@dataclass(frozen=True)
class StoredObject:
    """One object of a store.

    Its `path` is below the URL of the store, and `modified` by the clock of the store.
    """

    path: str
    modified: datetime
    size_bytes: int


class BackupStore:
    """Writes, reads, lists and deletes objects.

    Args:
        url: `file:///folder`, which exists; `s3://bucket/prefix`, `az://container/prefix` or
            `gs://bucket/prefix`. It has no login and no parameters.
        timeouts: how long the store is waited for.

    Raises:
        BackupFaultError: the URL cannot be used, the folder does not exist, there are no credentials.
    """

    def __init__(self, url: str, timeouts: StoreTimeouts | None = None) -> None:
        self._url = _checked(url)
        self._timeouts = timeouts or StoreTimeouts()
        _let_threads_rest_at_exit()
        self._folder = Path(unquote(urlsplit(url).path)) if urlsplit(url).scheme == "file" else None
        with translate_store_errors(self.location()):
            self._require_folder()
            self._store = _opened(self._url, self._timeouts)

    @classmethod
    async def open(cls, url: str, timeouts: StoreTimeouts | None = None) -> Self:
        """The store of these arguments; the event loop goes on while a network file system is away."""
        async with _answered_within((timeouts or StoreTimeouts()).stall, url):
            return await _in_thread(cls, url, timeouts)

    def location(self, path: str = "") -> str:
        """The URL of an object, or of the store."""
        return f"{self._url}/{path}" if path else self._url

    async def write(self, path: str, content: bytes) -> None:
        """Write an object that is small, in place of one that may be there."""
        async with self._translated(path):
            await self._prepare(path)
            await obstore.put_async(self._store, path, content, use_multipart=False)
            await self._make_durable(path)

    async def write_stream(self, path: str, chunks: AsyncGenerator[bytes, None], expected_bytes: int) -> None:
        """Write an object part by part; it is there once all of it is, and not before.

        Args:
            path: of the object.
            chunks: its content. If it raises, or this is cancelled, what was written is removed again. It is
                closed before, so that what makes it need not wait for that.
            expected_bytes: about how much it is.
        """
        part = part_bytes(expected_bytes)
        source = _Stoppable(chunks, self._timeouts.stall)
        try:
            async with aclosing(chunks), self._translated(path):
                await self._prepare(path)
                with _stalls_told(self.location(path)):
                    await _upload(self._store, path, source, part)
                await self._make_durable(path)
        except MissingObjectError:
            # Also if it has ended, and the answer to that was lost: the store knows no such upload then.
            raise BackupFaultError(
                f"The store of {self.location(path)} lost what was being written.", outage=True
            ) from None

    async def read(self, path: str) -> bytes | None:
        """The content of an object that is small; None if it is not there."""
        try:
            async with self._translated(path):
                result = await obstore.get_async(self._store, path)
                return bytes(await result.bytes_async())
        except MissingObjectError:
            return None

    async def read_stream(self, path: str, piece_bytes: int = READ_BYTES) -> AsyncGenerator[bytes, None]:
        """The content of an object, in pieces of about `piece_bytes`."""
        async with self._translated(path):
            chunks = self._chunks(path, await obstore.get_async(self._store, path), piece_bytes)
            while True:
                async with _answered_within(self._timeouts.stall, self.location(path)):
                    found = await anext(chunks, None)
                if found is None:
                    return
                chunk = bytes(found)
                del found  # while the reader is slow, one copy is enough
                yield chunk

    async def _chunks(
        self, path: str, found: "GetResult", piece_bytes: int
    ) -> AsyncGenerator["Bytes | bytes", None]:
        if self._folder is None:
            async for chunk in found.stream(min_chunk_size=piece_bytes):
                yield chunk
            return
        # obstore takes the processor five times as long for a file in small pieces.
        for start in range(0, found.meta["size"], piece_bytes):
            yield await _in_thread(local_folder.read_piece, self._folder / path, start, piece_bytes)

    async def list_objects(self, folder: str = "") -> list[StoredObject]:
        """All objects below a folder; what is only being written is none yet."""
        async with self._translated(folder):
            found = await obstore.list(self._store, folder or None).collect_async()
            return [StoredObject(it["path"], it["last_modified"], it["size"]) for it in found]

    async def delete(self, path: str) -> None:
        """Delete an object; one that is not there counts as deleted."""
        try:
            async with self._translated(path):
                await obstore.delete_async(self._store, path)
        except MissingObjectError:
            return

    async def delete_folder(self, folder: str) -> None:
        """Delete all objects below a folder, and in folders the files whose writer has died."""
        if self._folder is not None:
            async with self._translated(folder):
                await _in_thread(local_folder.remove, self._folder, self._folder / folder)
            return
        for found in await self.list_objects(folder):
            await self.delete(found.path)

    async def _prepare(self, path: str) -> None:
        if self._folder is not None:
            await _in_thread(local_folder.prepare, self._folder, self._folder / path)

    async def _make_durable(self, path: str) -> None:
        if self._folder is not None:
            await _in_thread(local_folder.make_durable, self._folder, self._folder / path)

    @asynccontextmanager
    async def _translated(self, path: str) -> AsyncIterator[None]:
        with translate_store_errors(self.location(path)):
            if self._folder is not None:
                async with _answered_within(self._timeouts.stall, self.location()):
                    await _in_thread(self._require_folder)
            yield

    def _require_folder(self) -> None:
        # Otherwise a folder that is not mounted would seem to have no backups.
        if self._folder is not None and not self._folder.is_dir():
            raise BackupFaultError(f"{self._url} does not exist. Create or mount it.")


async def _in_thread(call: Callable[..., _Result], *arguments: object) -> _Result:
    """What a call returns that may wait for a file system; it goes on without us if this is cancelled."""
    return await asyncio.get_running_loop().run_in_executor(_FILE_SYSTEM, call, *arguments)


def part_bytes(expected_bytes: int) -> int:
    """The size of the parts of an object of about this size, so that their number is not exceeded."""
    needed = -(-expected_bytes // (_MOST_PARTS * 9 // 10))
    return min(max(_PART_BYTES, needed), _LARGEST_PART_BYTES)


@contextmanager
def _stalls_told(location: str) -> Iterator[None]:
    """Turn the end of the time for a store that takes or gives nothing into words."""
    try:
        yield
    except TimeoutError:
        raise BackupFaultError(
            f"The store of {location} cannot be reached, or is too slow: it took or gave nothing.",
            outage=True,
        ) from None


@asynccontextmanager
async def _answered_within(seconds: float, location: str) -> AsyncIterator[None]:
    """The body ends within this time."""
    with _stalls_told(location):
        async with asyncio.timeout(seconds):
            yield


class _Stoppable:
    """The content of an upload, which can be made to fail: then obstore removes what it has written.

    A cancelled upload would leave it.

    Args:
        chunks: the content.
        stall: seconds.

    Attributes:
        limit: the time until which the store may ask for more. None while what makes the content is slow.
    """

    def __init__(self, chunks: AsyncGenerator[bytes, None], stall: float) -> None:
        self.limit = asyncio.timeout(stall)
        self._chunks = chunks
        self._stall = stall
        self._stopped = False
        self._following: asyncio.Future[bytes] | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._stopped or self.limit.expired():
            raise _StoppedError
        self.limit.reschedule(None)
        self._following = asyncio.ensure_future(anext(self._chunks))
        try:
            chunk = await self._following
        except asyncio.CancelledError:
            raise _StoppedError from None
        if not self._stopped:
            self.limit.reschedule(asyncio.get_running_loop().time() + self._stall)
        return chunk

    async def stop(self) -> None:
        """Let the upload fail; returns once nothing is read any more, and the content is closed."""
        self._stopped = True
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait({self._following})
        await self._chunks.aclose()


class _StoppedError(Exception):
    """An upload was given up."""


async def _upload(store: ObjectStore, path: str, source: _Stoppable, part: int) -> None:
    """Upload the content.

    Raises:
        TimeoutError: the store took nothing for too long.
    """
    uploading = asyncio.ensure_future(
        obstore.put_async(
            store,
            path,
            source,
            use_multipart=True,
            chunk_size=part,
            max_concurrency=max(1, _IN_MEMORY_BYTES // part),
        )
    )
    try:
        async with source.limit:
            await asyncio.shield(uploading)
    finally:
        await source.stop()
        if not uploading.done():
            await asyncio.wait({uploading}, timeout=_ABORT_SECONDS)
            uploading.cancel()
            await asyncio.gather(uploading, return_exceptions=True)


@cache
def _let_threads_rest_at_exit() -> None:
    """Let the threads of obstore come to rest before the interpreter ends.

    A thread hands over the outcome of a request in Python, and wakes the event loop by that. If the process
    ends before the thread has the interpreter's lock again, Python ends the thread, whose Rust code answers
    that by aborting the process (SIGABRT), although all was done. Python 3.14 lets such threads be.
    """
    atexit.register(time.sleep, _SETTLING_SECONDS)


def _checked(url: str) -> str:
    """The URL without a slash at its end; reasons do not repeat it, since it may have a password.

    Raises:
        BackupFaultError: it is no address of a store, or has more than an address.
    """
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES:
        raise BackupFaultError(f"The URL of a store of backups begins with {', '.join(_SCHEMES)} and ://.")
    if parts.query or parts.fragment or "@" in parts.netloc:
        raise BackupFaultError(
            "The URL of a store of backups has neither a login nor parameters. Credentials belong in the"
            " environment."
        )
    if parts.scheme == "file":
        if parts.netloc or not parts.path.startswith("/"):
            raise BackupFaultError("The URL of a folder for backups begins with file:/// and is absolute.")
    elif not parts.netloc:
        raise BackupFaultError("The URL of a store of backups lacks the bucket or container.")
    return url.rstrip("/")


def _opened(url: str, timeouts: StoreTimeouts) -> ObjectStore:
    if url.startswith("file:"):
        return from_url(url)
    # obstore takes the options of its client from here alone: what the environment says of them counts too.
    client: dict[str, Any] = {
        "timeout": _NO_TIMEOUT,
        "read_timeout": timedelta(seconds=timeouts.answer),
        "allow_http": any(os.environ.get(name, "").lower() in _YES for name in _ALLOW_HTTP),
    }
    retries: dict[str, Any] = {
        "max_retries": _MOST_RETRIES,
        "retry_timeout": timedelta(seconds=timeouts.retries),
    }
    return from_url(url, client_options=client, retry_config=retries)  # type: ignore[call-overload,no-any-return]
