"""The code and the papers use the field's terms: no private word, and the actor is named."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRODUCT = (
    *("activities", "api", "backups", "cli", "console", "databases", "doctor", "embedded", "programs"),
    *("registry", "temporal", "tenants", "workflows", "benchmarks", "deploy", "docs", "tests"),
)
THIRD_PARTY = ROOT / "tests" / "deployment" / "compose-spec"

# Names of our own that are wholly this, with or without underscores before them.
NAMES = {
    *("Registry", "Catalog", "see_through", "whole", "tell", "discard", "Turns", "taken"),
    *("SpareStock", "Shelf", "fill", "look", "Made", "Begun", "Tidied", "Swept"),
    *("faults_explained", "faults_reported", "faults_told", "Deed", "deed", "Noting", "trail", "Recorder"),
    *("Serving", "NewInstance", "Answer", "InstanceRequests", "switched_on", "Places", "Authority"),
    *("caller", "sealed", "discretion", "DiscreetFormatter", "composed", "misread", "twin", "but_for"),
    *("apart", "meanwhile", "thorough", "catch_up"),
}
PRIVATE_NAMES = {"_faults"}
# Parts of names, between underscores.
PARTS = {
    *("patience", "turn", "turns", "stock", "stocking", "stocked", "shelf", "shelves", "tidy", "tidying"),
    *("tidied", "settle", "settled", "reroute", "rerouted", "unroute", "unrouted", "sealed", "discreet"),
}
MODULES = {
    *("secrets", "protocol", "launch", "launcher", "stocking", "lives", "looking", "layouts", "spare_hands"),
    *("route", "routes", "test_turns", "test_lives", "test_looking", "test_layouts"),
}
# Words in docstrings, comments, messages and papers. What is plain English in another sense is not here.
PROSE = re.compile(
    r"\b(see_through|patience|stocking|SpareStock|shelf|shelves|deed|Noting|switched_on"
    r"|InstanceRequests|discretion|discreet(ly)?|DiscreetFormatter|misread|but_for|unroutes?d?"
    r"|reroutes?d?|faults_(explained|reported|told)|spare_hands)\b",
    re.IGNORECASE,
)
NOBODY = re.compile(r"\b(somebody|whoever|nobody|anybody|someone|anyone)\b", re.IGNORECASE)
MOST_NOBODIES = 10


def files(pattern: str) -> list[Path]:
    """Every such file of the product but this one and those of third parties."""
    found = [*ROOT.glob(pattern), *(path for folder in PRODUCT for path in (ROOT / folder).rglob(pattern))]
    return sorted(it for it in found if it != Path(__file__) and THIRD_PARTY not in it.parents)


def place(path: Path, line: int, what: str) -> str:
    return f"{path.relative_to(ROOT)}:{line}: {what}"


def own_names(path: Path) -> Iterator[tuple[int, str]]:
    """The names that a module gives: what a library calls its own is not ours to change."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield node.lineno, name
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()):
                yield node.lineno, name
            case ast.Attribute(attr=name, ctx=ast.Store()):
                yield node.lineno, name
            case ast.alias(asname=str(name)):
                yield 0, name


def is_private_word(name: str) -> bool:
    bare = name.lstrip("_")
    return bare in NAMES or name in PRIVATE_NAMES or not PARTS.isdisjoint(bare.lower().split("_"))


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a paper; of a module, its comments and the literals in it."""
    if path.suffix != ".py":
        yield from enumerate(path.read_text().splitlines(), start=1)
        return
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.type in {tokenize.COMMENT, tokenize.STRING} or "FSTRING" in tokenize.tok_name[token.type]:
            for number, line in enumerate(token.string.splitlines()):
                yield token.start[0] + number, line


@cache
def texts() -> list[tuple[Path, int, str]]:
    """Every line of prose of the product, with its file and number."""
    patterns = ("*.py", "*.md", "*.sh", "*.sql", "*.yml", "*.toml")
    paths = [path for pattern in patterns for path in files(pattern)]
    return [(path, number, line) for path in paths for number, line in prose(path)]


def test_no_name_is_a_private_word_when_the_field_has_a_term() -> None:
    found = [
        place(path, line, name)
        for path in files("*.py")
        for line, name in own_names(path)
        if is_private_word(name)
    ]
    found += [place(path, 1, path.stem) for path in files("*.py") if path.stem in MODULES]
    assert not found, "\n".join(found)


def test_tests_of_a_server_are_in_the_folder_of_what_they_test() -> None:
    assert not (ROOT / "tests" / "server").exists()


def test_no_text_uses_a_private_word_when_the_field_has_a_term() -> None:
    found = [
        place(path, number, match[0]) for path, number, line in texts() for match in PROSE.finditer(line)
    ]
    assert not found, "\n".join(found)


def test_actor_is_named_when_a_text_speaks_of_one() -> None:
    found = [
        place(path, number, line.strip()) for path, number, line in texts() for _ in NOBODY.finditer(line)
    ]
    assert len(found) <= MOST_NOBODIES, "\n".join(found)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("somebody", ["somebody"]),
        ("Nobody's", ["Nobody"]),
        ("anyone or whoever", ["anyone", "whoever"]),
        ("no ones, bodies, none, any one", []),
    ],
)
def test_words_without_an_actor_are_found_when_they_stand_alone(text: str, found: list[str]) -> None:
    assert [match[0] for match in NOBODY.finditer(text)] == found
