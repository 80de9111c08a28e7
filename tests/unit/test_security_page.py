"""The page of OWASP ASVS 5.0.0: every requirement of levels 1 and 2 is there, with what meets it."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text()
LEVELS = """
1.1 22    1.2 1111122223    1.3 112222222223    1.4 222    1.5 123
2.1 122    2.2 112    2.3 12223    2.4 23
3.1 3    3.2 113    3.3 12223    3.4 11222233    3.5 11122333    3.6 3    3.7 22333
4.1 12233    4.2 23333    4.3 22    4.4 1222
5.1 2    5.2 112333    5.3 113    5.4 222
6.1 122    6.2 111111112222    6.3 11223333    6.4 112233    6.5 22222333    6.6 2223    6.7 33    6.8 2222
7.1 222    7.2 1111    7.3 22    7.4 11222    7.5 223    7.6 22
8.1 1233    8.2 1123    8.3 133    8.4 23
9.1 111    9.2 1222
10.1 22    10.2 223    10.3 22223    10.4 1111122222233333    10.5 22222    10.6 22    10.7 222
11.1 2233    11.2 22233    11.3 11233    11.4 1222    11.5 23    11.6 23    11.7 33
12.1 12233    12.2 11    12.3 22223
13.1 2333    13.2 222223    13.3 2233    13.4 1222233
14.1 22    14.2 12223333    14.3 122
15.1 12233    15.2 12233    15.3 1222222    15.4 3333
16.1 2    16.2 22222    16.3 2222    16.4 222    16.5 2223
17.1 23    17.2 22223333    17.3 22
"""
"""Of each section, the level of each of its requirements, in their order."""
REQUIREMENTS = [
    (f"{section}.{number}", int(level))
    for section, levels in re.findall(r"(\d+\.\d+) (\d+)", LEVELS)
    for number, level in enumerate(levels, 1)
]
ROW = re.compile(r"^\| (\d+\.\d+\.\d+) \| (\d) \| (.+?) \| (.+) \|$", re.MULTILINE)
ROWS = ROW.findall(PAGE)
NAMED = re.compile(r"`([\w.-]+(?:/[\w.-]+)*)(?:::(\w+))?`")
PATH = re.compile(r".*/.*|.*\.(py|md|lock|toml|example)|Makefile|Dockerfile|\.dockerignore")
LINK = re.compile(r"\]\([\w./-]+#[\w-]+\)")
MOST_WORDS = 12


def test_levels_are_those_of_the_standard() -> None:
    assert [[level for _, level in REQUIREMENTS].count(level) for level in (1, 2, 3)] == [70, 183, 92]


def test_every_requirement_of_levels_1_and_2_has_a_row() -> None:
    assert [(number, int(level)) for number, level, _, _ in ROWS] == [it for it in REQUIREMENTS if it[1] < 3]


@pytest.mark.parametrize(("number", "requirement", "answer"), [(row[0], row[2], row[3]) for row in ROWS])
def test_requirement_is_met_by_what_is_there_or_does_not_apply(
    number: str, requirement: str, answer: str
) -> None:
    assert number
    assert len(requirement.split()) <= MOST_WORDS
    files = [(ROOT / path, test) for path, test in NAMED.findall(answer) if is_path(path)]
    for path, test in files:
        assert path.is_file(), path
        assert not test or f"def {test}(" in path.read_text(), test
    assert files or LINK.search(answer) or answer.startswith("does not apply: "), answer


def is_path(named: str) -> bool:
    """Whether it names a file, and no setting, header or word."""
    return bool(PATH.fullmatch(named))
