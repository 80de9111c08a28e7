"""Which servers clients may name, and which addresses these may lead to."""

import pytest

from ods.registry.connection_strings.allowed_hosts import AllowedHosts
from ods.registry.connection_strings.connection_string import ConnectionString

_ALLOWED = AllowedHosts(
    "One.example.org, two.example.org:6432, *.three.example.org, 10.1.0.0/16, 192.168.1.1:6432,"
    " [fd00::1]:5432, fd01::/16,"
)


def _allows(servers: str) -> bool:
    return all(map(_ALLOWED.allow, ConnectionString.parse(servers).endpoints))


@pytest.mark.parametrize(
    "servers",
    [
        *("host=one.example.org", "host=ONE.example.org;port=99", "host=two.example.org:6432"),
        *(
            "host=a.b.three.example.org",
            "host=10.1.2.3",
            "host=::ffff:10.1.2.3",
            "host=192.168.1.1;port=6432",
        ),
        *("host=[fd00::1]", "host=fd00:0::0001", "host=fd01::9", "host=one.example.org,10.1.2.3:7"),
    ],
)
def test_server_is_allowed_when_the_setting_names_it(servers: str) -> None:
    assert _allows(servers)


@pytest.mark.parametrize(
    "servers",
    [
        *("host=other.example.org", "host=one.example.org.", "host=xone.example.org", "host=two.example.org"),
        *("host=three.example.org", "host=xthree.example.org", "host=/run/.three.example.org", "host=/tmp"),
        *("host=@.three.example.org", "host=a@b.three.example.org", "host=10.2.0.1", "host=0x0a010203"),
        *("host=10.1.513", "host=167838211", "host=012.1.2.3", "host=192.168.1.1", "host=[fd00::1]:5433"),
        *(
            "host=::ffff:10.2.0.1",
            "host=one.example.org,127.0.0.1",
            "host=127.0.0.1",
            "host=..three.example.org",
        ),
    ],
)
def test_server_is_not_allowed_when_the_setting_does_not_name_it(servers: str) -> None:
    assert not _allows(servers)


@pytest.mark.parametrize("address", ["8.8.8.8", "2001:4860:4860::8888", "10.1.255.255", "::ffff:10.1.2.3"])
def test_name_may_lead_to_an_address_when_that_is_public_or_named(address: str) -> None:
    assert _ALLOWED.allow_address(address, 5432)


@pytest.mark.parametrize(
    "address",
    [
        *(
            "127.0.0.1",
            "0.0.0.1",
            "10.2.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.100.100.200",
        ),
        *(
            "168.63.129.16",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1%eth0",
            "ff02::1",
        ),
        *("fd00:ec2::254", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "2002:7f00:1::"),
        *("::127.0.0.1", "::ffff:0:127.0.0.1", "64:ff9b:1::7f00:1", "192.88.99.1", "fec0::1", "192.0.0.192"),
        "no address",
    ],
)
def test_name_may_not_lead_to_an_address_when_that_is_private_and_not_named(address: str) -> None:
    assert not _ALLOWED.allow_address(address, 5432)
