"""Connection strings, read and written as ADO.NET does; `read_by_ado_net` is an independent reader."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instances.connection_string import ConnectionString, InvalidConnectionStringError

keys = st.from_regex(r"[A-Za-z]+( [A-Za-z]+)?", fullmatch=True).filter(
    lambda key: key.lower() not in {"host", "server", "database", "db"}
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
        ('host=h;password=6"', '6"'),
        ("host=h;password='a;b'", "a;b"),
        ('host=h;password="a;b";', "a;b"),
        ("host=h;password='it''s'", "it's"),
        ('host=h;password="say ""no"""', 'say "no"'),
        ('host=h;password="it\'s"', "it's"),
        ("host=h;password='  '", "  "),
        ("host=h;password=", ""),
        ('host=h;password=""', ""),
        ("host=h;;password=x;; ;", "x"),
        ("host=h;\n password=x\n", "x"),
    ],
)
def test_value_is_read_as_ado_net_reads_it_when_it_is_quoted_or_plain(text: str, value: str) -> None:
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
