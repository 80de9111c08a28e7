"""Names, comments and shares of spare databases, without a server."""

import json
import uuid
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ods.databases.ownership import Owner
from ods.databases.templates.spare_pool import Limits, allot
from ods.databases.templates.spares import Fingerprint, Spare, SpareList, SpareMark, is_spare, new_name

INSTALLATION = "6b1f0f6e-1111-4222-8333-444444444444"
STATE = Fingerprint(16384, 4_294_967_295)
MARK = SpareMark(INSTALLATION, "T", STATE, 1000)
WRITTEN = {"installation": INSTALLATION, "template": "T", "oid": 16384, "xmin": 4_294_967_295, "bytes": 1000}


def found(*templates: str, ready: str = "", unfinished: int = 0) -> SpareList:
    """Closed templates, a ready spare for each letter of `ready`, and unfinished ones."""
    made = [
        Spare(f"{letter}{number}", SpareMark(INSTALLATION, letter, STATE, 1000), invalid=False)
        for number, letter in enumerate(ready)
    ]
    rest = [Spare(f"unfinished{number}", None, invalid=False) for number in range(unfinished)]
    return SpareList([*made, *rest], dict.fromkeys(templates, STATE))


def shares(found: SpareList, limits: Limits, **sizes: int) -> dict[str, str]:
    """The places of each template: `r` for one with a ready spare, `-` for an empty one."""
    places = allot(found, sizes, limits)
    return {template: "".join("r" if spare else "-" for spare in found) for template, found in places.items()}


def test_comment_says_all_when_a_spare_is_ready() -> None:
    assert json.loads(MARK.comment) == WRITTEN | {"generation": None}
    assert json.loads(replace(MARK, template_generation=3).comment) == WRITTEN | {"generation": 3}
    assert Owner.read(MARK.comment) is None


@given(
    st.builds(
        *(SpareMark, st.text(), st.text(), st.builds(Fingerprint, st.integers(), st.integers())),
        *(st.integers(), st.none() | st.integers(0, 2**31 - 1)),
    )
)
def test_mark_is_read_back_when_the_comment_was_written(mark: SpareMark) -> None:
    assert SpareMark.read(mark.comment) == mark


@pytest.mark.parametrize(
    "comment",
    [
        *(None, "", "null", "[]", "{}", "{", "42", "[" * 100_000, MARK.comment[:-1]),
        *(json.dumps(WRITTEN | {name: "x"}) for name in ("oid", "xmin", "bytes")),
        *(json.dumps(WRITTEN | {name: None}) for name in ("oid", "xmin", "bytes")),
        *(json.dumps({key: value for key, value in WRITTEN.items() if key != name}) for name in WRITTEN),
    ],
)
def test_spare_is_unfinished_when_its_comment_is_foreign_or_broken(comment: str | None) -> None:
    assert SpareMark.read(comment) is None


@given(st.uuids())
def test_name_is_private_and_fits_when_a_spare_is_ordered(installation: uuid.UUID) -> None:
    name = new_name(str(installation))
    assert name.startswith(f"ods_spare_{installation.hex[:16]}_")
    assert is_spare(name, None)
    assert is_spare(name, MARK.comment)
    assert not is_spare(name, "District 9")
    assert len(name) <= 63
    assert new_name(str(installation)) != name


def test_every_closed_template_gets_its_number_when_there_is_room() -> None:
    assert shares(found("A", "B", ready="A"), Limits(2, 10, 10**9), A=1, B=1, C=1) == {"A": "r-", "B": "--"}


@pytest.mark.parametrize(
    ("ready", "unfinished", "expected"),
    [
        ("", 0, {"A": "--", "B": "-"}),
        ("AA", 0, {"A": "rr", "B": "-"}),
        ("AAAA", 0, {"A": "rr", "B": "-"}),
        ("BBB", 1, {"A": "-", "B": "r"}),
        ("", 3, {"A": "", "B": ""}),
    ],
)
def test_templates_are_served_fairly_when_the_number_in_all_is_limited(
    ready: str, unfinished: int, expected: dict[str, str]
) -> None:
    there = found("A", "B", ready=ready, unfinished=unfinished)
    assert shares(there, Limits(3, 3, 10**9), A=1000, B=1000) == expected


def test_small_templates_get_what_a_large_one_leaves_when_the_bytes_are_limited() -> None:
    assert shares(found("A", "B", ready="B"), Limits(2, 10, 5000), A=3000, B=1000) == {"A": "-", "B": "r-"}
    assert shares(found("A", "B"), Limits(2, 10, 2000), A=3000, B=1000) == {"A": "", "B": "--"}


@pytest.mark.parametrize("limits", [Limits(0, 10, 10**9), Limits(2, 0, 10**9), Limits(2, 10, 0)])
def test_nothing_is_kept_when_a_limit_is_zero(limits: Limits) -> None:
    assert shares(found("A", ready="A"), limits, A=1) == {"A": ""}
