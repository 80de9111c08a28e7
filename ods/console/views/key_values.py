"""Labels and contexts as people type them: one on each line, `key=value`."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from ods.console.texts import t
from ods.registry.storage.errors import require_valid


def pairs_of(text: str, before: Iterable[tuple[str, str]] = ()) -> list[tuple[str, str]]:
    """The lines of the text; what has no equals sign is a key without a value, which the API refuses.

    A line that is that of a pair from `before` is this pair, which may have an equals sign in its key, line
    breaks, or blanks around it.
    """
    of_lines: dict[str, list[tuple[str, str]]] = {}
    for pair in before:
        of_lines.setdefault(_line_of(*pair), []).append(pair)
    lines = filter(None, map(str.strip, text.splitlines()))
    return [known.pop(0) if (known := of_lines.get(line)) else _typed(line) for line in lines]


def text_of(pairs: Iterable[tuple[str, str]]) -> str:
    """The text with these pairs."""
    return "\n".join(_line_of(key, value) for key, value in pairs)


def labels_of(text: str, before: Iterable[str] = ()) -> Mapping[str, str | None]:
    """The labels of a request to the API; those from `before` that the text has no more are removed.

    Raises:
        InvalidError: a key is there twice; nothing says which of its values is meant.
    """
    pairs = pairs_of(text)
    counts = Counter(key for key, _ in pairs)
    require_valid({"Labels": [t("labels.twice", label=key) for key, count in counts.items() if count > 1]})
    return {**dict.fromkeys(before), **dict(pairs)}


def contexts_of(text: str, before: Iterable[tuple[str, str]] = ()) -> list[dict[str, Any]]:
    """The contexts of a request to the API; lines of those from `before` leave them as they are."""
    return [{"contextKey": key, "contextValue": value} for key, value in pairs_of(text, before)]


def _line_of(key: str, value: str) -> str:
    return " ".join(f"{key}={value}".splitlines()).strip()


def _typed(line: str) -> tuple[str, str]:
    key, _, value = line.partition("=")
    return key.strip(), value.strip()
