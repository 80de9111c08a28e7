"""Rules that texts keep, each broken one told in words for the person who wrote the text."""

import re

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def is_storable(text: str) -> bool:
    """Whether PostgreSQL can hold `text`: it refuses NUL characters, and halves of characters."""
    return not _UNSTORABLE.search(text)


def printable(text: str) -> str:
    """`text` without what a terminal would obey, or a column could not hold."""
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)


def is_blank(text: str | None) -> bool:
    """Whether there is nothing to read in `text`."""
    return text is None or not text.strip()


def text_errors(words: str, text: str, longest: int) -> list[str]:
    """Everything that keeps `text` out of a column of `longest` characters; `words` is what it is called."""
    faults = []
    if len(text) > longest:
        faults.append(f"'{words}' must be {longest} characters or fewer. You entered {len(text)} characters.")
    if not is_storable(text):
        faults.append(f"'{words}' must not contain NUL characters or halves of surrogate pairs.")
    return faults


def required_text_errors(words: str, text: str | None, longest: int) -> list[str]:
    """As `text_errors`, of a text that must be there."""
    if text is None or is_blank(text):
        return [f"'{words}' must not be empty."]
    return text_errors(words, text, longest)
