"""Labels and contexts on a command line."""

import pytest

from cli.key_values import key_values, label_changes
from embedded.errors import CommandError


def test_keys_have_values_when_they_are_written_with_an_equals_sign() -> None:
    assert key_values(["a=1", "b=", "c=d=e"]) == {"a": "1", "b": "", "c": "d=e"}


def test_labels_are_set_or_removed_when_a_dash_follows_the_key() -> None:
    assert label_changes(["a=1", "b-", "c=x-"]) == {"a": "1", "b": None, "c": "x-"}


@pytest.mark.parametrize("text", ["", "a", "=1", "-"])
def test_text_is_refused_when_it_has_no_key_or_no_value(text: str) -> None:
    with pytest.raises(CommandError, match="must be a key and a value"):
        label_changes([text])
