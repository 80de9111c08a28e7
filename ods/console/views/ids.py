"""Ids of instances as people type them."""

from api.http.parsing import MAX_INT32

_MOST_DIGITS = 10
_OF_NONE = -1


def id_of(text: str) -> int | None:
    """The id that the text is, or one of no instance; None if there is no text."""
    if not text:
        return None
    is_id = len(text) <= _MOST_DIGITS and text.isascii() and text.isdigit() and int(text) <= MAX_INT32
    return int(text) if is_id else _OF_NONE
