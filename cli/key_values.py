"""Keys and values of labels and contexts, as command lines write them: `key=value`, and `key-` to remove."""

from collections.abc import Iterable

from embedded.errors import CommandError


def key_values(texts: Iterable[str]) -> dict[str, str]:
    """The value for each key.

    Raises:
        CommandError: a text is no key and value.
    """
    return dict(_split(text) for text in texts)


def label_changes(texts: Iterable[str]) -> dict[str, str | None]:
    """The new value for each key, or None if the label is removed.

    Raises:
        CommandError: a text is neither.
    """
    return dict((text[:-1], None) if _removes(text) else _split(text) for text in texts)


def _removes(text: str) -> bool:
    return "=" not in text and text.endswith("-") and text != "-"


def _split(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise CommandError(f"'{text}' must be a key and a value, as district=255901.")
    return key, value
