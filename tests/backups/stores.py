"""What tests share of stores."""

from pathlib import Path

from ods.backups.storage import StoreTimeouts

SHORT = StoreTimeouts(answer=2, retries=1)
"""For stores that are away."""


def names_in(folder: Path) -> list[str]:
    """The names in a folder, in order."""
    return sorted(path.name for path in folder.iterdir())
