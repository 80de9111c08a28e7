"""Labels and contexts, as they are typed on a command line and on the console."""

import pytest

from ods.cli.key_values import key_values, label_changes
from ods.console.views.key_values import labels_of
from ods.embedded.errors import CommandError
from ods.registry.storage.errors import InvalidError


def test_keys_have_values_when_they_are_written_with_an_equals_sign() -> None:
    assert key_values(["a=1", "b=", "c=d=e"]) == {"a": "1", "b": "", "c": "d=e"}


def test_labels_are_set_or_removed_when_a_dash_follows_the_key() -> None:
    assert label_changes(["a=1", "b-", "c=x-"]) == {"a": "1", "b": None, "c": "x-"}


@pytest.mark.parametrize("text", ["", "a", "=1", "-"])
def test_text_is_refused_when_it_has_no_key_or_no_value(text: str) -> None:
    with pytest.raises(CommandError, match="must be a key and a value"):
        label_changes([text])


def test_text_is_refused_when_a_key_is_there_twice() -> None:
    for texts in (["a=1", "b=2", "a=3"], ["a=1", "a=1"]):
        with pytest.raises(CommandError, match="The key 'a' is there twice"):
            key_values(texts)
    for texts in (["a=1", "a="], ["a=1", "a-"], ["a-", "a=1"], ["a-", "a-"]):
        with pytest.raises(CommandError, match="The key 'a' is there twice"):
            label_changes(texts)


def test_keys_are_two_when_they_differ_by_case() -> None:
    assert label_changes(["a=1", "A-"]) == {"a": "1", "A": None}


def test_lines_of_the_console_are_refused_when_a_key_is_there_twice() -> None:
    assert labels_of("a=1\nA=2\n", before=["b"]) == {"a": "1", "A": "2", "b": None}
    with pytest.raises(InvalidError) as refused:
        labels_of("a=1\nb=\n a = 2\nc=1\na=3\nc=1")
    assert refused.value.errors == {
        "Labels": ["The key 'a' is there twice. Give it once.", "The key 'c' is there twice. Give it once."]
    }
