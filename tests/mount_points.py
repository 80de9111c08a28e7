"""A folder for backups as if it were a disk: not mounted, it is there all the same, and is empty."""

import shutil
from pathlib import Path


def unmount(store: Path) -> Path:
    """Leave the mount point, which is on another disk; returns where the store is now."""
    disk = store.rename(store.with_name("disk"))
    store.mkdir()
    return disk


def mount(disk: Path, store: Path) -> None:
    """Let the store be at its mount point again; what is below that is not seen any more."""
    shutil.rmtree(store)
    disk.rename(store)
