"""Connection strings, read as Npgsql and ADO.NET read them; `read_by_ado_net` is an independent reader."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ods.registry.connection_strings.connection_string import (
    ConnectionString,
    Endpoint,
    InvalidConnectionStringError,
)

keys = st.from_regex(r"[A-Za-z]+( [A-Za-z]+)?", fullmatch=True).filter(
    lambda key: key.lower() not in {"host", "server", "port", "database", "db"}
)
values = st.text(st.characters(exclude_characters="\0"), max_size=40)
strings = st.lists(st.tuples(keys, values), max_size=5).flatmap(
    lambda pairs: st.permutations([("Host", "h"), *pairs]).map(
        lambda shuffled: ConnectionString(tuple(shuffled))
    )
)


def read_by_ado_net(text: str) -> list[tuple[str, str]]:
    pairs, rest = [], text
    while rest := rest.lstrip("; "):
        key, _, rest = rest.partition("=")
        if rest[:1] in {'"', "'"} and rest:
            value, rest = _quoted(rest)
        else:
            value, _, rest = rest.partition(";")
            assert value == value.strip()
            assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in value)
        pairs.append((key, value))
    return pairs


def _quoted(text: str) -> tuple[str, str]:
    quote, end = text[0], 1
    while text[end] != quote or text[end + 1 : end + 2] == quote:
        end += 2 if text[end] == quote else 1
    rest = text[end + 1 :]
    assert rest[:1] in {"", ";"}
    return text[1:end].replace(quote * 2, quote), rest


@given(strings)
def test_every_value_is_read_back_when_the_string_was_written(string: ConnectionString) -> None:
    assert ConnectionString.parse(str(string)) == string


@given(strings)
def test_ado_net_reads_the_same_values_when_the_string_was_written(string: ConnectionString) -> None:
    assert read_by_ado_net(str(string)) == list(string.pairs)


@given(strings, values)
def test_only_the_database_changes_when_it_is_replaced(string: ConnectionString, database: str) -> None:
    replaced = ConnectionString.parse(str(string.with_database("first").with_database(database)))
    assert replaced.pairs == (*string.pairs, ("database", database))


@pytest.mark.parametrize("key", ["database", "Database", "DB", "db"])
def test_old_database_is_gone_when_it_is_replaced(key: str) -> None:
    string = ConnectionString.parse(f"host=h;{key}=old;port=1")
    assert str(string.with_database("new")) == "host=h;port=1;database=new"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("host=h;password=plain", "plain"),
        ("host=h; password = two words ;", "two words"),
        ("host=h;password=a=b==", "a=b=="),
        ("host=h;password=it's;", "it's"),
        ("host=h;password='6\"'", '6"'),
        ("host=h;password='a;b'", "a;b"),
        ('host=h;password="a;b";', "a;b"),
        ("host=h;password='it''s'", "it's"),
        ('host=h;password="say ""no"""', 'say "no"'),
        ('host=h;password="it\'s"', "it's"),
        ("host=h;password='  '", "  "),
        ("host=h;password=", None),
        ("host=h;password= ;", None),
        ('host=h;password=""', ""),
        ("host=h;password= =x", "=x"),
        ("host=h;password=tab\tinside", "tab\tinside"),
        ("host=h;\u00a0password\u3000=\u2003x\x85", "x"),
        ('host=h;password="line\nbreak \x1f"', "line\nbreak \x1f"),
        ("host=h;;password=x;; ;", "x"),
        ("host=h;\n password=x\n", "x"),
    ],
)
def test_value_is_read_as_ado_net_reads_it_when_it_is_quoted_or_plain(text: str, value: str | None) -> None:
    assert dict(ConnectionString.parse(text).pairs)["password"] == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        ";",
        "WrongConnection",
        "host",
        "=h",
        "host=h;secret",
        "host=h;password='secret",
        'host=h;password="secret',
        "host=h;password='secret' more",
        "host=h;=secret",
        "port=5432;password=secret",
        "hostname=secret",
        "host==h;password=secret",
        "host=h;password==secret",
        "host=h;password=it's'",
        'host=h;password=secret"',
        "host=h;password=sec\x1fret",
        "host=h;pass\x1fword=secret",
        "\x1fhost=h;password=secret",
        "host=h;password=secret\x1f",
        "host=h;password='sec\0ret'",
        "host=;password=secret",
        "host=h;server=;password=secret",
        "host='  ';password=secret",
        "host=a,,b;password=secret",
        "host=a,;password=secret",
        "host=a:;password=secret",
        "host=a:secret",
        "host=a:0;password=secret",
        "host=a:-1;password=secret",
        "host=a:65536;password=secret",
        "host=a,b:x;password=secret",
        "host=:5433;password=secret",
        "host=[::1]:;password=secret",
        "host=h;port=secret",
        "host=h;port=0;password=secret",
        "host=h;port='';password=secret",
    ],
)
def test_text_is_refused_without_being_told_when_it_is_no_connection_string(text: str) -> None:
    with pytest.raises(InvalidConnectionStringError) as refusal:
        ConnectionString.parse(text)
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize("key", ["host", "Host", "SERVER", "server"])
def test_host_is_found_when_its_key_is_written_in_any_known_way(key: str) -> None:
    assert ConnectionString.parse(f"{key}=h").pairs == ((key, "h"),)


