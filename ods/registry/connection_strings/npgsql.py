"""Which connection strings Npgsql, the driver of the ODS/API, can read."""

from collections.abc import Callable, Mapping

from ods.registry.connection_strings.connection_string import (
    InvalidConnectionStringError,
    Pairs,
    endpoints,
    read_integer,
    read_pairs,
)
from ods.registry.connection_strings.encryption import fits_column
from ods.registry.storage.rules import is_blank, is_storable

_INVALID = (
    "The connection string is not valid."
    " Write it as host=…;port=…;username=…;password=…;database=…, with keywords that Npgsql knows."
)
_HOST_KEYS = {"host", "server"}
_TEXTS = (
    "application name, array nullability mode, channel binding, client certificate, client certificate key,"
    " client encoding, database, db, ef admin database, ef template database, encoding, gss encryption mode,"
    " host, integrated security, kerberos service name, options, passfile, password, psw, pwd, require auth,"
    " root certificate, search path, server, server compatibility mode, ssl certificate, ssl key, ssl mode,"
    " ssl negotiation, ssl password, target session attributes, timezone, uid, user id, user name, username"
)
_NUMBERS = (
    "auto prepare min usages, buffer size, cancellation timeout, command timeout, connection idle lifetime,"
    " connection lifetime, connection pruning interval, host recheck seconds, internal command timeout,"
    " keepalive, load balance timeout, max auto prepare, max pool size, maximum pool size, min pool size,"
    " minimum pool size, port, read buffer size, socket receive buffer size, socket send buffer size,"
    " tcp keepalive interval, tcp keepalive time, timeout, write buffer size,"
    " write coalescing buffer threshold bytes, write coalescing delay us"
)
_SWITCHES = (
    "check certificate revocation, convert infinity datetime, enlist, include error detail,"
    " include error details, include failed batched statement, include realm, load balance hosts,"
    " load table composites, log parameters, multiplexing, no reset on close, persist security info, pooling,"
    " tcp keepalive, trust server certificate, use perf counters, use ssl stream"
)


def connection_string_errors(text: str | None) -> list[str]:
    """What keeps `text` from being stored and used as a connection string, in messages for the client."""
    if text is None or is_blank(text):
        return ["'Connection String' must not be empty."]
    if not is_storable(text):
        return [_INVALID]
    # The length before the rest: reading may take the square of it.
    if not fits_column(text):
        return ["'Connection String' is too long to be kept. Leave out what has a default."]
    return [] if can_read(text) else [_INVALID]


def can_read(text: str) -> bool:
    """Whether `text` is a list of keywords that Npgsql knows, with values that it can use."""
    try:
        pairs = read_pairs(text)
        if any(key.lower() in _HOST_KEYS for key, _ in pairs):
            endpoints(pairs)
    except InvalidConnectionStringError:
        return False
    return bool(pairs) and _are_usable(pairs)


def _are_usable(pairs: Pairs) -> bool:
    # Outside ASCII, letters have other cases in Python than in .NET.
    return all(
        key.isascii() and (is_usable := _KEYWORDS.get(key.lower())) and (value is None or is_usable(value))
        for key, value in pairs
    )


def _any(_: str) -> bool:
    return True


def _is_number(value: str) -> bool:
    return read_integer(value) is not None


def _is_switch(value: str) -> bool:
    return value.strip().lower() in {"true", "false"}


_KEYWORDS: Mapping[str, Callable[[str], bool]] = {
    spelling: is_usable
    for keywords, is_usable in ((_TEXTS, _any), (_NUMBERS, _is_number), (_SWITCHES, _is_switch))
    for keyword in keywords.split(", ")
    for spelling in (keyword, keyword.replace(" ", ""))
}
