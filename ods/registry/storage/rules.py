"""Rules for texts of requests, and messages for clients whose texts break them."""

import re

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")

REQUIRED_TEXT_PATTERN = r"^[^\x00]*[^\s\x00-\x1f\x85][^\x00]*$"
"""For ECMAScript. A text that matches keeps the rules of `required_text_errors`, but perhaps its length."""


def is_storable(text: str) -> bool:
    """Whether PostgreSQL can hold `text`: it refuses NUL characters, and halves of characters."""
    return not _UNSTORABLE.search(text)


def printable(text: str) -> str:
    """`text` with a replacement character for each that a terminal would obey, or a column cannot hold."""
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)


def is_blank(text: str | None) -> bool:
    """Whether `text` is missing, empty or all white space."""
    return text is None or not text.strip()


def text_errors(words: str, text: str, longest: int) -> list[str]:
    """Everything that keeps `text` out of a column of `longest` characters; messages call it `words`."""
    errors = []
    if len(text) > longest:
        errors.append(f"'{words}' must be {longest} characters or fewer. You entered {len(text)} characters.")
    if not is_storable(text):
        errors.append(f"'{words}' must not contain NUL characters or halves of surrogate pairs.")
    return errors


def required_text_errors(words: str, text: str | None, longest: int) -> list[str]:
    """As `text_errors`, for a text that must not be empty."""
    if text is None or is_blank(text):
        return [f"'{words}' must not be empty."]
    return text_errors(words, text, longest)
