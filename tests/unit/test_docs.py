"""The pages: their links, what they name (files, commands, targets, endpoints), and the form of decisions."""

import re
import shlex
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup

from api.app import app_with
from ods.cli.main import _commands
from ods.console.menu import MENU
from ods.console.texts import t
from ods.recovery.compare.findings import DriftKind
from ods.settings.settings import Settings

ROOT = Path(__file__).parents[2]
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "tests").glob("*.md")),
]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
PICTURE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")
MOST_OF_A_PICTURE = 150_000
"""Bytes."""
CODE = re.compile(r"```.*?```|`[^`\n]+`", re.DOTALL)
NAMED_FILE = re.compile(r"`((?:[A-Za-z_-]+/)*[A-Za-z_-]+\.(?:py|md|ya?ml|sql|toml))(?:::?\w+)?`")
MADE_BY_THE_OPERATOR = {"close.sql", "docker-compose.override.yml"}
COMMAND = re.compile(r"(?<![\w/.-])(?:\.venv/bin/)?ods ((?:--tenant \w+ )?[a-z].*)")
SUBSTITUTION = re.compile(r"\$\((.*?)\)")
TARGET = re.compile(r"(?<![\w-])make ([a-z-]+)")
ENDPOINT = re.compile(r"^\| `([A-Z]+) (/[^`]*)` \|", re.MULTILINE)
ROOT_COMMAND = typer.main.get_command(_commands)
SECTIONS = ["Context", "Decision", "Alternatives", "Consequences"]
HEAD = re.compile(
    r"# (?P<number>\d+)\. (?P<title>.+)\n\n"
    r"\* \*\*Status\*\*: (?P<status>(?:.|\n  )+)\n"
    r"\* \*\*Date\*\*: (?P<date>.+)\n\n"
)


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


each_page = pytest.mark.parametrize("page", PAGES, ids=name)
each_decision = pytest.mark.parametrize("page", DECISIONS, ids=name)


