"""Which connection strings are taken for such that Npgsql can read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ods.registry.connection_strings.npgsql import can_read, connection_string_errors


@pytest.mark.parametrize(
    "text",
    [
        "host=test;port=90;username=test;password=test;database=X;pooling=false",
        "Host=h",
        "Server=h;Port=5432;DB=x;User Id=u;PWD=p",
        "SERVER=h;userid=u;USER NAME=u;UID=u;psw=p",
        "Host=h;SSL Mode=Require;Trust Server Certificate=True;SslMode=VerifyFull;Root Certificate=/a b.pem",
        "Host=h;Maximum Pool Size=9;MinPoolSize=0;Connection Lifetime=60;Timeout=5;Command Timeout = 30",
        "Host=h;Application Name='a;b=c';Search Path=\"x,y\";Options=-c a=b",
        "host=h;internal command timeout=-1;keepalive=;pooling=",
        "Host=h;Load Balance Hosts=true;Target Session Attributes=prefer-standby;Include Error Detail=false;",
        "; host = h ;; database=a b ; ",
        "database=X",
        "Host=a:5433,b;Port=6000",
        "Host=[::1]:5433",
        "host=h;timeout= +5 ",
        "host=h;timeout='-1'",
    ],
)
def test_string_is_valid_when_npgsql_knows_its_keywords(text: str) -> None:
    assert can_read(text)
    assert connection_string_errors(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "WrongConnection",
        ";",
        "=",
        "host",
        "host=h;x",
        "host=h;nonsense=1",
        "Data Source=(local);Initial Catalog=EdFi_Ods;Integrated Security=True;Encrypt=False",
        "postgresql://u:p@h/d",
        "host=h;port=ninety",
        "host=h;port=5e3",
        "host=h;timeout=1.5",
        "host=h;pooling=maybe",
        "host=h;password='open",
        'host=h;password="a"b',
        "hos t=h",
        "user=u;host=h",
        "user  id=u;host=h",
        "host=h;\u212aeepalive=1",
        "host=a:ninety",
        "host=a,,b",
        "host=h;port=0",
        "host=h;timeout=2147483648",
        "host=h;timeout=''",
        "host=h;pooling=''",
        "host=h;timeout=5=5",
        "host==h",
        'host=h;password=6"',
    ],
)
def test_string_is_not_valid_when_npgsql_could_not_read_it(text: str) -> None:
    assert not can_read(text)
    (fault,) = connection_string_errors(text)
    assert fault.startswith("The connection string is not valid.")


@given(st.text(max_size=300))
def test_string_is_judged_without_being_told_when_it_is_any_text(text: str) -> None:
    faults = connection_string_errors(f"password=hidden-{text}")
    assert len(faults) <= 1
    assert "hidden" not in "".join(faults)


def test_string_is_judged_soon_when_it_is_made_to_take_long() -> None:
    for text in (
        "a" + " " * 1_000_000,
        "a=" + " " * 1_000_000 + "x",
        ";" * 1_000_000,
        'a="' + '""' * 500_000,
    ):
        assert connection_string_errors(f"host=h;{text}=") == [
            "'Connection String' is too long to be kept. Leave out what has a default."
        ]
    for text in ("a" + " " * 1000, "a=" + " " * 990 + "x", ";" * 1000, 'a="' + '""' * 490):
        assert not can_read(f"{text}'")
