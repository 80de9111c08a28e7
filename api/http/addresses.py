"""Addresses that requests come from, and those that clients reach the service at."""

import ipaddress

from starlette.requests import HTTPConnection
from starlette.types import Scope

FORWARDED_HOST = "forwarded_host"
"""In the state of a request: the host that the client has named to a proxy which the operator has named."""

_SUBSCRIBER_BITS = 64  # an IPv6 client chooses the rest of its address itself

_LONGEST_ADDRESS = 64  # a proxy may forward anything as one
_UNKNOWN = "unknown"


def peer(connection: HTTPConnection) -> str:
    """The address the request comes from, as the server sees it: that of the client, or of its proxy."""
    return connection.client.host[:_LONGEST_ADDRESS] if connection.client else _UNKNOWN


def subscriber(address: str) -> str:
    """Where the sender at `address` may have other addresses as well: of IPv6 its /64, of IPv4 itself."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return address
    if parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((int(parsed), _SUBSCRIBER_BITS), strict=False))


def hosts(connection: HTTPConnection) -> list[str]:
    """The names that the request has for the service: its `Host`, and the one that its proxy was sent."""
    forwarded = connection.scope["state"].get(FORWARDED_HOST)
    named = connection.headers.get("host", "")
    return [named] if forwarded is None else [named, forwarded]


def prefix_of(scope: Scope) -> str:
    """The path that the service is mounted at, as in `/ods`; empty if it has its host for itself."""
    prefix: str = scope.get("root_path", "")
    return prefix.rstrip("/")


def public_url(connection: HTTPConnection, path: str) -> str:
    """The address of `path`, with the scheme, host and prefix that the client has used."""
    scheme, host = connection.scope["scheme"], hosts(connection)[-1]
    return f"{scheme}://{host}{prefix_of(connection.scope)}{path}"
