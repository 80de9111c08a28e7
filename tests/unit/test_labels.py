"""The rules of labels, at their limits."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ods.registry.instances.attributes import MAX_LABELS, is_label_key, is_label_value, label_errors, merged

DOMAIN = f"{'d' * 63}.{'e' * 63}.{'f' * 63}.{'g' * 61}"
"""253 characters."""


@pytest.mark.parametrize(
    "key",
    ["a", "A", "0", "a.b-c_D", "x" * 63, "example.org/a", "e/a", "0-0.1/a", f"{DOMAIN}/{'x' * 63}"],
)
def test_key_is_accepted_when_kubernetes_would_accept_it(key: str) -> None:
    assert is_label_key(key)


@pytest.mark.parametrize(
    "key",
    [
        *(
            "",
            "x" * 64,
            "-a",
            "a-",
            ".a",
            "a_",
            "a b",
            "a:b",
            "a=b",
            "a,b",
            "ä",
            "a\n",
            "\na",
            "a\x00",
            "\ud800",
        ),
        *(
            "/a",
            "a/",
            "a/b/c",
            "Example.org/a",
            "-e/a",
            "e-/a",
            "e..f/a",
            ".e/a",
            "e_f/a",
            f"{DOMAIN}h/a",
            "a/ä",
        ),
    ],
)
def test_key_is_refused_when_kubernetes_would_refuse_it(key: str) -> None:
    assert not is_label_key(key)


@pytest.mark.parametrize("value", ["", "a", "255901", "a.b-c_D", "x" * 63])
def test_value_is_accepted_when_it_is_empty_or_a_name(value: str) -> None:
    assert is_label_value(value)


@pytest.mark.parametrize("value", ["x" * 64, "-a", "a.", " ", "a b", "a/b", "é", "a\n", "\x00"])
def test_value_is_refused_when_it_is_no_name(value: str) -> None:
    assert not is_label_value(value)


@given(text=st.text())
def test_text_is_a_value_only_if_it_has_nothing_but_what_kubernetes_allows(text: str) -> None:
    allowed = re.fullmatch(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?", text, re.ASCII)
    assert is_label_value(text) is bool(allowed and len(text) <= 63)


@pytest.mark.parametrize("labels", [[], "a=b", 5, True])
def test_labels_are_refused_when_they_are_no_object(labels: object) -> None:
    assert label_errors(labels) == ["'Labels' must be an object."]


def test_labels_are_refused_when_there_are_more_than_twenty() -> None:
    labels: dict[str, str | None] = {f"key{number}": "" for number in range(MAX_LABELS)}
    assert label_errors(labels) == []
    assert label_errors(labels | {"removed": None}, removable=True) == []
    assert label_errors(labels | {"more": ""}) == ["'Labels' must be 20 labels or fewer: there are 21."]


def test_each_fault_is_told_when_several_labels_are_wrong() -> None:
    faults = label_errors({"-": "x", "a": "y z", "b": 5, "c": None})
    assert [fault.partition("'")[2].partition("'")[0] for fault in faults] == ["-", "a", "b", "c"]
    assert label_errors({"c": None}, removable=True) == []


def test_no_more_than_twenty_faults_are_told_when_all_of_many_labels_are_wrong() -> None:
    assert len(label_errors({f"-{number}": 5 for number in range(1000)})) == MAX_LABELS + 1


def test_message_is_printable_when_a_key_is_not() -> None:
    (fault,) = label_errors({"\ud800\x1b[2J" + "x" * 500: "y"})
    assert fault.isprintable()
    assert len(fault) < 300


def test_labels_are_set_and_removed_and_others_stay_when_changes_are_merged() -> None:
    assert merged({"a": "1", "b": "2"}, {"b": None, "c": "3", "d": None}) == {"a": "1", "c": "3"}