def test_no_value_is_told_when_the_string_is_represented() -> None:
    string = ConnectionString.parse("host=hidden-1;username=hidden-2;password=hidden-3;database=hidden-4")
    assert "hidden" not in repr(string)
    assert "hidden" not in f"{[string]}"
    assert "password" in repr(string)


@pytest.mark.parametrize(
    ("text", "endpoints"),
    [
        ("host=a", [("a", 5432)]),
        ("host=a;port=5433", [("a", 5433)]),
        ("host=a:5433", [("a", 5433)]),
        ("port=1;host=a:5433;port=2", [("a", 5433)]),
        ("host='a: 5433 '", [("a", 5433)]),
        ("host=a;port=5433;port=", [("a", 5432)]),
        ("host=a,b:5433", [("a", 5432), ("b", 5433)]),
        ("host=a , b:5433;port=6000", [("a", 6000), ("b", 5433)]),
        ("host=127.0.0.1:5433", [("127.0.0.1", 5433)]),
        ("host=::1", [("::1", 5432)]),
        ("host=::1;port=5433", [("::1", 5433)]),
        ("host=[::1]", [("::1", 5432)]),
        ("host=[::1]:5433", [("::1", 5433)]),
        ("host=[2001:DB8::1]:5433,2001:db8:0::2", [("2001:db8::1", 5433), ("2001:db8::2", 5432)]),
        ("host=Server.Example", [("server.example", 5432)]),
        ("host=/var/run/PostgreSQL", [("/var/run/PostgreSQL", 5432)]),
        ("host=/var/run/a:b;port=5433", [("/var/run/a:b", 5433)]),
        ("host=@abstract:1", [("@abstract:1", 5432)]),
        ("host=first;SERVER=last", [("last", 5432)]),
        ("server=first;Host=last", [("last", 5432)]),
    ],
)
def test_servers_are_those_that_npgsql_connects_to_when_hosts_are_written_in_any_way(
    text: str, endpoints: list[tuple[str, int]]
) -> None:
    assert ConnectionString.parse(text).endpoints == tuple(Endpoint(*one) for one in endpoints)


@pytest.mark.parametrize(
    ("text", "database", "login"),
    [
        ("database=a;database=b", "b", ("", "")),
        ("DB=a;Database=b", "b", ("", "")),
        ("database=a;db=b", "b", ("", "")),
        ("database=a;DB=", None, ("", "")),
        ("database=a;DB=''", "", ("", "")),
        ("username=a;user id=b", None, ("b", "")),
        ("UID=a;UserId=b;User Name=c", None, ("c", "")),
        ("user name=a;UID=b;username=c", None, ("c", "")),
        ("username=a;uid=;", None, ("", "")),
        ("password=a;PWD=b", None, ("", "b")),
        ("pwd=a;psw=b;Password=c", None, ("", "c")),
        ("password=a;psw=", None, ("", "")),
        ("password='a;b=\"c\"''d'", None, ("", 'a;b="c"\'d')),
    ],
)
def test_last_value_wins_when_a_keyword_is_repeated_in_any_spelling(
    text: str, database: str | None, login: tuple[str, str]
) -> None:
    string = ConnectionString.parse(f"host=h;{text}")
    assert (string.database, string.login) == (database, login)
    assert ConnectionString.parse(str(string)) == string


def test_ssl_mode_is_the_last_one_when_it_is_repeated() -> None:
    assert ConnectionString.parse("host=h;SslMode=Require;SSL Mode=VerifyFull").ssl_mode == "VerifyFull"


def test_every_spelling_of_the_database_is_gone_when_it_is_replaced() -> None:
    string = ConnectionString.parse("DB=a;host=h;Database=b;dB='';DATABASE=c")
    assert str(string.with_database("new")) == "host=h;database=new"


def test_absent_value_stays_absent_and_an_empty_one_empty_when_the_string_is_written() -> None:
    assert str(ConnectionString.parse("host=h;password=;passfile=''")) == 'host=h;password=;passfile=""'
