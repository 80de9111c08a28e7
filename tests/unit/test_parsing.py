"""Reading what clients send: properties in any case, numbers as numbers or as text."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.http.parsing import MAX_INT32, Properties, whole_number
from api.http.problems import ProblemError
from ods.registry.storage.rules import is_storable


@pytest.mark.parametrize(
    "spelled", ["databaseTemplate", "DatabaseTemplate", "DATABASETEMPLATE", "databasetemplate"]
)
def test_property_is_found_when_its_name_is_in_another_case(spelled: str) -> None:
    properties: Properties[Any] = Properties({spelled: "Minimal", "unknown": None})
    assert properties["databaseTemplate"] == "Minimal"
    assert properties.get("DatabaseTemplate") == "Minimal"
    assert "DATABASEtemplate" in properties
    assert properties.get("name") is None


def test_property_is_refused_when_it_comes_in_several_cases_with_several_values() -> None:
    assert dict(Properties({"name": "a", "NAME": "a"})) == {"name": "a"}
    with pytest.raises(ProblemError, match="The body has a member twice"):
        Properties({"name": "a", "NAME": "b"})


@given(number=st.integers(-MAX_INT32, MAX_INT32))
def test_number_is_read_when_it_comes_as_number_or_as_text(number: int) -> None:
    assert whole_number(number) == number
    assert whole_number(str(number)) == number


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, False, 1.0, [], {}, "", " ", "x", "1.5", "1e3", "0x1", " 1", "1_0", "+1", "٣"),
        *(MAX_INT32 + 1, -MAX_INT32 - 2, str(MAX_INT32 + 1), "9" * 5000),
    ],
)
def test_nothing_is_read_when_a_value_is_no_number_that_a_column_holds(value: object) -> None:
    assert whole_number(value) is None


@pytest.mark.parametrize(
    ("text", "storable"), [("", True), ("ä🦆", True), ("a\x00", False), ("\ud800", False), ("\udfffx", False)]
)
def test_text_is_storable_when_postgresql_can_hold_it(text: str, storable: bool) -> None:  # noqa: FBT001 - a parameter
    assert is_storable(text) is storable
