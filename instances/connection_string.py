"""Npgsql connection strings: `host=…;port=…;database=…`, the form the ODS/API reads.

Quoting follows ADO.NET's `DbConnectionStringBuilder`: a value that holds `;`, `=`, quotes, control characters
or outer blanks is written in double quotes, with those inside doubled. Read are also values in single quotes,
plain values with quotes after their first character, and empty places between two `;`.
"""

import re
from dataclasses import dataclass
from typing import Self

_PAIR = re.compile(
    r"""[;\s]*(?P<key>[^=;\s][^=;]*?)\s*=\s*
        (?: "(?P<double>(?:[^"]|"")*)" | '(?P<single>(?:[^']|'')*)' | (?P<plain>(?:[^;"'\s][^;]*?)?) )
        \s*(?:;|\Z)""",
    re.VERBOSE,
)
_NEEDS_QUOTES = re.compile(r"""[;="'\x00-\x1f\x7f-\x9f]|\A\s|\s\Z""")
_DATABASE_KEYS = ("database", "db")
_HOST_KEYS = ("host", "server")
_USER_KEYS = ("username", "user name", "userid", "user id", "uid", "user")
_PASSWORD_KEYS = ("password", "pwd", "psw")
_SSL_KEYS = ("ssl mode", "sslmode")
_DEFAULT_PORT = "5432"


class InvalidConnectionStringError(ValueError):
    """The text is not a list of `key=value` pairs that names a host."""


@dataclass(frozen=True)
class ConnectionString:
    """The keywords of a connection string, in their order."""

    pairs: tuple[tuple[str, str], ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `text`.

        Raises:
            InvalidConnectionStringError: it cannot be read, or it names no host.
        """
        pairs = read_pairs(text)
        if not any(key.lower() in _HOST_KEYS for key, _ in pairs):
            raise InvalidConnectionStringError("the connection string names no host")
        return cls(pairs)

    @property
    def address(self) -> tuple[str, str]:
        """Host and port of the server."""
        return (self._value(_HOST_KEYS) or "", self._value(("port",)) or _DEFAULT_PORT)

    @property
    def database(self) -> str | None:
        """Name of the database."""
        return self._value(_DATABASE_KEYS)

    @property
    def login(self) -> tuple[str, str]:
        """User and password."""
        return (self._value(_USER_KEYS) or "", self._value(_PASSWORD_KEYS) or "")

    @property
    def ssl_mode(self) -> str | None:
        """How the connection is secured."""
        return self._value(_SSL_KEYS)

    def with_database(self, database: str) -> Self:
        """The same string with another database."""
        others = tuple(pair for pair in self.pairs if pair[0].lower() not in _DATABASE_KEYS)
        return type(self)((*others, ("database", database)))

    def _value(self, keys: tuple[str, ...]) -> str | None:
        return next((value for key, value in self.pairs if key.lower() in keys), None)

    def __str__(self) -> str:
        return ";".join(f"{key}={_quoted(value)}" for key, value in self.pairs)

    def __repr__(self) -> str:
        return f"ConnectionString({', '.join(key for key, _ in self.pairs)})"


def read_pairs(text: str) -> tuple[tuple[str, str], ...]:
    """The keywords and values that `text` lists, whatever they are.

    Raises:
        InvalidConnectionStringError: it is no such list.
    """
    pairs, position = [], 0
    while position < len(text.rstrip("; \t\r\n")):
        match = _PAIR.match(text, position)
        if match is None:
            raise InvalidConnectionStringError("a connection string is a list of key=value pairs")
        pairs.append((match["key"], _unquoted(match)))
        position = match.end()
    return tuple(pairs)


def _unquoted(match: re.Match[str]) -> str:
    if match["double"] is not None:
        return match["double"].replace('""', '"')
    if match["single"] is not None:
        return match["single"].replace("''", "'")
    return match["plain"]


def _quoted(value: str) -> str:
    return '"' + value.replace('"', '""') + '"' if _NEEDS_QUOTES.search(value) else value
