"""Labels and contexts as people type them: one on each line, `key=value`."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from console.texts import t
from registry.storage.errors import require_valid


def pairs_of(text: str) -> list[tuple[str, str]]:
    """The lines of the text; what has no equals sign is a key without a value, which the API refuses."""
    lines = (line.partition("=") for line in text.splitlines() if line.strip())
    return [(key.strip(), value.strip()) for key, _, value in lines]


def text_of(pairs: Iterable[tuple[str, str]]) -> str:
    """The text with these pairs."""
    return "\n".join(f"{key}={value}" for key, value in pairs)


def labels_of(text: str, before: Iterable[str] = ()) -> Mapping[str, str | None]:
    """The labels of a request to the API; those from `before` that the text has no more are removed.

    Raises:
        InvalidError: a key is there twice; nothing says which of its values is meant.
    """
    pairs = pairs_of(text)
    counts = Counter(key for key, _ in pairs)
    require_valid({"Labels": [t("labels.twice", label=key) for key, count in counts.items() if count > 1]})
    return {**dict.fromkeys(before), **dict(pairs)}


def contexts_of(text: str) -> list[dict[str, Any]]:
    """The contexts of a request to the API."""
    return [{"contextKey": key, "contextValue": value} for key, value in pairs_of(text)]