def anchors(page: Path) -> set[str]:
    """The fragments by which a page's headings are linked, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def code_lines(page: Path) -> Iterator[str]:
    """Each line of code on a page, without comments, and each piece of code within its text."""
    for code in CODE.findall(page.read_text()):
        for line in code.strip("`").replace("\\\n", " ").splitlines():
            yield re.split(r"\s#\s|\s#$", line)[0]


@each_page
def test_every_link_leads_to_a_page_and_heading(page: Path) -> None:
    prose = CODE.sub("", page.read_text())
    for target in LINK.findall(prose):
        if target.startswith("https://"):
            continue
        path, _, fragment = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.is_file(), target
        assert not fragment or fragment in anchors(linked), target


@each_page
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    for named in NAMED_FILE.findall(page.read_text()):
        if named not in MADE_BY_THE_OPERATOR:
            assert (ROOT / named).is_file() or (page.parent / named).is_file(), named


@each_page
def test_every_command_that_a_page_names_exists_with_its_options(page: Path) -> None:
    for line in code_lines(page):
        for part in (SUBSTITUTION.sub("1", line), *SUBSTITUTION.findall(line)):
            for said in COMMAND.findall(part):
                require_command(said)


def require_command(said: str) -> None:
    """Follow the words of a command from `ods` to its options."""
    for quote in "'\"":
        if (
            said.count(quote) % 2
        ):  # it closes what began before the command, or opens what ends on another line
            said = said.rpartition(quote)[0]
    lexer = shlex.shlex(said, posix=True, punctuation_chars="|&;)")
    lexer.whitespace_split = True
    words = list(lexer)
    if words[0] == "--tenant":
        words = words[2:]
    command = ROOT_COMMAND
    while isinstance(command, TyperGroup) and words and words[0] != "…":
        assert words[0] in command.commands, said
        command = command.commands[words.pop(0)]
    options = {it for parameter in command.params for it in (*parameter.opts, *parameter.secondary_opts)}
    options.add("--help")
    for word in words:
        if re.fullmatch(r"[|&;)]+", word):  # what follows is another command's
            break
        assert not word.startswith("--") or word in options, said


@each_page
def test_every_target_that_a_page_names_is_in_the_makefile(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in code_lines(page):
        assert set(TARGET.findall(line)) <= targets, line


def test_every_page_of_the_menu_has_a_section_with_a_picture() -> None:
    _, *sections = (ROOT / "docs" / "console.md").read_text().split("\n## ")
    found = {section.splitlines()[0]: PICTURE.findall(section) for section in sections}
    assert list(found) == [t(key) for key, _ in MENU]
    assert all(found.values())


def test_every_picture_is_small_and_shown_with_what_it_shows() -> None:
    shown = [picture for page in PAGES for picture in PICTURE.findall(page.read_text())]
    assert all(text for text, _ in shown)
    pictures = list((ROOT / "docs" / "pictures").iterdir())
    assert {Path(path).name for _, path in shown} == {picture.name for picture in pictures}
    assert all(picture.stat().st_size < MOST_OF_A_PICTURE for picture in pictures)


def test_every_target_says_what_it_does() -> None:
    makefile = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    assert phony.split() == re.findall(r"^([a-z-]+):.*## \w", makefile, re.MULTILINE)


def test_every_command_is_on_its_page() -> None:
    page = (ROOT / "docs" / "command-line.md").read_text()
    for group, word in commands():
        rows = re.findall(rf"^\| `ods {group}[^|]*", page, re.MULTILINE)
        assert any(re.search(rf"[ `]{word}`", found) for found in rows), (group, word)


def test_the_help_has_the_headings_of_the_page() -> None:
    assert isinstance(ROOT_COMMAND, TyperGroup)
    _, *sections = (ROOT / "docs" / "command-line.md").read_text().split("\n## ")
    headings: dict[str, set[str]] = {}
    for section in sections:
        for word in re.findall(r"^\| `ods (\w+)", section, re.MULTILINE):
            headings.setdefault(word, set()).add(section.splitlines()[0])
    for word, command in ROOT_COMMAND.commands.items():
        assert getattr(command, "rich_help_panel", None) in headings[word], word


def test_every_kind_of_drift_is_among_those_to_decide_on() -> None:
    page = (ROOT / "docs" / "operations" / "findings.md").read_text()
    rows = "".join(re.findall(r"^\| `[A-Z].*? \|", page, re.MULTILINE))
    assert [kind for kind in DriftKind if f"`{kind}`" not in rows] == []


def commands() -> Iterator[tuple[str, str]]:
    """Each command with its group, which is empty for those without one."""
    assert isinstance(ROOT_COMMAND, TyperGroup)
    for word, command in ROOT_COMMAND.commands.items():
        if isinstance(command, TyperGroup):
            yield from ((word, below) for below in command.commands)
        else:
            yield "", word


def test_the_page_of_the_api_has_exactly_its_endpoints(values: dict[str, Any]) -> None:
    described = app_with(Settings(**values)).openapi()["paths"]
    endpoints = {
        (verb.upper(), generic(path)) for path, verbs in described.items() for verb in verbs if verb != "head"
    }
    page = (ROOT / "docs" / "api.md").read_text()
    assert sorted((verb, generic(path)) for verb, path in ENDPOINT.findall(page)) == sorted(endpoints)


def generic(path: str) -> str:
    """The path, whatever its parameters are called."""
    return re.sub(r"{\w+}", "{}", path)


@each_decision
def test_every_decision_has_the_form_of_the_template(page: Path) -> None:
    text = page.read_text()
    head = HEAD.match(text)
    assert head
    assert int(head["number"]) == int(page.name[:4])
    assert head["status"].startswith(("proposed", "accepted", "superseded by"))
    date.fromisoformat(head["date"])
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == SECTIONS


def test_the_index_has_every_decision_with_its_title_status_and_date() -> None:
    index = (ROOT / "docs" / "decisions" / "README.md").read_text()
    rows = []
    for page in DECISIONS:
        head = HEAD.match(page.read_text())
        assert head
        status, *later = re.split(r";| by", head["status"])
        numbers = ", ".join(re.findall(r"\[(\d+)\]", head["status"]))
        rows.append((page.name, head["number"], head["title"], status, numbers, head["date"]))
        assert bool(later) == bool(numbers)
    listed = re.findall(
        r"^\| \[(\d+)\]\((.+)\) \| (.+) \| (\w+)(?:; \w+ by (.+))? \| (.+) \|$", index, re.MULTILINE
    )
    assert [
        (file, number, title, status, later, at) for number, file, title, status, later, at in listed
    ] == rows
