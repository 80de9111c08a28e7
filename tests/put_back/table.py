"""The words that are expected: a line for each story, a column for each put-back, and why some are wrong."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, TypeAlias

from tests.put_back.histories import DONE, Later, PutBack, Story
from tests.put_back.judgement import WRONG, Word
from tests.put_back.operations import OPERATIONS

EXPECTED = Path(__file__).with_name("expected.txt")
_HEAD = """\
# What becomes of the rows of clients, by what had happened and what was put back then. Made by
#   python -m tests.put_back --write
# Lines: operation | the worker died | later. Columns: nothing is put back; then registry, server and both, to
# before the request; then the same three to the moment at which the worker died. `-`: was not played yet, or
# there is no such row. The words are those of tests/put_back/judgement.py.
"""
_REASONS = "\n# Why those that are wrong are so.\n"
_NONE = "-"

Row: TypeAlias = "tuple[Story, PutBack]"


@dataclass
class Expected:
    """The table, and the reasons of wrong words."""

    words: dict[Row, Word] = field(default_factory=dict)
    reasons: dict[Row, str] = field(default_factory=dict)

    @classmethod
    def read(cls, file: Path = EXPECTED) -> Self:
        """What a file says; nothing if there is none."""
        table = cls()
        lines = file.read_text().splitlines() if file.exists() else []
        for line in lines:
            if not line or line.startswith("#"):
                continue
            table._add([cell.strip() for cell in line.split("|")])
        return table

    def _add(self, cells: list[str]) -> None:
        story = Story(cells[0], cells[1], Later(cells[2]))
        if ":" in cells[3]:
            column, _, reason = cells[3].partition(":")
            self.reasons[story, PutBack(column)] = reason.strip()
            return
        for column, word in zip(PutBack, cells[3:], strict=True):
            if word != _NONE:
                self.words[story, column] = Word(word)

    def text(self) -> str:
        """The file's content."""
        stories = sorted({story for story, _ in self.words}, key=_place)
        width = max((len(str(story)) for story in stories), default=0)
        lines = [
            f"{story!s:{width}} | " + " | ".join(f"{self.words.get((story, it), _NONE):7}" for it in PutBack)
            for story in stories
        ]
        wrong = [
            f"{story} | {column}: {self.reasons.get((story, column), '')}".rstrip()
            for story in stories
            for column in PutBack
            if self.words.get((story, column)) in WRONG
        ]
        return _HEAD + "\n".join(line.rstrip() for line in lines) + "\n" + _REASONS + "\n".join([*wrong, ""])

    def write(self, file: Path = EXPECTED) -> None:
        """Write it to a file."""
        file.write_text(self.text())

    def add(self, found: Mapping[Row, Word]) -> None:
        """Put these words in the place of those that there are; reasons of other words are gone."""
        for row, word in found.items():
            if self.words.get(row) is not word:
                self.reasons.pop(row, None)
            self.words[row] = word


def _place(story: Story) -> tuple[int, int, int, int]:
    when, _, number = story.boundary.partition(" ")
    boundary = (10**6, 0) if when == DONE else (int(number), int(when == "after"))
    return [*OPERATIONS].index(story.operation), *boundary, [*Later].index(story.later)
