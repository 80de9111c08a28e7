"""The code and the papers use the field's terms: no private word, and the actor is named."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRODUCT = ("activities", "api", "ods", "workflows", "benchmarks", "deploy", "docs", "tests")
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
# Somewhere in the text of each module that gives such a name: to parse all modules takes seconds.
ANY_NAME = re.compile(
    rf"\b_*(?:{'|'.join(NAMES | PRIVATE_NAMES)})\b|(?<![^\W_])(?i:{'|'.join(PARTS)})(?![^\W_])"
)
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
    text = path.read_text()
    for node in ast.walk(ast.parse(text)) if ANY_NAME.search(text) else ():
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


def prose(path: Path, text: str) -> Iterator[tuple[int, str]]:
    """The lines of a paper; of a module, its comments and the literals in it."""
    if path.suffix != ".py":
        yield from enumerate(text.splitlines(), start=1)
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in {tokenize.COMMENT, tokenize.STRING} or "FSTRING" in tokenize.tok_name[token.type]:
            for number, line in enumerate(token.string.splitlines()):
                yield token.start[0] + number, line


def places(words: re.Pattern[str]) -> list[str]:
    """Where prose of the product has one of the words; modules without any are not split into tokens."""
    patterns = ("*.py", "*.md", "*.sh", "*.sql", "*.yml", "*.toml")
    read = [(path, path.read_text()) for pattern in patterns for path in files(pattern)]
    return [
        place(path, number, f"{match[0]}: {line.strip()}")
        for path, text in read
        if words.search(text)
        for number, line in prose(path, text)
        for match in words.finditer(line)
    ]


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
    found = places(PROSE)
    assert not found, "\n".join(found)


def test_actor_is_named_when_a_text_speaks_of_one() -> None:
    found = places(NOBODY)
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
