"""Which servers, beside the installation's own, a process of ours connects to when a client names them.

Only what `ODS_ALLOWED_ODS_HOSTS` names: hosts, addresses and networks. A name of a host is compared as it is
written, before it is looked up, so that a name that is not allowed is not even looked up. What it leads to is
judged as well: public addresses are allowed by the name, all others (loopback, link-local, private,
multicast, those of a cloud's metadata) only if the setting names them, too.
"""

import ipaddress
import re
from dataclasses import dataclass
from typing import TypeAlias

from ods.registry.connection_strings.connection_string import Endpoint

_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_LABELS = r"[a-z0-9_-]+(\.[a-z0-9_-]+)*"
_NAME = re.compile(_LABELS)
_PATTERN = re.compile(rf"(\*\.)?{_LABELS}")
_WITH_PORT = re.compile(r"(\[(?P<address>[^\]]+)\]|(?P<host>[^:]+))(:(?P<port>[0-9]{1,5}))?")
_LAST_PORT = 65_535
_NOT_PUBLIC = tuple(
    map(
        ipaddress.ip_network,
        (
            # Metadata of Azure, and of Oracle, among others for protocols; a site's own, of old.
            *("168.63.129.16/32", "192.0.0.0/24", "fec0::/10"),
            # Of IPv6, what stands for an address of IPv4: compatible, translated, by 6to4; and its relays.
            *("::/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "192.88.99.0/24"),
        ),
    )
)


@dataclass(frozen=True)
class _Entry:
    """One part of the setting: a name, or a network of one address or more; None as a port: each."""

    name: str
    network: _Network | None
    port: int | None


class AllowedHosts:
    """What the setting names.

    Args:
        text: names of hosts (`*.` for all below a domain), addresses and networks, each with or without a
            port, separated by commas: `reports.example.org:5432, 10.20.0.0/16`.

    Raises:
        ValueError: it is no such list.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._entries = tuple(_entry(part.strip().lower()) for part in text.split(",") if part.strip())

    def allow(self, endpoint: Endpoint) -> bool:
        """Whether a client may name this server; a name is not looked up."""
        address = _address(endpoint.host)
        return any(
            _contains(entry, address) if address is not None else _names(entry, endpoint.host)
            for entry in self._entries
            if entry.port in {None, endpoint.port}
        )

    def allow_address(self, text: str, port: int) -> bool:
        """Whether an allowed name may lead to this address."""
        address = _address(text)
        return address is not None and (
            _is_public(address)
            or any(_contains(entry, address) for entry in self._entries if entry.port in {None, port})
        )


def _entry(text: str) -> _Entry:
    if (network := _network(text)) is not None:
        return _Entry(text, network, None)
    match = _WITH_PORT.fullmatch(text)
    if match is None:
        raise ValueError("it names no host")
    host, port = match["address"] or match["host"], int(match["port"] or _LAST_PORT)
    network = _network(host)
    if (network is None and not _PATTERN.fullmatch(host)) or not 1 <= port <= _LAST_PORT:
        raise ValueError("it names no host, or no port")
    return _Entry(host, network, port if match["port"] else None)


def _network(text: str) -> _Network | None:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        return None


def _address(text: str) -> _Address | None:
    """The address; that of IPv4 for one of IPv6 that is mapped to it."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def _contains(entry: _Entry, address: _Address) -> bool:
    return entry.network is not None and address in entry.network


def _names(entry: _Entry, host: str) -> bool:
    if entry.network is not None or not _NAME.fullmatch(host):  # it may be the path of a socket
        return False
    return host.endswith(entry.name[1:]) if entry.name.startswith("*") else host == entry.name


def _is_public(address: _Address) -> bool:
    known = any(address in network for network in _NOT_PUBLIC)
    return address.is_global and not address.is_multicast and not known
