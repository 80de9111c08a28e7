"""Keys and values of labels and contexts, as command lines write them: `key=value`, and `key-` to remove."""

from collections.abc import Iterable
from typing import TypeVar

from ods.embedded.errors import CommandError

_Value = TypeVar("_Value")


def key_values(texts: Iterable[str]) -> dict[str, str]:
    """The value for each key.

    Raises:
        CommandError: a text is no key and value, or a key is there twice.
    """
    return _distinct(_split(text) for text in texts)


def label_changes(texts: Iterable[str]) -> dict[str, str | None]:
    """The new value for each key, or None if the label is removed.

    Raises:
        CommandError: a text is neither, or a key is there twice.
    """
    return _distinct((text[:-1], None) if _removes(text) else _split(text) for text in texts)


def _removes(text: str) -> bool:
    return "=" not in text and text.endswith("-") and text != "-"


def _split(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise CommandError(f"'{text}' must be a key and a value, as district=255901.")
    return key, value


def _distinct(pairs: Iterable[tuple[str, _Value]]) -> dict[str, _Value]:
    """The value for each key; of two, nothing says which one is meant.

    Raises:
        CommandError: a key is there twice.
    """
    found: dict[str, _Value] = {}
    for key, value in pairs:
        if key in found:
            raise CommandError(f"The key '{key}' is there twice. Give it once.")
        found[key] = value
    return found
