"""Which connection strings Npgsql, the driver of the ODS/API, can read."""

import re
from collections.abc import Callable, Mapping

from instances.connection_string import InvalidConnectionStringError, read_pairs
from instances.rules import is_blank, is_storable
from instances.secrets import fits_column

_INVALID = (
    "'Connection String' is not valid."
    " Write it as host=…;port=…;username=…;password=…;database=…, with keywords that Npgsql knows."
)
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


def connection_string_faults(text: str | None) -> list[str]:
    """What keeps `text` from being kept and used as a connection string, in words for its author."""
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
    except InvalidConnectionStringError:
        return False
    return bool(pairs) and all(_KEYWORDS.get(key.lower(), _none)(value) for key, value in pairs)


def _any(_: str) -> bool:
    return True


def _none(_: str) -> bool:
    return False


def _is_number(value: str) -> bool:
    return re.fullmatch(r"\s*(-?[0-9]+\s*)?", value) is not None


def _is_switch(value: str) -> bool:
    return value.strip().lower() in {"true", "false", ""}


_KEYWORDS: Mapping[str, Callable[[str], bool]] = {
    spelling: is_usable
    for keywords, is_usable in ((_TEXTS, _any), (_NUMBERS, _is_number), (_SWITCHES, _is_switch))
    for keyword in keywords.split(", ")
    for spelling in (keyword, keyword.replace(" ", ""))
}
