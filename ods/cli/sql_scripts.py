"""The statements of an SQL script, told apart from texts, comments and data as psql does it."""

import codecs
import re
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain
from typing import NamedTuple, Protocol

from ods.embedded.errors import CommandError

_LONGEST_LINE_BYTES = 64 * 1024 * 1024
"""More than a row of an ODS has; a compressed file may hold a line that fits no memory."""
_KEPT_BYTES = 4096
"""How much is kept of either end of a statement: what it does, and whether data follow it."""

_COPY = re.compile(rb"\s*COPY\b.*\bFROM\s+STDIN\b", re.IGNORECASE | re.DOTALL)
_END_OF_DATA = (b"\\.\n", b"\\.\r\n", b"\\.")
_RESTRICTION = re.compile(rb"\\(un)?restrict\s")
_HEADER, _TRAILER = b"-- PostgreSQL database dump", b"-- PostgreSQL database dump complete"

_NOT_IN_NAME = rb"(?<![\w$\x80-\xff])"
_OPENING = re.compile(
    rb"--[^\n]*|/\*|'|\"|;|\\|" + _NOT_IN_NAME + rb"(?:[eE]'|\$(?:[A-Za-z_\x80-\xff][\w\x80-\xff]*)?\$)"
)
_CLOSING = {
    b"'": re.compile(rb"[^']*'"),
    b"e'": re.compile(rb"(?:[^'\\]|\\.)*'", re.DOTALL),
    b'"': re.compile(rb'[^"]*"'),
}
_COMMENT_EDGE = re.compile(rb"/\*|\*/")


class Readable(Protocol):
    """A file that is open for reading bytes."""

    def readline(self, size: int = ..., /) -> bytes:
        """The next line, or as much of it as `size` bytes; nothing at the end."""


class Line(NamedTuple):
    """A line of a script.

    Attributes:
        number: counts the lines, from 1.
        has_command: whether it has a command of psql, other than those that pg_dump writes.
        statements: the statements that end in it, without comments and texts; of long ones, both ends.
    """

    number: int
    has_command: bool
    statements: Sequence[bytes]


def script_lines(file: Readable) -> Iterator[Line]:
    """The lines of a script without the data of COPY, and without `restrict` and `unrestrict`.

    Raises:
        CommandError: the script is not whole, or has a line that is too long.
    """
    statements, dumps, number = _Statements(), 0, 0
    lines = _numbered(file)
    for number, content in lines:
        if statements.is_between and is_restriction(content):
            continue
        dumps += {_HEADER: 1, _TRAILER: -1}.get(content.rstrip(), 0)
        ended = list(statements.ended_by(content))
        yield Line(number, statements.met_command, ended)
        if any(map(_COPY.match, ended)):
            _skip_data(lines)
    if dumps > 0 or not statements.is_complete:
        raise _not_whole()
    # psql sends a last statement without a semicolon as well.
    yield Line(number, has_command=False, statements=[statements.begun])


def is_restriction(line: bytes) -> bool:
    """Whether the line is `restrict` or `unrestrict`, which pg_dump writes for psql."""
    return _RESTRICTION.match(line) is not None


def ends_data(line: bytes) -> bool:
    """Whether the line ends the data of a COPY."""
    return line in _END_OF_DATA


def _skip_data(lines: Iterator[tuple[int, bytes]]) -> None:
    for _, content in lines:
        if content.startswith(b"\\.") and ends_data(content):
            return
    raise _not_whole()


def _numbered(file: Readable) -> Iterator[tuple[int, bytes]]:
    """The lines of a file, without the mark of UTF-8 that some editors put before the first."""
    first = file.readline(_LONGEST_LINE_BYTES).removeprefix(codecs.BOM_UTF8)
    rest = iter(partial(file.readline, _LONGEST_LINE_BYTES), b"")
    for number, line in enumerate(chain([first], rest), 1):
        if len(line) >= _LONGEST_LINE_BYTES:
            raise CommandError(f"Line {number} of the file is longer than 64 MB, which no row of an ODS is.")
        yield number, line


def _not_whole() -> CommandError:
    return CommandError("The file is not whole: its end is missing. Fetch or make it again.")


class _Statements:
    """Finds where statements end, line by line.

    Attributes:
        met_command: whether the last line had a backslash outside of quotes, which begins a command of psql.
    """

    def __init__(self) -> None:
        self.met_command = False
        self._text = bytearray()
        self._quote: bytes | None = None
        self._comments = 0

    @property
    def begun(self) -> bytes:
        """What there is of the statement that has not ended."""
        return bytes(self._text)

    @property
    def is_complete(self) -> bool:
        """Whether neither a text nor a comment is open."""
        return self._quote is None and not self._comments

    @property
    def is_between(self) -> bool:
        """Whether no statement has begun."""
        return self.is_complete and not self._text.strip()

    def ended_by(self, line: bytes) -> Iterator[bytes]:
        """The statements that end in the next line of the script."""
        self.met_command = False
        place = 0
        while place < len(line):
            if self._comments:
                place = self._after_comment_edge(line, place)
            elif self._quote is not None:
                place = self._after_quote(line, place, self._quote)
            elif (found := _OPENING.search(line, place)) is None:
                self._keep(line[place:])
                return
            else:
                self._keep(line[place : found.start()])
                place = found.end()
                if found[0] == b";":
                    yield bytes(self._text)
                    self._text.clear()
                else:
                    self._open(found[0])

    def _open(self, token: bytes) -> None:
        self._keep(b" ")
        if token == b"/*":
            self._comments = 1
        elif token == b"\\":
            self.met_command = True
        elif not token.startswith(b"--"):
            self._quote = token.lower() if token.endswith(b"'") else token

    def _after_comment_edge(self, line: bytes, place: int) -> int:
        if (edge := _COMMENT_EDGE.search(line, place)) is None:
            return len(line)
        self._comments += 1 if edge[0] == b"/*" else -1
        return edge.end()

    def _after_quote(self, line: bytes, place: int, quote: bytes) -> int:
        """Where the line goes on after the quote that is open; its end, if the quote is open there still."""
        if (closing := _CLOSING.get(quote)) is None:
            start = line.find(quote, place)
            end = None if start < 0 else start + len(quote)
        else:
            found = closing.match(line, place)
            end = None if found is None else found.end()
        if quote == b'"':
            self._keep(line[place:end].rstrip(b'"'))
        if end is None:
            return len(line)
        self._quote = None
        return end

    def _keep(self, text: bytes) -> None:
        self._text += text
        if len(self._text) > 4 * _KEPT_BYTES:
            self._text[_KEPT_BYTES:-_KEPT_BYTES] = b" "
