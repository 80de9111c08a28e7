"""Npgsql connection strings: `host=…;port=…;database=…`, the form the ODS/API reads.

They are read as Npgsql reads them, on top of ADO.NET's `DbConnectionStringBuilder`:

* A value with `;`, outer blanks or control characters stands in double or single quotes, where the quote
  itself is doubled. A plain value neither begins nor ends with a quote.
* Of a keyword that is repeated, in whatever spelling, the last value counts. One without a value, as in
  `database=`, takes away what was said before; `database=""` is an empty value.
* `host` may name several servers, separated by commas, and the port of each: `a:5433`, `[::1]:5433`. It may
  also be the folder of a Unix-domain socket.
"""

import ipaddress
import re
from dataclasses import dataclass
from typing import NamedTuple, Self, TypeAlias

_BLANKS = "\t\n\v\f\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
"""What .NET takes for white space; Python's `\\s` has four control characters more."""
_CONTROLS = "\0-\x08\x0e-\x1f\x7f-\x84\x86-\x9f"
"""Control characters that are no blanks."""

# A doubled `=` would be part of a keyword: none that Npgsql knows has one.
_PAIR = re.compile(
    rf"""[;{_BLANKS}]*(?P<key>[^=;{_BLANKS}{_CONTROLS}][^=;{_CONTROLS}]*?)[{_BLANKS}]*=(?!=)[{_BLANKS}]*
        (?: "(?P<double>(?:[^"\0]|"")*)" | '(?P<single>(?:[^'\0]|'')*)'
          | (?P<plain>[^;"'{_BLANKS}{_CONTROLS}](?:[^;{_CONTROLS}]*[^;"'{_BLANKS}{_CONTROLS}])?)? )
        [{_BLANKS}]*(?:;|\Z)""",
    # In character classes, blanks and `#` stand for themselves.
    re.VERBOSE,
)
_END = re.compile(rf"[;{_BLANKS}]*\Z")
_NEEDS_QUOTES = re.compile(r"""[;="'\x00-\x1f\x7f-\x9f]|\A\s|\s\Z|\A\Z""")
_INTEGER = re.compile(r"[\t-\r ]*([+-]?0*[0-9]{1,10})[\t-\r ]*")
_LEAST, _GREATEST = -(2**31), 2**31 - 1

_DATABASE_KEYS = ("database", "db")
_HOST_KEYS = ("host", "server")
_PORT_KEYS = ("port",)
_USER_KEYS = ("username", "user name", "userid", "user id", "uid")
_PASSWORD_KEYS = ("password", "pwd", "psw")
_SSL_KEYS = ("ssl mode", "sslmode")
_DEFAULT_PORT = 5432
_LAST_PORT = 65_535

Pairs: TypeAlias = tuple[tuple[str, str | None], ...]
"""Keywords, as they are written, and their values; None where there is none."""


class InvalidConnectionStringError(ValueError):
    """The text is not a list of `key=value` pairs that names a host."""


class Endpoint(NamedTuple):
    """A server: its host in one of many spellings, without brackets around an IPv6 address, and its port."""

    host: str
    port: int

    def __str__(self) -> str:
        """Both, as messages name the server."""
        return f"{self.host}:{self.port}"


@dataclass(frozen=True)
class ConnectionString:
    """The keywords of a connection string, in their order."""

    pairs: Pairs

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `text`."""
        string = cls(read_pairs(text))
        _ = string.endpoints
        return string

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """The servers, in their order."""
        return endpoints(self.pairs)

    @property
    def database(self) -> str | None:
        """Name of the database."""
        return _value(self.pairs, _DATABASE_KEYS)

    @property
    def login(self) -> tuple[str, str]:
        """User and password; empty if there are none."""
        return (_value(self.pairs, _USER_KEYS) or "", _value(self.pairs, _PASSWORD_KEYS) or "")

    @property
    def ssl_mode(self) -> str | None:
        """The `SSL Mode`; None if there is none."""
        return _value(self.pairs, _SSL_KEYS)

    def with_database(self, database: str) -> Self:
        """The same string with another database."""
        others = tuple(pair for pair in self.pairs if pair[0].lower() not in _DATABASE_KEYS)
        return type(self)((*others, ("database", database)))

    def __str__(self) -> str:
        return ";".join(f"{key}={_quoted(value)}" for key, value in self.pairs)

    def __repr__(self) -> str:
        return f"ConnectionString({', '.join(key for key, _ in self.pairs)})"


def read_pairs(text: str) -> Pairs:
    """The keywords and values in `text`, also those that Npgsql does not know."""
    pairs, position = [], 0
    while not _END.match(text, position):
        match = _PAIR.match(text, position)
        if match is None:
            raise InvalidConnectionStringError("a connection string is a list of key=value pairs")
        pairs.append((match["key"], _unquoted(match)))
        position = match.end()
    return tuple(pairs)


def endpoints(pairs: Pairs) -> tuple[Endpoint, ...]:
    """The servers that `pairs` name, in their order."""
    named = _value(pairs, _HOST_KEYS) or ""
    said = _value(pairs, _PORT_KEYS)
    port = _DEFAULT_PORT if said is None else _port(said)
    if "," not in named and named.startswith(("/", "@")):
        return (Endpoint(named, port),)  # a socket, whose name may hold a colon
    return tuple(_endpoint(host.strip(), port) for host in named.split(","))


def _endpoint(host: str, port: int) -> Endpoint:
    """What `host` names; `port` counts if it has none of its own."""
    before, colon, after = host.rpartition(":")
    if colon and (":" not in before or before.endswith("]")):
        host, port = before, _port(after)
    if not host.strip():
        raise InvalidConnectionStringError("the connection string names no host, or an empty one")
    return Endpoint(_normalized(host), port)


def _normalized(host: str) -> str:
    """`host` in the one spelling that is compared: it is the same server in any case of letters."""
    if host.startswith(("/", "@")):
        return host
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        return host.lower()


def read_integer(text: str) -> int | None:
    """The integer of 32 bits that .NET reads in `text`; None if it reads none."""
    match = _INTEGER.fullmatch(text)
    return int(match[1]) if match and _LEAST <= int(match[1]) <= _GREATEST else None


def _port(text: str) -> int:
    port = read_integer(text)
    if port is None or not 1 <= port <= _LAST_PORT:
        raise InvalidConnectionStringError("the connection string names a port that cannot be used")
    return port


def _value(pairs: Pairs, keys: tuple[str, ...]) -> str | None:
    """The value that counts for a keyword with the spellings `keys`: the last one."""
    return next((value for key, value in reversed(pairs) if key.lower() in keys), None)


def _unquoted(match: re.Match[str]) -> str | None:
    if match["double"] is not None:
        return match["double"].replace('""', '"')
    if match["single"] is not None:
        return match["single"].replace("''", "'")
    return match["plain"]


def _quoted(value: str | None) -> str:
    if value is None:
        return ""
    return '"' + value.replace('"', '""') + '"' if _NEEDS_QUOTES.search(value) else value
