"""Addresses that requests come from."""

import ipaddress

from starlette.requests import HTTPConnection

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
