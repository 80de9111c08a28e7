"""What the doctor has found of one thing."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How a thing is: well, worth a thought, or wrong."""

    OK = "ok"
    WARNING = "warning"
    FAULT = "fault"

    @property
    def sign(self) -> str:
        """What begins the finding's line."""
        return {Level.OK: "✓", Level.WARNING: "!", Level.FAULT: "✗"}[self]


@dataclass(frozen=True)
class Finding:
    """One line.

    Attributes:
        level: how the thing is.
        subject: what was examined.
        found: what was found; never a secret.
        remedy: what the operator can do, as a command where there is one; None if there is nothing to do.
    """

    level: Level
    subject: str
    found: str
    remedy: str | None = None


def ok(subject: str, found: str) -> Finding:
    """Nothing is to be done."""
    return Finding(Level.OK, subject, found)


def warning(subject: str, found: str, remedy: str | None = None) -> Finding:
    """The service works, but an operator should know."""
    return Finding(Level.WARNING, subject, found, remedy)


def fault(subject: str, found: str, remedy: str) -> Finding:
    """Something does not work until it is mended."""
    return Finding(Level.FAULT, subject, found, remedy)
