"""The console's styles and scripts: their names have a hash of their content, so browsers may keep them."""

from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

_FOLDER = Path(__file__).parent / "static"
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml; charset=utf-8"}
_HASH_LENGTH = 12


@dataclass(frozen=True)
class StaticFile:
    """A file as it is sent.

    Attributes:
        address: its name with the hash of its content, as in `console.1a2b3c4d5e6f.css`.
        media_type: what it is.
        content: its bytes.
    """

    address: str
    media_type: str
    content: bytes


@cache
def static_files() -> dict[str, StaticFile]:
    """Every file, by the name that templates use."""
    return {path.name: _read(path) for path in sorted(_FOLDER.iterdir()) if path.suffix in _TYPES}


@cache
def by_address() -> dict[str, StaticFile]:
    """Every file, by the name that browsers ask for."""
    return {file.address: file for file in static_files().values()}


def _read(path: Path) -> StaticFile:
    content = path.read_bytes()
    digest = sha256(content).hexdigest()[:_HASH_LENGTH]
    return StaticFile(f"{path.stem}.{digest}{path.suffix}", _TYPES[path.suffix], content)
