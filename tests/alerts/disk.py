"""A file system of its own for a server, so that it can be full while no other is."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_BYTES = 2 * 2**30


@contextmanager
def mounted(folder: Path) -> Iterator[None]:
    """`folder` is a file system in a file beside it, while the body runs; needs the rights of root."""
    image = folder.with_suffix(".image")
    with image.open("wb") as file:
        file.truncate(_BYTES)
    folder.mkdir()
    _run("mkfs.ext4", "-q", str(image))
    _run("mount", "-o", "loop", str(image), str(folder))
    try:
        folder.chmod(0o711)
        yield
    finally:
        _run("umount", str(folder))
        image.unlink()


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)  # noqa: S603 - words of our own
